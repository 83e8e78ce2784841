"""Masks that put zeros into weights, as parametrizations of them; which weights go, by magnitude and by N:M pattern."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def n_zero_units(sparsity: float, n_units: int) -> int:
    """How many of `n_units` weights (or rows, or heads) become zero; at least one stays, so that no layer is empty.

    Args:
        sparsity: Fraction of zeros, in [0, 1).
        n_units: >= 0.

    >>> [n_zero_units(0.7, 10), n_zero_units(0.99, 10), n_zero_units(0.0, 10)]
    [7, 9, 0]
    """
    return max(0, min(round(sparsity * n_units), n_units - 1))


def keep_largest(ranking: Tensor, n_zeros: int) -> Tensor:
    """Mask that is False at the `n_zeros` lowest values; among equal ones the lower (flat) index goes first.

    Args:
        ranking: Any shape, no NaN.
        n_zeros: In [0, n].

    Returns:
        bool, the shape of `ranking`; True stays.

    >>> keep_largest(torch.tensor([2.0, 1.0, 1.0, 3.0]), 2).tolist()
    [True, False, False, True]
    """
    if n_zeros == 0:
        return torch.ones_like(ranking, dtype=torch.bool)
    values = ranking.reshape(-1)
    threshold = values.kthvalue(n_zeros).values
    keep = values >= threshold
    n_missing = n_zeros - int((~keep).sum())
    keep[(values == threshold).nonzero()[:n_missing]] = False
    return keep.reshape(ranking.shape)


def keep_largest_of_all(rankings: Sequence[Tensor], n_zeros: int) -> list[Tensor]:
    """Masks that are False at the `n_zeros` lowest values of all tensors together.

    The highest value of each tensor (of equal ones the last) stays, so that no layer is empty. Among equal values those
    of the earlier tensor, and there the lower index, go first.

    Args:
        rankings: Of any shapes, none empty, no NaN.
        n_zeros: In [0, n - number of tensors].

    Returns:
        bool tensors of the shapes of `rankings`; True stays.

    >>> [mask.tolist() for mask in keep_largest_of_all([torch.tensor([0.1, 0.2]), torch.tensor([3.0, 4.0])], 2)]
    [[False, True], [False, True]]
    """
    flat = [_with_highest_protected(ranking.reshape(-1)) for ranking in rankings]
    keep = keep_largest(torch.cat(flat), n_zeros)
    parts = torch.split(keep, [ranking.numel() for ranking in rankings])
    return [part.reshape(ranking.shape) for part, ranking in zip(parts, rankings, strict=True)]


def _with_highest_protected(values: Tensor) -> Tensor:
    highest = (values == values.max()).nonzero()[-1]
    return values.index_fill(0, highest[0], torch.inf)


def n_of_m_mask(weight: Tensor, n: int, m: int, *, axis: int, n_groups: int = 1) -> Tensor:
    """Mask that keeps the `n` of largest magnitude of every `m` neighbours along `axis` (Mishra et al. 2021).

    The remainder of an axis that `m` does not divide stays dense. Among equal magnitudes the lower index goes first.

    Args:
        weight: Any shape.
        n: 1..m - 1.
        m: >= 2.
        axis: Of the input channels.
        n_groups: Parts that `axis` is cut into before, since blocks don't reach over groups of a convolution.

    Returns:
        bool, the shape of `weight`; True stays.

    >>> n_of_m_mask(torch.tensor([[3.0, 1.0, -4.0, 2.0, 0.1]]), 2, 4, axis=1).int().tolist()
    [[1, 0, 1, 0, 1]]
    """
    rows = torch.unflatten(weight.detach().abs().movedim(axis, -1), -1, (n_groups, -1))
    n_blocks = rows.shape[-1] // m
    keep = torch.ones_like(rows, dtype=torch.bool)
    if n_blocks:
        blocks = torch.unflatten(rows[..., : n_blocks * m], -1, (n_blocks, m))
        keep[..., : n_blocks * m] = (_n_above(blocks) < n).flatten(-2)
    return keep.flatten(-2).movedim(-1, axis)


def _n_above(blocks: Tensor) -> Tensor:
    """How many values of its block, along the last axis, are ranked above each value; of equal ones the later.

    Compares every pair, which for blocks of four is six times as fast as sorting them.
    """
    values = blocks.unbind(dim=-1)
    n_above = [torch.zeros(values[0].shape, dtype=torch.int16, device=blocks.device) for _ in values]
    for later in range(len(values)):
        for earlier in range(later):
            is_above = values[later] >= values[earlier]
            n_above[earlier] += is_above
            n_above[later] += ~is_above
    return torch.stack(n_above, dim=-1)


class WeightMask(nn.Module):
    """A link of the chain on a weight that sets some of its units (single weights, rows or heads) to zero.

    Units that are zero have a value of exactly 0.0 (never -0.0) and get no gradient, unless a subclass that is
    learning says so.

    Args:
        shape: Of the units.

    Attributes:
        mask: bool, one a unit; True stays.
        learning: Whether training moves scores that the mask comes from; otherwise `mask` alone is applied.
        is_written: Whether the zeros stand in the weights themselves, so that the mask has nothing to do.
    """

    mask: Tensor
    learning: bool = False
    is_written: bool = False

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(tuple(shape), dtype=torch.bool))

    @property
    def n_units(self) -> int:
        """Weights, rows or heads."""
        return self.mask.numel()

    def n_zero(self, sparsity: float) -> int:
        """How many units are zero at a fraction of `sparsity` in [0, 1); see `n_zero_units`."""
        return n_zero_units(sparsity, self.n_units)

    @abstractmethod
    def ranking(self, weight: Tensor) -> Tensor:
        """What units are ranked by, the lowest goes first; the shape of `mask`, no gradient.

        Args:
            weight: What the mask is applied to.
        """

    def spread(self, units: Tensor, weight: Tensor) -> Tensor:
        """`units` in a shape that broadcasts to `weight`."""
        return units

    def apply_mask(self, weight: Tensor, mask: Tensor) -> Tensor:
        """`weight` with zeros where `mask`, one a unit, is False."""
        return weight.masked_fill(~self.spread(mask, weight), 0.0)

    def forward(self, weight: Tensor) -> Tensor:
        """`weight` with zeros, same shape."""
        return weight if self.is_written else self.apply_mask(weight, self.mask)


class MagnitudeMask(WeightMask):
    """Zeros where the magnitude is least; masked weights get no gradient (Zhu & Gupta 2017, section 3).

    With an N:M pattern only weights outside of the pattern are zeroed, so at a sparsity of ``1 - n / m`` or above the
    pattern is complete, and below it the smallest of those weights are zero.

    Args:
        shape: Of the weight.
        n_of_m: N and M; None means no pattern.
        axis: Of the input channels, for the pattern.
        n_groups: Groups along `axis`, for the pattern.
    """

    def __init__(
        self, shape: Sequence[int], n_of_m: tuple[int, int] | None = None, axis: int = 1, n_groups: int = 1
    ) -> None:
        super().__init__(shape)
        self.n_of_m, self.axis, self.n_groups = n_of_m, axis, n_groups

    def n_zero(self, sparsity: float) -> int:
        """How many weights are zero at a fraction of `sparsity`; no more than the pattern has zeros."""
        wanted = super().n_zero(sparsity)
        return min(wanted, self._n_pattern_zeros()) if self.n_of_m else wanted

    def ranking(self, weight: Tensor) -> Tensor:
        """Magnitudes; infinite for what the pattern keeps."""
        magnitude = weight.detach().abs()
        if self.n_of_m is None:
            return magnitude
        kept = n_of_m_mask(weight, *self.n_of_m, axis=self.axis, n_groups=self.n_groups)
        return magnitude.masked_fill(kept, torch.inf)

    def _n_pattern_zeros(self) -> int:
        n, m = self.n_of_m or (1, 1)
        in_group = self.mask.shape[self.axis] // self.n_groups
        return self.n_units // in_group * (in_group // m) * (m - n) if in_group else 0
