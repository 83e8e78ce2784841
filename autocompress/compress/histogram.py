"""A histogram of a stream of values: constant memory, no values stored, the same for every order of the batches."""

import math

import torch
from torch import Tensor

_SMALLEST_EXPONENT = -126  # of the bin width: the smallest whose inverse is a float32
_EXACT_BITS = 24  # of a float32 mantissa: bin indices below 2^24 are exact in float32
_N_COUNTED = 2**21  # values a batch that are counted; of a larger batch every k-th, with weight k


class StreamingHistogram:
    """Counts of values in equal bins whose width doubles when new data don't fit, a channel at a time.

    A bin is [i * width, (i + 1) * width) with `width` a power of two, so 0 is always an edge and two bins of one width
    make exactly one bin of the next. The width is the smallest with which `n_bins` bins hold all values seen, so the
    counts depend on the values only, not on their order nor on how they are split into batches, as long as
    a batch has at most 2,097,152 values. Of a larger batch every k-th value is counted k times.

    Values are taken as float32. The width is at least 2^-126, and more than 2^-24 of the largest magnitude. A negative
    value that is smaller than 2^-149 widths counts as 0.

    Attributes:
        counts: Values a bin, shape (channels, bins), int64.
        low: Exact smallest value, shape (channels,), float64; infinite before the first update.
        high: Exact largest value, likewise; minus infinite before the first update.
        first: Index of the first bin on the grid of the bins, shape (channels,), int64: it starts at `first * width`.
    """

    def __init__(self, n_channels: int = 1, n_bins: int = 2048, device: torch.device | None = None) -> None:
        self.counts = torch.zeros(n_channels, n_bins, dtype=torch.int64, device=device)
        self.low = torch.full((n_channels,), torch.inf, dtype=torch.float64, device=device)
        self.high = -self.low
        self.first = torch.zeros(n_channels, dtype=torch.int64, device=device)
        self._exponent = torch.full_like(self.first, _SMALLEST_EXPONENT)

    @property
    def width(self) -> Tensor:
        """Width of a bin, a power of two, shape (channels,), float64."""
        return _power_of_two(self._exponent)

    def update(self, rows: Tensor) -> None:
        """Count the values of one batch.

        Args:
            rows: Finite values, shape (channels, n) with n >= 1.
        """
        rows = rows.float()
        low, high = rows.amin(dim=1), rows.amax(dim=1)
        self._grow(torch.minimum(self.low, low.double()), torch.maximum(self.high, high.double()))
        step = sampling_step(rows.shape[1], max(1, _N_COUNTED // rows.shape[0]))
        self.counts += step * self._count(rows[:, ::step])

    def tails(self, share: float) -> tuple[Tensor, Tensor]:
        """Ends with at most about a share of the values outside, at each side.

        With `k = max(1, int(share * n))`, the outer edges of the bins that hold the k-th smallest and the k-th largest
        of the n values, but not beyond the exact extremes: at most one bin width outside of those two values.

        Args:
            share: Fraction of the values, [0, 0.5].

        Returns:
            Low and high, shape (channels,), float64.
        """
        rank = (share * self.counts.sum(dim=1, keepdim=True).double()).long().clamp(min=1)
        below = (self.counts.cumsum(dim=1) < rank).sum(dim=1)
        above = (self.counts.flip(1).cumsum(dim=1) < rank).sum(dim=1)
        low = (self.first + below) * self.width
        high = (self.first + self.counts.shape[1] - above) * self.width
        return low.maximum(self.low), high.minimum(self.high)

    def _grow(self, low: Tensor, high: Tensor) -> None:
        """Merge and move the bins so that they hold [low, high]."""
        n_bins = self.counts.shape[1]
        exponent = _exponent(low, high, n_bins)
        first = _index(low, exponent)
        if not (torch.equal(exponent, self._exponent) and torch.equal(first, self.first)):
            shift = (exponent - self._exponent).clamp(max=62)[:, None]
            bins = self.first[:, None] + torch.arange(n_bins, device=first.device)
            target = ((bins >> shift) - first[:, None]).clamp_(0, n_bins - 1)  # only empty bins are clamped
            self.counts = torch.zeros_like(self.counts).scatter_add_(1, target, self.counts)
        self.low, self.high, self.first, self._exponent = low, high, first, exponent

    def _count(self, rows: Tensor) -> Tensor:
        n_channels, n_bins = self.counts.shape
        inverse = _power_of_two(-self._exponent).float()[:, None]
        index = (rows * inverse).floor_().sub_(self.first.float()[:, None])
        index.clamp_(max=n_bins - 1)  # a negative value of which the product underflows to -0.0
        flat = index.int()
        if n_channels > 1:
            flat += n_bins * torch.arange(n_channels, dtype=flat.dtype, device=flat.device)[:, None]
        return flat.flatten().bincount(minlength=n_channels * n_bins).reshape(n_channels, n_bins)


def sampling_step(n: int, n_wanted: int) -> int:
    """Smallest step that takes at most about `n_wanted` of `n` values and has no divisor in common with `n`.

    A step that divides a trailing dimension would read the same columns or features of every row, and no others.

    >>> sampling_step(1024, 1024), sampling_step(1024, 256), sampling_step(3 * 32 * 32, 1024)
    (1, 5, 5)
    """
    step = -(-n // n_wanted)
    while math.gcd(step, n) > 1 and step < n:
        step += 1
    return step


def _exponent(low: Tensor, high: Tensor, n_bins: int) -> Tensor:
    """Exponent of the smallest bin width with which `n_bins` bins hold [low, high], shape (channels,)."""
    tiny = 2.0 ** (_SMALLEST_EXPONENT - 1)
    magnitude = torch.frexp(torch.maximum(low.abs(), high.abs()).clamp(min=tiny)).exponent - _EXACT_BITS
    spread = torch.frexp(((high - low) / n_bins).clamp(min=tiny)).exponent
    exponent = torch.maximum(magnitude, spread).clamp(min=_SMALLEST_EXPONENT).long()
    fits = _index(high, exponent) - _index(low, exponent) < n_bins
    return torch.where(fits, exponent, exponent + 1)


def _index(x: Tensor, exponent: Tensor) -> Tensor:
    return (x * _power_of_two(-exponent)).floor().long()


def _power_of_two(exponent: Tensor) -> Tensor:
    """`2.0**exponent`, exact, float64; built from the bits since `exp2` and `pow` may be off by one unit."""
    return ((exponent + 1023) << 52).view(torch.float64)
