"""Compressing, deploying and running: what the tests of deployment share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from torch import Tensor, nn

from autocompress.compress import CompressedModel, calibrate, compress
from autocompress.compress.quantization import InputQuantizer
from autocompress.deploy import save_openvino, to_openvino
from autocompress.graph import inspect_model
from autocompress.latency import compile_model
from autocompress.measure import float_layers, layer_precisions
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.space import uniform_recipe
from autocompress.task import call, flatten


def quantized(model: nn.Module, x: Any, recipe: LayerRecipe | Recipe, batches: Any = None) -> CompressedModel:
    """A copy of `model`, all layers alike if `recipe` is of a layer, set up from `batches` (`x` if there are none)."""
    graph = inspect_model(model, x, with_groups=False)
    if isinstance(recipe, LayerRecipe):
        recipe = uniform_recipe(graph, recipe)
    compressed = compress(model, graph, recipe, x)
    calibrate(compressed.module, batches or [(x, None)])
    return compressed


@dataclass(frozen=True)
class Deployed:
    """A compressed model and its deployed form."""

    compressed: CompressedModel
    model: openvino.Model
    compiled: openvino.CompiledModel

    @property
    def precisions(self) -> dict[str, str]:
        """Precision by name of layer."""
        return layer_precisions(self.compiled, self.compressed.recipe.layers)

    @property
    def float_layers(self) -> tuple[str, ...]:
        """Layers that should have run on integers but did not."""
        return float_layers(self.precisions, self.compressed.recipe.layers)

    def outputs(self, x: Any) -> list[Tensor]:
        """Outputs of the deployed model."""
        results = self.compiled([tensor.numpy() for tensor in flatten(x)])
        return [torch.from_numpy(results[port].copy()) for port in self.compiled.outputs]

    def expected(self, x: Any) -> list[Tensor]:
        """Outputs of the torch model."""
        with torch.no_grad():
            return flatten(call(self.compressed.module, x))

    def errors(self, x: Any) -> list[float]:
        """Largest difference of each output from torch, relative to its largest value."""
        pairs = zip(self.outputs(x), self.expected(x), strict=True)
        return [float((actual - wanted).abs().max() / wanted.abs().max()) for actual, wanted in pairs]

    def bin_bytes(self, folder: Path) -> int:
        """Size of the `.bin` file, which is written to `folder`."""
        return save_openvino(self.model, folder).with_suffix(".bin").stat().st_size


def deployed(compressed: CompressedModel, *, dynamic_batch: bool = False) -> Deployed:
    """`compressed` as an OpenVINO model, compiled for one thread."""
    with compressed.export_form() as module:
        model = to_openvino(module, compressed.example_input, dynamic_batch=dynamic_batch)
    return Deployed(compressed, model, compile_model(model, 1))


def off_ties(x: Tensor, quantizer: InputQuantizer) -> Tensor:
    """`x` moved to within 0.3 steps of the grid, so that one float rounding more or less cannot change its index.

    Every 11th value is far above the range and every 13th far below.
    """
    scale, zero = (float(value) for value in quantizer.step_and_zero())
    low, high = -zero, 2**quantizer.bits - 1 - zero
    noise = 0.6 * torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) - 0.3
    indices = ((x / scale).round().clamp(low, high) + noise).flatten()
    indices[::11], indices[::13] = high + 40.0, low - 40.0
    return scale * indices.reshape(x.shape)


def constants(model: openvino.Model, at_least: int = 64) -> dict[str, list[int]]:
    """Type and shape of the constants of at least so many values; `i8`, `u4`, ... by how often."""
    found: dict[str, list[int]] = {}
    for op in model.get_ops():
        if op.get_type_name() == "Constant" and np.prod(op.get_output_shape(0)) >= at_least:
            found.setdefault(op.get_element_type().to_string(), []).append(int(np.prod(op.get_output_shape(0))))
    return found


def weights_of(model: openvino.Model, kinds: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Weights of the operations of these kinds, as OpenVINO itself computes them, by name of the operation."""
    layers = [op for op in model.get_ordered_ops() if op.get_type_name() in kinds]
    layers = [op for op in layers if not _depends_on_input(op.input_value(1).get_node())]
    folded = compile_model(openvino.Model([op.input_value(1) for op in layers], []), 1)([])
    return {op.get_friendly_name(): folded[index] for index, op in enumerate(layers)}


def _depends_on_input(op: openvino.Node) -> bool:
    return op.get_type_name() == "Parameter" or any(_depends_on_input(v.get_node()) for v in op.input_values())
