"""Shrinking: rows and attention heads that training made zero are really removed, and the rest stays compressed."""

import copy
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from autocompress.compress.attaching import attached_input, attached_weight, freeze_parametrizations, remove_input
from autocompress.compress.calibration import calibrate
from autocompress.compress.compressed_model import CompressedModel
from autocompress.compress.pipeline import compress
from autocompress.compress.zero_filters import remove_zero_filters
from autocompress.errors import CompressionError
from autocompress.graph import ModelGraph, inspect_model
from autocompress.recipe import Recipe
from autocompress.task import Batch

_WEIGHTS = (".weight", ".parametrizations.weight.original", ".parametrizations.weight.original0")


def shrink(compressed: CompressedModel, graph: ModelGraph, batches: Iterable[Batch]) -> CompressedModel:
    """A smaller model that computes what `compressed` does, up to the new calibration of its quantizers.

    Of each channel group those channels go that are zero in all its layers, as far as a multiple of 8 or of whole
    heads is left (`remove_zero_filters`). Masks go, quantizers stay, and are calibrated anew.

    Args:
        compressed: A trained model whose recipe has a `structure` other than weights; never changed.
        graph: What `inspect_model` found in the FP32 model.
        batches: Batches of (inputs, targets) for the calibration; the targets are not used.

    Returns:
        The model with its new recipe: without sparsity, with a pruning ratio for each group that lost channels.

    Raises:
        CompressionError: The recipe has no structure, or there is no data.
    """
    if compressed.recipe.sparsification.structure == "weights":
        raise CompressionError("only whole rows and heads can be removed; give sparsification a structure of rows")
    plain = _without_quantizers(compressed.module)
    remove_zero_filters(plain, compressed.example_input)
    recipe = shrunk_recipe(compressed.recipe, graph, plain.state_dict())
    inner = inspect_model(plain, compressed.example_input, with_groups=False)
    layers = Recipe(layers=recipe.layers, calibration=recipe.calibration)
    result = compress(plain, inner, layers, compressed.example_input)
    if recipe.quantized:
        calibrate(result.module, batches, recipe.calibration)
    return CompressedModel(result.module, recipe, compressed.example_input, result.layers)


def shrunk_recipe(recipe: Recipe, graph: ModelGraph, tensors: Mapping[str, Tensor]) -> Recipe:
    """The recipe that gives a module of the shapes of `tensors`: without sparsity, with ratios for what is missing.

    Args:
        recipe: Of the model before it was shrunk.
        graph: What `inspect_model` found in the FP32 model.
        tensors: State of the module after it.
    """
    pruning = {}
    for group in graph.prunable:
        keys = [f"{group.name}{ending}" for ending in _WEIGHTS if f"{group.name}{ending}" in tensors]
        n_filters = graph.layer(group.name).weight_shape[0]
        pruning[group.name] = 1 - len(tensors[keys[0]]) / n_filters if keys else 0.0
    layers = {name: layer.model_copy(update={"sparsity": 0.0}) for name, layer in recipe.layers.items()}
    return Recipe(layers=layers, pruning=pruning, importance=recipe.importance, calibration=recipe.calibration)


def _without_quantizers(module: nn.Module) -> nn.Module:
    """A plain copy: zeros of masks permanent, weights between them as training left them, before rounding."""
    plain = copy.deepcopy(module).eval()
    for layer in plain.modules():
        quantizer = attached_weight(layer)
        if quantizer is not None:
            quantizer.enabled = False
    freeze_parametrizations(plain)
    for layer in plain.modules():
        if attached_input(layer) is not None:
            remove_input(layer)
    return plain
