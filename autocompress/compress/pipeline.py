"""The chain of a recipe: copy, remove filters, factor layers, then masks and quantizers on what is left.

Structure comes first, numbers later: removal of filters and low rank change shapes; then each weight gets the chain
mask, then quantizer, and each input its quantizer. The order in which a recipe names things does not matter.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from autocompress.compress.attaching import attach_input, attach_weight, chain_of, output_axis, weight_of, with_bias
from autocompress.compress.binarization import ActivationBinarizer, WeightBinarizer, why_not_binary
from autocompress.compress.calibration import naming
from autocompress.compress.compressed_model import CompressedModel
from autocompress.compress.filter_pruning import prune_filters
from autocompress.compress.low_rank import apply_low_rank
from autocompress.compress.quantization import Exportable, InputQuantizer, lsq_gradient_scale
from autocompress.compress.sparsity_training import attach_masks
from autocompress.compress.weight_quantization import weight_quantizer
from autocompress.errors import CompressionError
from autocompress.graph import Layer, ModelGraph, inspect_model, unfold_attention
from autocompress.recipe import BINARY_BITS, FLOAT_BITS, Calibration, LayerRecipe, Recipe

LayerRecipes = Mapping[str, LayerRecipe]


def compress(
    model: nn.Module,
    graph: ModelGraph,
    recipe: Recipe,
    example_input: Any,
    *,
    scores: Mapping[str, Tensor] | None = None,
    lsq: bool = False,
    structure_only: bool = False,
) -> CompressedModel:
    """A compressed copy of `model`; quantizers in it still have to be set up from data by `calibrate`.

    Args:
        model: The FP32 module; never changed.
        graph: What `inspect_model` found in it.
        recipe: What to do.
        example_input: Inputs of one inference.
        scores: Importance of the channels of each group, as `importance_scores` measures it; by default it is computed
            from the weights, which cannot be done where `recipe.importance` needs data. Groups that are left out lose
            their first filters.
        lsq: Whether gradients of steps and ranges are scaled as LSQ scales them (Esser et al. 2020, section 2.2); for
            training with plain SGD.
        structure_only: Whether the weights are of no matter, since others are loaded afterwards or speed is all that is
            looked at: then groups lose their first filters, and steps are not searched for, which takes seconds.

    Raises:
        CompressionError: The recipe names a layer or group that the model lacks or that cannot be compressed, or its
            importance needs data and there are no scores.
    """
    module = copy.deepcopy(model).eval()
    unfold_attention(module)
    _check(graph, recipe)
    if structure_only:
        scores = {}
    prune_filters(module, example_input, recipe.pruning, recipe.importance, scores)
    layers, graph = _with_factors(module, graph, recipe, example_input)
    sparse = {name: layer_recipe.sparsity for name, layer_recipe in layers.items() if layer_recipe.sparsity}
    attach_masks(module, sparse, recipe.sparsification, _heads(graph))
    calibration = recipe.calibration.model_copy(update={"weight_ranges": "min_max"} if structure_only else {})
    _attach_weight_quantizers(module, graph, layers, calibration, lsq)
    _attach_input_quantizers(module, graph, layers, recipe.calibration, lsq)
    return CompressedModel(module, recipe, example_input, layers)


def _with_factors(
    module: nn.Module, graph: ModelGraph, recipe: Recipe, example_input: Any
) -> tuple[dict[str, LayerRecipe], ModelGraph]:
    """Recipes by layer after low rank, where factors have that of their layer, and the layers of the module then."""
    ranks = {name: layer.rank_ratio for name, layer in recipe.layers.items() if layer.rank_ratio < 1}
    input_shapes = {layer.name: layer.input_shape for layer in graph.layers}
    factors = apply_low_rank(module, ranks, input_shapes) if ranks else {}
    layers = {part: layer for name, layer in recipe.layers.items() for part in factors.get(name, (name,))}
    if factors:
        graph = inspect_model(module, example_input, with_groups=False)
    return layers, graph


def _heads(graph: ModelGraph) -> dict[str, tuple[str, int]]:
    """Group and head size, in rows, of each layer whose outputs are attention heads."""
    return {layer: (group.name, group.unit) for group in graph.groups if group.unit > 1 for layer in group.layers}


def _check(graph: ModelGraph, recipe: Recipe) -> None:
    known, compressible = ({layer.name for layer in layers} for layers in (graph.layers, graph.compressible))
    for name, layer_recipe in recipe.layers.items():
        if name not in compressible:
            reason = graph.layer(name).reason if name in known else "no such layer"
            raise CompressionError(f"the recipe compresses {name!r}, which cannot be: {reason}")
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


def _attach_weight_quantizers(
    module: nn.Module, graph: ModelGraph, layers: LayerRecipes, calibration: Calibration, lsq: bool
) -> None:
    """One quantizer for each weight; layers that share a weight, still after pruning, and its recipe share it."""
    shared: dict[Any, Exportable] = {}
    weights = {name: _start_of_chain(module.get_submodule(name), name) for name in layers}
    for name, layer_recipe in layers.items():
        if layer_recipe.weight_bits == FLOAT_BITS:
            continue
        layer = module.get_submodule(name)
        key = (weights[name], *_of_weights(layer_recipe), output_axis(layer))
        with naming(name):
            if key not in shared:
                shared[key] = _weight_quantizer(layer, layer_recipe, calibration.weight_ranges, lsq)
            attach_weight(layer, shared[key])
            if calibration.bias_correction and not graph.layer(name).weights_only:
                with_bias(layer)


def _start_of_chain(layer: nn.Module, name: str) -> Any:
    """The parameter behind the weight, by which tied layers are known; the name where there is no such."""
    if parametrize.is_parametrized(layer, "weight"):
        return next(chain_of(layer).parameters(recurse=False), name)
    return layer._parameters.get("weight", name)


def _of_weights(layer_recipe: LayerRecipe) -> tuple[Any, ...]:
    r = layer_recipe
    return r.weight_bits, r.weight_scheme, r.weight_granularity, r.group_size, r.binarization


def _weight_quantizer(layer: nn.Module, layer_recipe: LayerRecipe, ranges: str, lsq: bool) -> Exportable:
    if layer_recipe.weight_bits == BINARY_BITS:
        if reason := why_not_binary(layer):
            raise CompressionError(f"it cannot be binary: {reason}")
        return WeightBinarizer(layer_recipe.binarization)
    return weight_quantizer(weight_of(layer), layer_recipe, output_axis(layer), ranges, lsq)


def _attach_input_quantizers(
    module: nn.Module, graph: ModelGraph, layers: LayerRecipes, calibration: Calibration, lsq: bool
) -> None:
    """One quantizer for the layers that read the same tensor in the same way."""
    shared: dict[Any, Exportable] = {}
    for name, layer_recipe in layers.items():
        if layer_recipe.activation_bits == FLOAT_BITS:
            continue
        layer, known = module.get_submodule(name), graph.layer(name)
        symmetric, smoothed = _is_symmetric(layer_recipe, known), calibration.smoothing > 0
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
