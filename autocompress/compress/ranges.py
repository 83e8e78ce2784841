"""Ranges of values from a stream of batches, by running statistics; no values are stored."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from autocompress.compress.grids import n_steps, tune_range
from autocompress.compress.histogram import StreamingHistogram, sampling_step
from autocompress.errors import CompressionError

OUTLIERS = 1e-4  # fraction of values that may lie outside at either end
RANGE_ESTIMATORS: tuple[str, ...] = ("mean_percentile", "min_max", "mean_min_max", "percentile", "mse")
_N_SAMPLED = 65536  # values a batch and channel that `mean_percentile` takes its quantiles from
_SEARCH_ROUNDS = ((17, 0.5), (9, 1 / 16), (9, 1 / 64), (9, 1 / 256))  # points a side, half-width in shrink factors
_SMALLEST_FACTOR = 1 / 1024
_N_MIDPOINTS_AT_ONCE = 2**20  # bounds the memory of the search
_LARGEST = torch.finfo(torch.float32).max

Ends = tuple[Tensor, Tensor]


class RangeEstimator(ABC):
    """The low and high end of a range, from batches of data: any number of `update`, then `ends`.

    Args:
        channel_axis: Axis that has one range an index; None for one range for all values.
    """

    def __init__(self, channel_axis: int | None = None) -> None:
        self.channel_axis = channel_axis
        self.n_batches = 0
        self._n_channels = 0

    def update(self, x: Tensor) -> None:
        """Take one batch into account; an empty tensor is ignored.

        Args:
            x: Any shape; the number of channels is the same in every batch. Values are taken as float32.

        Raises:
            CompressionError: A value is NaN or infinite, or the channel axis doesn't fit.
        """
        if x.numel() == 0:
            return
        rows = self._rows(x.detach())
        low, high = rows.amin(dim=1), rows.amax(dim=1)  # they pass NaN on; `aminmax` with a dim is 40 times slower
        if not (low.isfinite() & high.isfinite()).all():
            raise CompressionError("its input has values that are NaN or infinite in the calibration data")
        self.n_batches += 1
        self._observe(rows, low.double(), high.double())

    def ends(self) -> Ends:
        """Low and high end, float32, low <= high; shape () for one range, (channels,) with a channel axis.

        Raises:
            CompressionError: No data came.
        """
        if self.n_batches == 0:
            raise CompressionError("a range needs at least one batch with values, but got none; calibrate with data")
        low, high = (end.clamp(-_LARGEST, _LARGEST).float() for end in self._ends())
        return (low[0], high[0]) if self.channel_axis is None else (low, high)

    def _rows(self, x: Tensor) -> Tensor:
        """`x` as float32, shape (channels, n)."""
        if self.channel_axis is None:
            return x.float().reshape(1, -1)
        if not -x.dim() <= self.channel_axis < x.dim():
            raise CompressionError(
                f"the channel axis of a range must be an axis of the input, but got {self.channel_axis} for an input "
                f"of shape {tuple(x.shape)}; choose one in {-x.dim()}..{x.dim() - 1}"
            )
        rows = x.float().movedim(self.channel_axis, 0).reshape(x.shape[self.channel_axis], -1)
        if self.n_batches and rows.shape[0] != self._n_channels:
            raise CompressionError(
                f"every batch must have {self._n_channels} channels on axis {self.channel_axis}, as the first one had, "
                f"but got {rows.shape[0]}; choose an axis of fixed length"
            )
        self._n_channels = rows.shape[0]
        return rows

    @abstractmethod
    def _observe(self, rows: Tensor, low: Tensor, high: Tensor) -> None:
        """Take finite `rows` (channels, n) with their exact extremes (channels,) into account."""

    @abstractmethod
    def _ends(self) -> Ends:
        """Low and high, shape (channels,), float64."""


class _MinMax(RangeEstimator):
    """Smallest and largest value of all batches."""

    _low: Tensor
    _high: Tensor

    def _observe(self, rows: Tensor, low: Tensor, high: Tensor) -> None:
        if self.n_batches > 1:
            low, high = torch.minimum(low, self._low), torch.maximum(high, self._high)
        self._low, self._high = low, high

    def _ends(self) -> Ends:
        return self._low, self._high


class _MeanOfBatches(RangeEstimator):
    """Mean over batches of the ends of each batch.

    Args:
        batch_ends: Ends of one batch from its rows (channels, n) and its extremes (channels,).
        channel_axis: As in the base class.
    """

    def __init__(self, batch_ends: Callable[[Tensor, Tensor, Tensor], Ends], channel_axis: int | None) -> None:
        super().__init__(channel_axis)
        self._batch_ends = batch_ends

    def _observe(self, rows: Tensor, low: Tensor, high: Tensor) -> None:
        low, high = self._batch_ends(rows, low, high)
        if self.n_batches == 1:
            self._low, self._high = torch.zeros_like(low), torch.zeros_like(high)
        self._low += (low - self._low) / self.n_batches
        self._high += (high - self._high) / self.n_batches

    def _ends(self) -> Ends:
        return self._low, self._high


class _OfHistogram(RangeEstimator):
    """Ends that are found in a histogram of all values.

    Args:
        find_ends: Ends, shape (channels,), from a histogram that isn't empty.
        channel_axis: As in the base class.
    """

    def __init__(self, find_ends: Callable[[StreamingHistogram], Ends], channel_axis: int | None) -> None:
        super().__init__(channel_axis)
        self._find_ends = find_ends

    def _observe(self, rows: Tensor, low: Tensor, high: Tensor) -> None:
        if self.n_batches == 1:
            self._histogram = StreamingHistogram(rows.shape[0], device=rows.device)
        self._histogram.update(rows)

    def _ends(self) -> Ends:
        return self._find_ends(self._histogram)


def range_estimator(name: str, bits: int, channel_axis: int | None = None) -> RangeEstimator:
    """A new estimator of the range of values.

    ================  ================================================================================================
    name              ends
    ================  ================================================================================================
    mean_percentile   mean over batches of each batch's k-th smallest and largest value, k = 0.01 % of at most 65,536
                      evenly spaced values
    min_max           smallest and largest value
    mean_min_max      mean over batches of each batch's smallest and largest value
    percentile        k-th smallest and largest of all values, k = 0.01 % of them, up to one bin of a histogram
    mse               those of the grid of `bits` bits with the least squared error; they hold 0
    ================  ================================================================================================

    Args:
        name: One of `RANGE_ESTIMATORS`.
        bits: Bits of the asymmetric grid, 2..8; only `mse` depends on it.
        channel_axis: Axis that has one range an index; None for one range for all values.

    Raises:
        CompressionError: There is no estimator of that name.

    >>> estimator = range_estimator("min_max", bits=8)
    >>> estimator.update(torch.tensor([-1.0, 0.5]))
    >>> estimator.update(torch.tensor([0.0, 2.0]))
    >>> [float(end) for end in estimator.ends()]
    [-1.0, 2.0]
    """
    match name:
        case "mean_percentile":
            return _MeanOfBatches(_trimmed, channel_axis)
        case "min_max":
            return _MinMax(channel_axis)
        case "mean_min_max":
            return _MeanOfBatches(_extremes, channel_axis)
        case "percentile":
            return _OfHistogram(lambda histogram: histogram.tails(OUTLIERS), channel_axis)
        case "mse":
            return _OfHistogram(lambda histogram: mse_ends(histogram, bits), channel_axis)
    raise CompressionError(f"a range estimator must be one of {', '.join(RANGE_ESTIMATORS)}, but got {name!r}")


def _extremes(_rows: Tensor, low: Tensor, high: Tensor) -> Ends:
    return low, high


def _trimmed(rows: Tensor, _low: Tensor, _high: Tensor) -> Ends:
    sample = rows[:, :: sampling_step(rows.shape[1], _N_SAMPLED)]
    k = max(1, int(OUTLIERS * sample.shape[1]))
    low, high = sample.topk(k, largest=False).values[:, -1], sample.topk(k).values[:, -1]
    return low.double(), high.double()


def mse_ends(histogram: StreamingHistogram, bits: int) -> Ends:
    """Ends of the asymmetric grid with the least squared quantization error over a histogram.

    The extremes, widened to hold 0, are shrunk separately by factors in (0, 1], coarse to fine: 17 x 17 pairs, then
    three times 9 x 9 pairs around the best one, down to 1/1024. Each pair is tuned so that 0.0 is on the grid (NNCF
    paper, section 4.1) and judged as the grid that the quantizer will use. Clipping for the least squared error:
    Banner et al. 2019 (ACIQ), section 3, there for given distributions.

    Args:
        histogram: Of all values, not empty.
        bits: 2..8.

    Returns:
        Low <= 0 and high >= 0, shape (channels,), float64; an end of 0 stays 0, and 0.0 is on the grid between them.
    """
    steps, ends = n_steps(bits), []
    n_at_once = max(1, _N_MIDPOINTS_AT_ONCE // (_SEARCH_ROUNDS[0][0] ** 2 * steps))
    for first in range(0, histogram.counts.shape[0], n_at_once):
        mass = _IntegratedMass(histogram, slice(first, first + n_at_once))
        step, zero = _search(mass, bits)
        ends.append(((0 - zero) * step * mass.width, (steps - zero) * step * mass.width))  # never -0.0
    low, high = zip(*ends, strict=True)
    return torch.cat(low), torch.cat(high)


class _IntegratedMass:
    """`J(b) = mean of max(0, b - x)` over a histogram with the mass spread evenly in each bin, in units of bins."""

    def __init__(self, histogram: StreamingHistogram, channels: slice) -> None:
        counts = histogram.counts[channels].double()
        mass = counts / counts.sum(dim=1, keepdim=True)
        nothing = torch.zeros_like(mass[:, :1])
        self.mass = torch.cat([mass, nothing], dim=1)
        self.before = torch.cat([nothing, mass.cumsum(dim=1)], dim=1)
        self.integral = torch.cat([nothing, (self.before[:, :-1] + mass / 2).cumsum(dim=1)], dim=1)
        self.width, self.first = histogram.width[channels], histogram.first[channels].double()
        self.low = histogram.low[channels].clamp(max=0) / self.width
        self.high = histogram.high[channels].clamp(min=0) / self.width
        self.middles = self.first[:, None] + torch.arange(mass.shape[1], device=mass.device) + 0.5

    def __call__(self, b: Tensor) -> Tensor:
        """J at `b`, shape (channels, n)."""
        offset = b - self.first[:, None]
        index = offset.floor().clamp_(0, self.mass.shape[1] - 1).long()
        part = (offset - index).clamp_(min=0)
        slope = self.before.gather(1, index)
        return self.integral.gather(1, index) + part * (slope + part / 2 * self.mass.gather(1, index))

    def squares_around(self, center: Tensor) -> Tensor:
        """Mean of `(x - center)^2`; `center` and the result of shape (channels, n)."""
        mass, middles = self.mass[:, :-1], self.middles
        mean = (mass * middles).sum(dim=1, keepdim=True)
        variance = (mass * (middles - mean).square()).sum(dim=1, keepdim=True) + 1 / 12
        return variance + (mean - center).square()


def _search(mass: _IntegratedMass, bits: int) -> Ends:
    """Step, in bins, and index of 0 of the best grid, shape (channels,)."""
    n_channels = mass.low.shape[0]
    factors = mass.low.new_full((n_channels, 2), 0.5)
    best = mass.low.new_full((n_channels, 3), torch.inf)  # error, step, index of 0
    for n_points, radius in _SEARCH_ROUNDS:
        offsets = torch.linspace(radius, -radius, n_points, dtype=best.dtype, device=best.device)
        pairs = torch.cartesian_prod(offsets, offsets)
        tried = (factors[:, None] + pairs).clamp_(_SMALLEST_FACTOR, 1.0)  # (channels, pairs, 2)
        step, zero = _grid(mass.low[:, None] * tried[..., 0], mass.high[:, None] * tried[..., 1], bits)
        found = torch.stack([_squared_error(mass, step, zero, n_steps(bits)), step, zero], dim=-1)
        at = found[..., 0].argmin(dim=1)
        rows = torch.arange(n_channels, device=at.device)
        better = found[rows, at, :1] < best[:, :1]
        best = torch.where(better, found[rows, at], best)
        factors = torch.where(better, tried[rows, at], factors)
    return best[:, 1], best[:, 2]


def _grid(low: Tensor, high: Tensor, bits: int) -> Ends:
    """Step and index of 0 of the grid that the quantizer uses for a range, any shape; 0 and 0 for an empty range."""
    low, high = tune_range(low, high, bits)
    step = (high - low) / n_steps(bits)
    return step, (-low / step).round().nan_to_num()


def _squared_error(mass: _IntegratedMass, step: Tensor, zero: Tensor, steps: int) -> Tensor:
    """Mean squared error of rounding to the grids, clipping included, in squared bins.

    With levels `g_k = (k - zero) * step` and the midpoints `b_k` between them, summation by parts of the errors to the
    nearest level gives `mean((x - g_last)^2) - 2 * step * sum_k J(b_k)`, exact for mass spread evenly in each bin.

    Args:
        mass: Of some channels.
        step: Steps of the grids, shape (channels, grids).
        zero: Indices of 0, same shape.
        steps: Steps a grid.

    Returns:
        Errors, shape (channels, grids).
    """
    levels = torch.arange(steps, dtype=step.dtype, device=step.device) + 0.5
    midpoints = (levels - zero[..., None]) * step[..., None]
    gains = mass(midpoints.flatten(1)).reshape(midpoints.shape).sum(dim=-1)
    return mass.squares_around((steps - zero) * step) - 2 * step * gains
