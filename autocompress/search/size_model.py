"""Bytes of the deployed files of a recipe that nobody has trained: exactly by exporting it, or at once by a sum."""

from collections.abc import Mapping
from dataclasses import dataclass

from autocompress.deploy.deployed_size import deployed_size, file_sizes
from autocompress.graph import ModelGraph
from autocompress.measure.latency_features import Architecture, Unit, architecture_of
from autocompress.recipe import BINARY_BITS, FLOAT_BITS, LayerRecipe, Recipe
from autocompress.search.latency_samples import export_untrained
from autocompress.task import Task

_STORED_BITS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 6, 7: 8, 8: 8, FLOAT_BITS: 32}  # OpenVINO has no type of 5 or 7 bits
_HALF = 4  # bits of the narrowest type that weights of a layer with a float input are stored in
_VALUES_A_PACK = {2: 4, 3: 8, 4: 2, 6: 4}  # a weight whose number of values these don't divide is stored as i8
_FLOAT_BYTES = 4
_RANGE_BYTES = 2 * _FLOAT_BYTES  # ends of a quantized input
_NARROW = 6  # bits; wider weights need fewer operations in the .xml
_KINDS = ((8, 8), (4, 8), (8, FLOAT_BITS), (4, FLOAT_BITS))  # weight and activation bits of the recipes that are tried

Kind = tuple[bool, bool]  # whether weights are packed, whether the input is quantized


def recipe_size(task: Task, graph: ModelGraph, recipe: Recipe) -> int:
    """Bytes of `.xml` and `.bin` of a recipe, by exporting it untrained; no files are written.

    A trained model of the recipe can differ by a few bytes, since equal constants are stored once, and by the width
    of packed weights whose channels happen to use few steps.

    Args:
        task: Model and data.
        graph: What `inspect_model` found in it.
        recipe: What to do.
    """
    return deployed_size(export_untrained(task, graph, recipe))


@dataclass(frozen=True)
class SizeModel:
    """Bytes of recipes as a sum over layers, from a few exports of the model.

    The `.bin` is counted: weights in the types that hold them, steps, biases, ranges. The `.xml` is that of the FP32
    model with so many bytes more for each quantized layer as the layers of its kind had on average.

    Attributes:
        architecture: Layers and channel groups.
        xml_bytes: Of the FP32 model.
        bin_bytes: Of the FP32 model.
        xml_of_layer: Bytes more for one layer, by whether its weights are packed and whether its input is quantized.
    """

    architecture: Architecture
    xml_bytes: int
    bin_bytes: int
    xml_of_layer: Mapping[Kind, float]

    @classmethod
    def measure(cls, task: Task, graph: ModelGraph) -> "SizeModel":
        """The size model of the task's model, from five exports.

        Args:
            task: Model and data.
            graph: What `inspect_model` found in it.
        """
        xml, binary = file_sizes(export_untrained(task, graph, Recipe()))
        names = [layer.name for layer in graph.compressible if not layer.weights_only]
        more = {}
        for weight_bits, activation_bits in _KINDS:
            layer = LayerRecipe(weight_bits=weight_bits, activation_bits=activation_bits)
            recipe = Recipe(layers=dict.fromkeys(names, layer))
            more[_kind(layer)] = (file_sizes(export_untrained(task, graph, recipe))[0] - xml) / max(1, len(names))
        return cls(architecture_of(task.model, graph, task.example_input), xml, binary, more)

    def predict(self, recipe: Recipe) -> int:
        """Bytes of `.xml` and `.bin` together."""
        return round(self.xml_bytes + self.bin_bytes + sum(self.contributions(recipe).values()))

    def contributions(self, recipe: Recipe) -> dict[str, float]:
        """Bytes more than in the FP32 model by layer; negative where it is smaller."""
        removed = self.architecture.removed(recipe)
        return {unit.name: self.more_bytes(unit, recipe.layer(unit.name), removed) for unit in self.architecture.units}

    def layer_bytes(self, layer: str, recipe: LayerRecipe, own_ratio: float = 0.0, input_ratio: float = 0.0) -> float:
        """Bytes more than in the FP32 model of one layer for one of its choices.

        Args:
            layer: Its name, one of the architecture's units.
            recipe: Of the layer.
            own_ratio: `pruning_ratio` of the groups that its output channels belong to.
            input_ratio: `pruning_ratio` of the groups that its input channels belong to.
        """
        unit = next(unit for unit in self.architecture.units if unit.name == layer)
        groups = {group.name: group for group in self.architecture.groups}
        removed = {name: groups[name].n_removed(input_ratio) for name in unit.inputs_of}
        removed |= {name: groups[name].n_removed(own_ratio) for name in unit.outputs_of}
        return self.more_bytes(unit, recipe, removed)

    def more_bytes(self, unit: Unit, layer: LayerRecipe, removed: Mapping[str, float]) -> float:
        """Bytes more than in the FP32 model of one layer.

        Args:
            unit: The layer, one of the architecture's.
            layer: What is done to it.
            removed: Channels that are gone by group.
        """
        xml = 0.0 if layer.is_float else self.xml_of_layer[_kind(layer)]
        return _bin_bytes(unit, layer, removed) - _bin_bytes(unit, LayerRecipe(), {}) + xml


def _kind(layer: LayerRecipe) -> Kind:
    return layer.weight_bits <= _NARROW, layer.activation_bits != FLOAT_BITS


def _bin_bytes(unit: Unit, layer: LayerRecipe, removed: Mapping[str, float]) -> float:
    """Bytes of one layer in the `.bin`: weights, one bias a filter, and what quantizing needs."""
    n_outputs, n_inputs = unit.left(removed)
    n_weights, n_more = unit.n_weights(n_outputs, n_inputs, layer.rank_ratio), 0.0
    bits = _STORED_BITS[layer.weight_bits]
    if layer.activation_bits == FLOAT_BITS and layer.weight_bits not in (BINARY_BITS, FLOAT_BITS):
        bits = _HALF if layer.weight_bits <= _HALF else 8
    if bits in _VALUES_A_PACK and n_weights % _VALUES_A_PACK[bits]:
        bits = 8
    if layer.weight_bits != FLOAT_BITS:
        n_steps = n_inputs * n_outputs / layer.group_size if layer.group_size else n_outputs
        n_more += _FLOAT_BYTES * (1 if layer.weight_granularity == "per_tensor" else n_steps)
    if layer.activation_bits not in (FLOAT_BITS, BINARY_BITS):
        n_more += _RANGE_BYTES
    return n_weights * bits / 8 + _FLOAT_BYTES * n_outputs + n_more
