"""The explanation of a study in words: why each unit is what it is, what was predicted, and where the time went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autocompress.explanation import Agreement, Change, Explanation, Trust, UnitExplanation
from autocompress.record import StudyRecord
from autocompress.report.plot_points import PlotPoint, lowest_drop_shown, plot_points
from autocompress.report.wording import candidate_count, percent, phases, points, points_interval, printable

UNIT_HEAD = (
    "unit",
    "chosen",
    "it costs, points",
    "it saves",
    "next cheaper choice",
    "would cost, points",
    "would save",
    "next gentler choice",
    "would regain, points",
    "would take",
)
UNIT_NOTE = (
    "All of it is predicted for a change of one unit, with all others as chosen; points with their two-sided 90 % "
    "interval. What a choice costs and saves is against the gentlest choice of its unit. Next cheaper: of the faster "
    "choices the one that costs the least accuracy, or a smaller one where none is faster. Next gentler: of the more "
    "accurate choices the one that takes the least time."
)
FORECAST_NOTE = (
    "On the line a prediction is right. Open: drop by the damage table alone, before any candidate was measured. "
    "Filled: drop by the table and all other candidates together; latency by the latency model."
)
GROUPS: dict[str, tuple[str, ...]] = {  # words in the name of a phase -> group; the first group that fits
    "damage table": ("damage", "sensitivity"),
    "latency model": ("latency model", "probe"),
    "ending": ("ending", "finalist", "test", "choose", "choice", "chosen"),
    "training": ("train", "finetune", "fine-tun", "calibrat", "compress", "learning rate"),
    "measuring": ("measur", "evaluat", "latency", "export", "save", "screen", "accuracy"),
}
OTHER = "other"
# Okabe and Ito, "Color Universal Design", 2008: told apart with every common colour blindness.
GROUP_COLOURS = {
    "damage table": "#D55E00",
    "latency model": "#E69F00",
    "training": "#0072B2",
    "measuring": "#56B4E9",
    "ending": "#009E73",
    OTHER: "#999999",
}
EDGE_MARGIN = 1.1
SMALLEST_MS, SMALLEST_KB = 0.0005, 0.05  # half of the last digit shown


@dataclass(frozen=True)
class ShownForecast:
    """One candidate in the pictures of predictions.

    Attributes:
        digest: Which candidate.
        label: Its label or digest, for people; plain text.
        is_chosen: Whether the study chose it.
        drop: Measured accuracy drop, points; so are the next two.
        table_drop: Predicted before any candidate was measured.
        learned_drop: Predicted from the table and all other candidates.
        latency: Measured, percent of the baseline's; so is the next.
        predicted_latency: Predicted.
    """

    digest: str
    label: str
    is_chosen: bool
    drop: float
    table_drop: float
    learned_drop: float
    latency: float
    predicted_latency: float


@dataclass(frozen=True)
class GroupSeconds:
    """Seconds of one group of phases and their share of all, in [0, 1]."""

    name: str
    seconds: float
    share: float


def unit_rows(explanation: Explanation) -> list[list[str]]:
    """One row a unit under `UNIT_HEAD`, in the order of the model; plain text, for the caller to escape."""
    return [_unit_row(unit) for unit in explanation.units]


def is_for_the_chosen(record: StudyRecord) -> bool:
    """Whether the units that are explained are those of the candidate that is chosen now."""
    explanation, chosen = record.explanation, record.chosen
    return bool(explanation and chosen and explanation.units and explanation.digest in ("", chosen.digest))


def saved_words(milliseconds: float, n_bytes: float) -> str:
    """What is saved, without what rounds to nothing; empty where nothing is.

    >>> saved_words(0.2, 12_000.0), saved_words(-0.2, 0.0), saved_words(0.0001, 10.0)
    ('0.200 ms, 12.0 kB', '-0.200 ms', '')
    """
    parts = [f"{milliseconds:.3f} ms"] if abs(milliseconds) >= SMALLEST_MS else []
    parts += [f"{n_bytes / 1000:,.1f} kB"] if abs(n_bytes) >= 1000 * SMALLEST_KB else []
    return ", ".join(parts)


def trust_sentences(trust: Trust, n_candidates: int) -> list[str]:
    """How well predictions agreed with what was measured, a sentence a quantity."""
    table, learned = trust.table_drop, trust.learned_drop
    return [
        f"Accuracy drop of {candidate_count(n_candidates)}, predicted by the damage table alone: {_ranked(table)}"
        f"mean error {points(table.mean_error)} points; with what the other candidates taught: {_ranked(learned)}"
        f"mean error {points(learned.mean_error)} points.",
        f"Latency: {_ranked(trust.latency)}mean error {_rounded(trust.latency.mean_error)} of the baseline's.",
        f"Size: {_ranked(trust.size)}mean error {_rounded(trust.size.mean_error)} of the baseline's.",
    ]


def rung_sentence(record: StudyRecord) -> str:
    """How many candidates reached each rung, or where they ended if that was not counted; plain text.

    Such as `Candidates that reached each rung: predicted 3,200, untrained 96, short 24, long 3.`
    """
    counted = record.explanation.rungs if record.explanation else ()
    if counted:
        listed = ", ".join(f"{printable(c.rung)} {c.n_reached:,}" for c in counted)
        return f"Candidates that reached each rung: {listed}."
    ends: dict[str, int] = {}
    for candidate in record.candidates:
        ends[candidate.rung] = ends.get(candidate.rung, 0) + 1
    listed = ", ".join(f"{printable(rung)} {n:,}" for rung, n in ends.items())
    return f"Candidates by the last rung that they reached: {listed}."


def shown_forecasts(record: StudyRecord) -> list[ShownForecast]:
    """What the pictures show, in the order of the study; none for records of older versions.

    The baseline is left out, since there is nothing to predict about it, and it would be far from all others.
    """
    labels = {c.digest: c.label for c in record.candidates}
    chosen = record.chosen.digest if record.chosen else None
    return [
        ShownForecast(
            digest=f.digest,
            label=printable(labels.get(f.digest) or f.digest),
            is_chosen=f.digest == chosen,
            drop=100 * f.drop,
            table_drop=100 * f.table_drop,
            learned_drop=100 * f.learned_drop,
            latency=100 * f.latency,
            predicted_latency=100 * f.predicted_latency,
        )
        for f in (record.explanation.forecasts if record.explanation else ())
        if f.digest != record.baseline.digest
    ]


def drop_limits(record: StudyRecord, front: Sequence[PlotPoint] | None = None) -> tuple[float, float]:
    """Both ends of the axes of the drop, in points; what lies beyond is pinned to the upper one.

    The upper end is that of the picture of the front, so that broken candidates don't flatten all others.

    Args:
        record: The study.
        front: Its `plot_points`, where they are known already.
    """
    measured = [f.drop for f in shown_forecasts(record)]
    edge = lowest_drop_shown(plot_points(record) if front is None else front, record.study.max_drop)
    high = edge if edge is not None else EDGE_MARGIN * max([100 * record.study.max_drop, 0.1, *measured])
    return min([0.0, *measured]) - 0.05 * high, high


def latency_limits(record: StudyRecord) -> tuple[float, float]:
    """Both ends of the axes of the latency, in percent of the baseline's, with a margin."""
    shown = shown_forecasts(record)
    values = [value for f in shown for value in (f.latency, f.predicted_latency)]
    margin = 0.08 * (max(values) - min(values)) or 1.0
    return min(values) - margin, max(values) + margin


def grouped_seconds(seconds: Mapping[str, float]) -> list[GroupSeconds]:
    """Seconds by group of phases, in the order of `GROUP_COLOURS`, without groups that took none.

    Time of the total that no phase accounts for counts as other.

    >>> [(g.name, g.seconds, g.share) for g in grouped_seconds({"finetune": 6.0, "latency": 2.0, "total": 8.0})]
    [('training', 6.0, 0.75), ('measuring', 2.0, 0.25)]
    """
    sums = dict.fromkeys(GROUP_COLOURS, 0.0)
    *parts, (_, total, _) = phases(seconds)
    for phase, spent, _ in parts:
        sums[_group_of(phase)] += max(0.0, spent)
    sums[OTHER] += max(0.0, total - sum(sums.values()))
    whole = sum(sums.values())
    return [GroupSeconds(name, spent, spent / whole) for name, spent in sums.items() if spent > 0]


def _group_of(phase: str) -> str:
    return next((group for group, words in GROUPS.items() if any(word in phase.lower() for word in words)), OTHER)


def _unit_row(unit: UnitExplanation) -> list[str]:
    chosen = unit.chosen
    ends = points_interval(chosen.accuracy_drop)
    saved = saved_words(-chosen.latency_ms, -chosen.size_bytes)
    is_gentlest = not saved and ends == "0.00 [0.00, 0.00]"
    own = [printable(unit.unit), printable(chosen.choice), "" if is_gentlest else ends, saved]
    return [*own, *_cheaper_cells(unit.cheaper), *_gentler_cells(unit.gentler)]


def _cheaper_cells(change: Change | None) -> list[str]:
    if change is None:
        return ["", "", ""]
    saved = saved_words(-change.latency_ms, -change.size_bytes)
    return [printable(change.choice), points_interval(change.accuracy_drop), saved]


def _gentler_cells(change: Change | None) -> list[str]:
    if change is None:
        return ["", "", ""]
    drop = change.accuracy_drop
    regained = f"{points(-drop.value)} [{points(-drop.high)}, {points(-drop.low)}]"
    return [printable(change.choice), regained, saved_words(change.latency_ms, change.size_bytes)]


def _ranked(agreement: Agreement) -> str:
    rank = agreement.rank_correlation
    return "" if rank is None else f"rank correlation {round(rank, 2) + 0.0:.2f}, "


def _rounded(fraction: float) -> str:
    """In percent; less than half of a hundredth of a percent is nothing."""
    return percent(round(fraction, 4))
