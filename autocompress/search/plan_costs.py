"""What the choices of a plan space cost: latency and size as sums over small tables of units.

For each layer of the architecture the cost depends on its own choice, on the channel groups of its outputs and on those
of its inputs. With many groups the table would be large; then it is split into terms of at most two groups.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autocompress.measure.latency_features import BINARY, INTEGER, TERMS, Floats, Group, precision_class
from autocompress.measure.latency_features import Unit as Layer
from autocompress.measure.latency_model import LatencyModel
from autocompress.planning.problem import Cost
from autocompress.recipe import LayerRecipe
from autocompress.search.plan_space import PlanSpace
from autocompress.search.size_model import SizeModel

MOST_GROUPS = 2  # in one table
_Names = tuple[str, ...]
_LEAST_SWITCH = 0.0005  # share of the baseline's latency below which a switch between precisions is left out


@dataclass(frozen=True)
class LayerTable:
    """A part of what one layer costs.

    Attributes:
        layer: Index in the architecture.
        units: Units of the plan that the axes belong to, first the one that decides the layer if one does.
        classes: Precision class of each choice of that unit, shape (choices,), or of the only one.
        terms: What is left of the layer, shape (those choices, choices of each group, 4).
        size: Share of the baseline's size, same shape without the last axis.
    """

    layer: int
    units: tuple[int, ...]
    classes: npt.NDArray[np.int64]
    terms: Floats
    size: Floats

    def latency(self, weights: Floats) -> Floats:
        """Share of the baseline's latency, shape of `size`.

        Args:
            weights: Fitted weights, shape (layers, classes, 4).
        """
        of_choices = weights[self.layer, self.classes]
        shape = (len(of_choices), *(1,) * (self.terms.ndim - 2), len(TERMS))
        total: Floats = np.sum(self.terms * of_choices.reshape(shape), axis=-1)
        return total


@dataclass(frozen=True)
class PlanTables:
    """Everything about the costs of a plan space that no measurement changes.

    Attributes:
        n_choices: Of each unit.
        tables: Parts of the layers' costs.
        own: Unit that decides each layer, None where none does, shape (layers,).
        on_integers: Whether each layer runs on integers, for each choice of its unit.
    """

    n_choices: tuple[int, ...]
    tables: tuple[LayerTable, ...]
    own: tuple[int | None, ...]
    on_integers: tuple[npt.NDArray[np.bool_], ...]

    def costs(self, latency: LatencyModel) -> tuple[tuple[Cost, ...], float, float]:
        """Costs with one table for each set of units, and the shares of latency and size that no choice changes.

        Sums over costs are what `LatencyModel.predict` and `SizeModel.predict` give, but for three things: the latency
        is not lifted to `LEAST`; where a layer reads or gives channels of three groups or more, rounding to steps of
        channels, and low rank, are taken one or two groups at a time; cheap switches between precisions are left out.

        Args:
            latency: Of the same architecture.
        """
        weights, constant, switch = fitted(latency)
        summed = _Sums(self.n_choices)
        for table in self.tables:
            summed.add(table.units, table.latency(weights), table.size)
        if abs(switch) >= _LEAST_SWITCH:
            for units, switches in self._switches():
                summed.add(units, switch * switches, np.zeros_like(switches))
        fixed = summed.tables.pop((), np.zeros(2))
        costs = tuple(Cost(units, both[0], both[1]) for units, both in summed.tables.items())
        return costs, constant + float(fixed[0]), 1 + float(fixed[1])

    def _switches(self) -> Iterator[tuple[tuple[int, ...], Floats]]:
        """For neighbours in the order of the model, whether exactly one runs on integers."""
        for left, right in itertools.pairwise(range(len(self.own))):
            units = self.own[left], self.own[right]
            differs = (self.on_integers[left][:, None] != self.on_integers[right][None]).astype(np.float64)
            if units[0] is not None and units[0] == units[1]:
                yield (units[0],), differs.diagonal()
            else:
                yield tuple(u for u in units if u is not None), differs


class _Sums:
    """Tables of latency and size, shape (2, choices, ...), summed by set of units."""

    def __init__(self, n_choices: tuple[int, ...]) -> None:
        self.n_choices = n_choices
        self.tables: dict[tuple[int, ...], Floats] = {}

    def add(self, units: tuple[int, ...], latency: Floats, size: Floats) -> None:
        """Add a part, with axes in the order of `units`; axes of length 1 beside them do no harm."""
        both = np.stack([latency, size]).reshape(2, *(self.n_choices[unit] for unit in units))
        order = sorted(range(len(units)), key=units.__getitem__)
        both, key = both.transpose(0, *(axis + 1 for axis in order)), tuple(units[axis] for axis in order)
        self.tables[key] = self.tables[key] + both if key in self.tables else both


def fitted(latency: LatencyModel) -> tuple[Floats, float, float]:
    """Weights of a latency model, shape (layers, classes, 4), its constant, and the cost of one switch of precision."""
    return latency.weights, latency.constant, latency.switch


def plan_tables(space: PlanSpace, size: SizeModel) -> PlanTables:
    """The tables of a space; takes about a millisecond a layer, so one makes them once.

    Args:
        space: Units with choices.
        size: Of the model.
    """
    owners = {layer.name: index for index, unit in enumerate(space.units) for layer in unit.bound.layers}
    builder = _Builder(space, size)
    layers = size.architecture.units
    own = tuple(owners.get(layer.name) for layer in layers)
    recipes = [builder.recipes(layer.name, unit) for layer, unit in zip(layers, own, strict=True)]
    tables = [
        table
        for index, (layer, unit, choices) in enumerate(zip(layers, own, recipes, strict=True))
        for table in builder.of_layer(index, layer, unit, choices)
    ]
    classes = [np.array([precision_class(recipe) for recipe in choices]) for choices in recipes]
    return PlanTables(space.n_choices, tuple(tables), own, tuple(np.isin(c, (INTEGER, BINARY)) for c in classes))


class _Builder:
    """Makes the tables of one layer after the other."""

    def __init__(self, space: PlanSpace, size: SizeModel) -> None:
        self.space, self.size = space, size
        self.decides = {group.name: index for index, unit in enumerate(space.units) for group in unit.groups}
        self.removed = {group.name: self._removed(group) for group in size.architecture.groups}

    def _removed(self, group: Group) -> list[float]:
        """Channels removed for each choice of the unit that decides, or for the only one."""
        unit = self.decides.get(group.name)
        recipes = [self.space.fixed_recipe] if unit is None else [o.recipe for o in self.space.units[unit].options]
        return [group.n_removed(recipe.pruning.get(group.name, 0.0)) for recipe in recipes]

    def recipes(self, layer: str, unit: int | None) -> list[LayerRecipe]:
        """What each choice of `unit` does to `layer`."""
        if unit is None:
            return [self.space.fixed_recipe.layer(layer)]
        return [option.recipe.layer(layer) for option in self.space.units[unit].options]

    def of_layer(self, index: int, layer: Layer, own: int | None, recipes: Sequence[LayerRecipe]) -> list[LayerTable]:
        """The tables of one layer, each over its own unit and at most two groups."""
        groups = [name for name in dict.fromkeys([*layer.outputs_of, *layer.inputs_of]) if name in self.decides]
        few = len(groups) <= MOST_GROUPS
        parts = {tuple(groups): self._values(layer, recipes, groups)} if few else self._split(layer, recipes, groups)
        classes = np.array([precision_class(recipe) for recipe in recipes])
        first = () if own is None else (own,)
        baseline = self.size.xml_bytes + self.size.bin_bytes
        return [
            LayerTable(
                index, (*first, *map(self.decides.__getitem__, names)), classes, v[..., :-1], v[..., -1] / baseline
            )
            for names, v in parts.items()
        ]

    def _split(self, layer: Layer, recipes: Sequence[LayerRecipe], groups: Sequence[str]) -> dict[_Names, Floats]:
        """A function of many groups as a sum of functions of one and of two.

        Work is outputs times inputs and each of those is a sum over groups, so that only a group of outputs and one of
        inputs act on each other, and the second order of the expansion around "nothing removed" is all of it.
        """
        base = self._values(layer, recipes, ())
        alone = {name: self._values(layer, recipes, (name,)) - base[:, None] for name in groups}
        parts: dict[_Names, Floats] = {}
        for a, b in itertools.combinations(groups, 2):
            if _act_on_each_other(layer, a, b):
                both = self._values(layer, recipes, (a, b)) - base[:, None, None]
                parts[a, b] = both - alone[a][:, :, None] - alone[b][:, None]
        for name, values in alone.items():
            home = next((names for names in parts if name in names), (name,))
            wider = values if len(home) == 1 else np.expand_dims(values, 2 - home.index(name))
            parts[home] = parts.get(home, 0.0) + wider
        first = next(iter(parts))
        parts[first] = parts[first] + base.reshape(len(base), *(1,) * len(first), -1)
        return parts

    def _values(self, layer: Layer, recipes: Sequence[LayerRecipe], names: Sequence[str]) -> Floats:
        """Terms and bytes of `layer` for all choices of `names`, while other groups that are decided keep all.

        Returns:
            Shape (recipes, choices of each name, 5): `TERMS` and the bytes more than in the FP32 model.
        """
        fixed = {name: removed[0] for name, removed in self.removed.items() if name not in self.decides}
        choices = [self.removed[name] for name in names]
        values = np.empty((len(recipes), *map(len, choices), len(TERMS) + 1))
        for place in itertools.product(*(range(len(of_name)) for of_name in choices)):
            left_out = (of_name[i] for of_name, i in zip(choices, place, strict=True))
            removed = fixed | dict(zip(names, left_out, strict=True))
            terms = {ratio: layer.terms(removed, ratio) for ratio in {recipe.rank_ratio for recipe in recipes}}
            for i, recipe in enumerate(recipes):
                values[(i, *place)] = (*terms[recipe.rank_ratio], self.size.more_bytes(layer, recipe, removed))
        return values


def _act_on_each_other(layer: Layer, a: str, b: str) -> bool:
    """Whether one of the groups is of outputs and the other of inputs."""
    one_way = a in layer.outputs_of and b in layer.inputs_of
    return one_way or (b in layer.outputs_of and a in layer.inputs_of)
