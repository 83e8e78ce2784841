"""A search space as units with one decision each, and its recipes as plans: rows of indices."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from optuna.distributions import BaseDistribution, CategoricalDistribution

from autocompress.errors import SearchSpaceError
from autocompress.graph.model_graph import ModelGraph
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.search.plan_unit import PlanUnit, recipe_of, twins_key, unit_of_group, unit_of_layers
from autocompress.space.bound_space import BoundSpace, Choice

Plan = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class PlanSpace:
    """Units with choices, and the way from plans to recipes and back.

    Attributes:
        bound: The space.
        units: At least one, in the order of the model; made by `plan_space` each has at least two choices.
        fixed: Values of parameters that no unit decides.
        fixed_recipe: What the space does to the model whatever the plan.
    """

    bound: BoundSpace
    units: tuple[PlanUnit, ...]
    fixed: Mapping[str, Choice]
    fixed_recipe: Recipe

    @property
    def n_choices(self) -> tuple[int, ...]:
        """Choices of each unit."""
        return tuple(len(unit.options) for unit in self.units)

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """By name of parameter, as ``bound.suggest(trial.suggest_categorical)`` makes them, in that order."""
        return {name: CategoricalDistribution(choices) for name, choices in self.bound.parameters.items()}

    @cached_property
    def isolated(self) -> tuple[Recipe, ...]:
        """Recipes that change one unit of the FP32 model, all different: one for each choice that changes anything.

        In the order in which they tell most: for every unit a choice in the middle, then its last, then the others.
        """
        rounds: dict[int, list[Recipe]] = {}
        for unit in self.units:
            recipes = [option.recipe for option in unit.options if not option.recipe.is_identity]
            middle = recipes[len(recipes) // 2 : len(recipes) // 2 + 1]
            for turn, recipe in enumerate(dict.fromkeys([*middle, *recipes[-1:], *recipes])):
                rounds.setdefault(turn, []).append(recipe)
        return tuple(dict.fromkeys(recipe for turn in sorted(rounds) for recipe in rounds[turn]))

    def encode(self, params: Mapping[str, Choice]) -> Plan:
        """The plan that is nearest to parameter values: the same recipe if a plan has it.

        Args:
            params: By name; parameters without effect may be missing, values that are not among the choices take the
                nearest.
        """
        return tuple(unit.index_of(params) for unit in self.units)

    def decode(self, plan: Sequence[int]) -> dict[str, Choice]:
        """Values of all parameters of the space, in its order.

        Args:
            plan: One index a unit.
        """
        values = dict(self.fixed)
        for unit, index in zip(self.units, plan, strict=True):
            values |= unit.options[index].values
        return {name: values[name] for name in self.bound.parameters}

    def recipe(self, plan: Sequence[int]) -> Recipe:
        """The recipe of a plan: ``bound.suggest`` with the plan's values."""
        return recipe_of(self.bound, self.decode(plan))

    def plan_of(self, recipe: Recipe) -> Plan:
        """The plan that is nearest to a recipe, first in the sense of `BoundSpace.encode`, then of `encode`."""
        return self.encode(self.bound.encode(recipe))

    def has(self, recipe: Recipe) -> bool:
        """Whether a plan does the same to the model as `recipe`, one of the space's: ratios may round to one number."""
        values = self.bound.encode(recipe)
        return all(unit.has(values) for unit in self.units)

    def thinned(self, kept: Sequence[Sequence[int]]) -> "PlanSpace":
        """The space with fewer choices, whose indices are new; plans with others are encoded as the nearest.

        Args:
            kept: Indices of the choices of each unit, rising, at least one a unit.
        """
        units = tuple(unit.thinned(of_unit) for unit, of_unit in zip(self.units, kept, strict=True))
        return replace(self, units=units)


def plan_space(bound: BoundSpace, graph: ModelGraph) -> PlanSpace:
    """The units of a space.

    Layers decide together where they read one tensor whose bits are a choice, and where they are Linear layers of one
    shape that read one tensor, as query, key and value; the latter take the same values. Pruning ratios that remove
    the same number of filters are one choice. What has one choice is no unit.

    Args:
        bound: The space.
        graph: The model it is bound to.

    Raises:
        SearchSpaceError: There is nothing to decide.
    """
    parts = [unit_of_layers(part, graph) for part in _layer_parts(bound, graph)]
    parts += [unit_of_group(replace(bound, layers=(), inputs=(), groups=(g,)), graph) for g in bound.groups]
    units = [unit for unit in parts if len(unit.options) > 1]
    if not units:
        raise SearchSpaceError(
            "a search needs a layer or channel group with at least two different choices, but this space has none "
            "for this model; give more weight_bits, activation_bits or pruning_ratio"
        )
    places = {layer.name: place for place, layer in enumerate(graph.layers)}
    units.sort(key=lambda unit: (places[_leader(unit)], bool(unit.groups)))
    fixed = [unit for unit in parts if len(unit.options) == 1]
    values = {name: value for unit in fixed for name, value in unit.options[0].values.items()}
    return PlanSpace(bound, tuple(units), values, _merged(bound, [unit.options[0].recipe for unit in fixed]))


def _leader(unit: PlanUnit) -> str:
    return unit.groups[0].name if unit.groups else unit.bound.layers[0].name


def _merged(bound: BoundSpace, recipes: Iterable[Recipe]) -> Recipe:
    layers: dict[str, LayerRecipe] = {}
    pruning: dict[str, float] = {}
    for recipe in recipes:
        layers |= recipe.layers
        pruning |= recipe.pruning
    return Recipe(
        layers=layers,
        pruning=pruning,
        importance=bound.importance,
        sparsification=bound.sparsification,
        calibration=bound.calibration,
    )


def _layer_parts(bound: BoundSpace, graph: ModelGraph) -> list[BoundSpace]:
    """Parts of the space with layers that decide together."""
    part_of: dict[str, object] = {layer.name: twins_key(layer, graph) for layer in bound.layers}
    for tensor in bound.inputs:
        if len(tensor.activation_bits) > 1:
            joined = {part_of[name] for name in tensor.readers}
            part_of |= {name: tensor.parameter for name, part in part_of.items() if part in joined}
    names: dict[object, list[str]] = {}
    for name, part in part_of.items():
        names.setdefault(part, []).append(name)
    return [_part(bound, set(together)) for together in names.values()]


def _part(bound: BoundSpace, names: set[str]) -> BoundSpace:
    readers = [(tensor, tuple(name for name in tensor.readers if name in names)) for tensor in bound.inputs]
    return replace(
        bound,
        layers=tuple(layer for layer in bound.layers if layer.name in names),
        inputs=tuple(replace(tensor, readers=reading) for tensor, reading in readers if reading),
        groups=(),
    )
