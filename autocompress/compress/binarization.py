"""Binarization of 2-d convolutions: weights of two values a filter, inputs of two values (NNCF paper, section 4.2)."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from autocompress.compress.quantization import EXPORT_STEPS, Exportable
from autocompress.errors import CompressionError

BinarizationKind = Literal["xnor", "dorefa"]

CHANNELS_IN_A_BYTE = 8  # OpenVINO's binary kernel reads the input channels of a pixel as whole bytes
LARGEST_SIDE_PADDING = 2  # columns of padding that the kernel takes on every x86 processor
LARGEST_KERNEL_WIDTH = 7
_SMALLEST, _LARGEST = 1e-30, 1e30  # scales between them, and their inverses, are normal float32 numbers


def xnor_scale(weight: Tensor) -> Tensor:
    """Scale of each filter, the mean of its absolute weights (Rastegari et al. 2016, XNOR-Net, equation 6).

    The NNCF paper says "per-input channel", but its code averages over axes 1, 2, 3 and so has one scale an output
    filter, as XNOR-Net does. Only such a scale can leave the sum over the inputs, which a binary kernel needs.

    Args:
        weight: Shape (filters, ...).

    Returns:
        Scales >= 0 without a gradient, shape (filters, 1, ...).

    >>> xnor_scale(torch.tensor([[1.0, -3.0], [0.5, 0.0]])).tolist()
    [[2.0], [0.25]]
    """
    return weight.detach().abs().mean(dim=tuple(range(1, weight.dim())), keepdim=True)


def dorefa_scale(weight: Tensor) -> Tensor:
    """One scale for all filters, the mean of all absolute weights (Zhou et al. 2016, DoReFa-Net, equation 7).

    Args:
        weight: Shape (filters, ...).

    Returns:
        The same scale >= 0 for each filter, without a gradient, shape (filters, 1, ...).

    >>> dorefa_scale(torch.tensor([[1.0, -3.0], [0.5, 0.0]])).tolist()
    [[1.125], [1.125]]
    """
    return weight.detach().abs().mean().expand(len(weight), *[1] * (weight.dim() - 1))


SCALES: dict[str, Callable[[Tensor], Tensor]] = {"xnor": xnor_scale, "dorefa": dorefa_scale}


def binarize_xnor(weight: Tensor) -> Tensor:
    """``sign(weight) * xnor_scale(weight)`` with sign(0) = -1, as in NNCF's code.

    The gradient to `weight` is 1 everywhere, as in equation 7 of DoReFa-Net and in NNCF's code. XNOR-Net clips it
    where ``|weight| > 1``, which the weights of a trained network hardly ever are.

    Args:
        weight: Shape (filters, ...).

    Returns:
        Tensor of the shape of `weight` with two values a filter.

    >>> binarize_xnor(torch.tensor([[1.0, -3.0], [0.5, 0.0]])).tolist()
    [[2.0, -2.0], [0.25, -0.25]]
    """
    return _binarize(weight, xnor_scale(weight))


def binarize_dorefa(weight: Tensor) -> Tensor:
    """``sign(weight) * dorefa_scale(weight)`` with sign(0) = -1; gradient 1 everywhere, as in `binarize_xnor`.

    Args:
        weight: Shape (filters, ...).

    Returns:
        Tensor of the shape of `weight` with two values in all.

    >>> binarize_dorefa(torch.tensor([[1.0, -3.0], [0.5, 0.0]])).tolist()
    [[1.125, -1.125], [1.125, -1.125]]
    """
    return _binarize(weight, dorefa_scale(weight))


def _binarize(weight: Tensor, scale: Tensor) -> Tensor:
    return torch.where(weight > 0, scale, -scale) + (weight - weight.detach())


def binarize_activation(x: Tensor, scale: Tensor, threshold: Tensor) -> Tensor:
    """``scale * H(x - scale * threshold)`` with H(0) = 0 (NNCF paper, equation 5).

    For the gradients the step H(x / s - t) is given the slope 1 in the window ``|x / s - t| <= 1/2`` and 0 elsewhere,
    and the chain rule does the rest::

        d/dx = w        d/ds = H - w * x / s        d/dt = -s * w        with w = 1 in the window, else 0

    At t = 1/2 the window is [0, s], and the gradients to `x` and `s` are those of NNCF's code; its gradient to the
    threshold lacks the factor s, and its window does not follow the threshold.

    Args:
        x: Input of the layer, shape (batch, channels, height, width), or without the batch.
        scale: s > 0, shape ().
        threshold: t in units of s, shape (channels, 1, 1).

    Returns:
        Tensor of the shape of `x` of the values 0 and `scale`.

    >>> binarize_activation(torch.tensor([-1.0, 1.0, 1.1]), torch.tensor(2.0), torch.tensor(0.5)).tolist()
    [0.0, 0.0, 2.0]
    """
    hard = (x > scale * threshold).to(x.dtype).detach()
    soft = (x / scale - threshold + 0.5).clamp(0.0, 1.0)
    return scale * (hard + (soft - soft.detach()))


class WeightBinarizer(Exportable):
    """Binarization of a weight, as a parametrization of it.

    Args:
        kind: "xnor", one scale a filter, or "dorefa", one scale a layer.

    Attributes:
        binarizes: What a training schedule switches by it.
        enabled: Whether it binarizes; otherwise the weight passes through unchanged.

    Raises:
        CompressionError: There is no such kind.
    """

    binarizes = "weights"

    def __init__(self, kind: BinarizationKind) -> None:
        super().__init__()
        if kind not in SCALES:
            raise CompressionError(f"binarization must be one of {', '.join(SCALES)}, but got {kind!r}")
        self.kind = kind
        self.enabled = True

    def forward(self, weight: Tensor) -> Tensor:
        """`weight` with two values a filter, same shape."""
        if not self.enabled:
            return weight
        scale = self.scale(weight)
        return _export_weight(weight, scale) if self.exporting else _binarize(weight, scale)

    def scale(self, weight: Tensor) -> Tensor:
        """Magnitude of each binarized filter >= 0, shape (filters, 1, ...)."""
        return SCALES[self.kind](weight)


def _export_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """The same values as a fake quantization with the indices -1 and 1, which converters store as integers."""
    binary = torch.where(weight > 0, 1.0, -1.0) * scale
    steps = scale.flatten().clamp(min=_SMALLEST).contiguous()
    zeros = torch.zeros_like(steps, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(binary, steps, zeros, 0, -1, 1)


class ActivationBinarizer(Exportable):
    """Binarization of a layer's input, scale and thresholds learned; before calibration the input passes through.

    The scale is learned as its logarithm, so that it stays positive.

    Args:
        n_channels: Channels of the input.

    Attributes:
        binarizes: What a training schedule switches by it.
        enabled: Whether it binarizes; otherwise the input passes through unchanged.
        log_scale: Logarithm of s, shape ().
        threshold: t of each channel in units of s, shape (channels, 1, 1).
    """

    binarizes = "activations"
    ready: Tensor

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.enabled = True
        self._constants: tuple[float, Tensor] | None = None
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.threshold = nn.Parameter(torch.full((n_channels, 1, 1), 0.5))

    def set_range(self, low: float | Tensor, high: float | Tensor) -> None:
        """Start with the width of [low, high], widened to hold 0, as scale and its middle as every threshold.

        So the window of the gradient is the whole range. After a ReLU the scale is `high` and t = 1/2, where NNCF's
        code starts, too (with `high` the 99.9th percentile); an input that is constantly zero gets the scale 1.

        Args:
            low: Lower end of the input, one value.
            high: Upper end.

        Raises:
            CompressionError: An end is NaN or infinite.
        """
        low, high = float(low), float(high)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise CompressionError(f"an input range must be finite, but got [{low}, {high}]")
        low, high = max(min(low, 0.0), -_LARGEST), min(max(high, 0.0), _LARGEST)
        if high - low < _SMALLEST:
            low, high = 0.0, 1.0
        with torch.no_grad():
            self.log_scale.fill_(math.log(high - low))
            self.threshold.fill_((low + high) / 2 / (high - low))
            self.ready.fill_(True)

    @property
    def calibrated(self) -> bool:
        """Whether a range was set."""
        return bool(self.ready)

    def start_export(self) -> None:
        """Switch to the export form; an uncalibrated or disabled binarizer passes its input through there too."""
        super().start_export()
        scale = self.log_scale.detach().exp()
        constants = float(scale), (scale * self.threshold.detach())
        self._constants = constants if self.calibrated and self.enabled else None

    def forward(self, x: Tensor) -> Tensor:
        """`x` with the values 0 and s, same shape."""
        if self.exporting:
            return self._export(x)
        if not self.enabled or not self.calibrated:
            return x
        return binarize_activation(x, self.log_scale.exp(), self.threshold)

    def _export(self, x: Tensor) -> Tensor:
        """Comparison and product; the fake quantization changes no value and keeps the layer in integer kernels."""
        if self._constants is None:
            return x
        scale, thresholds = self._constants
        binary = (x > thresholds).to(x.dtype) * scale
        return torch.fake_quantize_per_tensor_affine(binary, scale, 0, 0, EXPORT_STEPS)


def why_not_binary(layer: nn.Module) -> str:
    """Why OpenVINO has no binary kernel for `layer`; empty when it has one.

    The limits are those of the processor plugin's binary convolution, so that whatever is binarized is also faster.

    >>> why_not_binary(nn.Conv2d(64, 10, 3, padding=1))
    ''
    >>> why_not_binary(nn.Linear(8, 8))
    'Linear is not a Conv2d'
    """
    if not isinstance(layer, nn.Conv2d):
        return f"{type(layer).__name__} is not a Conv2d"
    if layer.groups != 1:
        return f"it has {layer.groups} groups, and a binary convolution has one"
    if layer.padding_mode != "zeros":
        return f"it pads with mode {layer.padding_mode!r}, and a binary convolution with zeros"
    return _why_no_kernel(layer)


def _why_no_kernel(layer: nn.Conv2d) -> str:
    if layer.in_channels % CHANNELS_IN_A_BYTE:
        return f"it has {layer.in_channels} input channels, and the binary kernel needs a multiple of 8"
    if layer.kernel_size[1] > LARGEST_KERNEL_WIDTH:
        return f"its kernel is {layer.kernel_size[1]} wide, and the binary kernel takes up to {LARGEST_KERNEL_WIDTH}"
    side_padding = max(layer._reversed_padding_repeated_twice[:2])
    if side_padding > LARGEST_SIDE_PADDING:
        return f"it pads {side_padding} columns, and the binary kernel takes up to {LARGEST_SIDE_PADDING}"
    return ""
