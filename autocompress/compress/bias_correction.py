"""Bias correction: the mean error that quantization makes in each output channel is taken from the bias."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from autocompress.compress.attaching import quantized_weights, run_with, weight_of


def correct_biases(module: nn.Module, run_float: Callable[[], None], run_quantized: Callable[[], None]) -> None:
    """Add to the bias of each quantized layer the mean difference of its float and its quantized output.

    Empirical bias correction (Nagel et al. 2019, section 4.2, appendix D): layers are corrected in the order in which
    they run, so that each sees inputs that are corrected already. Means are compared call by call: what batches differ
    in is no error, and would shift the inputs of the layers behind.

    Args:
        module: Module with calibrated quantizers; biases are changed.
        run_float: Runs it on the calibration data with its quantizers off.
        run_quantized: The same with its quantizers on.
    """
    layers = [layer for _, layer, _ in quantized_weights(module) if getattr(layer, "bias", None) is not None]
    wanted: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}
    _watch(layers, run_float, lambda layer, output: wanted[layer].append(channel_means(layer, output)))
    corrections = {layer: _Mean() for layer in layers}

    def correct(layer: nn.Module, output: Tensor) -> Tensor:
        correction = corrections[layer]
        if correction.n < len(wanted[layer]):  # quantization may change how often a model calls a layer
            correction.update(wanted[layer][correction.n] - channel_means(layer, output))
        return output + _along_channels(layer, output, correction.value)

    _watch(layers, run_quantized, correct)
    with torch.no_grad():
        for layer, correction in corrections.items():
            if correction.n and isinstance(layer.bias, nn.Parameter):  # not one that a mask stands before
                layer.bias.add_(correction.value)


class _Mean:
    """Mean of what it is given."""

    def __init__(self) -> None:
        self.n = 0
        self.value = torch.zeros(())

    def update(self, value: Tensor) -> None:
        self.n += 1
        self.value = self.value + (value - self.value) / self.n


def channel_means(layer: nn.Module, output: Tensor) -> Tensor:
    """Mean of each output channel of `layer`, shape (output channels,)."""
    axis = _channel_axis(layer, output)
    return output.detach().movedim(axis, 0).flatten(1).mean(dim=1)


def _channel_axis(layer: nn.Module, output: Tensor) -> int:
    """Axis of the channels: the last of a Linear layer, of a convolution the one before its spatial axes."""
    if isinstance(layer, nn.Linear):
        return output.dim() - 1
    return output.dim() - weight_of(layer).dim() + 1


def _along_channels(layer: nn.Module, output: Tensor, values: Tensor) -> Tensor:
    shape = [1] * output.dim()
    shape[_channel_axis(layer, output)] = -1
    return values.reshape(shape)


def _watch(
    layers: list[nn.Module], run: Callable[[], None], on_output: Callable[[nn.Module, Tensor], Tensor | None]
) -> None:
    """Run with `on_output` called after each layer; what it returns, if anything, is the layer's output."""

    def hook(layer: nn.Module, _inputs: object, output: Tensor) -> Tensor | None:
        return on_output(layer, output)

    run_with([layer.register_forward_hook(hook) for layer in layers], run)
