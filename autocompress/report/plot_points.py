"""What both pictures show: one point a measured candidate, the staircase of the front, the visible range of drops."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from autocompress.measurement import Measurement
from autocompress.pareto import Candidate
from autocompress.record import StudyRecord
from autocompress.report.wording import shortened

Kind = Literal["baseline", "anchor", "candidate"]
KINDS: tuple[Kind, ...] = ("candidate", "anchor", "baseline")

MAX_LABEL = 28
EDGE_FLOORS = 6.0
EDGE_MARGIN = 1.15


@dataclass(frozen=True)
class PlotPoint:
    """One measured candidate.

    Attributes:
        candidate: Which one.
        measurement: Its numbers on the validation split.
        kind: `baseline` for FP32, `anchor` for a named recipe, else `candidate`.
        on_front: Whether no other candidate beats it beyond the error of both.
        is_chosen: Whether the study chose it.
    """

    candidate: Candidate
    measurement: Measurement
    kind: Kind
    on_front: bool
    is_chosen: bool

    @property
    def speedup(self) -> float:
        """Baseline latency / candidate latency."""
        return self.measurement.speedup.value

    @property
    def drop(self) -> float:
        """Accuracy drop in points; positive is worse."""
        return 100 * self.measurement.whole_drop.value

    @property
    def is_faint(self) -> bool:
        """Whether a picture shows it in the background: dominated, unnamed and not chosen."""
        return not (self.on_front or self.name)

    @property
    def name(self) -> str:
        """What a picture writes beside the point; empty for an unnamed candidate that was not chosen."""
        own = "FP32 baseline" if self.kind == "baseline" else shortened(self.candidate.label, MAX_LABEL)
        if not self.is_chosen:
            return own
        return f"chosen: {own}" if own else f"chosen ({self.candidate.digest})"


def plot_points(record: StudyRecord) -> list[PlotPoint]:
    """The measured candidates of a record, in its order.

    Raises:
        StudyError: The baseline was not measured.
    """
    front = {c.digest for c in record.front().candidates}
    chosen = record.chosen.digest if record.chosen else None
    baseline = record.baseline
    return [
        PlotPoint(c, c.measurement, _kind(c, baseline), c.digest in front, c.digest == chosen)
        for c in record.candidates
        if c.measurement is not None
    ]


def with_zipped_sizes(record: StudyRecord) -> bool:
    """Whether zipped sizes were measured; records of older versions have none, and their tables no such column."""
    return any(c.measurement is not None and c.measurement.zipped_bytes is not None for c in record.candidates)


def staircase_points(points: Iterable[PlotPoint]) -> list[PlotPoint]:
    """Those that no other dominates in speed-up and drop alone, slowest first; points at one place are all kept."""
    kept: list[PlotPoint] = []
    for p in sorted(points, key=lambda p: (-p.speedup, p.drop)):
        if not kept or p.drop < kept[-1].drop or (p.speedup, p.drop) == (kept[-1].speedup, kept[-1].drop):
            kept.append(p)
    return kept[::-1]


def staircase(record: StudyRecord) -> list[tuple[float, float]]:
    """Speed-up and drop in points of the `staircase_points` of a record, each once.

    Members of the whole front that are off this line are kept for their size, or because their error allows no verdict.
    """
    return list(dict.fromkeys((p.speedup, p.drop) for p in staircase_points(plot_points(record))))


def lowest_drop_shown(points: Sequence[PlotPoint], max_drop: float) -> float | None:
    """The drop, in points, beyond which a picture pins its points to the edge; None where all are shown.

    At most about six times the floor, so that a few broken candidates don't flatten all others, yet never short of
    the baseline or the chosen one.

    Args:
        points: All points of the picture.
        max_drop: The floor, in units of the score.
    """
    kept = [100 * p.measurement.whole_drop.high for p in points if p.is_chosen or p.kind == "baseline"]
    limit = max([EDGE_FLOORS * 100 * max_drop, *kept])
    inside = [100 * p.measurement.whole_drop.high for p in points if p.drop <= limit]
    edge = EDGE_MARGIN * max([100 * max_drop, *inside])
    return edge if max_drop > 0 and any(p.drop > edge for p in points) else None


def _kind(candidate: Candidate, baseline: Candidate) -> Kind:
    if candidate.digest == baseline.digest:
        return "baseline"
    return "anchor" if candidate.label else "candidate"
