"""How good a plan promises to be: by the hypervolume it would add, or as the fastest that keeps the accuracy."""

from collections.abc import Sequence

import numpy as np

from autocompress.planning.acquisition import boxes, gains, pareto
from autocompress.planning.correction import Correction, Observation
from autocompress.planning.problem import Floats, Plans, Problem

EXPLORE = 5.0  # drops up to this multiple of the largest that is wished for count
LEAST_REACH = 0.01  # of the largest drop: counts in any case
N_DRAWS = 96  # of the damage table, for a ranking


def reach_of(problem: Problem) -> float:
    """Drop of the reference point of the hypervolume, > 0."""
    return max(EXPLORE * problem.max_drop, LEAST_REACH * problem.largest_drop)


class Ranking:
    """The front so far and what a plan would add to it.

    Drops of the front are the denoised ones, and plans are judged by draws that are independent of those which made
    them: the draw that made a plan flatters it.

    Args:
        problem: What is planned.
        correction: The damage table as the observations correct it.
        observations: What `correction` has seen.
        pending: Plans that run or failed: they count as if they did what is predicted, shape (n, units).
        rng: Chance.
        latencies: Of the observed plans, shape (observations,); None: as they were measured.

    Attributes:
        front: Plans on the front, shape (n, units).
        values: Drop, latency and size of everything observed, then of what is pending: shape (n, 3).
    """

    def __init__(
        self,
        problem: Problem,
        correction: Correction,
        observations: Sequence[Observation],
        pending: Plans,
        rng: np.random.Generator,
        latencies: Floats | None = None,
    ) -> None:
        self._problem, self._correction, self._rng = problem, correction, rng
        self._columns = [("accuracy_drop", "latency", "size_bytes").index(name) for name in problem.objectives]
        observed = np.array([o.plan for o in observations], np.int64).reshape(-1, len(problem.units))
        plans = np.concatenate([observed, pending])
        self.values = np.concatenate([self._observed(observed, observations, latencies), self._predicted(pending)])
        self._reference = np.array([reach_of(problem), 1.0, 1.0])[self._columns]
        points = self.values[:, self._columns]
        inside = (points < self._reference).all(axis=1)
        if 0 not in self._columns:
            inside &= self.values[:, 0] <= problem.max_drop
        kept = np.flatnonzero(inside)
        kept = kept[pareto(points[kept])] if len(kept) else kept
        self.front = plans[kept]
        self._boxes = boxes(points[kept], self._reference)

    def promise(self, plans: Plans, drops: Floats | None = None) -> Floats:
        """Expected gain of hypervolume by each plan, shape (n,) (Emmerich et al. 2006, by Monte Carlo).

        Where the drop is no objective, the gain counts only in draws that keep it.

        Args:
            plans: Shape (n, units).
            drops: Draws of their drops, shape (draws, n); None: drawn from the posterior.
        """
        drops = self.draws(plans) if drops is None else drops
        points = np.empty((*drops.shape, 3))
        points[..., 0] = drops
        points[..., 1], points[..., 2] = self._problem.latencies(plans), self._problem.sizes(plans)
        gained = gains(points[..., self._columns], *self._boxes)
        if 0 not in self._columns:
            gained = gained * (drops <= self._problem.max_drop)
        expected: Floats = gained.mean(axis=0)
        return expected

    def profit(self, plans: Plans, drops: Floats | None = None) -> Floats:
        """Expected gain in the logarithm of speed over the fastest plan that keeps the accuracy, shape (n,).

        The probability that the drop is at most the wished one, times the gain (Schonlau et al. 1998). In place of the
        latency the size counts where the latency is no objective, and the gain over the baseline where no plan keeps
        the accuracy so far.

        Args:
            plans: Shape (n, units).
            drops: As in `promise`.
        """
        drops = self.draws(plans) if drops is None else drops
        chance = (drops <= self._problem.max_drop).mean(axis=0)
        by_size = "latency" not in self._problem.objectives
        cost = self._problem.sizes(plans) if by_size else self._problem.latencies(plans)
        keeping = self.values[self.values[:, 0] <= self._problem.max_drop, 2 if by_size else 1]
        best = min([1.0, *keeping])
        gain: Floats = chance * np.log(max(best, 1e-9) / np.maximum(cost, 1e-9))
        return gain

    def draws(self, plans: Plans) -> Floats:
        """Drops drawn from the posterior, shape (draws, n)."""
        return self._correction.drop_draws(plans, N_DRAWS, self._rng)

    def _predicted(self, plans: Plans) -> Floats:
        return np.stack([self._correction.drops(plans), self._problem.latencies(plans), self._problem.sizes(plans)], 1)

    def _observed(self, plans: Plans, observations: Sequence[Observation], latencies: Floats | None) -> Floats:
        values = self._predicted(plans)
        values[:, 0] = self._correction.denoised()
        for row, observation in zip(values, observations, strict=True):
            row[1] = row[1] if observation.latency is None else observation.latency
            row[2] = row[2] if observation.size is None else observation.size
        if latencies is not None:
            values[:, 1] = latencies
        return values
