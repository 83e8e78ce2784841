"""What decides the latency of a recipe: for each layer its precision class and how many of its channels are left.

Which channels follow from which channel group is read off a copy of the model once, so that a recipe is turned into
numbers in microseconds, without compressing anything.
"""

import copy
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from torch import nn

from autocompress.graph import ChannelDependencies, Layer, ModelGraph, unfold_attention
from autocompress.graph.groups import CHANNEL_STEP
from autocompress.recipe import BINARY_BITS, FLOAT_BITS, LayerRecipe, Recipe

FLOAT, INTEGER, WEIGHT_ONLY, BINARY = range(4)
CLASSES = ("float", "integer", "weight_only", "binary")
TERMS = ("layer", "inputs", "outputs", "work")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """A channel group: its channels, and how many neighbours of them go together.

    Attributes:
        name: Of the leading layer.
        n_channels: Of the FP32 model.
        unit: Neighbouring channels that go together, 1 where they go one by one.
    """

    name: str
    n_channels: int
    unit: int = 1

    def n_removed(self, pruning_ratio: float) -> float:
        """Channels that filter pruning removes at `pruning_ratio` in [0, 1): whole steps of 8, or whole units.

        >>> Group("conv", 64).n_removed(0.25), Group("conv", 64).n_removed(0.99), Group("conv", 20).n_removed(0.5)
        (16, 56, 12)
        """
        step = CHANNEL_STEP if self.unit == 1 else self.unit
        if pruning_ratio == 0 or self.n_channels <= step:
            return 0
        return self.n_channels - _nearest_step(self.n_channels, 1 - pruning_ratio, step)


@dataclass(frozen=True)
class Unit:
    """A layer together with what the processor fuses into it: bias, batch norm, activation, residual sum.

    Attributes:
        name: Dotted name of the layer.
        kind: Class, kernel and whether it is depthwise; layers of one kind run in the same code.
        n_outputs: Channels that it gives.
        n_inputs: Channels that one of its filters reads; 1 where it is depthwise.
        n_kernel: Positions in its kernel.
        macs: Multiply-accumulates of one inference.
        n_values: Numbers that it gives in one inference.
        positions_ratio: Positions of the input for one of the output, above 0.
        outputs_of: How many output channels go with one channel of a group, by group.
        inputs_of: How many input channels go with one channel of a group, by group.
    """

    name: str
    kind: str
    n_outputs: int
    n_inputs: int
    n_kernel: int
    macs: int
    n_values: int
    positions_ratio: float
    outputs_of: Mapping[str, float]
    inputs_of: Mapping[str, float]

    def terms(self, removed: Mapping[str, float], rank_ratio: float = 1.0) -> Floats:
        """What is left of the unit, each part 1 where nothing was removed; shape (4,), in the order of `TERMS`.

        Channels cost in steps of 8 (facts: openvino-cpu.md): those that are left are rounded up.

        Args:
            removed: Channels that are gone by group; groups that are missing keep all.
            rank_ratio: Of the layer's recipe, in (0, 1].
        """
        n_outputs, n_inputs = self.left(removed)
        inputs, outputs = (
            _in_steps(n_inputs) / _in_steps(self.n_inputs),
            _in_steps(n_outputs) / _in_steps(self.n_outputs),
        )
        whole = n_outputs * n_inputs * self.n_kernel
        rank_share = min(1.0, sum(self._factors(n_outputs, n_inputs, rank_ratio, self.positions_ratio)) / whole)
        return np.array([1.0, inputs, outputs, outputs * inputs * rank_share])

    def left(self, removed: Mapping[str, float]) -> tuple[float, float]:
        """Output channels, and input channels of one filter, without those that are gone by group."""
        n_outputs, n_inputs = (
            n_channels - sum(per_channel * removed.get(group, 0) for group, per_channel in of_groups.items())
            for n_channels, of_groups in ((self.n_outputs, self.outputs_of), (self.n_inputs, self.inputs_of))
        )
        return n_outputs, n_inputs

    def n_weights(self, n_outputs: float, n_inputs: float, rank_ratio: float = 1.0) -> float:
        """Weights of the layer with so many channels, or of its factors where low rank saves multiply-accumulates."""
        whole = n_outputs * n_inputs * self.n_kernel
        is_factored = sum(self._factors(n_outputs, n_inputs, rank_ratio, self.positions_ratio)) < whole
        return sum(self._factors(n_outputs, n_inputs, rank_ratio, 1.0)) if is_factored else whole

    def _factors(self, n_outputs: float, n_inputs: float, rank_ratio: float, positions_ratio: float) -> list[float]:
        """Multiply-accumulates of each factor at one output position; the whole layer where the rank is full.

        Two maps from each other's rank, or three of Tucker-2 around the kernel (Kim et al. 2016, section 3.1).
        """
        if rank_ratio >= 1:
            return [n_outputs * n_inputs * self.n_kernel]
        rank_in = _nearest_step(min(n_inputs, n_outputs * self.n_kernel), rank_ratio)
        rank_out = _nearest_step(min(n_outputs, n_inputs * self.n_kernel), rank_ratio)
        if self.n_kernel == 1:
            return [n_inputs * rank_in, rank_in * n_outputs]
        first = n_inputs * rank_in * positions_ratio if rank_in < n_inputs else 0
        last = rank_out * n_outputs if rank_out < n_outputs else 0
        return [first, rank_in * rank_out * self.n_kernel, last]


def _nearest_step(largest: float, share: float, step: int = CHANNEL_STEP) -> float:
    """`share` of `largest` as the nearest multiple of `step`, at least one step, never above `largest`."""
    return min(largest, max(step, step * int(largest * share / step + 0.5)))


def _in_steps(n_channels: float) -> int:
    """`n_channels` rounded up to whole steps."""
    return CHANNEL_STEP * max(1, math.ceil(n_channels / CHANNEL_STEP))


@dataclass(frozen=True)
class Features:
    """What a recipe leaves of each unit.

    Attributes:
        classes: Index into `CLASSES` of each unit, shape (units,).
        terms: What is left of it, shape (units, 4).
        n_switches: Neighbours in the order of the model of which one runs on integers and the other does not.
    """

    classes: npt.NDArray[np.int64]
    terms: Floats
    n_switches: int


@dataclass(frozen=True)
class Architecture:
    """What the latency of a model's recipes depends on: units in the order of the model, and channel groups."""

    units: tuple[Unit, ...]
    groups: tuple[Group, ...]

    def digest(self) -> str:
        """Twelve hexadecimal digits that are equal for models of equal shapes; weights have no say."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers that `from_json` reads back."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The architecture that `to_json` has written."""
        return cls(tuple(Unit(**unit) for unit in content["units"]), tuple(Group(**g) for g in content["groups"]))

    def removed(self, recipe: Recipe) -> dict[str, float]:
        """Channels that `recipe` removes by group."""
        return {group.name: group.n_removed(recipe.pruning.get(group.name, 0.0)) for group in self.groups}

    def features(self, recipe: Recipe) -> Features:
        """What `recipe` leaves of each unit."""
        removed = self.removed(recipe)
        layers = [recipe.layer(unit.name) for unit in self.units]
        classes = np.array([precision_class(layer) for layer in layers], np.int64)
        pairs = zip(self.units, layers, strict=True)
        terms = np.array([unit.terms(removed, layer.rank_ratio) for unit, layer in pairs]).reshape(-1, len(TERMS))
        on_integers = np.isin(classes, (INTEGER, BINARY))
        return Features(classes, terms, int((on_integers[1:] != on_integers[:-1]).sum()))


def precision_class(layer: LayerRecipe) -> int:
    """Index into `CLASSES`: the kernels that are to run a layer, whatever number of bits they take.

    >>> [CLASSES[precision_class(LayerRecipe(weight_bits=4, activation_bits=bits))] for bits in (8, 32)]
    ['integer', 'weight_only']
    """
    if layer.weight_bits == FLOAT_BITS:
        return FLOAT
    if layer.activation_bits == FLOAT_BITS:
        return WEIGHT_ONLY
    return BINARY if layer.activation_bits == BINARY_BITS else INTEGER


def architecture_of(model: nn.Module, graph: ModelGraph, example_input: Any) -> Architecture:
    """The architecture of `model`.

    How many channels of a layer go with one of a group is found by removing some from a copy.

    Args:
        model: The FP32 module; not changed.
        graph: What `inspect_model` found in it.
        example_input: Inputs of one inference.
    """
    groups = tuple(Group(group.name, group.n_channels, group.unit) for group in graph.prunable)
    layers = [layer for layer in graph.layers if layer.macs]
    lost = _lost_channels(model, groups, [layer.name for layer in layers], example_input)
    return Architecture(tuple(_unit(layer, lost[layer.name]) for layer in layers), groups)


_Lost = dict[str, tuple[float, float]]  # filters' first two axes that go with one channel, by group


def _lost_channels(
    model: nn.Module, groups: tuple[Group, ...], names: list[str], example_input: Any
) -> dict[str, _Lost]:
    """How much shorter the first two axes of each layer's weight become for each removed channel, by group."""
    trial = copy.deepcopy(model).eval()
    unfold_attention(trial)
    lost: dict[str, _Lost] = {name: {} for name in names}
    if not groups:
        return lost
    dependencies = ChannelDependencies(trial, example_input)
    for group in groups:
        before = _shapes(trial, names)
        dependencies.remove(group.name, list(range(group.unit)))
        for name, (first, second) in _shapes(trial, names).items():
            difference = before[name][0] - first, before[name][1] - second
            if any(difference):
                lost[name][group.name] = (difference[0] / group.unit, difference[1] / group.unit)
    return lost


def _shapes(model: nn.Module, names: list[str]) -> dict[str, tuple[int, int]]:
    weights: dict[str, Any] = {name: model.get_submodule(name).weight for name in names}
    return {name: (weight.shape[0], weight.shape[1]) for name, weight in weights.items()}


def _unit(layer: Layer, lost: _Lost) -> Unit:
    """The unit of a layer; a transposed convolution stores its input channels first."""
    first, second, *kernel = layer.weight_shape
    outputs, inputs = (1, 0) if layer.kind.startswith("ConvTranspose") else (0, 1)
    sizes = (first, second)
    is_depthwise = bool(kernel) and sizes[inputs] == 1 and sizes[outputs] > 1 and layer.input_shape[1] > 1
    kind = " ".join([layer.kind, *(["x".join(map(str, kernel))] if kernel else []), *(["depthwise"] * is_depthwise)])
    n_axes = len(kernel)
    positions = [math.prod(shape[-n_axes:]) if n_axes else 1 for shape in (layer.input_shape, layer.output_shape)]
    return Unit(
        name=layer.name,
        kind=kind,
        n_outputs=sizes[outputs],
        n_inputs=sizes[inputs],
        n_kernel=math.prod(kernel),
        macs=layer.macs,
        n_values=math.prod(layer.output_shape),
        positions_ratio=positions[0] / positions[1],
        outputs_of={group: change[outputs] for group, change in lost.items() if change[outputs]},
        inputs_of={group: change[inputs] for group, change in lost.items() if change[inputs]},
    )
