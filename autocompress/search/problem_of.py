"""A planning problem from what was measured of a model: damages, the latency model and the size model."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from autocompress.measure.latency_model import LatencyModel
from autocompress.planning.problem import OBJECTIVES, Problem, Unit
from autocompress.search.damage_table import Isolated, damage_tables
from autocompress.search.expected_damage import KINDS, left_by_training
from autocompress.search.plan_costs import PlanTables, plan_tables
from autocompress.search.plan_space import PlanSpace
from autocompress.search.size_model import SizeModel

Floats = npt.NDArray[np.float64]
_SAME = 1e-12  # shares that differ by less are equal
_COST_OF = {"latency": "latency", "size_bytes": "size"}  # field of `Cost` by objective


def problem_of(
    space: PlanSpace,
    damage: Mapping[str, Isolated],
    latency: LatencyModel,
    size: SizeModel,
    *,
    max_drop: float,
    largest_drop: float,
    objectives: Sequence[str] = OBJECTIVES,
    training_steps: float = math.inf,
    tables: PlanTables | None = None,
) -> Problem:
    """The problem whose plans are those of `space`.

    Args:
        space: Units with choices.
        damage: What was measured of `space.isolated`, by digest of the recipe; what is missing is estimated, see
            `damage_tables`.
        latency: Latency model of the model.
        size: Size model of the same.
        max_drop: Largest accuracy drop that is wished for, >= 0.
        largest_drop: Drop of a model that only guesses, > 0.
        objectives: What is minimized, of `OBJECTIVES`.
        training_steps: Steps of a candidate's fine-tuning, for what it leaves of damages; infinite for a full one.
        tables: What ``plan_tables(space, size)`` gave, for one who makes problems of one space often.
    """
    present = {kind for unit in space.units for option in unit.options for kind in option.energies}
    kinds = tuple(kind for kind in KINDS if kind in present)
    damages = damage_tables(space.units, damage, kinds, largest_drop)
    costs, latency_share, size_share = (tables or plan_tables(space, size)).costs(latency)
    return Problem(
        units=tuple(
            Unit(unit.name, tuple(option.label for option in unit.options), table)
            for unit, table in zip(space.units, damages, strict=True)
        ),
        kinds=kinds,
        recovery=np.array([left_by_training(kind, training_steps) for kind in kinds]),
        costs=costs,
        latency=latency_share,
        size=size_share,
        max_drop=max_drop,
        largest_drop=largest_drop,
        objectives=tuple(objectives),
    )


def undominated(problem: Problem) -> list[list[int]]:
    """Choices of each unit that some plan may want, rising; for `PlanSpace.thinned`.

    A choice is left out where another is at least as good in every kind of damage and, whatever other units choose, in
    latency and in size as far as they are objectives. Of equal choices the first stays.
    """
    beats = [np.all(u.damage[:, None] <= u.damage[None] + _SAME, axis=2) for u in problem.units]
    for objective in set(problem.objectives) & set(_COST_OF):
        differences = _largest_differences(problem, _COST_OF[objective])
        beats = [mask & (more <= _SAME) for mask, more in zip(beats, differences, strict=True)]
    return [_not_beaten(mask) for mask in beats]


def _largest_differences(problem: Problem, name: str) -> list[Floats]:
    """By how much choice a costs more than choice b at most, whatever others choose; one array (a, b) a unit."""
    totals = [np.zeros((n, n)) for n in problem.n_choices]
    for cost in problem.costs:
        table: Floats = getattr(cost, name)
        for axis, unit in enumerate(cost.units):
            flat = np.moveaxis(table, axis, 0).reshape(table.shape[axis], -1)
            totals[unit] += (flat[:, None] - flat[None]).max(axis=2)
    return totals


def _not_beaten(beats: npt.NDArray[np.bool_]) -> list[int]:
    """Indices of choices that no other beats, shape of `beats` (a beats b); of two that beat each other the first."""
    earlier = np.tri(len(beats), k=-1, dtype=np.bool_).T
    is_beaten = (beats & (~beats.T | earlier)).any(axis=0)
    return [int(index) for index in np.flatnonzero(~is_beaten)]
