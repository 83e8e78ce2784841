"""Rounding weights to a grid so that the layer's output changes least, from its inputs and without labels."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from autocompress.compress.hessian import as_rows, from_rows
from autocompress.errors import CompressionError

_BLOCK = 128  # columns rounded before all others are brought up to date (GPTQ, section 3.3, step 2)
_SMALLEST_DAMPING = 1e-6  # where raising it starts if none was asked for


@dataclass(frozen=True)
class _Grid:
    """The numbers `scale * (index - zero)` with whole indices in [low, high]; tensors of the shape of the weight."""

    scale: Tensor
    zero: Tensor
    low: int
    high: int

    def nearest(self, weight: Tensor) -> Tensor:
        """Indices of the grid's numbers next to `weight`; in the middle, those with an even distance from `zero`."""
        return ((weight * self.scale.reciprocal()).round() + self.zero).clamp(self.low, self.high)

    def value(self, indices: Tensor) -> Tensor:
        return self.scale * (indices - self.zero)

    def columns(self, indices: Tensor) -> "_Grid":
        """The grid with its columns picked; `indices` has the shape of the weight."""
        return replace(self, scale=self.scale.gather(-1, indices), zero=self.zero.gather(-1, indices))

    def column(self, index: int) -> "_Grid":
        return replace(self, scale=self.scale[..., index], zero=self.zero[..., index])


def round_with_hessian(
    weight: Tensor,
    hessian: Tensor,
    scale: Tensor,
    zero: Tensor,
    low: int,
    high: int,
    damping: float = 0.01,
    n_passes: int = 3,
) -> Tensor:
    """Round the columns one after another, each time changing the later ones to make up for the error (GPTQ).

    Frantar et al. 2023, algorithm 1, with the columns in the order of decreasing diagonal of `hessian`; then passes of
    coordinate descent, which round every column again with all others fixed (Behdin et al. 2023, QuantEase, algorithm
    1). A row for which rounding to nearest is as good or better by `error hessian errorᵀ` is rounded to nearest
    instead, and so is a column whose input is always zero.

    Args:
        weight: Shape ([groups,] rows, columns).
        hessian: Mean of `x xᵀ` over the inputs, shape ([groups,] columns, columns); symmetric. It may be singular.
        scale: Step of the grid, > 0; broadcastable to `weight`.
        zero: Grid index of 0.0, whole numbers; broadcastable to `weight`.
        low: Lowest grid index.
        high: Highest grid index.
        damping: Fraction of the mean of its positive diagonal that is added to the diagonal of `hessian`, >= 0;
            multiplied by ten as often as it takes for a positive definite matrix, a group at a time.
        n_passes: Passes of coordinate descent after GPTQ, >= 0.

    Returns:
        Grid indices, whole numbers in [low, high] in the dtype and shape of `weight`; the rounded weight is
        `scale * (indices - zero)`.

    Raises:
        CompressionError: `weight` or `hessian` has a value that is NaN or infinite.
    """
    for name, tensor in (("weight", weight), ("mean square of its input", hessian)):
        if not torch.isfinite(tensor).all():
            raise CompressionError(f"its {name} must be finite to be rounded, but has values that are NaN or infinite")
    dtype = torch.promote_types(torch.promote_types(weight.dtype, hessian.dtype), torch.float32)
    exact, hessian = weight.detach().to(dtype), hessian.detach().to(dtype)
    steps, zeros = (tensor.detach().to(dtype).expand(weight.shape) for tensor in (scale, zero))
    grid = _Grid(steps, zeros, low, high)
    nearest = grid.nearest(exact)
    compensated = _round_in_order(exact, hessian, grid, damping, n_passes)
    errors = [_output_error(exact - grid.value(indices), hessian) for indices in (compensated, nearest)]
    return torch.where((errors[0] < errors[1])[..., None], compensated, nearest).to(weight.dtype)


def round_layer(
    layer: nn.Module, weight: Tensor, hessian: Tensor, scale: Tensor, zero: Tensor, low: int, high: int
) -> Tensor:
    """Round the weight of a layer with the inputs that `InputHessian` saw.

    Args:
        layer: A layer that `InputHessian` supports.
        weight: Its weight, outputs first.
        hessian: What `InputHessian.hessian` gave, shape (groups, columns, columns).
        scale: Step of the grid, > 0; broadcastable to `weight`.
        zero: Grid index of 0.0, whole numbers; broadcastable to `weight`.
        low: Lowest grid index.
        high: Highest grid index.

    Returns:
        Grid indices in the dtype and shape of `weight`, as `round_with_hessian` gives them.

    Raises:
        CompressionError: `weight` or `hessian` has a value that is NaN or infinite.
    """
    rows, scales, zeros = (as_rows(layer, tensor.expand(weight.shape)) for tensor in (weight, scale, zero))
    return from_rows(layer, round_with_hessian(rows, hessian, scales, zeros, low, high))


def _output_error(error: Tensor, hessian: Tensor) -> Tensor:
    """`error hessian errorᵀ`, a row at a time; shape ([groups,] rows)."""
    return ((error @ hessian) * error).sum(dim=-1)


def _round_in_order(weight: Tensor, hessian: Tensor, grid: _Grid, damping: float, n_passes: int) -> Tensor:
    """Indices of GPTQ and coordinate descent, the columns ordered and put back."""
    order = hessian.diagonal(dim1=-2, dim2=-1).argsort(dim=-1, descending=True, stable=True)
    columns = order[..., None, :].expand(weight.shape)
    across = order[..., None, :].expand(hessian.shape)
    matrix, factor = _damped(hessian.gather(-1, across).gather(-2, across.mT), damping)
    ordered, ordered_grid = weight.gather(-1, columns), grid.columns(columns)
    indices = _round_columns(ordered.clone(), _shares(factor), ordered_grid)
    for _ in range(n_passes):
        indices = _descend(ordered, indices, matrix, ordered_grid)
    return torch.empty_like(indices).scatter_(-1, columns, indices)


def _round_columns(weight: Tensor, shares: Tensor, grid: _Grid) -> Tensor:
    """GPTQ on ordered columns; `weight` is used up."""
    indices = torch.empty_like(weight)
    for start in range(0, weight.shape[-1], _BLOCK):
        end = min(start + _BLOCK, weight.shape[-1])
        errors = torch.empty_like(weight[..., start:end])
        for j in range(start, end):
            column = grid.column(j)
            indices[..., j] = column.nearest(weight[..., j])
            error = weight[..., j] - column.value(indices[..., j])
            weight[..., j + 1 : end] -= error[..., None] * shares[..., None, j, j + 1 : end]
            errors[..., j - start] = error
        weight[..., end:] -= errors @ shares[..., start:end, end:]
    return indices


def _descend(weight: Tensor, indices: Tensor, matrix: Tensor, grid: _Grid) -> Tensor:
    """One pass that gives each column the index with the least `error matrix errorᵀ`, the others as they are."""
    values, indices = grid.value(indices), indices.clone()
    slope = (weight - values) @ matrix
    for start in range(0, weight.shape[-1], _BLOCK):
        block = slice(start, min(start + _BLOCK, weight.shape[-1]))
        local, changes = slope[..., block].clone(), torch.empty_like(slope[..., block])
        for j in range(block.start, block.stop):
            column = grid.column(j)
            best = values[..., j] + local[..., j - start] / matrix[..., None, j, j]
            indices[..., j] = column.nearest(best)
            change = column.value(indices[..., j]) - values[..., j]
            local -= change[..., None] * matrix[..., None, j, block]
            changes[..., j - start] = change
        slope -= changes @ matrix[..., block, :]
    return indices


def _shares(factor: Tensor) -> Tensor:
    """What each later column has to give up for an error of 1 in a column; shape of `factor`.

    The rows of GPTQ's Cholesky factor `U` of the inverse, `matrix⁻¹ = Uᵀ U`, over their diagonal: unit upper
    triangular. `U` is the inverse of the upper factor in `matrix = factor factorᵀ`, so that nothing is inverted twice.
    """
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    inverse: Tensor = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=True)
    return inverse * factor.diagonal(dim1=-2, dim2=-1)[..., None]


def _damped(hessian: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """`hessian`, scaled and with enough added to its diagonal, and its upper factor."""
    scaled = _scaled(hessian)
    added = torch.full(scaled.shape[:-2], damping, dtype=scaled.dtype, device=scaled.device)
    while True:
        matrix = scaled + torch.diag_embed(added[..., None].expand(scaled.shape[:-1]))
        lower, failed = torch.linalg.cholesky_ex(matrix.flip(-1, -2))
        if not failed.any():
            return matrix, lower.flip(-1, -2)
        added = torch.where(failed > 0, (10 * added).clamp(min=_SMALLEST_DAMPING), added)


def _scaled(hessian: Tensor) -> Tensor:
    """`hessian` over the mean of its positive diagonal."""
    diagonal = hessian.diagonal(dim1=-2, dim2=-1).clamp(min=0)
    mean = diagonal.sum(dim=-1) / (diagonal > 0).sum(dim=-1).clamp(min=1)
    scaled = hessian / mean.clamp(min=torch.finfo(hessian.dtype).tiny)[..., None, None]
    n = hessian.shape[-1]
    return scaled.clamp(-n, n)  # a positive semidefinite matrix has no larger entries
