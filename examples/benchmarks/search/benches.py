"""The benchmark problems by name, each with the plans that every sampler tries first."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from autocompress.planning.problem import Floats, Plans, Problem
from examples.benchmarks.search.replay import Bench, Plan
from examples.benchmarks.search.synthetic import CHOICES, DROP_ERROR, PRECISIONS, RATIOS, SPARSITIES, Synthetic
from examples.benchmarks.search.table import load_table

NOMINAL_DATABASE_SECONDS, NOMINAL_TRIAL_SECONDS = 300.0, 60.0  # of the synthetic networks, which nobody trains
N_UNITS = 40


@dataclass(frozen=True)
class SyntheticBench:
    """A synthetic network as a benchmark; see `replay.Bench`.

    Attributes:
        network: The network.
    """

    network: Synthetic

    @property
    def problem(self) -> Problem:
        """What a planner is told."""
        return self.network.problem

    @property
    def factors(self) -> tuple[tuple[int, ...], ...]:
        """Bits, sparsity and pruning ratio of each unit."""
        return ((len(PRECISIONS), len(SPARSITIES), len(RATIOS)),) * self.network.n_units

    @property
    def reference(self) -> Floats:
        """Drop, shares of the baseline's latency and size."""
        return self.network.reference

    def best_hypervolumes(self, n_trials: int) -> Floats:
        """Of as many plans by a planner that knows the truth: shape (n_trials,)."""
        known = self.network.oracle_hypervolumes
        return known[np.minimum(np.arange(n_trials), len(known) - 1)]

    @property
    def database_seconds(self) -> float:
        """As an example."""
        return NOMINAL_DATABASE_SECONDS

    @property
    def trial_seconds(self) -> float:
        """As an example."""
        return NOMINAL_TRIAL_SECONDS

    @property
    def anchors(self) -> tuple[Plan, ...]:
        """All INT8; all INT8 with a quarter of all filters removed."""
        return tuple((CHOICES.index((8, 0.0, ratio)),) * self.network.n_units for ratio in (0.0, 0.25))

    def evaluate(self, plan: Plan, rng: np.random.Generator) -> tuple[float, float, float]:
        """Measured drop, latency and size."""
        return self.network.evaluate(plan, rng)

    def drop_error(self, plan: Plan) -> float:
        """The same for all plans."""
        return DROP_ERROR

    def truth(self, plans: Plans) -> Floats:
        """Drop, latency and size without noise, shape (n, 3)."""
        return self.network.truth(plans)


@cache
def bench_of(name: str, seed: int, n_units: int = N_UNITS) -> Bench:
    """A benchmark problem.

    Args:
        name: `table`, `synthetic` or `permuted`, the synthetic one with a damage table that says nothing.
        seed: Of the synthetic network; the table is the same for all.
        n_units: Of the synthetic network.
    """
    if name == "table":
        return load_table()
    return SyntheticBench(Synthetic(n_units, seed, permuted=name == "permuted"))
