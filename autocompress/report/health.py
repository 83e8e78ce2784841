"""How well a search went: the hypervolume of its front over candidates and time, and why candidates failed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from autocompress.pareto import Candidate, ParetoFront, dominates, hypervolume, objective_values
from autocompress.record import StudyRecord
from autocompress.report.trainings import failure_sentence
from autocompress.report.wording import phases, printable

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")

Point = tuple[float, ...]


@dataclass(frozen=True)
class HistoryPoint:
    """What a search had reached after one more candidate.

    Attributes:
        n_candidates: Measured ones so far, >= 0; the baseline is not counted.
        seconds: Of all candidates so far together, the baseline and failed ones among them, in the order of the record.
        share: Hypervolume of the front so far as a share of that of the final front, in [0, 1]; 0 where that is empty.
        volume: The same as a share of the box between the ideal point (no drop, no time, no size) and the reference
            point of `ParetoFront`: a drop of 0.05, the baseline's latency and size; about in [0, 1].
    """

    n_candidates: int
    seconds: float
    share: float
    volume: float


@dataclass(frozen=True)
class FailureGroup:
    """Candidates that failed for one reason.

    Attributes:
        reason: Of the first of them; plain text on one line.
        candidates: In the order of the record; at least one. Their reasons differ in numbers at most.
    """

    reason: str
    candidates: tuple[Candidate, ...]


def hypervolume_history(record: StudyRecord) -> tuple[HistoryPoint, ...]:
    """One point a candidate of the record, the baseline and failed ones among them, in its order.

    A failed candidate adds time and no volume. A candidate that was trained again stands where it was first tried, with
    the result and the time of its last training, since a record holds each candidate once.

    Raises:
        StudyError: The baseline was not measured.
    """
    baseline, objectives = record.baseline, record.study.objectives
    reference = ParetoFront.of((), baseline, objectives).reference
    box = 1.0
    for end in reference:
        box *= end
    kept: list[Point] = []
    reached: list[tuple[int, float, float]] = []
    n_candidates, seconds, volume = 0, 0.0, 0.0
    for candidate in record.candidates:
        seconds += phases(candidate.seconds)[-1][1]
        if candidate.measurement is not None:
            n_candidates += candidate.digest != baseline.digest
            point = objective_values(candidate, objectives)
            volume += _gain(point, kept, reference)
            kept = _with(point, kept)
        reached.append((n_candidates, seconds, volume))
    return tuple(HistoryPoint(n, spent, v / volume if volume else 0.0, v / box) for n, spent, v in reached)


def failure_groups(record: StudyRecord) -> tuple[FailureGroup, ...]:
    """Failed candidates by reason, the most frequent first, then in the order of the record; empty where none failed.

    Reasons that differ only in their numbers, such as a step or a loss, are one.
    """
    groups: dict[str, list[Candidate]] = {}
    for candidate in record.candidates:
        if candidate.failure is not None:
            groups.setdefault(_NUMBER.sub("0", failure_sentence(candidate)), []).append(candidate)
    largest = sorted(groups.values(), key=lambda group: -len(group))
    return tuple(FailureGroup(printable(failure_sentence(group[0])), tuple(group)) for group in largest)


def _gain(point: Point, kept: Sequence[Point], reference: Sequence[float]) -> float:
    """Volume that `point` adds to that of `kept`, >= 0.

    Its own box less what `kept` covers of it (While et al. 2012, "A fast way of calculating exact hypervolumes", WFG),
    so that each step costs little however many came before.
    """
    inside: list[Point] = []
    for other in kept:
        inside = _with(tuple(max(pair) for pair in zip(point, other, strict=True)), inside)
    return max(0.0, hypervolume([point], reference) - hypervolume(inside, reference))


def _with(point: Point, kept: Sequence[Point]) -> list[Point]:
    """`kept` and `point` without those that another dominates or equals."""
    if any(other == point or dominates(other, point) for other in kept):
        return list(kept)
    return [*(other for other in kept if not dominates(point, other)), point]
