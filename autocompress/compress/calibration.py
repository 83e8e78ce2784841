"""Setting up a compressed model from data, without labels: smoothing, ranges, rounding, biases."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.compress.attaching import (
    attached_weight,
    has_own_weight,
    input_readers,
    original_weight,
    parameter_uses,
    quantized_weights,
    run_with,
    weight_before,
)
from autocompress.compress.bias_correction import correct_biases
from autocompress.compress.hessian import InputHessian
from autocompress.compress.quantization import Exportable, InputQuantizer
from autocompress.compress.ranges import RangeEstimator, range_estimator
from autocompress.compress.rounding import round_layer
from autocompress.compress.smoothing import smooth
from autocompress.compress.weight_quantization import WeightQuantizer
from autocompress.errors import CompressionError
from autocompress.recipe import INTEGER_BITS, Calibration
from autocompress.task import Batch, call, split_batch

N_BATCHES = 4
_GAINS_LITTLE = 7  # bits from which on rounding otherwise than to nearest changes little


def calibrate(
    model: nn.Module, batches: Iterable[Batch], settings: Calibration | None = None, n_batches: int | None = N_BATCHES
) -> None:
    """Set up every quantizer in `model` from the first batches of data.

    The order is: smoothing, steps of the weights, ranges of the inputs, rounding, biases; what the settings don't ask
    for is left out. Statistics stream, so that no activations are stored.

    Args:
        model: Module with quantizers attached; in evaluation mode afterwards.
        batches: Batches of (inputs, targets); the targets are not used.
        settings: How; by default as a recipe without a calibration says.
        n_batches: How many batches are read; None means all.

    Raises:
        CompressionError: There is no batch, or a layer's input is not finite; the layer is named.
    """
    settings = settings or Calibration()
    inputs = [split_batch(batch, "train")[0] for batch in itertools.islice(batches, n_batches)]
    if not inputs:
        raise CompressionError("calibration needs at least one batch of training data, but got none")

    def run() -> None:
        model.eval()
        with torch.no_grad():
            for batch in inputs:
                call(model, batch)

    if settings.smoothing:
        with switched_off(model, WeightQuantizer, InputQuantizer):
            smooth(model, settings.smoothing, run)
        for _, layer, quantizer in quantized_weights(model):
            quantizer.set_from(weight_before(layer))
    _set_input_ranges(model, run, settings.input_ranges)
    if settings.rounding == "gptq":
        _round(model, run)
    if settings.bias_correction:
        _correct_biases(model, run)


@contextmanager
def switched_off(model: nn.Module, *kinds: type[Exportable]) -> Iterator[None]:
    """Quantizers of these kinds change nothing inside the block."""
    quantizers = [m for m in model.modules() if isinstance(m, kinds) and m.enabled]
    for quantizer in quantizers:
        quantizer.enabled = False
    try:
        yield
    finally:
        for quantizer in quantizers:
            quantizer.enabled = True


def _set_input_ranges(model: nn.Module, run: Callable[[], None], name: str) -> None:
    """Ranges of the inputs as they are without input quantization, so that errors don't shift the next layer's."""
    estimators: dict[Any, RangeEstimator] = {}
    handles = []
    for quantizer, readers in input_readers(model).items():
        estimators[quantizer] = _estimator(quantizer, name)
        handles.append(quantizer.register_forward_hook(_observer(estimators[quantizer], readers[0][0])))
    with switched_off(model, *{type(quantizer) for quantizer in estimators}):
        run_with(handles, run)
    for quantizer, estimator in estimators.items():
        if estimator.n_batches:
            low, high = estimator.ends()
            quantizer.set_range(*(_reshaped(end, quantizer) for end in (low, high)))


def _estimator(quantizer: Exportable, name: str) -> RangeEstimator:
    if not isinstance(quantizer, InputQuantizer):
        return range_estimator(name, INTEGER_BITS[0])
    n_axes = quantizer.initial_low.dim()
    return range_estimator(name, quantizer.bits, -n_axes if n_axes else None)


def _reshaped(end: Tensor, quantizer: Exportable) -> Tensor:
    return end.reshape(quantizer.initial_low.shape) if isinstance(quantizer, InputQuantizer) else end


def _observer(estimator: RangeEstimator, name: str) -> Any:
    def hook(_quantizer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        with naming(name):
            estimator.update(output.detach())

    return hook


@contextmanager
def naming(layer: str) -> Iterator[None]:
    """Put the name of the layer in front of errors."""
    try:
        yield
    except CompressionError as error:
        raise CompressionError(f"layer {layer!r}: {error}") from None


def _round(model: nn.Module, run: Callable[[], None]) -> None:
    """Round the weights of below 7 bits with the second moments of their inputs in the float model.

    A weight that several layers use is left to nearest rounding: not all of them may be quantized.
    """
    n_uses = parameter_uses(model)
    hessians: dict[nn.Module, InputHessian] = {}
    names: dict[nn.Module, str] = {}
    handles = []
    for name, layer, quantizer in quantized_weights(model):
        if quantizer.bits < _GAINS_LITTLE and InputHessian.supports(layer) and has_own_weight(layer, n_uses):
            hessians[layer], names[layer] = InputHessian(layer), name
            handles.append(layer.register_forward_pre_hook(_accumulator(hessians[layer], name)))
    if not hessians:
        return
    with switched_off(model, WeightQuantizer, InputQuantizer):
        run_with(handles, run)
    for layer, hessian in hessians.items():
        with naming(names[layer]):
            _round_one(layer, hessian)


def _accumulator(hessian: InputHessian, name: str) -> Any:
    def hook(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        with naming(name):
            hessian.update(inputs[0])

    return hook


def _round_one(layer: nn.Module, hessian: InputHessian) -> None:
    """Put the weight of `layer` on its grid; a layer that was not called keeps its weight."""
    quantizer, weight = attached_weight(layer), original_weight(layer)
    if not hessian.n_vectors or not isinstance(quantizer, WeightQuantizer) or weight is None:
        return
    scale, zero, low, high = quantizer.grid()
    scales, zeros = (t.expand(quantizer.layout.rows(weight).shape).reshape(weight.shape) for t in (scale, zero))
    indices = round_layer(layer, weight.detach(), hessian.hessian(), scales, zeros, low, high)
    with torch.no_grad():
        weight.copy_(scales * (indices - zeros))


def _correct_biases(model: nn.Module, run: Callable[[], None]) -> None:
    def run_float() -> None:
        with switched_off(model, WeightQuantizer, InputQuantizer):
            run()

    correct_biases(model, run_float, run)
