"""The chain of a recipe: copy, remove filters, attach weight quantizers, attach input quantizers."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autocompress.compress.filter_pruning import prune_filters
from autocompress.compress.quantization import Exportable, InputQuantizer, WeightQuantizer
from autocompress.errors import CompressionError
from autocompress.graph import ModelGraph
from autocompress.recipe import FLOAT_BITS, Recipe

INPUT_QUANTIZER = "input_quantizer"


@dataclass
class CompressedModel:
    """A compressed module with its recipe.

    Attributes:
        module: The module; trains and evaluates like any other.
        recipe: What was done to it.
        example_input: Inputs of one inference.
    """

    module: nn.Module
    recipe: Recipe
    example_input: Any

    @contextmanager
    def export_form(self) -> Iterator[nn.Module]:
        """The module in evaluation mode with `torch.fake_quantize_*` operations for quantizers."""
        quantizers = [m for m in self.module.modules() if isinstance(m, Exportable)]
        was_training = self.module.training
        self.module.eval()
        for quantizer in quantizers:
            quantizer.start_export()
        try:
            yield self.module
        finally:
            for quantizer in quantizers:
                quantizer.end_export()
            self.module.train(was_training)

    def state(self) -> dict[str, Tensor]:
        """Tensors that, with the recipe, restore the module; contiguous, tied tensors copied."""
        return {name: tensor.detach().clone().contiguous() for name, tensor in self.module.state_dict().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over tensors written by `state`.

        Raises:
            CompressionError: They belong to another model or recipe.
        """
        try:
            self.module.load_state_dict(state)
        except RuntimeError as error:
            first = str(error).splitlines()[-1].strip()
            raise CompressionError(f"weights don't fit the model and its recipe: {first}") from None

    def freeze_weights(self) -> nn.Module:
        """A copy with quantized weights made permanent, as floats on their grid; input quantizers stay."""
        module = copy.deepcopy(self.module).eval()
        for layer in list(module.modules()):
            if parametrize.is_parametrized(layer, "weight"):
                _own_class(layer)
                _untie(layer)
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        return module

    def weight_indices(self) -> dict[str, Tensor]:
        """Grid indices (int8, shape of the weight) of each quantized weight, by layer name."""
        found: dict[str, Tensor] = {}
        for name, layer in self.module.named_modules():
            if not parametrize.is_parametrized(layer, "weight"):
                continue
            quantizer = layer.parametrizations["weight"][-1]
            if isinstance(quantizer, WeightQuantizer):
                weight = layer.weight.detach()
                found[name] = (weight / quantizer.log_scale.detach().exp()).round().to(torch.int8)
        return found

    def strip(self) -> nn.Module:
        """A plain copy: quantized weights made permanent as floats, input quantizers gone."""
        module = self.freeze_weights()
        for layer in list(module.modules()):
            if isinstance(getattr(layer, INPUT_QUANTIZER, None), InputQuantizer):
                delattr(layer, INPUT_QUANTIZER)
                _remove_input_hook(layer)
        return module


def compress(model: nn.Module, graph: ModelGraph, recipe: Recipe, example_input: Any) -> CompressedModel:
    """A compressed copy of `model`; input ranges still have to be set by `calibrate`.

    Args:
        model: The FP32 module; never changed.
        graph: What `inspect_model` found in it.
        recipe: What to do.
        example_input: Inputs of one inference.

    Raises:
        CompressionError: The recipe names a layer or group that the model lacks or that cannot be compressed.
    """
    module = copy.deepcopy(model).eval()
    _check(graph, recipe)
    prune_filters(module, example_input, recipe.pruning)
    for name, layer_recipe in recipe.layers.items():
        if layer_recipe.weight_bits != FLOAT_BITS:
            layer = module.get_submodule(name)
            quantizer = WeightQuantizer(layer.weight, layer_recipe.weight_bits)  # type: ignore[arg-type]
            if parametrize.is_parametrized(layer):
                _own_class(layer)
            parametrize.register_parametrization(layer, "weight", quantizer)
    _attach_input_quantizers(module, graph, recipe)
    return CompressedModel(module, recipe, example_input)


def _own_class(layer: nn.Module) -> None:
    """Give a parametrized layer a class of its own.

    `parametrize` puts properties on a class that `copy.deepcopy` shares; changing a copy would change its original.
    """
    cls = type(layer)
    layer.__class__ = type(cls.__name__, cls.__bases__, dict(cls.__dict__))


def _untie(layer: nn.Module) -> None:
    """Give a parametrized layer its own copy of the weight, since removal writes the quantized values into it."""
    originals: nn.Module = layer.parametrizations["weight"]  # type: ignore[index,assignment]
    for name, parameter in list(originals.named_parameters(recurse=False)):
        setattr(originals, name, nn.Parameter(parameter.detach().clone(), parameter.requires_grad))


def _check(graph: ModelGraph, recipe: Recipe) -> None:
    compressible = {layer.name for layer in graph.compressible}
    for name in recipe.layers:
        if name not in compressible:
            reason = graph.layer(name).reason if name in {layer.name for layer in graph.layers} else "no such layer"
            raise CompressionError(f"the recipe quantizes {name!r}, which cannot be: {reason}")
    prunable = {group.name: group for group in graph.prunable}
    for name in recipe.pruning:
        if name not in prunable:
            reason = next((g.reason for g in graph.groups if g.name == name), "no such channel group")
            raise CompressionError(f"the recipe prunes {name!r}, which cannot be: {reason}")


def _attach_input_quantizers(module: nn.Module, graph: ModelGraph, recipe: Recipe) -> None:
    """One quantizer for the layers that read the same tensor with the same bits."""
    shared: dict[tuple[str, int], InputQuantizer] = {}
    for name, layer_recipe in recipe.layers.items():
        bits = layer_recipe.activation_bits
        if bits == FLOAT_BITS:
            continue
        layer = module.get_submodule(name)
        key = (graph.layer(name).shares_input_with, bits)
        quantizer = shared.setdefault(key, InputQuantizer(bits))
        setattr(layer, INPUT_QUANTIZER, quantizer)
        layer.register_forward_pre_hook(_quantize_input)


def _quantize_input(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    quantizer = getattr(layer, INPUT_QUANTIZER)
    return (quantizer(inputs[0]), *inputs[1:])


def _remove_input_hook(layer: nn.Module) -> None:
    for key, hook in list(layer._forward_pre_hooks.items()):
        if hook is _quantize_input:
            del layer._forward_pre_hooks[key]


def parameter_groups(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters of the model itself, and ranges and scales of its quantizers."""
    ranges = {
        id(p): p for m in module.modules() if isinstance(m, Exportable) for p in m.parameters() if p.requires_grad
    }
    weights = [p for p in module.parameters() if id(p) not in ranges and p.requires_grad]
    return weights, list(ranges.values())
