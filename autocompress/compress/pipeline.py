"""The chain of a recipe: copy, remove filters, attach weight quantizers, attach input quantizers."""

import copy
import math
from typing import Any

from torch import Tensor, nn

from autocompress.compress.attaching import attach_input, attach_weight, output_axis, with_bias
from autocompress.compress.binarization import ActivationBinarizer, WeightBinarizer, why_not_binary
from autocompress.compress.calibration import naming
from autocompress.compress.compressed_model import CompressedModel
from autocompress.compress.filter_pruning import prune_filters
from autocompress.compress.quantization import Exportable, InputQuantizer, lsq_gradient_scale
from autocompress.compress.weight_quantization import weight_quantizer
from autocompress.errors import CompressionError
from autocompress.graph import Layer, ModelGraph, unfold_attention
from autocompress.recipe import BINARY_BITS, FLOAT_BITS, LayerRecipe, Recipe


def compress(
    model: nn.Module, graph: ModelGraph, recipe: Recipe, example_input: Any, *, lsq: bool = False
) -> CompressedModel:
    """A compressed copy of `model`; it still has to be set up from data by `calibrate`.

    Args:
        model: The FP32 module; never changed.
        graph: What `inspect_model` found in it.
        recipe: What to do.
        example_input: Inputs of one inference.
        lsq: Whether gradients of steps and ranges are scaled as LSQ scales them (Esser et al. 2020, section 2.2); for
            training with plain SGD.

    Raises:
        CompressionError: The recipe names a layer or group that the model lacks or that cannot be compressed.
    """
    module = copy.deepcopy(model).eval()
    unfold_attention(module)
    _check(graph, recipe)
    prune_filters(module, example_input, recipe.pruning)
    _attach_weight_quantizers(module, graph, recipe, lsq)
    _attach_input_quantizers(module, graph, recipe, lsq)
    return CompressedModel(module, recipe, example_input)


def _check(graph: ModelGraph, recipe: Recipe) -> None:
    known, compressible = ({layer.name for layer in layers} for layers in (graph.layers, graph.compressible))
    for name, layer_recipe in recipe.layers.items():
        if name not in compressible:
            reason = graph.layer(name).reason if name in known else "no such layer"
            raise CompressionError(f"the recipe quantizes {name!r}, which cannot be: {reason}")
        if graph.layer(name).weights_only and layer_recipe.activation_bits != FLOAT_BITS:
            raise CompressionError(
                f"the recipe has activation_bits of {layer_recipe.activation_bits} for {name!r}, but "
                f"{graph.layer(name).kind} has no input to quantize; write 32"
            )
    prunable = {group.name: group for group in graph.prunable}
    for name in recipe.pruning:
        if name not in prunable:
            reason = next((g.reason for g in graph.groups if g.name == name), "no such channel group")
            raise CompressionError(f"the recipe prunes {name!r}, which cannot be: {reason}")


def _attach_weight_quantizers(module: nn.Module, graph: ModelGraph, recipe: Recipe, lsq: bool) -> None:
    """One quantizer for each weight; layers that share a weight, still after pruning, and its recipe share it."""
    shared: dict[Any, Exportable] = {}
    weights = {name: module.get_submodule(name)._parameters.get("weight", name) for name in recipe.layers}
    for name, layer_recipe in recipe.layers.items():
        if layer_recipe.weight_bits == FLOAT_BITS:
            continue
        layer = module.get_submodule(name)
        key = (weights[name], *_of_weights(layer_recipe), output_axis(layer))
        with naming(name):
            if key not in shared:
                shared[key] = _weight_quantizer(layer, layer_recipe, recipe.calibration.weight_ranges, lsq)
            attach_weight(layer, shared[key])
            if recipe.calibration.bias_correction and not graph.layer(name).weights_only:
                with_bias(layer)


def _of_weights(layer_recipe: LayerRecipe) -> tuple[Any, ...]:
    r = layer_recipe
    return r.weight_bits, r.weight_scheme, r.weight_granularity, r.group_size, r.binarization


def _weight_quantizer(layer: nn.Module, layer_recipe: LayerRecipe, ranges: str, lsq: bool) -> Exportable:
    if layer_recipe.weight_bits == BINARY_BITS:
        if reason := why_not_binary(layer):
            raise CompressionError(f"it cannot be binary: {reason}")
        return WeightBinarizer(layer_recipe.binarization)
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight_quantizer(weight, layer_recipe, output_axis(layer), ranges, lsq)


def _attach_input_quantizers(module: nn.Module, graph: ModelGraph, recipe: Recipe, lsq: bool) -> None:
    """One quantizer for the layers that read the same tensor in the same way."""
    shared: dict[Any, Exportable] = {}
    for name, layer_recipe in recipe.layers.items():
        if layer_recipe.activation_bits == FLOAT_BITS:
            continue
        layer, known = module.get_submodule(name), graph.layer(name)
        symmetric, smoothed = _is_symmetric(layer_recipe, known), recipe.calibration.smoothing > 0
        granularity = layer_recipe.activation_granularity
        channels = _by_channel(layer, known) if smoothed or granularity == "per_channel" else ()
        key = (known.shares_input_with, layer_recipe.activation_bits, symmetric, granularity, channels)
        if key not in shared:
            shared[key] = _input_quantizer(layer, layer_recipe, known, symmetric, smoothed, lsq)
        attach_input(layer, shared[key])


def _is_symmetric(layer_recipe: LayerRecipe, layer: Layer) -> bool:
    """Transposed convolutions have integer kernels for symmetric inputs only (tests/deploy/test_kernels.py)."""
    if layer_recipe.activation_scheme == "auto":
        return layer.kind.startswith("ConvTranspose")
    return layer_recipe.activation_scheme == "symmetric"


def _input_quantizer(
    layer: nn.Module, layer_recipe: LayerRecipe, known: Layer, symmetric: bool, smoothed: bool, lsq: bool
) -> Exportable:
    if layer_recipe.activation_bits == BINARY_BITS:
        return ActivationBinarizer(_input_channels(layer))
    by_channel = _by_channel(layer, known)
    n_values = math.prod(known.input_shape)
    return InputQuantizer(
        layer_recipe.activation_bits,
        by_channel if layer_recipe.activation_granularity == "per_channel" else (),
        symmetric=symmetric,
        smoothed_shape=by_channel if smoothed else None,
        gradient_scale=lsq_gradient_scale(n_values, layer_recipe.activation_bits) if lsq else 1.0,
    )


def _by_channel(layer: nn.Module, known: Layer) -> tuple[int, ...]:
    """Shape of one value for each channel of the input, to be broadcast to it from its last axis."""
    return (_input_channels(layer), *[1] * (len(known.weight_shape) - 2))


def _input_channels(layer: nn.Module) -> int:
    """Channels of the input; after pruning, so the layer is asked and not the graph."""
    return int(getattr(layer, "in_features", 0) or layer.in_channels)  # type: ignore[arg-type]
