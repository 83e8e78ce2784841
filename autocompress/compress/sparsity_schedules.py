"""How sparsity rises during training: closed forms of the progress, and one schedule that watches the loss."""

import math
from collections.abc import Sequence

from autocompress.recipe import Sparsification

MILESTONES = (0.25, 0.5, 0.75, 1.0)  # of the multistep schedule, as progress
N_DECISIONS = 20  # of the adaptive schedule at most; half as many rises, so that half of the decisions may be to wait
TOLERANCE = 0.1  # of the adaptive schedule: how far above its lowest the loss may be for the sparsity to rise


def polynomial(progress: float, initial: float, target: float, power: float = 3.0) -> float:
    """``s_f + (s_i - s_f) (1 - t)^power`` (Zhu & Gupta 2017, equation 1, with power 3).

    Args:
        progress: t, in [0, 1].
        initial: s_i, in [0, 1).
        target: s_f, in [0, 1).
        power: > 0.

    >>> [round(polynomial(t, 0.0, 0.8), 3) for t in (0.0, 0.5, 1.0)]
    [0.0, 0.7, 0.8]
    """
    return target + (initial - target) * math.pow(1 - progress, power)


def exponential(progress: float, initial: float, target: float) -> float:
    """``1 - (1 - s_i) ((1 - s_f) / (1 - s_i))^t``: the density falls by equal factors (NNCF's exponential scheduler).

    Args:
        progress: t, in [0, 1].
        initial: s_i, in [0, 1).
        target: s_f, in [0, 1).

    >>> [round(exponential(t, 0.0, 0.75), 3) for t in (0.0, 0.5, 1.0)]
    [0.0, 0.5, 0.75]
    """
    return 1 - (1 - initial) * math.pow((1 - target) / (1 - initial), progress)


def multistep(progress: float, initial: float, target: float, milestones: Sequence[float] = MILESTONES) -> float:
    """Equal rises at the milestones.

    Args:
        progress: In [0, 1].
        initial: In [0, 1).
        target: In [0, 1).
        milestones: Progress at each rise, in (0, 1], rising.

    >>> [round(multistep(t, 0.0, 0.8), 3) for t in (0.0, 0.25, 0.6, 1.0)]
    [0.0, 0.2, 0.4, 0.8]
    """
    share = sum(milestone <= progress for milestone in milestones) / len(milestones)
    return initial + (target - initial) * share


def level(progress: float, target: float, settings: Sparsification) -> float:
    """Sparsity of a layer at some progress; its target from the start on where `initial_sparsity` is not below it.

    Args:
        progress: Share of the schedule that is over, clamped to [0, 1]; with `adaptive` the share of rises made.
        target: Sparsity of the layer at the end, in [0, 1).
        settings: `schedule`, `initial_sparsity` and `power` count.

    Returns:
        In [0, 1), exactly `target` at a progress of 1.
    """
    progress, initial = min(max(progress, 0.0), 1.0), settings.initial_sparsity
    if initial >= target or progress == 1.0:
        return target
    if settings.schedule == "polynomial":
        return polynomial(progress, initial, target, settings.power)
    if settings.schedule == "exponential":
        return exponential(progress, initial, target)
    if settings.schedule == "multistep":
        return multistep(progress, initial, target)
    return initial + (target - initial) * progress


class AdaptiveProgress:
    """The progress of the adaptive schedule: a tenth of the way whenever training has got over the last rise.

    Twenty times at equal distances the mean loss since the last decision is compared with the lowest such mean so far.
    If it is not above ``lowest + tolerance * |lowest|`` the sparsity rises. Rises that could not be made later, one a
    decision, are forced, so that all are made at the end. Below twenty calls every call decides, and there are half as
    many rises as calls. The NNCF paper (section 4.3) names this mode without a formula; the constants are ours.

    Args:
        n_calls: How often `step` will be called, >= 1.
        tolerance: >= 0.

    Attributes:
        progress: Share of the rises made, in [0, 1].
    """

    def __init__(self, n_calls: int, tolerance: float = TOLERANCE) -> None:
        self.tolerance = tolerance
        self._n_calls, self._n_decisions = n_calls, min(N_DECISIONS, n_calls)
        self._n_rises_in_all = max(1, self._n_decisions // 2)
        self._call = self._n_rises = 0
        self._losses: list[float] = []
        self._lowest = math.inf

    @property
    def progress(self) -> float:
        """Share of the rises made, in [0, 1]."""
        return self._n_rises / self._n_rises_in_all

    def step(self, loss: float) -> float:
        """Take note of the mean loss since the last call, decide if it is time to, and return the progress."""
        self._losses.append(loss)
        n_before = self._call * self._n_decisions // self._n_calls
        self._call += 1
        n_now = self._call * self._n_decisions // self._n_calls
        if n_now > n_before:
            self._decide(n_left=self._n_decisions - n_now)
        return self.progress

    def _decide(self, n_left: int) -> None:
        mean = sum(self._losses) / len(self._losses)
        self._losses = []
        self._lowest = min(self._lowest, mean)
        is_well = mean <= self._lowest + self.tolerance * abs(self._lowest)
        is_last_chance = self._n_rises_in_all - self._n_rises > n_left
        self._n_rises = min(self._n_rises_in_all, self._n_rises + int(is_well or is_last_chance))
