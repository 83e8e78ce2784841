"""Smoothing: the spread between the channels of an input moves into the weights that read it (SmoothQuant).

``(x / s) (s W) = x W`` for any s > 0 a channel (Xiao et al. 2023, equation 3). The division is part of the input
quantizer, so that nothing in front of the layer has to be changed: it suits convolution chains and LayerNorm followed
by Linear layers alike, and OpenVINO fuses it into the quantization. For a depthwise convolution the exponent 1 gives
every channel a range of its own, as cross-layer equalization does (Nagel et al. 2019, section 4.1).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.compress.attaching import (
    has_own_weight,
    input_readers,
    original_weight,
    parameter_uses,
    run_with,
    weight_of,
)
from autocompress.compress.quantization import InputQuantizer

_SMALLEST, _LARGEST = 1e-4, 1e4  # smoothing beyond this would leave float32 little to compute with


def smooth(module: nn.Module, strength: float, run: Callable[[], None]) -> None:
    """Move spread between channels from inputs to weights, for each input quantizer of `module` that can.

    Left alone is an input whose readers share a weight with another layer, which reads another input.

    Args:
        module: Module with quantizers attached; its weights are changed, what it computes in float is not.
        strength: The exponent alpha of equation 4, in (0, 1].
        run: Runs `module` on the calibration data.
    """
    n_uses = parameter_uses(module)
    readers = {
        quantizer: [layer for _, layer in layers]
        for quantizer, layers in input_readers(module).items()
        if isinstance(quantizer, InputQuantizer) and quantizer.smoothing is not None
    }
    usable = {q: layers for q, layers in readers.items() if all(has_own_weight(layer, n_uses) for layer in layers)}
    largest = _largest_inputs(list(usable), run)
    for quantizer, layers in usable.items():
        if quantizer in largest:
            weights = torch.stack([input_channel_maxima(layer) for layer in layers]).amax(dim=0)
            scale = smoothing_scale(largest[quantizer], weights, strength)
            previous: Tensor = quantizer.smoothing  # type: ignore[assignment]
            previous.mul_(scale.reshape(previous.shape))
            for layer in layers:
                scale_input_channels(layer, scale)


def smoothing_scale(inputs: Tensor, weights: Tensor, strength: float) -> Tensor:
    """``s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)`` (Xiao et al. 2023, equation 4).

    Args:
        inputs: Largest magnitude of each input channel, shape (channels,).
        weights: Largest magnitude of the weights that read it, shape (channels,).
        strength: alpha in (0, 1].

    Returns:
        Divisors of the input > 0, shape (channels,); 1 for a channel whose inputs or weights are all 0.
    """
    scale = inputs.pow(strength) / weights.pow(1 - strength)
    idle = (inputs == 0) | (weights == 0) | ~torch.isfinite(scale)
    return scale.clamp(_SMALLEST, _LARGEST).masked_fill(idle, 1.0)


def scale_input_channels(layer: nn.Module, factors: Tensor) -> None:
    """Multiply the weights of `layer` that read input channel j by `factors[j]`, in place.

    Args:
        layer: A Linear layer, convolution or transposed convolution, with or without a quantizer.
        factors: Shape (input channels,).
    """
    weight = _own_weight(layer)
    with torch.no_grad():
        weight.mul_(_for_weight(layer, weight, factors))


def input_channel_maxima(layer: nn.Module) -> Tensor:
    """Largest magnitude of the weights of `layer` that read each input channel, shape (input channels,)."""
    weight = _own_weight(layer).detach().abs()
    if _is_transposed(layer):
        return weight.flatten(1).amax(dim=1)
    n_groups = getattr(layer, "groups", 1)
    spatial = weight.reshape(*weight.shape[:2], -1).amax(dim=2)
    return spatial.reshape(n_groups, -1, spatial.shape[1]).amax(dim=1).flatten()


def _for_weight(layer: nn.Module, weight: Tensor, factors: Tensor) -> Tensor:
    """`factors` in the shape that broadcasts to `weight`."""
    spatial = [1] * (weight.dim() - 2)
    if _is_transposed(layer):
        return factors.reshape(-1, 1, *spatial)
    n_groups = getattr(layer, "groups", 1)
    by_group = factors.reshape(n_groups, -1).repeat_interleave(len(weight) // n_groups, dim=0)
    return by_group.reshape(*by_group.shape, *spatial)


def _largest_inputs(quantizers: list[InputQuantizer], run: Callable[[], None]) -> dict[InputQuantizer, Tensor]:
    found: dict[InputQuantizer, Tensor] = {}

    def watch(quantizer: Any, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        x, smoothing = inputs[0].detach().abs(), quantizer.smoothing
        largest = x.movedim(x.dim() - smoothing.dim(), 0).flatten(1).amax(dim=1) / smoothing.flatten()
        found[quantizer] = torch.maximum(found[quantizer], largest) if quantizer in found else largest

    run_with([quantizer.register_forward_hook(watch) for quantizer in quantizers], run)
    return found


def _own_weight(layer: nn.Module) -> Tensor:
    original = original_weight(layer) if hasattr(layer, "parametrizations") else None
    return weight_of(layer) if original is None else original


def _is_transposed(layer: nn.Module) -> bool:
    return isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
