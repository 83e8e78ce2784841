"""Quantization without training, in one call."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from autocompress.compress import CompressedModel, calibrate, compress
from autocompress.errors import RecipeError
from autocompress.graph import inspect_model
from autocompress.measure import default_weight_bits
from autocompress.recipe import FLOAT_BITS, INTEGER_BITS, Calibration, LayerRecipe
from autocompress.space import uniform_recipe
from autocompress.task import Batch, flatten, split_batch

_NARROW = 4  # bits up to which the steps that a symmetric grid wastes cost accuracy
_EXACT = 7  # bits from which on rounding to nearest is good enough


def quantize(
    model: nn.Module,
    example_input: Any,
    batches: Iterable[Batch],
    *,
    weight_bits: int | None = None,
    activation_bits: int = 8,
    ignored: Iterable[str] = (),
    calibration: Calibration | None = None,
    n_samples: int = 300,
) -> CompressedModel:
    """A quantized copy of `model`, set up from data, without training and without labels.

    Args:
        model: The FP32 module; never changed.
        example_input: Inputs of one inference.
        batches: Batches of (inputs, targets); the targets are not used.
        weight_bits: 2..8; by default 8, or 7 where products of 8-bit weights saturate on this CPU. The grid is
            asymmetric up to 4 bits with integer inputs, since it uses every step, else symmetric.
        activation_bits: 2..8, or 32 for float inputs, which makes files smaller and rarely anything faster.
        ignored: Layers that stay float: names, globs, ``re:REGEX`` or ``type:Linear``; a container's name stands for
            all that is in it.
        calibration: How; by default as `default_calibration` says.
        n_samples: Batches are read until there are as many samples.

    Returns:
        The model; `export_form` and `autocompress.deploy.to_openvino` make it an OpenVINO model.

    Raises:
        AutocompressError: Bits are none of those, the model does not run on the example input, a pattern matches
            nothing, there is no data, or a layer's input is not finite.
    """
    weight_bits = default_weight_bits() if weight_bits is None else weight_bits
    _check("weight_bits", weight_bits, INTEGER_BITS)
    _check("activation_bits", activation_bits, (*INTEGER_BITS, FLOAT_BITS))
    graph = inspect_model(model, example_input, with_groups=False)
    is_asymmetric = weight_bits <= _NARROW and activation_bits != FLOAT_BITS
    layer = LayerRecipe(
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        weight_scheme="asymmetric" if is_asymmetric else "symmetric",
    )
    recipe = uniform_recipe(graph, layer, ignored, calibration or default_calibration(model, layer.weight_bits))
    compressed = compress(model, graph, recipe, example_input)
    calibrate(compressed.module, _until(batches, n_samples), recipe.calibration, n_batches=None)
    return compressed


def _until(batches: Iterable[Batch], n_samples: int) -> Iterator[Batch]:
    """The first of `batches`, until they hold `n_samples` samples."""
    n = 0
    for batch in batches:
        yield batch
        n += len(flatten(split_batch(batch, "train")[0])[0])
        if n >= n_samples:
            break


def _check(name: str, bits: int, allowed: tuple[int, ...]) -> None:
    if bits not in allowed:
        or_float = " or 32 (float)" if FLOAT_BITS in allowed else ""
        raise RecipeError(f"{name} must be one of 2..8{or_float}, but got {bits}; recipes have more options")


def default_calibration(model: nn.Module, weight_bits: int) -> Calibration:
    """What `quantize` does without being told (measured: reports/benchmarks/quantization.md).

    Below 7 bits weights are rounded with GPTQ, and biases are corrected. In a model with layer norms, whose outputs
    have outliers, inputs are smoothed instead of correcting biases; not below 7 bits, where weights have no step to
    spare.

    >>> default_calibration(nn.Linear(2, 2), 4) == Calibration(rounding="gptq", bias_correction=True)
    True
    """
    has_layer_norm = any(isinstance(module, nn.LayerNorm) for module in model.modules())
    is_narrow = weight_bits < _EXACT
    return Calibration(
        rounding="gptq" if is_narrow else "nearest",
        bias_correction=is_narrow and not has_layer_norm,
        smoothing=0.5 if has_layer_norm and not is_narrow else 0.0,
    )
