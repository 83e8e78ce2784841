"""The examples with their targets, and `comparison.md`: what `showcase.py` measured, as Markdown."""

from dataclasses import dataclass

from autocompress.measurement import Interval, Speedup
from autocompress.record import StudyRecord
from autocompress.report.wording import (
    candidate_count,
    duration,
    kilobytes,
    points,
    points_interval,
    threads_words,
    times,
)


@dataclass(frozen=True)
class Example:
    """What an example is to reach.

    Attributes:
        max_drop: Largest drop of the score on the test split, in units of the score.
        floor: Accuracy floor of the search, which it must show with 95 % certainty; None for `max_drop`.
        times_nncf: How many times as fast as the model of `nncf.quantize` the chosen one must be; None for no matter.
        times_float: The same, as the FP32 model.
        is_transformer: Whether NNCF is told `model_type=TRANSFORMER`.
    """

    max_drop: float
    times_nncf: float | None = None
    times_float: float | None = None
    is_transformer: bool = False
    floor: float | None = None


EXAMPLES = {
    "emoji": Example(max_drop=0.01, times_nncf=1.5, floor=0.025),  # 955 pictures tell a drop to 2 points
    "crowns": Example(max_drop=0.02, times_nncf=1.3, floor=0.05),  # 238 crowns tell a drop to 4 points
    "brain": Example(max_drop=0.01, times_nncf=1.5),
    "reuters": Example(max_drop=0.01, times_float=1.3, is_transformer=True, floor=0.015),  # 1,200 texts: to 0.7 points
}


@dataclass(frozen=True)
class Row:
    """One deployed model on the test split.

    Attributes:
        name: What the table calls it.
        score: On the test split.
        drop: Against the FP32 model, two-sided 90 % interval; None for that itself.
        counts: Samples on which it is worse, and on which it is better; None where the score says nothing of single
            samples.
        speedup: Over the FP32 model; None for that itself.
        size_bytes: Of the deployed files.
    """

    name: str
    score: float
    drop: Interval | None
    counts: tuple[int, int] | None
    speedup: Speedup | None
    size_bytes: int


@dataclass(frozen=True)
class Compared:
    """All that was measured.

    Attributes:
        rows: FP32, NNCF, chosen.
        ratio: Latency of NNCF's model / latency of the chosen one.
        n_samples: Test samples.
        n_calibration: Samples that NNCF took its ranges from.
        floor: Accuracy floor of the choice, which may have been made after the search with another one.
        float_operations: Operations of the FP32 model that stay in floating point in the chosen one.
        record: Of the study.
    """

    rows: tuple[Row, Row, Row]
    ratio: Speedup
    n_samples: int
    n_calibration: int
    floor: float
    float_operations: tuple[str, ...]
    record: StudyRecord


def comparison(name: str, compared: Compared) -> str:
    """`comparison.md` of the example `name`: the three models, the targets, and what stays in floating point."""
    record = compared.record
    environment, n_trials = record.environment, len(record.candidates) - 1
    options = ", `model_type=TRANSFORMER`" if EXAMPLES[name].is_transformer else ""
    chosen_later = (
        f", `autocompress choose` one of {points(compared.floor)}" if compared.floor != record.study.max_drop else ""
    )
    head = (
        f"# {name}: against nncf.quantize\n\n"
        f"CPU {environment.cpu}, {environment.n_cores} cores, {threads_words(environment.inference_threads)}, "
        f"OpenVINO {environment.versions.get('openvino', '?')}. A search of "
        f"{duration(record.seconds.get('total', 0.0))} tried {candidate_count(n_trials)} with a floor of "
        f"{points(record.study.max_drop)} points{chosen_later}. `nncf.quantize` had the same FP32 model and "
        f"{compared.n_calibration} training samples{options}, else its defaults. All models were run on the same "
        f"{compared.n_samples} test samples and timed together in one session. Drops have 90 % intervals, speed-ups "
        f"95 %. Written by `python examples/showcase.py {name}`.\n\n"
    )
    return "\n".join((head + models_table(compared), targets_table(name, compared), ignored_scope(compared)))


def models_table(compared: Compared) -> str:
    """A row a model."""
    lines = [
        f"| model | {compared.record.study.score} | drop, points | worse / better on | faster than FP32 | size, kB |",
        "|---|---|---|---|---|---|",
    ]
    for row in compared.rows:
        drop = points_interval(row.drop) if row.drop else ""
        counts = "{} / {} samples".format(*row.counts) if row.counts else ""
        faster = times(row.speedup) if row.speedup else ""
        lines.append(f"| {row.name} | {row.score:.4f} | {drop} | {counts} | {faster} | {kilobytes(row.size_bytes)} |")
    return "\n".join(lines) + "\n"


def targets_table(name: str, compared: Compared) -> str:
    """Each target of the example with what was measured; a target is met by the measured value."""
    example, chosen = EXAMPLES[name], compared.rows[2]
    if chosen.drop is None or chosen.speedup is None:
        raise ValueError("the chosen model must have a drop and a speed-up, but got none")
    lines = ["| target | measured | met |", "|---|---|---|"]
    for rival, least, found in (
        ("`nncf.quantize`", example.times_nncf, compared.ratio),
        ("FP32", example.times_float, chosen.speedup),
    ):
        if least is not None:
            lines.append(f"| {least}x as fast as {rival} | {times(found)} | {_met(found.value >= least)} |")
    limit = f"at most {points(example.max_drop)} points lost on test"
    lines.append(f"| {limit} | {points_interval(chosen.drop)} | {_met(chosen.drop.value <= example.max_drop)} |")
    return "\n".join(lines) + "\n"


def _met(is_met: bool) -> str:
    return "yes" if is_met else "**no**"


def ignored_scope(compared: Compared) -> str:
    """What stays in floating point in the chosen model, as code for NNCF."""
    if not compared.float_operations:
        return "The chosen model keeps no layer in floating point.\n"
    names = "".join(f'        "{name}",\n' for name in compared.float_operations)
    return (
        f"The chosen model keeps {len(compared.float_operations)} layers in floating point. For NNCF, on the FP32 "
        f"model:\n\n```python\nignored_scope = nncf.IgnoredScope(\n    names=[\n{names}    ]\n)\n```\n"
    )
