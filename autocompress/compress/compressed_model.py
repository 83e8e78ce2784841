"""The result of compression: a module that trains and evaluates like any other, and its other forms."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Tensor, nn

from autocompress.compress.attaching import (
    attached_input,
    freeze_parametrizations,
    quantized_weights,
    remove_input,
    weight_before,
)
from autocompress.compress.mask_attaching import zeros_written
from autocompress.compress.quantization import Exportable, InputQuantizer
from autocompress.compress.smoothing import scale_input_channels
from autocompress.compress.sparsity_training import SparsityTraining, mask_parameters
from autocompress.compress.statistics import statistics
from autocompress.compress.weight_quantization import IntegerWeight
from autocompress.errors import CompressionError
from autocompress.graph import fold_attention
from autocompress.recipe import LayerRecipe, Recipe


@dataclass
class CompressedModel:
    """A compressed module with its recipe.

    Attributes:
        module: The module; trains and evaluates like any other.
        recipe: What was done to it.
        example_input: Inputs of one inference.
        layers: What was done by name of layer in `module`: as the recipe says, a layer in low rank as its factors.
    """

    module: nn.Module
    recipe: Recipe
    example_input: Any
    layers: Mapping[str, LayerRecipe]

    @property
    def quantized(self) -> dict[str, LayerRecipe]:
        """Layers that are not all float."""
        return {name: layer for name, layer in self.layers.items() if not layer.is_float}

    @contextmanager
    def export_form(self) -> Iterator[nn.Module]:
        """The module in evaluation mode with `torch.fake_quantize_*` operations for quantizers."""
        quantizers = [m for m in self.module.modules() if isinstance(m, Exportable)]
        was_training = self.module.training
        self.module.eval()
        for _, layer, weight_quantizer in quantized_weights(self.module):
            weight_quantizer.hold(weight_before(layer))
        for quantizer in quantizers:
            quantizer.start_export()
        try:
            with zeros_written(self.module):
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
        freeze_parametrizations(module)
        return module

    def integer_weights(self) -> dict[str, IntegerWeight]:
        """Quantized weights as integers, by layer name."""
        return {
            name: quantizer.integers(weight_before(layer)) for name, layer, quantizer in quantized_weights(self.module)
        }

    def training(self, n_steps: int, steps_per_epoch: int | None = None) -> SparsityTraining:
        """What moves the masks of sparse layers through one training; its docstring says what to call when.

        Args:
            n_steps: Optimizer steps of the training, >= 0.
            steps_per_epoch: Optimizer steps of an epoch, for a loop that calls `epoch_step` instead of `step`.
        """
        sparse = {name: layer.sparsity for name, layer in self.layers.items() if layer.sparsity}
        return SparsityTraining(self.module, sparse, self.recipe.sparsification, n_steps, steps_per_epoch)

    def strip(self) -> nn.Module:
        """A plain copy: zeros and quantized weights permanent, input quantizers gone, attention as it was.

        Layers in low rank stay factored, since that is what makes them small.
        """
        module = self.freeze_weights()
        for layer in list(module.modules()):
            quantizer = attached_input(layer)
            if isinstance(quantizer, InputQuantizer) and quantizer.smoothing is not None:
                scale_input_channels(layer, quantizer.smoothing.flatten().reciprocal())
            if quantizer is not None:
                remove_input(layer)
        fold_attention(module)
        return module

    def statistics(self, model: nn.Module) -> pd.DataFrame:
        """What compression left of each layer, and of the whole; `autocompress.compress.statistics` says the columns.

        Args:
            model: The FP32 module that was compressed.
        """
        return statistics(model, self.module, self.recipe, self.example_input)

    def describe(self) -> list[dict[str, Any]]:
        """What each quantized layer got: bits, grids, and the calibrated range of its input.

        Returns:
            One row a layer, with the keys `layer`, `weight_bits`, `weight_scheme`, `activation_bits`,
            `activation_scheme` (`signed`, `unsigned` or `asymmetric`; empty where the input is float), `low`, `high`.
        """
        return [self._row(name) for name in self.quantized]

    def _row(self, name: str) -> dict[str, Any]:
        layer_recipe = self.layers[name]
        quantizer = attached_input(self.module.get_submodule(name))
        row: dict[str, Any] = {"layer": name, "weight_bits": layer_recipe.weight_bits}
        row |= {"weight_scheme": layer_recipe.weight_scheme, "activation_bits": layer_recipe.activation_bits}
        row |= {"activation_scheme": "", "low": float("nan"), "high": float("nan")}
        if isinstance(quantizer, InputQuantizer):
            low, high = (end.detach() for end in quantizer.tuned_range())
            signedness = "signed" if quantizer.signed else "unsigned"
            scheme = signedness if quantizer.symmetric else "asymmetric"
            row |= {"activation_scheme": scheme, "low": float(low.min()), "high": float(high.max())}
        return row


def parameter_groups(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters of the model itself, and ranges and scales of its quantizers; scores of masks are in neither."""
    ranges = {
        id(p): p for m in module.modules() if isinstance(m, Exportable) for p in m.parameters() if p.requires_grad
    }
    others = {*ranges, *(id(p) for p in mask_parameters(module))}
    weights = [p for p in module.parameters() if id(p) not in others and p.requires_grad]
    return weights, list(ranges.values())
