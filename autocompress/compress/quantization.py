"""Quantizers of weights and of layer inputs, each with a training form and an export form of the same meaning."""

import math

import torch
from torch import Tensor, nn

from autocompress.compress.grids import (
    fake_quantize_asymmetric,
    fake_quantize_symmetric,
    n_steps,
    step_and_zero,
    tune_range,
    weight_limit,
)
from autocompress.errors import CompressionError

EXPORT_STEPS = 255  # OpenVINO keeps integer kernels for inputs of 256 levels (facts: openvino-cpu.md, trap 2)
_SMALLEST_WIDTH, _LARGEST = 1e-30, 1e30  # steps of such ranges, and their inverses, are normal float32 numbers
_SHRINK_FACTORS = torch.linspace(1.0, 0.3, 29)


class Exportable(nn.Module):
    """A quantizer that can switch to its export form, made of `torch.fake_quantize_*` operations on constants."""

    exporting = False

    def start_export(self) -> None:
        """Switch to the export form, with steps and ranges as they are now."""
        self.exporting = True

    def end_export(self) -> None:
        """Switch back to the training form."""
        self.exporting = False


class WeightQuantizer(Exportable):
    """Symmetric per-channel fake quantization of a weight, as a parametrization of it.

    The step is learned as its logarithm (Jain et al. 2019, TQT, section 3), so that one learning rate suits every layer
    and it stays positive.

    Args:
        weight: The weight, output channels first, shape (channels, ...); gives the initial step.
        bits: 2..8.
    """

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.log_scale = nn.Parameter(mse_scale(weight.detach(), bits).log())

    def forward(self, weight: Tensor) -> Tensor:
        """`weight` on the grid, same shape."""
        if not self.exporting:
            return fake_quantize_symmetric(weight, self.log_scale.exp(), self.bits)
        scale = self.log_scale.detach().exp().flatten()
        zeros = torch.zeros_like(scale, dtype=torch.int32)
        limit = weight_limit(self.bits)
        return torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -limit, limit)


class InputQuantizer(Exportable):
    """Asymmetric per-tensor fake quantization of a layer's input, its range learned.

    The range is [initial_low * exp(log_low), initial_high * exp(log_high)] with the initial ends from calibration, so
    an input without negative values keeps its lower end at 0. Before calibration the input passes through unchanged.

    Args:
        bits: 2..8.
    """

    initial_low: Tensor
    initial_high: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.enabled = True
        self._constants: tuple[float, int] | None = None
        self.register_buffer("initial_low", torch.zeros(()))
        self.register_buffer("initial_high", torch.zeros(()))
        self.log_low = nn.Parameter(torch.zeros(()))
        self.log_high = nn.Parameter(torch.zeros(()))

    def set_range(self, low: float, high: float) -> None:
        """Take [low, high], widened to hold 0, as the range.

        An input that is constantly zero, or nearly, gets [0, 1]; ends beyond what a float32 step can span are cut.

        Raises:
            CompressionError: An end is NaN or infinite.
        """
        if not (math.isfinite(low) and math.isfinite(high)):
            raise CompressionError(f"an input range must be finite, but got [{low}, {high}]")
        low, high = max(min(low, 0.0), -_LARGEST), min(max(high, 0.0), _LARGEST)
        if high - low < _SMALLEST_WIDTH:
            low, high = 0.0, 1.0
        self.initial_low.fill_(low)
        self.initial_high.fill_(high)

    @property
    def calibrated(self) -> bool:
        """Whether a range was set."""
        return bool(self.initial_high > self.initial_low)

    def tuned_range(self) -> tuple[Tensor, Tensor]:
        """Ends of the range with 0.0 exactly on the grid, shape ()."""
        low, high = self.initial_low * self.log_low.exp(), self.initial_high * self.log_high.exp()
        return tune_range(low, high, self.bits)

    def start_export(self) -> None:
        """Switch to the export form; an uncalibrated quantizer passes its input through there too."""
        super().start_export()
        low, high = (float(end.detach()) for end in self.tuned_range())
        self._constants = step_and_zero(low, high, n_steps(self.bits)) if self.calibrated else None

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid, same shape."""
        if self.exporting:
            return self._export(x)
        if not self.enabled or not self.calibrated:
            return x
        low, high = self.tuned_range()
        return fake_quantize_asymmetric(x, low, high, self.bits)

    def _export(self, x: Tensor) -> Tensor:
        if self._constants is None:
            return x
        scale, zero = self._constants
        if self.bits < 8:  # the same step, more levels than are used: numerically equal, and stays in integer kernels
            x = x.clamp(-zero * scale, (n_steps(self.bits) - zero) * scale)
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, EXPORT_STEPS)


def mse_scale(weight: Tensor, bits: int) -> Tensor:
    """Step of the symmetric grid with the least squared error, a channel at a time.

    Tries shrinking the maximum to 30 % in 29 steps; below 8 bits a clipped range is often better than min-max.

    Args:
        weight: Shape (channels, ...).
        bits: 2..8.

    Returns:
        Steps > 0, shape (channels, 1, ...).
    """
    flat = weight.flatten(1).float()
    limit = weight_limit(bits)
    largest = flat.abs().amax(dim=1, keepdim=True).clamp(min=1e-8)
    best_scale, best_error = largest / limit, torch.full_like(largest, torch.inf)
    for factor in _SHRINK_FACTORS:
        scale = largest * factor / limit
        error = (fake_quantize_symmetric(flat, scale, bits) - flat).square().sum(dim=1, keepdim=True)
        better = error < best_error
        best_scale, best_error = torch.where(better, scale, best_scale), torch.where(better, error, best_error)
    return best_scale.reshape(-1, *[1] * (weight.dim() - 1))
