"""The study as a Markdown document: its story first, then the pictures and tables behind each sentence."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from autocompress.measurement import TrainingSummary
from autocompress.pareto import Candidate
from autocompress.record import StudyRecord, write_atomically
from autocompress.report.chosen_recipe import group_rows, layer_rows, recipe_sentences
from autocompress.report.explanation import (
    UNIT_HEAD,
    UNIT_NOTE,
    is_for_the_chosen,
    rung_sentence,
    shown_forecasts,
    trust_sentences,
    unit_rows,
)
from autocompress.report.finalists import HEAD as FINALIST_HEAD
from autocompress.report.finalists import alike_sentences, finalist_rows
from autocompress.report.headline import headline
from autocompress.report.health import FailureGroup, failure_groups
from autocompress.report.plot_points import PlotPoint, plot_points
from autocompress.report.story import story
from autocompress.report.trainings import (
    incidents,
    loss_words,
    rate_words,
    shown_trainings,
    start_words,
    training_counts,
)
from autocompress.report.wording import candidate_count, kilobytes, phases, points_interval, printable, times, zipped

INTERVALS = (
    "Speed-up: median of paired ratios, baseline latency / candidate latency, with its 95 % interval. "
    "Drop: baseline minus candidate on the same samples (positive is worse) in points, 100 times the score, with its "
    "two-sided 90 % interval. "
)
BY_HELD_OUT = (
    "The floor is held against a one-sided bound of the drop on the validation samples that the search did not use, "
    "candidates being tested from the slowest upwards until a second one fails, so that what is chosen keeps the floor "
    "with a probability of 95 %."
)
BY_NUMBER = (
    "The floor is held against a one-sided 95 % bound that is corrected for the number of candidates compared "
    "(Bonferroni), since the fastest of many that look good is a lucky one: it lies above that end."
)
FINALISTS = (
    "After the search these were timed in one session, in the same rounds and random order, since sessions of "
    "different minutes differ by a few percent. Over the next: latency of the next row / latency of this one."
)
LOSSES = (
    "Loss: means over the first and over the last steps; what it is made of differs with the recipe, so compare it "
    "along a row, and candidates by their drop."
)
ZIPPED_SIZE = "zipped size, kB"
HEAD = ("name", "on front", "rung", "speed-up", "latency, ms", "drop, points", "size, kB", ZIPPED_SIZE, "MACs")
LAYER_HEAD = ("layer", "weight bits", "activation bits", "zeros", "rank", "ran here")
TRAINING_HEAD = ("name", "steps", "peak rate", "started from", "loss", "what happened")
MAX_FAILED = 6  # names beside one reason
SPECIAL = re.compile(r"[\\`*|~#]|\](?=[(\[:])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|^[-+]")
ORDINAL = re.compile(r"^(\d+)([.)])(?=\s|$)")  # `1.` at the start would make a numbered list


def write_report_md(record: StudyRecord, path: Path) -> None:
    """Write the report; it shows the pictures of its own folder, such as `front.svg`, that `write_report` makes.

    Raises:
        StudyError: The baseline was not measured, or the chosen candidate is not in the record.
    """
    sections = [
        _summary(record),
        _list("Findings", [escape(sentence) for sentence in record.findings]),
        _front(record),
        _finalists(record),
        _recipe(record),
        _units(record),
        _health(record),
        _forecasts(record),
        _training(record),
        _list("Failures", [_failures(group) for group in failure_groups(record)]),
        _seconds(record),
        _environment(record),
    ]
    write_atomically(path, "\n\n".join(section for section in sections if section) + "\n")


def escape(text: str) -> str:
    r"""`text` as Markdown that shows just these characters, on one line, also inside a table.

    >>> escape("a|b <i> layer_1 __init__")
    'a\\|b &lt;i&gt; layer_1 \\_\\_init\\_\\_'
    """
    html = printable(text).strip().replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return ORDINAL.sub(r"\1\\\2", SPECIAL.sub(r"\\\g<0>", html))


def escaped_rows(rows: Iterable[Sequence[str]]) -> list[list[str]]:
    """`rows` with every cell escaped."""
    return [[escape(cell) for cell in row] for row in rows]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], sides: str) -> str:
    """A table of cells that are escaped already; `sides` has an `l` or an `r` a column."""
    rule = ["---:" if side == "r" else "---" for side in sides]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *rows])


def _summary(record: StudyRecord) -> str:
    result, _ = headline(record)
    reached, *others = story(record)
    first = f"**{escape(result)}**{escape(reached.removeprefix(result))}"
    return "\n".join([f"# {escape(record.study.task)}\n\n{first}\n", *(f"- {escape(other)}" for other in others)])


def _front(record: StudyRecord) -> str:
    shown = sorted(plot_points(record), key=lambda p: -p.speedup)
    rows = [_row(p) for p in shown if p.on_front or p.is_chosen or p.kind != "candidate"]
    table = markdown_table(*_without_empty(HEAD, rows, "lllrrrrrr"))
    is_split = any(c.measurement and c.measurement.selection_drop for c in record.candidates)
    text = f"## Front\n\n![front](front.svg)\n\n{table}\n\n{INTERVALS}{BY_HELD_OUT if is_split else BY_NUMBER}"
    n_failed = len(record.candidates) - len(shown)
    counts = (
        f"{candidate_count(len(shown))} measured, {n_failed} failed. For each measured one that is not listed another "
        "is at least as good in everything and, beyond the error of both, better in something."
    )
    return f"{text}\n\n{counts} All of them, with hover, are in [front.html](front.html)."


def _row(point: PlotPoint) -> list[str]:
    m, name = point.measurement, escape(point.candidate.name)
    return [
        f"**{name}, chosen**" if point.is_chosen else name,
        "yes" if point.on_front else "no",
        escape(point.candidate.rung),
        times(m.speedup),
        f"{m.latency_ms:.3f}",
        points_interval(m.whole_drop),
        kilobytes(m.size_bytes),
        zipped(m.zipped_bytes),
        f"{m.macs:,}",
    ]


def _finalists(record: StudyRecord) -> str:
    rows = finalist_rows(record)
    if not rows:
        return ""
    table = markdown_table(*_without_empty(FINALIST_HEAD, escaped_rows(rows), "lrrrrrr"))
    alike = [f"{escape(sentence[0].upper() + sentence[1:])}." for sentence in alike_sentences(record)]
    return "\n\n".join(["## Finalists, timed together", table, FINALISTS, *alike])


def _recipe(record: StudyRecord) -> str:
    if record.chosen is None:
        return ""
    layers, groups = layer_rows(record), group_rows(record)
    text = f"## Chosen recipe\n\n{' '.join(recipe_sentences(record))}"
    if layers:
        text += "\n\n" + markdown_table(*_without_empty(LAYER_HEAD, escaped_rows(layers), "lrrrrl"))
    if groups:
        text += "\n\n" + markdown_table(("channel group", "filters removed"), escaped_rows(groups), "lr")
    return text


def _units(record: StudyRecord) -> str:
    if record.explanation is None or not is_for_the_chosen(record):
        return ""
    table = markdown_table(*_without_empty(UNIT_HEAD, escaped_rows(unit_rows(record.explanation)), "llrrlrrlrr"))
    return f"## Why each unit is what it is\n\n{table}\n\n{UNIT_NOTE}"


def _health(record: StudyRecord) -> str:
    return "## How the search went\n\n![hypervolume](health.svg)" if len(record.candidates) > 1 else ""


def _forecasts(record: StudyRecord) -> str:
    explanation = record.explanation
    if explanation is None or explanation.trust is None:
        return ""
    lines = [f"- {sentence}" for sentence in trust_sentences(explanation.trust, len(explanation.forecasts))]
    picture = "![predicted against measured](explanation.svg)\n\n" if shown_forecasts(record) else ""
    return f"## Predicted and measured\n\n{picture}" + "\n".join(lines)


def _training(record: StudyRecord) -> str:
    if not any(c.training for c in record.candidates):
        return ""
    pictured = {shown.candidate.digest for shown in shown_trainings(record)}
    listed = pictured | {p.candidate.digest for p in plot_points(record) if p.on_front or p.is_chosen or p.name}
    rows = [_training_row(record, c, c.training) for c in record.candidates if c.training and c.digest in listed]
    picture = "![course of the training](training.svg)" if pictured else ""
    table = markdown_table(*_without_empty(TRAINING_HEAD, rows, "lrrlrl")) if rows else ""
    parts = ["## Training", picture, table, f"{training_counts(record)} {LOSSES}"]
    return "\n\n".join(part for part in parts if part)


def _training_row(record: StudyRecord, candidate: Candidate, training: TrainingSummary) -> list[str]:
    is_chosen = record.chosen is not None and record.chosen.digest == candidate.digest
    name, course = escape(candidate.name), training.course
    return [
        f"**{name}, chosen**" if is_chosen else name,
        str(training.n_steps),
        rate_words(training.learning_rate),
        escape(start_words(record, training.started_from)),
        f"{loss_words(course[0].loss)} → {loss_words(course[-1].loss)}" if course else "",
        ", ".join(incidents(training)),
    ]


def _failures(group: FailureGroup) -> str:
    names = [f"{escape(c.name)} ({escape(c.rung)})" for c in group.candidates[:MAX_FAILED]]
    more = len(group.candidates) - len(names)
    return f"{', '.join(names)}{f' and {more} more' if more else ''}: {escape(group.reason)}"


def _seconds(record: StudyRecord) -> str:
    if not record.seconds:
        return ""
    rows = [[escape(phase), f"{spent:,.1f}", share] for phase, spent, share in phases(record.seconds)]
    table = markdown_table(("phase", "seconds", "share"), rows, "lrr")
    above = f"![seconds by phase](seconds.svg)\n\n{escape(rung_sentence(record))}\n\n" if record.explanation else ""
    return f"## Where the time went\n\n{above}{table}"


def _environment(record: StudyRecord) -> str:
    where, study = record.environment, record.study
    versions = ", ".join(f"{name} {version}" for name, version in sorted(where.versions.items()))
    saturates = "saturates" if where.int8_saturates else "does not saturate"
    facts = [
        f"CPU: {where.cpu}; {where.n_cores} cores usable; inference threads: {where.inference_threads}",
        f"OpenVINO capabilities: {', '.join(where.capabilities)}; 8-bit times 8-bit {saturates}",
        f"Versions: {versions}",
        f"Search: space {study.space} with {study.n_parameters} parameters, sampler {study.sampler}, "
        f"seed {study.seed}, objectives {', '.join(study.objectives)}",
    ]
    return _list("Environment", [escape(fact) for fact in facts])


def _list(title: str, lines: Sequence[str]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""


def _without_empty(
    head: Sequence[str], rows: Sequence[Sequence[str]], sides: str
) -> tuple[list[str], list[list[str]], str]:
    """A table without the columns in which no row has a text."""
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    return [head[i] for i in kept], [[row[i] for i in kept] for row in rows], "".join(sides[i] for i in kept)
