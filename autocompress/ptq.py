"""Quantization without training, in one call."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from autocompress.compress import CompressedModel, calibrate, compress
from autocompress.graph import inspect_model
from autocompress.measure import default_weight_bits
from autocompress.recipe import Calibration, LayerRecipe
from autocompress.space import uniform_recipe
from autocompress.task import Batch


def quantize(
    model: nn.Module,
    example_input: Any,
    batches: Iterable[Batch],
    *,
    weight_bits: int | None = None,
    activation_bits: int = 8,
    ignored: Iterable[str] = (),
    calibration: Calibration | None = None,
    n_batches: int | None = None,
) -> CompressedModel:
    """A quantized copy of `model`, set up from data, without training and without labels.

    Args:
        model: The FP32 module; never changed.
        example_input: Inputs of one inference.
        batches: Batches of (inputs, targets); the targets are not used. About 300 samples are enough.
        weight_bits: 2..8; by default 8, or 7 where products of 8-bit weights saturate on this CPU.
        activation_bits: 2..8, or 32 for float inputs, which makes files smaller and rarely anything faster.
        ignored: Layers that stay float: names, globs, ``re:REGEX`` or ``type:Linear``; a container's name stands for
            all that is in it.
        calibration: How; by default below 8 bits with GPTQ rounding, and always with bias correction.
        n_batches: How many batches are read; all by default.

    Returns:
        The model; `export_form` and `autocompress.deploy.to_openvino` make it an OpenVINO model.

    Raises:
        AutocompressError: The model does not run on the example input, a pattern matches nothing, there is no data, or
            a layer's input is not finite.
    """
    graph = inspect_model(model, example_input, with_groups=False)
    layer = LayerRecipe(weight_bits=weight_bits or default_weight_bits(), activation_bits=activation_bits)
    default = Calibration(rounding="gptq" if layer.weight_bits < 7 else "nearest", bias_correction=True)
    recipe = uniform_recipe(graph, layer, ignored, calibration or default)
    compressed = compress(model, graph, recipe, example_input)
    calibrate(compressed.module, batches, recipe.calibration, n_batches)
    return compressed
