"""Warm start: a compressed model begins with what training gave another one of the same shapes."""

import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from autocompress.compress.attaching import (
    attached_input,
    attached_weight,
    input_readers,
    quantized_weights,
    weight_before,
)
from autocompress.compress.calibration import calibrate
from autocompress.compress.compressed_model import CompressedModel
from autocompress.compress.quantization import Exportable
from autocompress.compress.sparsity import WeightMask
from autocompress.errors import CompressionError
from autocompress.recipe import Calibration, Recipe
from autocompress.task import Batch

_START_OF_CHAIN = re.compile(r"(^|\.)parametrizations\.([^.]+)\.original$")


def inherit(compressed: CompressedModel, parent: CompressedModel, batches: Iterable[Batch]) -> None:
    """Give `compressed` what training gave `parent`, and set up what is left from data.

    The order of calls is `compress`, `inherit`, training: this stands in for `calibrate` and for the adaptation of
    batch norms, neither of which must be called as well.

    From a parent that was compressed in the same way everything is taken over, so that both compute the same, bit by
    bit. From another one come parameters and buffers of the model itself: weights as they are before masks, quantizers
    and binarizers. Then masks go by the new weights at their full sparsity, or, of gates and movement, by their scores,
    which start as `compress` made them; quantizers come with their learned steps and ranges where the layer has the
    same recipe on both sides and the calibrations agree, and are calibrated with the new weights elsewhere.

    Args:
        compressed: What `compress` returned; changed, and in evaluation mode afterwards.
        parent: A trained model with another recipe for the same FP32 model; never changed.
        batches: Batches of (inputs, targets) for the calibration; the targets are not used.

    Raises:
        CompressionError: The recipes exclude it (`why_not_inherited`), tensors are missing or have other shapes, or are
            not finite, or there is no data; in the last case weights are taken over already.
    """
    if reason := why_not_inherited(compressed.recipe, parent.recipe):
        raise CompressionError(f"nothing can be inherited: {reason}; start from the FP32 model")
    own, found = _model_tensors(compressed.module), _model_tensors(parent.module)
    _check(own, found)
    if _are_alike(compressed.recipe, parent.recipe):
        compressed.load_state(parent.module.state_dict())
        return
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(found[name])
    compressed.training(n_steps=1).finish()
    _set_up_quantizers(compressed, parent, batches)


def why_not_inherited(recipe: Recipe, parent: Recipe) -> str:
    """Why a model of `recipe` cannot start from one of `parent`, a clause without a full stop; empty if it can.

    Both must remove the same filters and factor the same layers, or shapes and meanings of channels differ. A
    calibration that changes weights or biases is part of what was trained: doing it again would round weights that
    moved on, or scale and correct twice; leaving it undone would break the recipe. So it excludes all but models that
    were compressed in the same way. Models that lose rows in training end in shapes of their own.
    """
    if recipe.pruning != parent.pruning or recipe.importance != parent.importance:
        return "the recipes remove other filters"
    if rank_ratios(recipe) != rank_ratios(parent):
        return "the recipes keep other ranks"
    if any(r.sparsification.structure != "weights" for r in (recipe, parent)):
        return "a recipe removes rows in training"
    changes = any(_changes_weights(r.calibration) for r in (recipe, parent))
    if changes and not _are_alike(recipe, parent):
        return "a recipe's calibration changes weights or biases, and the recipes differ"
    return ""


def rank_ratios(recipe: Recipe) -> dict[str, float]:
    """`rank_ratio` by name of layer, where it is below 1."""
    return {name: layer.rank_ratio for name, layer in recipe.layers.items() if layer.rank_ratio < 1}


def _changes_weights(calibration: Calibration) -> bool:
    return calibration.rounding != "nearest" or calibration.bias_correction or calibration.smoothing > 0


def _are_alike(recipe: Recipe, other: Recipe) -> bool:
    """Whether both compress in the same way; they may be distilled differently."""
    return recipe.model_copy(update={"distillation": other.distillation}) == other


def _model_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of the model itself, those at the start of a chain by the name that they had before."""
    methods = (Exportable, WeightMask)
    added = {name for name, part in module.named_modules(remove_duplicate=False) if isinstance(part, methods)}
    state = module.state_dict(keep_vars=True)
    own = {name: tensor for name, tensor in state.items() if name.rpartition(".")[0] not in added}
    return {_START_OF_CHAIN.sub(r"\1\2", name): tensor for name, tensor in own.items()}


def _check(own: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    if own.keys() != found.keys():
        odd = sorted(own.keys() ^ found.keys())[0]
        raise CompressionError(f"a parent must have the tensors of the model, but only one has {odd!r}; use another")
    for name, tensor in own.items():
        if tensor.shape != found[name].shape:
            raise CompressionError(
                f"a parent must have the shapes of the model, but {name!r} has {tuple(found[name].shape)} instead of "
                f"{tuple(tensor.shape)}; use another parent"
            )
        if found[name].is_floating_point() and not found[name].isfinite().all():
            raise CompressionError(f"a parent's tensors must be finite, but {name!r} is not; use another parent")


def _set_up_quantizers(compressed: CompressedModel, parent: CompressedModel, batches: Iterable[Batch]) -> None:
    """Learned steps and ranges where both have the same, new ones elsewhere."""
    alike = {name for name, layer in compressed.layers.items() if parent.layers.get(name) == layer}
    if compressed.recipe.calibration != parent.recipe.calibration:
        alike = set()
    for name, layer, quantizer in quantized_weights(compressed.module):
        if name not in alike:
            quantizer.set_from(weight_before(layer))
    readers = input_readers(compressed.module).values()
    if any(alike.isdisjoint(name for name, _ in layers) for layers in readers):
        calibrate(compressed.module, batches, compressed.recipe.calibration)
    for name in alike:
        _take_quantizers(compressed.module.get_submodule(name), parent.module.get_submodule(name))


def _take_quantizers(layer: nn.Module, trained: nn.Module) -> None:
    for attached in (attached_weight, attached_input):
        quantizer, source = attached(layer), attached(trained)
        if quantizer is not None and source is not None:
            quantizer.load_state_dict(source.state_dict())
