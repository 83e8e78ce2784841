"""What the planner knows of a model: units with choices, the damage each choice does, what choices cost together.

A plan is one choice for each unit, as a row of indices. Its damage is a sum over units, its latency and its size are
sums over small groups of units, so the best plan can be found exactly (`planner`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from autocompress.errors import StudyError

Floats = npt.NDArray[np.float64]
Plans = npt.NDArray[np.int64]

OBJECTIVES = ("accuracy_drop", "latency", "size_bytes")


@dataclass(frozen=True)
class Unit:
    """What gets one decision: a layer, layers that share their input, or a channel group.

    Args:
        name: For people.
        choices: For people, such as `8 bits` or `half of the filters`; the first is the gentlest.
        damage: Isolated damage of each choice, by kind of damage: shape (choices, kinds), >= 0, in units of the
            score's drop before it saturates; see `Problem.drop_of`. The first choice of a unit need not be free.
    """

    name: str
    choices: tuple[str, ...]
    damage: Floats


@dataclass(frozen=True)
class Cost:
    """What a few units cost together.

    Args:
        units: Indices of different units, at least one.
        latency: Share of the baseline's latency, shape (choices of the first unit, of the second, ...); entries may be
            negative, their sum over all costs is not.
        size: Share of the baseline's size, same shape.
    """

    units: tuple[int, ...]
    latency: Floats
    size: Floats


@dataclass(frozen=True)
class Problem:
    """What is to be planned.

    Args:
        units: At least one, each with at least one choice.
        kinds: Kinds of damage, such as `8 bits` or `pruning`; training repairs each to a degree of its own.
        recovery: What training leaves of each kind of damage as a rule, shape (kinds,), > 0; 1 means all of it.
        costs: What units cost.
        latency: Share of the baseline's latency that no choice changes.
        size: Share of the baseline's size that no choice changes.
        max_drop: Largest accuracy drop that is wished for, >= 0.
        largest_drop: Drop of a model that only guesses, > 0; drops saturate there.
        objectives: What is minimized, of `OBJECTIVES`.

    Raises:
        StudyError: Shapes don't fit, or a number is not finite.
    """

    units: tuple[Unit, ...]
    kinds: tuple[str, ...]
    recovery: Floats
    costs: tuple[Cost, ...]
    latency: float
    size: float
    max_drop: float
    largest_drop: float
    objectives: tuple[str, ...] = OBJECTIVES

    def __post_init__(self) -> None:
        n_choices = self.n_choices
        fits = bool(self.units) and all(n_choices) and self.recovery.shape == (len(self.kinds),)
        fits = fits and all(u.damage.shape == (len(u.choices), len(self.kinds)) for u in self.units)
        for cost in self.costs:
            shape = tuple(n_choices[unit] for unit in cost.units)
            fits = fits and cost.latency.shape == shape == cost.size.shape and len(set(cost.units)) == len(shape)
        if not fits:
            raise StudyError("units, damages and costs of a plan must fit together, but their shapes differ")
        tables = [self.recovery, *(u.damage for u in self.units), *(t for c in self.costs for t in (c.latency, c.size))]
        if not all(np.isfinite(table).all() for table in tables):
            raise StudyError("damages and costs of a plan must be finite, but some are not")

    @property
    def n_choices(self) -> tuple[int, ...]:
        """Choices of each unit."""
        return tuple(len(unit.choices) for unit in self.units)

    @cached_property
    def n_plans(self) -> float:
        """How many plans there are; infinite where a float cannot hold it."""
        with np.errstate(over="ignore"):
            return float(np.prod(np.array(self.n_choices, np.float64)))

    def damages(self, plans: Plans) -> Floats:
        """Isolated damage summed over units, by kind.

        Args:
            plans: Shape (n, units).

        Returns:
            Shape (n, kinds).
        """
        return sum_of([unit.damage[plans[:, i]] for i, unit in enumerate(self.units)])

    def latencies(self, plans: Plans) -> Floats:
        """Predicted share of the baseline's latency, shape (n,)."""
        return self.latency + sum_of([c.latency[_index(c, plans)] for c in self.costs], len(plans))

    def sizes(self, plans: Plans) -> Floats:
        """Predicted share of the baseline's size, shape (n,)."""
        return self.size + sum_of([c.size[_index(c, plans)] for c in self.costs], len(plans))

    def drop_of(self, damage: Floats) -> Floats:
        """Accuracy drop of a summed damage after training: ``A (1 - exp(-z / A))`` with A the largest drop.

        Monotone, so that the plan of least damage has the least drop; any shape.
        """
        drop: Floats = self.largest_drop * -np.expm1(-np.maximum(damage, 0.0) / self.largest_drop)
        return drop

    def damage_of(self, drop: Floats) -> Floats:
        """The inverse of `drop_of`; drops below 0 stay as they are, those near the largest are cut at 0.99 of it."""
        share = np.minimum(np.asarray(drop, np.float64) / self.largest_drop, 0.99)
        damage: Floats = np.where(share > 0, -self.largest_drop * np.log1p(-share), drop)
        return damage


def sum_of(parts: Sequence[Floats], n: int = 0) -> Floats:
    """Sum of arrays of one shape; zeros of shape (n,) where there are none."""
    total: Floats = np.sum(np.stack(parts), axis=0) if parts else np.zeros(n)
    return total


def _index(cost: Cost, plans: Plans) -> tuple[Plans, ...]:
    return tuple(plans[:, unit] for unit in cost.units)
