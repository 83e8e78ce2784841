"""The choices of one unit: how they are listed, thinned, named and compared."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from autocompress.graph.model_graph import ModelGraph
from autocompress.measure.latency_features import Group
from autocompress.recipe import FLOAT_BITS, LayerRecipe, Recipe
from autocompress.search.expected_damage import noise_to_signal
from autocompress.space.bound_space import BoundSpace, Choice, LayerChoices

MAX_CHOICES = 12  # of a unit; more are thinned
_MAX_LISTED = 2048
_KNOBS = ("weight_bits", "sparsity", "rank_ratio")
_SATURATING = (8, 7)  # widths of weights of which the wider can do more damage

Slot = tuple[tuple[str, ...], tuple[Choice, ...]]  # parameters that take the same value, and their choices


@dataclass(frozen=True)
class Option:
    """One choice of a unit.

    Attributes:
        label: For people.
        values: Of the unit's parameters, also of those that have no effect beside the others.
        recipe: The FP32 model with only this choice changed.
        levels: How far the choice is from FP32 along each knob, >= 0, shape (knobs,).
        energies: `noise_to_signal` of the choice.
    """

    label: str
    values: Mapping[str, Choice]
    recipe: Recipe
    levels: tuple[float, ...]
    energies: Mapping[str, float]

    @cached_property
    def digest(self) -> str:
        """Of the recipe: the key in the damage table."""
        return self.recipe.digest()

    @property
    def energy(self) -> float:
        """Sum over kinds."""
        return sum(self.energies.values())


@dataclass(frozen=True)
class PlanUnit:
    """What gets one decision: layers, or a channel group.

    Attributes:
        name: For people, unique.
        bound: The part of the space that the unit decides.
        groups: Its channel group, if any.
        options: Its choices, the gentlest first.
    """

    name: str
    bound: BoundSpace
    groups: tuple[Group, ...]
    options: tuple[Option, ...]
    _known: dict[tuple[Choice | None, ...], int] = field(default_factory=dict, compare=False, repr=False)

    def index_of(self, values: Mapping[str, Choice]) -> int:
        """The choice that is nearest to `values`: equal if there is one, else by distance along the knobs.

        Args:
            values: Of parameters; those that are missing take their first choice, those of other units do no harm.
        """
        key = tuple(values.get(name) for name in self._names)
        if key not in self._known:
            self._known[key] = int(self._distances(values).argmin())
        return self._known[key]

    def has(self, values: Mapping[str, Choice]) -> bool:
        """Whether a choice does the same as `values`; see `index_of`."""
        return bool(self._distances(values).min() < 1e-9)

    def _distances(self, values: Mapping[str, Choice]) -> npt.NDArray[np.float64]:
        """How far each choice is from `values` along the knobs, shape (choices,)."""
        levels = np.array(levels_of(recipe_of(self.bound, values), self.bound, self.groups))
        distances: npt.NDArray[np.float64] = np.abs(np.array([o.levels for o in self.options]) - levels).sum(axis=1)
        return distances

    def thinned(self, kept: Sequence[int]) -> "PlanUnit":
        """The unit with only the choices `kept`, indices in rising order, at least one."""
        return replace(self, options=tuple(self.options[i] for i in kept), _known={})

    @cached_property
    def is_gentler(self) -> npt.NDArray[np.bool_]:
        """Whether choice a does no more than choice b along every knob, shape (choices a, choices b).

        Choices with 8-bit weights are not compared with those of 7 bits, since products of 8-bit weights can saturate.
        """
        levels = np.array([option.levels for option in self.options])
        gentler: npt.NDArray[np.bool_] = np.all(levels[:, None] <= levels[None] + 1e-9, axis=2)
        layers = [layer.name for layer in self.bound.layers]
        widths = np.array([[option.recipe.layer(name).weight_bits for name in layers] for option in self.options])
        wide, narrow = (widths == width for width in _SATURATING)
        gentler &= ~(wide[:, None] & narrow[None]).any(axis=2)
        return gentler

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(self.bound.parameters)


def recipe_of(bound: BoundSpace, values: Mapping[str, Choice]) -> Recipe:
    """The recipe of parameter values; parameters that are missing take their first choice."""
    return bound.suggest(lambda parameter, choices: values.get(parameter, choices[0]))


def levels_of(recipe: Recipe, bound: BoundSpace, groups: Sequence[Group]) -> tuple[float, ...]:
    """How far `recipe` is from FP32: halvings of bits, zeros, missing rank of each layer; removed share of channels."""
    layers = [recipe.layer(layer.name) for layer in bound.layers]
    of_layers = [level for layer in layers for level in _layer_levels(layer)]
    removed = [group.n_removed(recipe.pruning.get(group.name, 0.0)) / group.n_channels for group in groups]
    return (*of_layers, *removed)


def _layer_levels(layer: LayerRecipe) -> tuple[float, ...]:
    halvings = [math.log2(FLOAT_BITS / bits) for bits in (layer.weight_bits, layer.activation_bits)]
    return (*halvings, layer.sparsity, 1 - layer.rank_ratio)


def unit_of_layers(bound: BoundSpace, graph: ModelGraph) -> PlanUnit:
    """The unit that decides all layers of a part of a space; alike ones take the same values."""
    alike: dict[object, list[LayerChoices]] = {}
    for layer in bound.layers:
        alike.setdefault(twins_key(layer, graph), []).append(layer)
    slots = _slots(bound, alike.values())
    if _n_products(slots) > MAX_CHOICES:
        by_choices: dict[object, list[LayerChoices]] = {}
        for layer in bound.layers:
            by_choices.setdefault(replace(layer, name=""), []).append(layer)
        slots = _slots(bound, by_choices.values())
    name = _joined([layer.name for layer in bound.layers])
    return PlanUnit(name, bound, (), _options(bound, slots, ()))


def unit_of_group(bound: BoundSpace, graph: ModelGraph) -> PlanUnit:
    """The unit that decides the one channel group of a part of a space."""
    (choices,) = bound.groups
    channels = next(group for group in graph.prunable if group.name == choices.name)
    group = Group(channels.name, channels.n_channels, channels.unit)
    slots = [((name,), tuple(sorted(ratios))) for name, ratios in bound.parameters.items()]
    return PlanUnit(f"filters of {group.name}", bound, (group,), _options(bound, slots, (group,)))


def twins_key(layer: LayerChoices, graph: ModelGraph) -> object:
    """Equal for Linear layers of one shape that read one tensor and have the same choices, as query, key and value."""
    found = graph.layer(layer.name)
    if "Linear" not in found.kind:
        return layer.name
    return found.shares_input_with, found.weight_shape, replace(layer, name="")


def _slots(bound: BoundSpace, together: Iterable[Sequence[LayerChoices]]) -> list[Slot]:
    parameters = bound.parameters
    wanted = [tuple(f"{layer.name}/{knob}" for layer in layers) for layers in together for knob in _KNOBS]
    wanted += [(tensor.parameter,) for tensor in bound.inputs]
    return [(names, parameters[names[0]]) for names in wanted if names[0] in parameters]


def _n_products(slots: Iterable[Slot]) -> int:
    return math.prod(len(choices) for _, choices in slots)


def _options(bound: BoundSpace, slots: Sequence[Slot], groups: Sequence[Group]) -> tuple[Option, ...]:
    """Distinct choices, the gentlest first, at most `MAX_CHOICES`; of equal ones the first listed."""
    distinct: dict[tuple[float, ...], Option] = {}
    for values in _listed(slots):
        recipe = recipe_of(bound, values)
        levels = levels_of(recipe, bound, groups)
        if levels not in distinct:
            label = _label(recipe, bound, groups)
            energies = noise_to_signal(recipe.layers.values(), levels if groups else ())
            distinct[levels] = Option(label, values, recipe, levels, energies)
    ordered = sorted(distinct.values(), key=lambda option: (option.energy, sum(option.levels)))
    kept = spread_out(np.array([option.levels for option in ordered]), MAX_CHOICES)
    return tuple(ordered[i] for i in kept)


def _listed(slots: Sequence[Slot]) -> list[dict[str, Choice]]:
    """All combinations; where they are too many, those in which all slots are equally far along their choices."""
    if _n_products(slots) <= _MAX_LISTED:
        combinations: Iterable[tuple[Choice, ...]] = itertools.product(*(choices for _, choices in slots))
    else:
        shares = np.linspace(0, 1, MAX_CHOICES)
        combinations = [tuple(choices[round(share * (len(choices) - 1))] for _, choices in slots) for share in shares]
    return [
        {name: value for (names, _), value in zip(slots, values, strict=True) for name in names}
        for values in combinations
    ]


def spread_out(points: npt.NDArray[np.float64], n: int) -> list[int]:
    """Indices of at most `n` points, rising: the first, the last, then always the farthest from those chosen.

    Args:
        points: Shape (points, coordinates).
        n: At least 2.
    """
    if len(points) <= n:
        return list(range(len(points)))
    chosen = [0, len(points) - 1]
    distances = np.abs(points[:, None] - points[None]).sum(axis=2)
    while len(chosen) < n:
        chosen.append(int(distances[:, chosen].min(axis=1).argmax()))
    return sorted(chosen)


def _label(recipe: Recipe, bound: BoundSpace, groups: Sequence[Group]) -> str:
    if groups:
        removed = groups[0].n_removed(recipe.pruning.get(groups[0].name, 0.0))
        return f"{groups[0].n_channels - removed:g} of {groups[0].n_channels} filters"
    labels = [_layer_label(recipe.layer(layer.name)) for layer in bound.layers]
    return labels[0] if len(set(labels)) == 1 else " / ".join(labels)


def _layer_label(layer: LayerRecipe) -> str:
    """As `float`, `8 bits`, `4 bits, 6-bit input`, `8 bits, 50 % zeros`; an 8-bit input is not worth a word."""
    parts = ["float" if layer.weight_bits == FLOAT_BITS else f"{layer.weight_bits} bits"]
    if layer.weight_bits != FLOAT_BITS and layer.activation_bits != 8:
        parts.append("float input" if layer.activation_bits == FLOAT_BITS else f"{layer.activation_bits}-bit input")
    parts += [f"{layer.sparsity:.0%} zeros".replace("%", " %")] if layer.sparsity else []
    parts += [f"{layer.rank_ratio:.0%} of the rank".replace("%", " %")] if layer.rank_ratio < 1 else []
    return ", ".join(parts)


def _joined(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more"
