"""Synthetic networks whose truth differs from what the search is told: wrong damages, interactions, noise.

A unit chooses among 4 precisions x 3 sparsities x 3 pruning ratios. The search sees a damage table and a latency model
with errors; `Synthetic.evaluate` answers from the hidden truth, with noise.
"""

from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from autocompress.planning.acquisition import pareto, spread_subset
from autocompress.planning.planner import cheapest
from autocompress.planning.pool import mutants
from autocompress.planning.problem import Cost, Floats, Plans, Problem, Unit

KINDS = ("8 bits", "4 bits", "2 bits", "sparsity", "pruning")
PRECISIONS, SPARSITIES, RATIOS = (32, 8, 4, 2), (0.0, 0.5, 0.75), (0.0, 0.25, 0.5)
CHOICES = tuple((bits, sparsity, ratio) for bits in PRECISIONS for sparsity in SPARSITIES for ratio in RATIOS)
LABELS = tuple(f"{bits} bits, sparsity {sparsity:g}, pruning {ratio:g}" for bits, sparsity, ratio in CHOICES)
UNIFORM_DAMAGE = {8: 0.002, 4: 0.018, 2: 0.05, 0.5: 0.0125, 0.75: 0.05, -0.25: 0.018, -0.5: 0.055}  # before training
LATENCY = {32: 1.0, 8: 0.45, 4: 0.43, 2: 0.41}
ACTUAL_RECOVERY = np.array([0.8, 0.3, 0.6, 0.25, 0.45])
SWITCH_COST, LARGEST_DROP, MAX_DROP = 0.12, 0.85, 0.01
DROP_ERROR, LATENCY_ERROR = 0.0012, 0.01
REFERENCE = np.array([0.05, 1.0, 1.0])


@dataclass(frozen=True)
class Synthetic:
    """One network of the family.

    Args:
        n_units: Units, >= 1.
        seed: Of the network; the same seed is the same network.
        error: Standard deviation of the logarithm of an entry's error in the damage table.
        interaction: Extra damage of two damaged neighbours, as a share of the geometric mean of theirs.
        permuted: Whether the damage table has its entries exchanged between units and choices, which makes it useless.
        oracle_trials: Most plans that the oracle may choose.
    """

    n_units: int = 40
    seed: int = 0
    error: float = 0.6
    interaction: float = 0.3
    permuted: bool = False
    oracle_trials: int = 100

    @cached_property
    def actual(self) -> Problem:
        """What holds: the problem without its errors; interactions come on top."""
        rng = self._rng(0)
        levels = rng.lognormal(0.0, 1.0, self.n_units)
        units = tuple(_unit(i, level / levels.mean() / self.n_units, rng) for i, level in enumerate(levels))
        latencies, sizes = (rng.dirichlet(np.full(self.n_units, 1.5)) for _ in range(2))
        costs = [_own_cost(i, 0.92 * latencies[i], 0.98 * sizes[i]) for i in range(self.n_units)]
        costs += [_switch_cost(i, SWITCH_COST / self.n_units) for i in range(self.n_units - 1)]
        recovery = ACTUAL_RECOVERY * rng.lognormal(0.0, 0.3, len(KINDS))
        return Problem(units, KINDS, recovery, tuple(costs), 0.08, 0.02, MAX_DROP, LARGEST_DROP)

    @cached_property
    def problem(self) -> Problem:
        """What the search is told."""
        rng = self._rng(1)
        damages = [u.damage * rng.lognormal(0.0, self.error, u.damage.shape) for u in self.actual.units]
        if self.permuted:
            damages = list(rng.permutation(np.stack(damages).reshape(-1, len(KINDS))).reshape(np.shape(damages)))
        units = tuple(replace(u, damage=d) for u, d in zip(self.actual.units, damages, strict=True))
        costs = tuple(_mistaken(cost, rng) for cost in self.actual.costs)
        return replace(self.actual, units=units, costs=costs, recovery=np.full(len(KINDS), 0.6))

    @property
    def reference(self) -> Floats:
        """Reference point of the hypervolume: drop, shares of the baseline's latency and size."""
        return REFERENCE

    def truth(self, plans: Plans) -> Floats:
        """Drop, latency and size without noise, shape (n, 3), of plans of shape (n, units)."""
        parts = np.stack([t[plans[:, i]] for i, t in enumerate(self._damages)])
        together = self.interaction * np.sqrt(parts[:-1] * parts[1:]).sum(axis=0)
        drops = self.actual.drop_of(parts.sum(axis=0) + together)
        return np.stack([drops, self.actual.latencies(plans), self.actual.sizes(plans)], axis=1)

    def evaluate(self, plan: tuple[int, ...], rng: np.random.Generator) -> tuple[float, float, float]:
        """Measured drop (standard error `DROP_ERROR`), latency (relative `LATENCY_ERROR`) and size of one plan."""
        drop, latency, size = self.truth(np.array([plan]))[0]
        drop += DROP_ERROR * rng.standard_normal()
        return float(drop), float(latency * (1 + LATENCY_ERROR * rng.standard_normal())), float(size)

    def share(self, plans: Plans) -> float:
        """Hypervolume of the plans' true values as a share of that of all the oracle's plans, about in [0, 1]."""
        return hypervolume(self.truth(plans)) / float(self.oracle_hypervolumes[-1])

    @cached_property
    def oracle_hypervolumes(self) -> Floats:
        """What a planner and a local search that know the truth reach with 1 to `oracle_trials` plans, greedily chosen.

        Shape (oracle_trials,), rising.
        """
        values = self.truth(self._oracle())
        return np.array([hypervolume(values[: min(n, len(values))]) for n in range(1, self.oracle_trials + 1)])

    @cached_property
    def _damages(self) -> list[Floats]:
        return [unit.damage @ self.actual.recovery for unit in self.actual.units]

    def _rng(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.n_units, stream])

    def _oracle(self) -> Plans:
        rng = self._rng(2)
        weights = REFERENCE[0] * 10 ** rng.uniform(-2.5, 1.5, (2, 1000))
        tables = [np.tile(t * (1 + self.interaction), (1000, 1)) for t in self._damages]
        plans = self._front(cheapest(self.actual, tables, *weights))
        for _ in range(10):
            parents = plans[spread_subset(self.truth(plans), 100, REFERENCE)]
            plans = self._front(np.concatenate([plans, mutants(self.actual, parents, 3000, rng)]))
        return plans[spread_subset(self.truth(plans), self.oracle_trials, REFERENCE)]

    def _front(self, plans: Plans) -> Plans:
        """Plans that no other dominates, of those below the reference."""
        values = self.truth(plans)
        below = (values < REFERENCE).all(axis=1)
        return plans[below][pareto(values[below])]


def hypervolume(points: Floats) -> float:
    """Volume between the points and `REFERENCE` as a share of the box from the origin, in [0, 1].

    A sweep along the last axis with the staircase of the other two (Beume et al. 2009, section IV), for fronts of
    hundreds of points.

    Args:
        points: Shape (n, 3), to be minimized; those not below the reference count nothing.
    """
    scaled = np.clip(points, 0.0, None) / REFERENCE
    inside = scaled[(scaled < 1).all(axis=1)]
    inside = inside[np.argsort(inside[:, 2])]
    stairs, volume, area = [(-1.0, 1.0), (1.0, -1.0)], 0.0, 0.0
    for (x, y, _), depth in zip(inside, np.diff(np.append(inside[:, 2], 1.0)), strict=True):
        area += _add_step(stairs, float(x), float(y))
        volume += area * float(depth)
    return volume


def _add_step(stairs: list[tuple[float, float]], x: float, y: float) -> float:
    """Put a point on the staircase of (x, y), x rising and y falling; returns the area it adds."""
    at = bisect_right(stairs, (x, 2.0))
    if stairs[at - 1][1] <= y:
        return 0.0
    area, height, left, end = 0.0, stairs[at - 1][1], x, at
    while stairs[end][1] >= y:
        area += (stairs[end][0] - left) * (height - y)
        left, height, end = stairs[end][0], stairs[end][1], end + 1
    area += (stairs[end][0] - left) * (height - y)
    start = at - 1 if stairs[at - 1][0] == x else at
    stairs[start:end] = [(x, y)]
    return area


def _unit(index: int, level: float, rng: np.random.Generator) -> Unit:
    """A unit whose damages are `level` times those of a whole network, with spread."""
    damages = {key: level * value * rng.lognormal(0.0, 0.4) for key, value in UNIFORM_DAMAGE.items()}
    table = np.zeros((len(CHOICES), len(KINDS)))
    for row, (bits, sparsity, ratio) in zip(table, CHOICES, strict=True):
        if bits < 32:
            row[(8, 4, 2).index(bits)] = damages[bits]
        row[3], row[4] = damages.get(sparsity, 0.0), damages.get(-ratio, 0.0)
    return Unit(f"layer {index}", LABELS, table)


def _own_cost(unit: int, latency: float, size: float) -> Cost:
    times = [
        LATENCY[bits] * (1 - ratio) ** 1.2 * (0.93 if sparsity == 0.75 else 1.0) for bits, sparsity, ratio in CHOICES
    ]
    bytes_ = [bits / 32 * (1 - 0.9 * sparsity) * (1 - ratio) for bits, sparsity, ratio in CHOICES]
    return Cost((unit,), latency * np.array(times), size * np.array(bytes_))


def _switch_cost(unit: int, latency: float) -> Cost:
    floating = np.array([bits == 32 for bits, _, _ in CHOICES])
    table = latency * (floating[:, None] != floating)
    return Cost((unit, unit + 1), table, np.zeros_like(table))


def _mistaken(cost: Cost, rng: np.random.Generator) -> Cost:
    """The cost as a latency model with errors knows it: switches too cheap, entries off by some percent."""
    if len(cost.units) == 2:
        return replace(cost, latency=0.7 * cost.latency)
    return replace(cost, latency=cost.latency * rng.lognormal(0.0, 0.06, cost.latency.shape))
