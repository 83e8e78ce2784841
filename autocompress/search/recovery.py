"""Which candidates are worth a longer training: what it leaves of a drop is learned from those that had one."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from autocompress.measurement import Interval
from autocompress.pareto import CHANCES, Candidate

PRIOR_SHARE = 0.2  # of a short training's drop that a longer training leaves, before any was seen; measured: .14 to .42
_PRIOR_DROP = 0.03  # in units of the baseline's score; the prior weighs as much as one candidate with this drop
_RELATIVE_ERROR = 0.5  # of a forecast drop
_LEAST_CHANCE = 0.1  # of keeping the floor; less is not worth a longer training
LEAST_GAIN = 1.02  # speed-up over the present choice that is worth one
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Recovery:
    """What a longer training leaves of the drop of a short one.

    Attributes:
        share: The drop after a longer training over that after a short one, >= 0.
    """

    share: float = PRIOR_SHARE

    @classmethod
    def learned(cls, drops: Iterable[tuple[float, float]], score: float) -> "Recovery":
        """From the drops of candidates after a short and after a longer training.

        Least squares through the origin, with a prior.

        Args:
            drops: Pairs of short and longer, in units of the score.
            score: Of the baseline, which gives the prior its scale.
        """
        weight = (_PRIOR_DROP * (abs(score) or 1.0)) ** 2
        pairs = list(drops)
        above = PRIOR_SHARE * weight + sum(short * longer for short, longer in pairs)
        below = weight + sum(short * short for short, _ in pairs)
        return cls(min(1.0, max(0.05, above / below)))

    def chance(self, drop: Interval, held_out: Interval | None, max_drop: float) -> float:
        """Probability that a candidate keeps the floor after a longer training.

        Args:
            drop: After the short one.
            held_out: The drop on the data by which candidates are chosen, for its error; None for that of `drop`.
            max_drop: The floor.
        """
        bound_above = margin(held_out or drop)
        expected = self.share * max(0.0, drop.value)
        errors = _RELATIVE_ERROR * expected, self.share * drop.standard_error, (held_out or drop).standard_error
        error = max(1e-9, math.hypot(*errors))
        return _NORMAL.cdf((max_drop - bound_above - expected) / error)


def margin(drop: Interval) -> float:
    """How far the bound that decides about a candidate is above its drop."""
    return drop.standard_error * _NORMAL.inv_cdf(1 - CHANCES[0])


def most_promising(
    candidates: Sequence[Candidate],
    short_drops: Mapping[str, Interval],
    recovery: Recovery,
    max_drop: float,
    chosen_speedup: float,
) -> Candidate | None:
    """The candidate whose longer training gains most for its time: log of the speed-up gained, times its chance.

    Args:
        candidates: That had no longer training yet.
        short_drops: Their drops after the short one by digest; others are left out.
        recovery: What a longer training leaves of a drop.
        max_drop: The floor.
        chosen_speedup: Of the present choice.

    Returns:
        None where no candidate is faster or has a chance.
    """
    best: tuple[float, Candidate] | None = None
    for c in candidates:
        if c.measurement is None or c.digest not in short_drops:
            continue
        gain = math.log(c.measurement.speedup.value / chosen_speedup)
        chance = recovery.chance(short_drops[c.digest], c.measurement.selection_drop, max_drop)
        if gain <= math.log(LEAST_GAIN) or chance < _LEAST_CHANCE:
            continue
        profit = gain * chance / _seconds_a_step(c)
        if best is None or profit > best[0]:
            best = profit, c
    return best[1] if best else None


def _seconds_a_step(candidate: Candidate) -> float:
    return max(1e-9, candidate.seconds.get("finetune", 1.0) / max(1, candidate.n_steps))
