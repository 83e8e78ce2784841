"""The exhaustive table of a small real network, and how it is replayed: numpy is enough.

4,096 recipes: three convolutions with 32, 8, 4 or 2 bits, three channel groups that lose 0 to 75 % of their filters.
`make_table` made it: each recipe calibrated, fine-tuned for a moment with distillation, exported to OpenVINO; accuracy
on two halves of held-out images, exact size, latency.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autocompress.planning.acquisition import pareto
from autocompress.planning.problem import Cost, Floats, Plans, Problem, Unit
from examples.benchmarks.search.replay import Plan, share_of_box

TABLE = Path(__file__).with_name("table.npz")
LATENCY_ERROR = 0.01  # relative, of a trial's measured latency
REFERENCE = np.array([0.1, 1.0, 1.0])  # five times the largest drop that is wished for


@dataclass(frozen=True)
class Table:
    """The table as a benchmark; see `replay.Bench`.

    Attributes:
        problem: What a planner is told.
        lost: Images that a recipe has wrong and the FP32 model right, shape (plans, 2 halves).
        gained: The other way round, same shape.
        n_images: In one half.
        latencies: Share of the baseline's, shape (plans,).
        sizes: Likewise.
        seconds: What was measured for the planner took, and one trial, by name.
    """

    problem: Problem
    lost: npt.NDArray[np.int64]
    gained: npt.NDArray[np.int64]
    n_images: int
    latencies: Floats
    sizes: Floats
    seconds: dict[str, float]

    @property
    def factors(self) -> tuple[tuple[int, ...], ...]:
        """One parameter a unit."""
        return tuple((n,) for n in self.problem.n_choices)

    @property
    def reference(self) -> Floats:
        """Drop, shares of the baseline's latency and size."""
        return REFERENCE

    @property
    def database_seconds(self) -> float:
        """Seconds that the damage table and the latency model took."""
        return sum(seconds for name, seconds in self.seconds.items() if name != "trial")

    @property
    def trial_seconds(self) -> float:
        """Seconds of one trial."""
        return self.seconds["trial"]

    @property
    def anchors(self) -> tuple[Plan, ...]:
        """All INT8; all INT8 with a quarter of all filters removed."""
        n_bits = len(self.problem.units) // 2
        return (1,) * n_bits + (0,) * n_bits, (1,) * 2 * n_bits

    def evaluate(self, plan: Plan, rng: np.random.Generator) -> tuple[float, float, float]:
        """Drop on half A, latency with the noise of a measurement, size."""
        drop, latency, size = self._values(np.array([plan]), 0)[0]
        return float(drop), float(latency * (1 + LATENCY_ERROR * rng.standard_normal())), float(size)

    def drop_error(self, plan: Plan) -> float:
        """Standard error of the drop on half A, of paired differences."""
        row = self._rows(np.array([plan]))[0]
        lost, gained = int(self.lost[row, 0]), int(self.gained[row, 0])
        variance = (lost + gained) / self.n_images - ((lost - gained) / self.n_images) ** 2
        return float(np.sqrt(max(variance, 1 / self.n_images) / self.n_images))

    def truth(self, plans: Plans) -> Floats:
        """Drop on half B, latency and size, shape (n, 3)."""
        return self._values(plans, 1)

    def best_hypervolumes(self, n_trials: int) -> Floats:
        """Of the exhaustive front, whatever the number of trials: shape (n_trials,)."""
        return np.full(n_trials, self.exhaustive_hypervolume)

    @cached_property
    def exhaustive_hypervolume(self) -> float:
        """Of the exhaustive front: that of half A, with its drops on half B."""
        plans = self.all_plans
        front = pareto(self._values(plans, 0))
        return share_of_box(self.truth(plans[front]), self.reference)

    @property
    def all_plans(self) -> Plans:
        """Every plan, shape (plans, units), in the order of the rows."""
        return np.stack(np.unravel_index(np.arange(len(self.sizes)), self.problem.n_choices), axis=1).astype(np.int64)

    def _rows(self, plans: Plans) -> Plans:
        rows: Plans = np.ravel_multi_index(tuple(plans.T), self.problem.n_choices).astype(np.int64)
        return rows

    def _values(self, plans: Plans, half: int) -> Floats:
        rows = self._rows(plans)
        drops = (self.lost[rows, half] - self.gained[rows, half]) / self.n_images
        return np.stack([drops, self.latencies[rows], self.sizes[rows]], axis=1)


def load_table(path: Path = TABLE) -> Table:
    """The table that is shipped."""
    with np.load(path) as data:
        about = json.loads(bytes(data["about"]).decode())
        return Table(
            problem=problem_from_json(about["problem"]),
            lost=data["lost"].astype(np.int64),
            gained=data["gained"].astype(np.int64),
            n_images=about["n_images"],
            latencies=_by_plan(data["latencies"], problem_from_json(about["problem"]).n_choices),
            sizes=data["sizes"] / about["baseline_bytes"],
            seconds=about["seconds"],
        )


def _by_plan(latencies: Floats, n_choices: tuple[int, ...]) -> Floats:
    """Latencies of structures, shape (2, 2, 2, ratios, ratios, ratios), for every plan: shape (plans,)."""
    structures = [np.minimum(np.arange(n), size - 1) for n, size in zip(n_choices, latencies.shape, strict=True)]
    return latencies[np.ix_(*structures)].astype(np.float64).ravel()


def problem_from_json(text: str) -> Problem:
    """The problem that `problem_to_json` wrote."""
    content: dict[str, Any] = json.loads(text)
    units = tuple(Unit(u["name"], tuple(u["choices"]), np.array(u["damage"])) for u in content.pop("units"))
    costs = tuple(Cost(tuple(c["units"]), np.array(c["latency"]), np.array(c["size"])) for c in content.pop("costs"))
    texts: dict[str, Any] = {name: tuple(content.pop(name)) for name in ("kinds", "objectives")}
    recovery = np.array(content.pop("recovery"))
    return Problem(units=units, costs=costs, recovery=recovery, **texts, **content)
