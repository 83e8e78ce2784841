"""Objectives, candidates, the front of those worth keeping, and the choice among them. Everything here minimizes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from autocompress.errors import StudyError
from autocompress.measurement import Interval, Measurement, TrainingSummary
from autocompress.notebook import Kind, Shown, candidate_html, front_html
from autocompress.recipe import Recipe

ObjectiveName = Literal["accuracy_drop", "latency", "size_bytes"]
DEFAULT_OBJECTIVES: tuple[ObjectiveName, ...] = ("accuracy_drop", "latency", "size_bytes")

CHANCES = 0.04, 0.01  # of keeping what breaks the floor: before and after the first whose bound is too high
SAME_SIZE = 0.005  # sizes that differ by less than this fraction count as the same

_GETTERS: dict[str, Callable[[Measurement], Interval]] = {
    "accuracy_drop": lambda m: m.whole_drop,
    "latency": lambda m: Interval(value=1 / m.speedup.value, low=1 / m.speedup.high, high=1 / m.speedup.low),
    "size_bytes": lambda m: Interval(
        value=m.size_bytes, low=m.size_bytes * (1 - SAME_SIZE / 2), high=m.size_bytes * (1 + SAME_SIZE / 2)
    ),
}


class Candidate(BaseModel):
    """A recipe with its measurement, or with the reason why there is none.

    Attributes:
        digest: `Recipe.digest()`; the name of the candidate's folder.
        recipe: What was done to the model.
        label: Name of an anchor such as `int8`, else empty.
        rung: Fidelity that it reached: `baseline`, or `short` for a short fine-tune.
        n_steps: Training steps taken.
        seed: Seed of its training.
        seconds: Wall-clock seconds by phase.
        failure: One sentence, where there is no measurement.
        measurement: Numbers of the deployed model.
        training: How it was trained; None where it was not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    recipe: Recipe
    label: str = ""
    rung: str
    n_steps: Annotated[int, Field(ge=0)] = 0
    seed: int = 0
    seconds: dict[str, float] = {}
    failure: str | None = None
    measurement: Measurement | None = None
    training: TrainingSummary | None = None

    @model_validator(mode="after")
    def _measured_or_failed(self) -> "Candidate":
        if (self.measurement is None) == (self.failure is None):
            raise ValueError("a candidate has either a measurement or a failure")
        return self

    @property
    def name(self) -> str:
        """Label and digest, or the digest alone."""
        return f"{self.label} ({self.digest})" if self.label else self.digest

    def _repr_html_(self) -> str:
        """In a notebook: its numbers with intervals, or why it failed, and its recipe."""
        recipe = self.recipe.to_yaml()
        return candidate_html(self.name, self.rung, self.n_steps, self.measurement, self.failure, recipe)


def objective_intervals(candidate: Candidate, objectives: Sequence[str]) -> tuple[Interval, ...]:
    """Values to minimize with their error; raises `StudyError` for a candidate without a measurement.

    Drop and latency have the intervals of their measurement, the drop that on all samples; a size is known, but a
    difference below half a percent counts for nothing.
    """
    if candidate.measurement is None:
        raise StudyError(f"candidate {candidate.digest} was not measured: {candidate.failure}")
    return tuple(_GETTERS[name](candidate.measurement) for name in objectives)


def objective_values(candidate: Candidate, objectives: Sequence[str]) -> tuple[float, ...]:
    """Values to minimize; raises `StudyError` for a candidate without a measurement."""
    return tuple(interval.value for interval in objective_intervals(candidate, objectives))


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether `a` is nowhere larger than `b` and somewhere smaller; equal points don't dominate.

    >>> dominates((1, 2), (1, 3)), dominates((1, 2), (1, 2))
    (True, False)
    """
    return all(x <= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)


def beats(a: Sequence[Interval], b: Sequence[Interval]) -> bool:
    """Whether `a` dominates `b` beyond the error of both: nowhere larger, and somewhere by disjoint intervals.

    So a candidate leaves the front only for one that is certainly better in something. No chain of candidates that beat
    each other comes back to its start, since values fall along it.

    >>> a, b = Interval(value=1, low=0.9, high=1.1), Interval(value=1.05, low=0.95, high=1.15)
    >>> beats([a], [b]), beats([a], [Interval(value=2, low=1.9, high=2.1)])
    (False, True)
    """
    pairs = list(zip(a, b, strict=True))
    return all(x.value <= y.value for x, y in pairs) and any(x.high < y.low for x, y in pairs)


def hypervolume(points: Iterable[Sequence[float]], reference: Sequence[float]) -> float:
    """Volume between the points and the reference point, all to be minimized.

    Slices along the last axis (While et al. 2006, HSO). Points that don't lie below the reference count nothing.

    >>> hypervolume([(0, 1), (1, 0)], (2, 2))
    3.0
    """
    inside = [tuple(p) for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return float(reference[0] - min(p[0] for p in inside))
    levels = sorted({p[-1] for p in inside})
    volume = 0.0
    for low, high in zip(levels, [*levels[1:], reference[-1]], strict=True):
        below = [p[:-1] for p in inside if p[-1] <= low]
        volume += (high - low) * hypervolume(below, reference[:-1])
    return volume


@dataclass(frozen=True)
class ParetoFront:
    """The measured candidates that no other beats beyond the error of both, fastest first.

    Attributes:
        candidates: Members, by falling speed-up.
        baseline: The FP32 candidate that all are compared with.
        objectives: Names of what is minimized.
        reference: Reference point of the hypervolume: a drop of 0.05, the baseline's latency and size.
    """

    candidates: tuple[Candidate, ...]
    baseline: Candidate
    objectives: tuple[str, ...]
    reference: tuple[float, ...]

    @classmethod
    def of(cls, candidates: Iterable[Candidate], baseline: Candidate, objectives: Sequence[str]) -> "ParetoFront":
        """The front among `candidates`; those that failed are never on it.

        Raises:
            StudyError: An objective is unknown or the baseline was not measured.
        """
        for name in objectives:
            if name not in _GETTERS:
                raise StudyError(f"an objective must be one of {', '.join(_GETTERS)}, but got {name!r}")
        measured = {c.digest: c for c in candidates if c.measurement}
        found = {digest: objective_intervals(c, objectives) for digest, c in measured.items()}
        members = [c for c in measured.values() if not any(beats(other, found[c.digest]) for other in found.values())]
        members.sort(key=lambda c: -c.measurement.speedup.value if c.measurement else 0.0)
        ends = {"accuracy_drop": 0.05, "latency": 1.0}
        base = dict(zip(objectives, objective_values(baseline, objectives), strict=True))
        reference = tuple(ends.get(name, base[name]) for name in objectives)
        return cls(tuple(members), baseline, tuple(objectives), reference)

    def hypervolume(self) -> float:
        """Share of the box between the ideal point (no drop, no time, no size) and the reference, about in [0, 1]."""
        box = 1.0
        for end in self.reference:
            box *= end
        return hypervolume([objective_values(c, self.objectives) for c in self.candidates], self.reference) / box

    def __len__(self) -> int:
        return len(self.candidates)

    def _repr_html_(self) -> str:
        """In a notebook: the front as a picture and as a table, fastest first."""
        return front_html([_shown(c, c.measurement) for c in self.candidates if c.measurement])


def _shown(candidate: Candidate, measurement: Measurement) -> Shown:
    kind: Kind = "baseline" if candidate.recipe.is_identity else "anchor" if candidate.label else "candidate"
    return Shown(candidate.name, measurement, kind, candidate.rung)


def bound_of_drop(drop: Interval, n_compared: int) -> float:
    """One-sided 95 % upper bound that holds for `n_compared` candidates at once.

    Who takes the fastest of many candidates that look good takes a lucky one; the bound of one candidate alone,
    ``drop.high``, is then too low. Bonferroni's correction, with the interval's upper half scaled as that of a
    normal distribution.

    Args:
        drop: Estimate with its two-sided 90 % interval.
        n_compared: Candidates that were measured on the same samples, >= 1.

    >>> round(bound_of_drop(Interval(value=0.004, low=-0.001, high=0.009), 1), 4)
    0.009
    >>> round(bound_of_drop(Interval(value=0.004, low=-0.001, high=0.009), 20), 4)
    0.0125
    """
    return _bound_at(drop, 0.05 / n_compared)


def _bound_at(drop: Interval, chance: float) -> float:
    """Upper bound of a drop that is too low with a probability of `chance`."""
    quantile = NormalDist().inv_cdf
    return drop.value + max(0.0, drop.high - drop.value) * quantile(1 - chance) / quantile(1 - 0.05)


@dataclass(frozen=True)
class Wishes:
    """What a chosen model must keep; None means no wish.

    Attributes:
        max_drop: Largest accuracy drop, >= 0, in units of the score. Held by the one-sided 95 % bound of the drop on
            data by which no candidate was proposed; where there are none, by `bound_of_drop`.
        max_latency_ms: Largest median latency, > 0, milliseconds.
        max_size_bytes: Largest size of the deployed files, > 0, bytes.
        target_speedup: Least speed-up over the baseline, > 0.
        digest: Of the one candidate that is wanted, whatever it breaks; None where the fastest is.

    Raises:
        StudyError: A value is out of range.
    """

    max_drop: float | None = None
    max_latency_ms: float | None = None
    max_size_bytes: int | None = None
    target_speedup: float | None = None
    digest: str | None = None

    def __post_init__(self) -> None:
        if self.max_drop is not None and not 0 <= self.max_drop < float("inf"):
            raise StudyError(f"max_drop must be at least 0, but got {self.max_drop}; 0.01 is one point of an accuracy")
        for name in ("max_latency_ms", "max_size_bytes", "target_speedup"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise StudyError(f"{name} must be above 0, but got {value}")

    def violations(self, m: Measurement, n_compared: int = 1) -> dict[str, float]:
        """Relative excess of each wish that `m`, one of `n_compared`, breaks, with a sentence as its key."""
        held_out = m.selection_drop
        bound = _bound_at(held_out, CHANCES[0]) if held_out else bound_of_drop(m.accuracy_drop, n_compared)
        broken: dict[str, float] = {}
        if self.max_drop is not None and bound > self.max_drop:
            text = f"the bound on its accuracy drop is {bound:.4f}, above max_drop {self.max_drop:g}"
            broken[text] = (bound - self.max_drop) / max(self.max_drop, 0.01)
        return broken | self._other_violations(m)

    def _other_violations(self, m: Measurement) -> dict[str, float]:
        """Those of wishes about speed and size."""
        broken: dict[str, float] = {}
        if self.max_latency_ms is not None and m.latency_ms > self.max_latency_ms:
            text = f"its latency is {m.latency_ms:.3f} ms, above max_latency_ms {self.max_latency_ms:g}"
            broken[text] = m.latency_ms / self.max_latency_ms - 1
        if self.max_size_bytes is not None and m.size_bytes > self.max_size_bytes:
            text = f"its size is {m.size_bytes} bytes, above max_size_bytes {self.max_size_bytes}"
            broken[text] = m.size_bytes / self.max_size_bytes - 1
        if self.target_speedup is not None and m.speedup.value < self.target_speedup:
            text = f"its speed-up is {m.speedup.value:.2f}, below target_speedup {self.target_speedup:g}"
            broken[text] = self.target_speedup / m.speedup.value - 1
        return broken

    def keeping(self, measured: "Sequence[tuple[Candidate, Measurement]]") -> "list[tuple[Candidate, Measurement]]":
        """Those of all measured candidates that keep every wish, but for those that are not worth a test.

        Where the drop has a bound on data of its own, candidates are tested one by one, from the slowest upwards, since
        slower ones tend to lose less, until a bound is too high for the second time; the bounds are those of `CHANCES`,
        the second one after the first failure. So with a probability of 95 % none that is kept breaks the floor,
        however many there are: of those that do, only the first two in the order can ever be tested (fixed-sequence
        testing: Maurer et al. 1995, with the level split over two sequences). What is tested, and the order, depend on
        the data that the search saw alone.
        """
        n = max(1, sum(not c.recipe.is_identity for c, _ in measured))
        allowed = [(c, m) for c, m in measured if not self._other_violations(m)]
        kept = [(c, m) for c, m in allowed if c.recipe.is_identity or m.selection_drop is None]
        kept = [(c, m) for c, m in kept if not self.violations(m, n)]
        fastest = max((m.speedup.value for _, m in kept), default=0.0)
        chances = list(CHANCES)
        for c, m in sorted(allowed, key=lambda pair: (pair[1].speedup.value, pair[1].accuracy_drop.value)):
            if m.selection_drop is None or c.recipe.is_identity or m.speedup.value < fastest:
                continue
            if not self._is_worth_a_test(m, [other for _, other in allowed]):
                continue
            if self.max_drop is None or _bound_at(m.selection_drop, chances[0]) <= self.max_drop:
                kept.append((c, m))
            elif len(chances) > 1:
                chances.pop(0)
            else:
                break
        return kept

    def _is_worth_a_test(self, m: Measurement, others: Sequence[Measurement]) -> bool:
        """Whether it may keep the floor and no faster one surely loses less, by the data that the search saw.

        One whose drop is above the floor by more than its standard error would most likely fail, and only two may.
        """
        drop = m.accuracy_drop
        if self.max_drop is not None and drop.value - drop.standard_error > self.max_drop:
            return False
        return not any(o.speedup.value > m.speedup.value and o.accuracy_drop.high < drop.low for o in others)


@dataclass(frozen=True)
class Choice:
    """The chosen candidate, whether it keeps every wish, and the reason in one sentence."""

    candidate: Candidate
    meets_wishes: bool
    reason: str


def choose(candidates: Iterable[Candidate], wishes: Wishes) -> Choice:
    """The fastest measured candidate that keeps `wishes`, else the one that breaks them least; or the one they name.

    Raises:
        StudyError: No candidate was measured, or not the one that is named.
    """
    candidates = list(candidates)
    if wishes.digest is not None:
        return _named(candidates, wishes, wishes.digest)
    measured = [(c, c.measurement) for c in candidates if c.measurement]
    if not measured:
        raise StudyError("no candidate was measured, so none can be chosen; give the search a larger budget")
    n = max(1, sum(not c.recipe.is_identity for c, _ in measured))
    keeping = wishes.keeping(measured)
    if keeping:
        best = max(keeping, key=lambda pair: (pair[1].speedup.value, -pair[1].size_bytes))[0]
        return Choice(best, True, f"the fastest of {len(keeping)} that keep every bound, of {len(measured)} measured")
    nearest, m = min(measured, key=lambda pair: sum(wishes.violations(pair[1], n).values()))
    broken = "; ".join(wishes.violations(m, n)) or "slower ones failed first, or the search's own samples rule it out"
    return Choice(nearest, False, f"no candidate keeps every bound; of the nearest, {broken}")


def _named(candidates: Sequence[Candidate], wishes: Wishes, digest: str) -> Choice:
    """The candidate with this digest, and which bounds it breaks."""
    candidate = next((c for c in candidates if c.digest == digest), None)
    if candidate is None:
        raise StudyError(f"the study has no candidate {digest}; its report lists them")
    if candidate.measurement is None:
        raise StudyError(f"candidate {candidate.name} was not measured: {candidate.failure}; choose another one")
    n = max(1, sum(c.measurement is not None and not c.recipe.is_identity for c in candidates))
    broken = "; ".join(wishes.violations(candidate.measurement, n))
    return Choice(candidate, not broken, f"named by its digest; {broken or 'it keeps every bound'}")
