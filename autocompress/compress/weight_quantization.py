"""Quantizers of weights, as parametrizations of them: symmetric or asymmetric; for a tensor, channels or groups."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autocompress.compress.grids import (
    fake_quantize_asymmetric,
    fake_quantize_symmetric,
    n_steps,
    steps_and_zeros,
    tune_range,
    weight_limit,
)
from autocompress.compress.quantization import Exportable, LearnedRange, lsq_gradient_scale, scale_gradient
from autocompress.errors import CompressionError
from autocompress.recipe import LayerRecipe

_SHRINK_FACTORS = torch.linspace(1.0, 0.3, 29)
_SAMPLED_FROM = 7  # bits
_SAMPLED = 509  # columns of a slice; a prime, so that positions of a kernel are met alike
_SAMPLED_IN_ALL = 2**17  # weights, where there are few slices
_N_LARGEST = 16
_SMALLEST = 1e-8  # the largest weight of a slice counts as at least this, so that its step is above 0


@dataclass(frozen=True)
class WeightLayout:
    """Which weights share a step.

    Args:
        channel_axis: Axis of the output channels; None means one step for the whole weight.
        group_size: Columns of a row that share a step; 0 means all.
    """

    channel_axis: int | None
    group_size: int = 0

    def rows(self, weight: Tensor) -> Tensor:
        """`weight` with a row for each group, shape (rows * groups, group_size); without groups as it is."""
        return weight.reshape(-1, self.group_size) if self.group_size else weight

    def slices(self, rows: Tensor) -> Tensor:
        """Weights that share a step in one row each, shape (steps, weights)."""
        if self.channel_axis is None:
            return rows.reshape(1, -1)
        return rows.movedim(self.channel_axis, 0).flatten(1)

    def broadcast(self, values: Tensor, rows: Tensor) -> Tensor:
        """`values`, one a slice, in the shape that broadcasts to `rows`."""
        if self.channel_axis is None:
            return values.reshape(())
        shape = [1] * rows.dim()
        shape[self.channel_axis] = -1
        return values.reshape(shape)


@dataclass(frozen=True)
class IntegerWeight:
    """A quantized weight as integers: ``weight = scale * (indices - zero)``.

    Args:
        indices: int16, the shape of the weight.
        scale: Steps > 0, one a slice.
        zero: Grid indices of 0.0, one a slice; int16.
        bits: 1..8.
        layout: Which weights share a step.
    """

    indices: Tensor
    scale: Tensor
    zero: Tensor
    bits: int
    layout: WeightLayout


class WeightQuantizer(Exportable):
    """What both grids of weights share.

    Args:
        bits: 2..8.
        layout: Which weights share a step.
        ranges: How steps are found: `mse` or `min_max`.
    """

    bits: int
    layout: WeightLayout
    ranges: str
    _grid: tuple[Tensor, Tensor, int, int] | None = None
    _rows: Tensor | None = None

    @abstractmethod
    def set_from(self, weight: Tensor) -> None:
        """Choose steps (and zero points) for `weight`."""

    @abstractmethod
    def grid(self) -> tuple[Tensor, Tensor, int, int]:
        """Steps and zero points that broadcast to `layout.rows(weight)`, lowest and highest index; no gradient."""

    @abstractmethod
    def fake_quantize(self, rows: Tensor) -> Tensor:
        """Training form for weights in the shape of `layout.rows`."""

    def forward(self, weight: Tensor) -> Tensor:
        """`weight` on the grid, same shape."""
        if not self.enabled:
            return weight
        rows = self.layout.rows(weight)
        quantized = self._export(rows) if self.exporting else self.fake_quantize(rows)
        return quantized.reshape(weight.shape) if self.layout.group_size else quantized

    def start_export(self) -> None:
        """Switch to the export form; the grid is computed here, since converters don't fold what a trace sees."""
        super().start_export()
        self._grid = self.grid()

    def hold(self, weight: Tensor) -> None:
        """Export `weight`, rounded here, whatever the layer has: others round ties between two indices otherwise."""
        self._rows = self.fake_quantize(self.layout.rows(weight)).detach()

    def end_export(self) -> None:
        """Switch back to the training form."""
        super().end_export()
        self._grid = self._rows = None

    def _export(self, rows: Tensor) -> Tensor:
        scale, zero, low, high = self._grid or self.grid()
        rows = rows if self._rows is None else self._rows
        if self.layout.channel_axis is None:
            return torch.fake_quantize_per_tensor_affine(rows, float(scale), int(zero), low, high)
        zeros = zero.flatten().to(torch.int32)
        return torch.fake_quantize_per_channel_affine(rows, scale.flatten(), zeros, self.layout.channel_axis, low, high)

    def integers(self, weight: Tensor) -> IntegerWeight:
        """Integer form of `weight`, which need not be on the grid yet."""
        scale, zero, low, high = self.grid()
        rows = self.layout.rows(weight.detach())
        indices = (torch.round(rows * scale.reciprocal()) + zero).clamp(low, high)
        return IntegerWeight(
            indices.reshape(weight.shape).to(torch.int16),
            scale.flatten(),
            zero.flatten().to(torch.int16),
            self.bits,
            self.layout,
        )


class SymmetricWeights(WeightQuantizer):
    """Symmetric fake quantization of a weight.

    The step is learned as its logarithm (Jain et al. 2019, TQT, section 3), so that one learning rate suits every layer
    and it stays positive.

    Args:
        weight: The weight; gives the initial step.
        bits: 2..8.
        layout: Which weights share a step.
        ranges: `mse` or `min_max`.
        lsq: Whether the gradient of the step is scaled as LSQ scales it.
    """

    def __init__(self, weight: Tensor, bits: int, layout: WeightLayout, ranges: str = "mse", lsq: bool = False) -> None:
        super().__init__()
        self.bits, self.layout, self.ranges = bits, layout, ranges
        rows = layout.rows(weight.detach())
        slices = layout.slices(rows)
        self.gradient_scale = lsq_gradient_scale(slices.shape[1], bits) if lsq else 1.0
        self.log_scale = nn.Parameter(layout.broadcast(torch.zeros(len(slices)), rows).clone())
        self.set_from(weight)

    def set_from(self, weight: Tensor) -> None:
        """Take the step that suits `weight`."""
        rows = self.layout.rows(weight.detach())
        scale = symmetric_scale(self.layout.slices(rows), self.bits, self.ranges)
        with torch.no_grad():
            self.log_scale.copy_(self.layout.broadcast(scale.log(), rows))

    def fake_quantize(self, rows: Tensor) -> Tensor:
        """Weights on the grid, in the shape of `layout.rows`."""
        limit = weight_limit(self.bits)
        scale = self.log_scale.exp()
        if self.gradient_scale != 1.0:
            scale = scale_gradient(scale, self.gradient_scale)
        self.kept.clear()
        return fake_quantize_symmetric(rows, scale, -limit, limit, self.kept)

    def grid(self) -> tuple[Tensor, Tensor, int, int]:
        """Steps, zeros, lowest and highest index."""
        scale = self.log_scale.detach().exp()
        limit = weight_limit(self.bits)
        return scale, torch.zeros_like(scale), -limit, limit


class AsymmetricWeights(LearnedRange, WeightQuantizer):
    """Asymmetric fake quantization of a weight over learned ranges (NNCF paper, equation 3).

    Args:
        weight: The weight; gives the initial ranges.
        bits: 2..8.
        layout: Which weights share a range.
        ranges: `mse` or `min_max`.
        lsq: Whether the gradients of the ends are scaled as LSQ scales that of a step.
    """

    def __init__(self, weight: Tensor, bits: int, layout: WeightLayout, ranges: str = "mse", lsq: bool = False) -> None:
        rows = layout.rows(weight.detach())
        slices = layout.slices(rows)
        shape = tuple(layout.broadcast(torch.zeros(len(slices)), rows).shape)
        gradient_scale = lsq_gradient_scale(slices.shape[1], bits) if lsq else 1.0
        super().__init__(bits, shape, gradient_scale=gradient_scale)
        self.layout, self.ranges = layout, ranges
        self.set_from(weight)

    def set_from(self, weight: Tensor) -> None:
        """Take the ranges that suit `weight`."""
        rows = self.layout.rows(weight.detach())
        ends = asymmetric_ends(self.layout.slices(rows), self.bits, self.ranges)
        self.set_range(*(self.layout.broadcast(end, rows) for end in ends))

    def fake_quantize(self, rows: Tensor) -> Tensor:
        """Weights on the grid, in the shape of `layout.rows`."""
        return fake_quantize_asymmetric(rows, *self.tuned_range(), self.bits)

    def grid(self) -> tuple[Tensor, Tensor, int, int]:
        """Steps, zero points, lowest and highest index."""
        steps = n_steps(self.bits)
        low, high = (end.detach() for end in self.tuned_range())
        scale, zero = steps_and_zeros(low, high, steps)
        return scale, zero, 0, steps


def weight_quantizer(
    weight: Tensor, recipe: LayerRecipe, channel_axis: int, ranges: str = "mse", lsq: bool = False
) -> WeightQuantizer:
    """The quantizer that `recipe` asks for.

    Args:
        weight: The weight; gives the initial steps.
        recipe: Of its layer; `weight_bits` in 2..8.
        channel_axis: Axis of the output channels.
        ranges: `mse` or `min_max`.
        lsq: Whether gradients of steps and ranges are scaled as LSQ scales them.

    Raises:
        CompressionError: Groups don't fill the rows of the weight, or it has NaN or infinite values.
    """
    if not torch.isfinite(weight).all():
        raise CompressionError("its weights have values that are NaN or infinite; train the model again")
    if recipe.group_size and (weight.dim() != 2 or weight.shape[1] % recipe.group_size):
        raise CompressionError(
            f"group_size must divide the inputs of a Linear layer, but got {recipe.group_size} for a weight of "
            f"shape {tuple(weight.shape)}"
        )
    axis = None if recipe.weight_granularity == "per_tensor" else channel_axis
    layout = WeightLayout(0 if recipe.group_size else axis, recipe.group_size)
    kind = SymmetricWeights if recipe.weight_scheme == "symmetric" else AsymmetricWeights
    return kind(weight, recipe.weight_bits, layout, ranges, lsq)


def symmetric_scale(slices: Tensor, bits: int, ranges: str = "mse") -> Tensor:
    """Step of the symmetric grid of each slice.

    `mse` tries shrinking the largest magnitude to 30 % in 29 steps and takes the least squared error; below 8 bits a
    clipped range is often better than `min_max`. From 7 bits on the error of long slices is that of a sample.

    Args:
        slices: Shape (slices, weights).
        bits: 2..8.
        ranges: `mse` or `min_max`.

    Returns:
        Steps > 0, shape (slices,).
    """
    slices = slices.float()
    limit = weight_limit(bits)
    largest = slices.abs().amax(dim=1, keepdim=True).clamp(min=_SMALLEST)
    tried, share = _sample(slices, bits)

    def error(factor: Tensor) -> Tensor:
        rounded = fake_quantize_symmetric(tried, largest * factor / limit, -limit, limit)
        return (rounded - tried).square() @ share

    return (largest / limit).squeeze(1) * _best_factor(error, len(slices), ranges)


def asymmetric_ends(slices: Tensor, bits: int, ranges: str = "mse") -> tuple[Tensor, Tensor]:
    """Ends of the asymmetric grid of each slice; `mse` shrinks both ends by one factor, as `symmetric_scale` does.

    Args:
        slices: Shape (slices, weights).
        bits: 2..8.
        ranges: `mse` or `min_max`.

    Returns:
        Lower and upper ends, shape (slices,), around 0.
    """
    slices = slices.float()
    low = slices.amin(dim=1, keepdim=True).clamp(max=0.0)
    high = torch.maximum(slices.amax(dim=1, keepdim=True).clamp(min=0.0), low + _SMALLEST)

    tried, share = _sample(slices, bits)

    def error(factor: Tensor) -> Tensor:
        tuned = tune_range(low * factor, high * factor, bits)
        return (fake_quantize_asymmetric(tried, *tuned, bits) - tried).square() @ share

    factor = _best_factor(error, len(slices), ranges)
    return low.squeeze(1) * factor, high.squeeze(1) * factor


def _sample(slices: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """What the error of a range is computed on, and how many weights each column stands for.

    Long slices at 7 and 8 bits, where the choice is not critical, are represented by evenly spread columns and by
    their largest magnitudes, since clipping an outlier would cost more than all the rest.

    Returns:
        Shapes (slices, columns) and (columns,).
    """
    n_slices, n = slices.shape
    n_columns = max(_SAMPLED, _SAMPLED_IN_ALL // n_slices)
    if bits < _SAMPLED_FROM or n <= 2 * n_columns:
        return slices, torch.ones(n)
    spread = slices[:, torch.arange(n_columns) * n // n_columns]
    largest = slices.gather(1, slices.abs().topk(_N_LARGEST, dim=1).indices)
    share = torch.cat([torch.full((n_columns,), n / n_columns), torch.ones(_N_LARGEST)])
    return torch.cat([spread, largest], dim=1), share


def _best_factor(error: Callable[[Tensor], Tensor], n_slices: int, ranges: str) -> Tensor:
    """The factor on the widest range with the least error, for each slice."""
    best = torch.ones(n_slices)
    if ranges == "min_max":
        return best
    least = torch.full((n_slices,), torch.inf)
    for factor in _SHRINK_FACTORS:
        errors = error(factor)
        best, least = torch.where(errors < least, factor, best), torch.minimum(errors, least)
    return best
