"""Quantizers of layer inputs, and what they share with those of weights: a training form and an export form."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.compress.grids import (
    Kept,
    activation_limits,
    fake_quantize_learned,
    n_steps,
    step_and_zero,
    steps_and_zeros,
    tune_ends,
    tune_range,
)
from autocompress.errors import CompressionError

EXPORT_STEPS = 255  # OpenVINO keeps integer kernels for inputs of 256 levels (facts: openvino-cpu.md, trap 2)
_ExportConstants = tuple[Tensor, Tensor, tuple[Tensor, Tensor]] | tuple[float, int, tuple[float, float]]
_SMALLEST_WIDTH, _LARGEST = 1e-30, 1e30  # steps of such ranges, and their inverses, are normal float32 numbers


class Exportable(nn.Module):
    """A quantizer that can switch to its export form, made of `torch.fake_quantize_*` operations on constants.

    Attributes:
        enabled: Whether it changes anything; off while ranges are estimated.
        kept: What it gave last, as indices, if that is possible and there will be a backward pass.
    """

    exporting = False
    enabled = True

    def __init__(self) -> None:
        super().__init__()
        self.kept: Kept = []

    def start_export(self) -> None:
        """Switch to the export form, with steps and ranges as they are now."""
        self.exporting = True

    def end_export(self) -> None:
        """Switch back to the training form."""
        self.exporting = False


class LearnedRange(Exportable):
    """Ranges [initial_low * exp(log_low), initial_high * exp(log_high)], learned as logarithms.

    The initial ends come from data, so a range without negative values keeps its lower end at 0, and one learning rate
    suits every layer.

    Args:
        bits: 2..8.
        shape: Of each end; () is one range for all.
        symmetric: Whether the lower end follows the upper one.
        gradient_scale: Factor on the gradients of the ends.
    """

    initial_low: Tensor
    initial_high: Tensor

    def __init__(
        self, bits: int, shape: tuple[int, ...] = (), *, symmetric: bool = False, gradient_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.bits = bits
        self.symmetric = symmetric
        self.gradient_scale = gradient_scale
        self._calibrated: bool | None = None  # None while nobody has looked since the range was set
        self.register_buffer("initial_low", torch.zeros(shape))
        self.register_buffer("initial_high", torch.zeros(shape))
        self.log_high = nn.Parameter(torch.zeros(shape))
        # one parameter under two names is what torch.jit.trace, and so OpenVINO's converter, refuses
        self.log_low = None if symmetric else nn.Parameter(torch.zeros(shape))

    def set_range(self, low: float | Tensor, high: float | Tensor) -> None:
        """Take [low, high], widened to hold 0, as the range.

        A range that is zero, or nearly, becomes [0, 1]; ends beyond what a float32 step can span are cut. A symmetric
        one is widened to its grid, which is signed if `low` is below 0.

        Raises:
            CompressionError: An end is NaN or infinite.
        """
        low, high = (torch.as_tensor(end, dtype=torch.float32).reshape(self.initial_low.shape) for end in (low, high))
        if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
            raise CompressionError(f"an input range must be finite, but got [{low.tolist()}, {high.tolist()}]")
        low, high = low.clamp(-_LARGEST, 0.0), high.clamp(0.0, _LARGEST)
        if self.symmetric:
            low, high = _symmetric(low, high, self.bits)
        degenerate = high - low < _SMALLEST_WIDTH
        self.initial_low.copy_(low.masked_fill(degenerate, 0.0))
        self.initial_high.copy_(high.masked_fill(degenerate, 1.0))
        self._calibrated = None
        with torch.no_grad():
            for log_end in self._log_ends():
                log_end.zero_()

    @property
    def calibrated(self) -> bool:
        """Whether a range was set; looked up once, since to read a tensor waits for a GPU."""
        if self._calibrated is None:
            self._calibrated = bool((self.initial_high > self.initial_low).all())
        return self._calibrated

    def _load_from_state_dict(self, *arguments: Any, **named: Any) -> None:
        super()._load_from_state_dict(*arguments, **named)
        self._calibrated = None

    @property
    def signed(self) -> bool:
        """Whether the range has values below 0."""
        return bool((self.initial_low < 0).any())

    def learned_range(self) -> tuple[Tensor, Tensor]:
        """Ends of the range, of its shape; 0.0 need not be on the grid."""
        log_low, log_high = self._log_ends()
        low, high = self.initial_low * log_low.exp(), self.initial_high * log_high.exp()
        if self.gradient_scale != 1.0:
            low, high = (scale_gradient(end, self.gradient_scale) for end in (low, high))
        return low, high

    def tuned_range(self) -> tuple[Tensor, Tensor]:
        """Ends of the range with 0.0 exactly on the grid, of the shape of the range."""
        return tune_range(*self.learned_range(), self.bits)

    def _log_ends(self) -> tuple[Tensor, Tensor]:
        return self.log_high if self.log_low is None else self.log_low, self.log_high


class InputQuantizer(LearnedRange):
    """Fake quantization of a layer's input, its range learned. Before calibration the input passes through unchanged.

    Args:
        bits: 2..8.
        shape: Of each end, to be broadcast to the input from its last axis; () is one range for the tensor.
        symmetric: Whether the grid is symmetric: signed, or unsigned where calibration saw nothing below 0.
        smoothed_shape: Shape of the divisors of the input's channels, in the same way; None means no smoothing.
        gradient_scale: Factor on the gradients of the ends.
    """

    smoothing: Tensor | None

    def __init__(
        self,
        bits: int,
        shape: tuple[int, ...] = (),
        *,
        symmetric: bool = False,
        smoothed_shape: tuple[int, ...] | None = None,
        gradient_scale: float = 1.0,
    ) -> None:
        super().__init__(bits, shape, symmetric=symmetric, gradient_scale=gradient_scale)
        self._constants: _ExportConstants | None = None
        self.register_buffer("smoothing", None if smoothed_shape is None else torch.ones(smoothed_shape))

    def start_export(self) -> None:
        """Switch to the export form; an uncalibrated quantizer passes its input through there too."""
        super().start_export()
        self._constants = self._export_constants() if self.calibrated else None

    def _export_constants(self) -> _ExportConstants:
        """Numbers where there is one range, since exporters don't take numbers from tensors while they trace."""
        scale, zero = self.step_and_zero()
        ends = (-zero * scale, (n_steps(self.bits) - zero) * scale)
        # a signed grid stays symmetric, since transposed convolutions have no integer kernels for other inputs
        exported = torch.where(zero > 0, EXPORT_STEPS // 2 + 1, zero) if self.symmetric else zero
        if scale.dim():
            return scale, exported, ends
        return float(scale), int(exported), (float(ends[0]), float(ends[1]))

    def step_and_zero(self) -> tuple[Tensor, Tensor]:
        """Steps of the grid and the indices of 0.0 on it, of the shape of the range."""
        low, high = (end.detach() for end in self.learned_range())
        if low.dim() == 0:
            tuned_low, tuned_high, _ = tune_ends(float(low), float(high), self.bits)
            scale, zero = step_and_zero(tuned_low, tuned_high, n_steps(self.bits))
            return torch.tensor(scale), torch.tensor(float(zero))
        return steps_and_zeros(*tune_range(low, high, self.bits), n_steps(self.bits))

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid, same shape; divided by the smoothing first, where there is one."""
        if self.smoothing is not None:
            x = x * self.smoothing.reciprocal()
        if self.exporting:
            return self._export(x)
        if not self.enabled or not self.calibrated:
            return x
        if x.dtype in (torch.float16, torch.bfloat16):  # of mixed precision, too coarse for a grid of 8 bits
            x = x.float()
        low, high = (_with_axes(end, x) for end in self.learned_range())
        return fake_quantize_learned(x, low, high, self.bits)

    def _export(self, x: Tensor) -> Tensor:
        if self._constants is None:
            return x
        scale, zero, ends = self._constants
        if self.bits < 8:  # the same step, more levels than are used: numerically equal, and stays in integer kernels
            x = x.clamp(*ends)
        if isinstance(scale, float):
            return torch.fake_quantize_per_tensor_affine(x, scale, int(zero), 0, EXPORT_STEPS)
        axis, zeros = x.dim() - scale.dim(), zero.flatten().to(torch.int32)  # type: ignore[union-attr]
        return torch.fake_quantize_per_channel_affine(x, scale.flatten(), zeros, axis, 0, EXPORT_STEPS)


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """`x` itself, with its gradient multiplied by `factor` (Esser et al. 2020, LSQ, section 2.2)."""
    return x.detach() + (x - x.detach()) * factor


def lsq_gradient_scale(n_values: int, bits: int) -> float:
    """LSQ's factor on the gradient of a step that `n_values` values share: ``1 / sqrt(n_values * q_max)``.

    Esser et al. 2020, section 2.2. It matters for plain SGD; Adam divides it out.

    >>> round(lsq_gradient_scale(100, 3), 6)
    0.057735
    """
    return 1 / math.sqrt(max(1, n_values) * (2 ** (bits - 1) - 1))


def _symmetric(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """The smallest symmetric range of `bits` bits that holds [low, high]; unsigned where nothing is below 0."""
    lowest, highest = activation_limits(bits, signed=True)
    signed = low < 0
    scale = torch.maximum(-low / -lowest, high / highest)
    return torch.where(signed, scale * lowest, low), torch.where(signed, scale * highest, high)


def _with_axes(end: Tensor, x: Tensor) -> Tensor:
    """`end` with as many axes as `x`, unless it is a scalar."""
    return end.reshape((1,) * (x.dim() - end.dim()) + end.shape) if end.dim() else end
