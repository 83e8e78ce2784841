"""One run of a sampler on a problem whose answers are known: a real study, asked and told, in memory."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution

from autocompress.planning.acquisition import boxes, pareto
from autocompress.planning.problem import OBJECTIVES, Floats, Plans, Problem
from autocompress.search.planwise import PlanwiseSampler
from autocompress.search.samplers import DROP_ERROR, make_sampler

Plan = tuple[int, ...]
PLANNERS = ("bayesdp", "spdy", "greedy")  # samplers that need the damage table and the latency model


class Bench(Protocol):
    """A problem on which samplers are compared."""

    @property
    def problem(self) -> Problem:
        """What a planner is told."""

    @property
    def factors(self) -> tuple[tuple[int, ...], ...]:
        """For each unit how many values each of its parameters has; the last parameter of a unit changes fastest."""

    @property
    def reference(self) -> Floats:
        """Reference point of the hypervolume: drop, share of the baseline's latency, of its size."""

    def best_hypervolumes(self, n_trials: int) -> Floats:
        """Hypervolumes by `share_of_box` of the best fronts that are known, for 1 to `n_trials`: shape (n_trials,)."""

    @property
    def database_seconds(self) -> float:
        """Seconds that the damage table and the latency model took."""

    @property
    def trial_seconds(self) -> float:
        """Seconds of one trial, without the proposing."""

    @property
    def anchors(self) -> tuple[Plan, ...]:
        """Uniform plans that every sampler tries first."""

    def evaluate(self, plan: Plan, rng: np.random.Generator) -> tuple[float, float, float]:
        """Measured drop, latency and size."""

    def drop_error(self, plan: Plan) -> float:
        """Standard error of the measured drop."""

    def truth(self, plans: Plans) -> Floats:
        """Drop, latency and size on data that no search has seen, shape (n, 3)."""


@dataclass(frozen=True)
class FactorMap:
    """Plans as raw parameters of Optuna: integers from 0, the gentlest first.

    Args:
        factors: As `Bench.factors`.
    """

    factors: tuple[tuple[int, ...], ...]

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """One integer a parameter; TPE and Gaussian processes do better with an order than without."""
        return {name: IntDistribution(0, n - 1) for name, n in zip(self._names, self._sizes, strict=True)}

    def encode(self, params: Mapping[str, Any]) -> Plan:
        """The plan that parameters mean."""
        values = iter([int(params[name]) for name in self._names])
        return tuple(int(np.ravel_multi_index([next(values) for _ in sizes], sizes)) for sizes in self.factors)

    def decode(self, plan: Plan) -> dict[str, Any]:
        """Values of all parameters that mean a plan."""
        values = [int(v) for i, sizes in zip(plan, self.factors, strict=True) for v in np.unravel_index(i, sizes)]
        return dict(zip(self._names, values, strict=True))

    @cached_property
    def _names(self) -> list[str]:
        return [f"unit {unit} factor {k}" for unit, sizes in enumerate(self.factors) for k in range(len(sizes))]

    @property
    def _sizes(self) -> list[int]:
        return [n for sizes in self.factors for n in sizes]


@dataclass(frozen=True)
class Run:
    """What one sampler did with one seed.

    Attributes:
        sampler: Its name.
        seed: Of the sampler and of the noise.
        shares: Share of the best hypervolume after each trial, shape (trials,): that of the true values of those plans
            which look undominated in what was measured.
        seconds: Seconds since the start after each trial, shape (trials,): database, trials and proposals.
        slowest: Seconds of the slowest proposal.
        plans: In the order of the trials.
    """

    sampler: str
    seed: int
    shares: Floats
    seconds: Floats
    slowest: float
    plans: tuple[Plan, ...]


def run(name: str, bench: Bench, n_trials: int, seed: int, first: Sequence[Plan] = ()) -> Run:
    """Let a sampler search.

    The noise of a trial depends on the seed and on the number of the trial, not on the sampler. Drops beyond the
    reference point break the study's constraint, so that samplers which heed constraints know where nothing counts.

    Args:
        name: One of `SAMPLERS`.
        bench: The problem.
        n_trials: At least 1.
        seed: Of all chance, >= 0.
        first: Plans that are enqueued, in place of the bench's anchors.
    """
    sampler, study = _study(name, bench, seed, first)
    parameters = FactorMap(bench.factors)
    plans: list[Plan] = []
    measured, proposing = [], []
    for number in range(n_trials):
        start = time.perf_counter()
        trial = study.ask(dict(parameters.distributions))
        proposing.append(time.perf_counter() - start)
        plans.append(parameters.encode(trial.params))
        values = bench.evaluate(plans[-1], np.random.default_rng([seed, number]))
        trial.set_user_attr(DROP_ERROR, bench.drop_error(plans[-1]))
        trial.set_constraint(OBJECTIVES[0], values[0] - float(bench.reference[0]))
        study.tell(trial, values)
        measured.append(values)
    charged = bench.database_seconds if name in PLANNERS or first else 0.0
    return Run(
        sampler=name,
        seed=seed,
        shares=shares_after_each(bench, plans, np.array(measured)),
        seconds=charged + np.cumsum(proposing) + bench.trial_seconds * np.arange(1, n_trials + 1),
        slowest=max(proposing),
        plans=tuple(plans),
    )


def _study(name: str, bench: Bench, seed: int, first: Sequence[Plan]) -> tuple[PlanwiseSampler, optuna.Study]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parameters = FactorMap(bench.factors)
    anchors = () if first else bench.anchors
    start = bench.anchors[0] if name == "greedy" and bench.anchors else None
    sampler = make_sampler(name, parameters, lambda: bench.problem, seed=seed, anchors=anchors, start=start)
    study = optuna.create_study(directions=["minimize"] * len(OBJECTIVES), sampler=sampler)
    for plan in first:
        study.enqueue_trial(parameters.decode(plan))
    return sampler, study


def shares_after_each(bench: Bench, plans: Sequence[Plan], measured: Floats) -> Floats:
    """Share of the best hypervolume after each trial.

    Args:
        bench: The problem.
        plans: What was tried.
        measured: What was found, shape (trials, 3).

    Returns:
        Shape (trials,). Plans that look undominated in `measured` count with their true values.
    """
    true = bench.truth(np.array(plans))
    fronts = [np.flatnonzero(pareto(measured[: n + 1])) for n in range(len(plans))]
    known: dict[bytes, float] = {}
    for front in fronts:
        key = front.tobytes()
        if key not in known:
            known[key] = share_of_box(true[front], bench.reference)
    return np.array([known[front.tobytes()] for front in fronts]) / bench.best_hypervolumes(len(plans))


def share_of_box(points: Floats, reference: Floats) -> float:
    """Hypervolume of points, shape (n, 3), as a share of the box from the origin to the reference, in [0, 1]."""
    free = [np.clip(corner, 0.0, 1.0) for corner in boxes(np.clip(points, 0.0, None) / reference, np.ones(3))]
    return float(1 - np.prod(free[1] - free[0], axis=1).sum())
