"""Integer grids: their limits, the tuning of ranges, and rounding with a gradient; one function a formula."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Jacobian = tuple[tuple[float, float], tuple[float, float]]
_TINY = torch.finfo(torch.float32).tiny


def weight_limit(bits: int) -> int:
    """Largest grid index of symmetric weights; the grid is [-limit, limit] (NNCF paper, table 1).

    >>> weight_limit(8), weight_limit(4)
    (127, 7)
    """
    return int(2 ** (bits - 1) - 1)


def n_steps(bits: int) -> int:
    """Steps of an asymmetric grid, `2^bits - 1` (NNCF paper, equation 3).

    >>> n_steps(8)
    255
    """
    return int(2**bits - 1)


def activation_limits(bits: int, *, signed: bool) -> tuple[int, int]:
    """Lowest and highest grid index of a symmetric input (NNCF paper, table 1).

    >>> activation_limits(8, signed=True), activation_limits(4, signed=False)
    ((-128, 127), (0, 15))
    """
    return (-(2 ** (bits - 1)), weight_limit(bits)) if signed else (0, n_steps(bits))


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    """What `function`, which torch leaves untyped, computes."""
    result: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


def fake_quantize_symmetric(x: Tensor, scale: Tensor, low: int, high: int, kept: "Kept | None" = None) -> Tensor:
    """Round to a symmetric grid and back: ``scale * round(clamp(x / scale, low, high))``.

    Formula 2 of the NNCF paper with banker's rounding. Rounding passes the gradient straight through, which gives
    the scale the gradient of LSQ (Esser et al. 2020, equation 3).

    Args:
        x: Weights or activations.
        scale: Step of the grid, > 0; broadcastable to `x`.
        low: Lowest grid index, for example -127.
        high: Highest grid index, for example 127.
        kept: Gets the result as indices.

    Returns:
        Tensor of the shape of `x`.
    """
    return _apply(_FakeQuantizeSymmetric, x, scale, low, high, [] if kept is None else kept)


def tune_range(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Widen ranges as little as possible so that 0.0 is exactly on their grids (NNCF paper, section 4.1).

    Args:
        low: Lower ends, any shape.
        high: Upper ends, the same shape.
        bits: 2..8.

    Returns:
        The tuned ends, `low <= 0 <= high`, differentiable in the given ones.

    >>> low, high = tune_range(torch.tensor(-0.1), torch.tensor(1.0), 4)
    >>> round(float(-low / (high - low) * 15), 5)
    1.0
    """
    steps = n_steps(bits)
    l1, h1 = low.clamp(max=0.0), high.clamp(min=0.0)
    width = (h1 - l1).detach().clamp(min=torch.finfo(low.dtype).tiny * steps)
    zero = torch.round(-l1.detach() * steps / width)
    is_end = (zero == 0) | (zero == steps)
    inner = zero.clamp(1, steps - 1)  # where it is an end, t is not used, and must not be infinite in the gradient
    t = (inner - steps) / inner
    h2, l2 = t * l1, h1 / t
    widen_high = h2 - l1 > h1 - l2
    tuned_low = torch.where(is_end | widen_high, l1, l2)
    tuned_high = torch.where(is_end | ~widen_high, h1, h2)
    return tuned_low, tuned_high


def tune_ends(low: float, high: float, bits: int) -> tuple[float, float, Jacobian]:
    """What `tune_range` does to one range, as numbers, which is ten times faster.

    Returns:
        The tuned ends, and the derivatives of the lower and of the upper one in the given ends.

    >>> tune_ends(-1.0, 1.0, 2)
    (-2.0, 1.0, ((0.0, -2.0), (0.0, 1.0)))
    """
    steps = n_steps(bits)
    l1, h1 = min(low, 0.0), max(high, 0.0)
    of_low, of_high = (float(low <= 0), 0.0), (0.0, float(high >= 0))
    zero = round(-l1 * steps / max(h1 - l1, _TINY * steps))
    if zero in (0, steps):
        return l1, h1, (of_low, of_high)
    t = (zero - steps) / zero
    h2, l2 = t * l1, h1 / t
    if h2 - l1 > h1 - l2:
        return l1, h2, (of_low, (t * of_low[0], 0.0))
    return l2, h1, ((0.0, of_high[1] / t), of_high)


def fake_quantize_learned(x: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    """`fake_quantize_asymmetric` over the tuned range of [low, high].

    Args:
        x: Activations, any shape.
        low: Lower end before tuning, shape (), or broadcastable to `x` with as many axes.
        high: Upper end before tuning, the same shape.
        bits: 2..8.

    Returns:
        Tensor of the shape of `x`.
    """
    if low.dim() == 0 and not low.is_cuda:  # reads its ends as numbers, for which a GPU would have to be waited
        return _apply(_FakeQuantizeAsymmetric, x, low, high, bits)
    return fake_quantize_asymmetric(x, *tune_range(low, high, bits), bits)


def fake_quantize_asymmetric(x: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    """Round to the asymmetric grid of `bits` bits over [low, high] and back (NNCF paper, equation 3).

    The gradient to `x` is 1 inside the range and 0 outside; `low` and `high` get the straight-through gradient of
    the same formula: the rounding error a unit of width inside the range, 1 for what is clamped to that end.

    Args:
        x: Weights or activations, any shape.
        low: Tuned lower ends, <= 0; broadcastable to `x`, shape () or with as many axes.
        high: Tuned upper ends, > low, the same shape.
        bits: 2..8.

    Returns:
        Tensor of the shape of `x`.
    """
    return _apply(_FakeQuantizeChannels, x, low, high, n_steps(bits))


def step_and_zero(low: float, high: float, steps: int) -> tuple[float, int]:
    """Step of the grid over a tuned range, rounded to float32, and the grid index of 0.0.

    >>> step_and_zero(-1.0, 2.0, 3)
    (1.0, 1)
    """
    scale = float(torch.tensor((high - low) / steps))
    return scale, round(-low / scale)


def steps_and_zeros(low: Tensor, high: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Steps of the grids over tuned ranges, and the grid indices of 0.0; both of the shape of `low`."""
    scale = ((high.double() - low.double()) / steps).to(low.dtype)
    return scale, torch.round(-low / scale)


@dataclass(frozen=True)
class GridIndices:
    """Values of a symmetric grid as indices of a byte each, all that a backward pass needs: ``scale * indices``.

    Attributes:
        indices: int8, laid out in memory as the values, which leave no gap there.
        scale: Steps of the grid, > 0; broadcastable to `indices`.
        address: Of the values, while they are there.
    """

    indices: Tensor
    scale: Tensor
    address: int = 0

    def values(self) -> Tensor:
        """The values, to the last bit."""
        return self.indices.to(self.scale.dtype).mul_(self.scale)

    def holds(self, tensor: Tensor) -> bool:
        """Whether `tensor` is the values, perhaps in another shape."""
        return tensor.data_ptr() == self.address and tensor.numel() == self.indices.numel()


Kept = list[GridIndices]


class _FakeQuantizeSymmetric(torch.autograd.Function):
    """The gradient of a step is ``sum(g * (y - x)) / scale`` inside the grid and ``sum(g * y) / scale`` outside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int, kept: Kept) -> Tensor:
        y = (x * scale.reciprocal()).clamp_(low, high).round_()
        indices = y.to(torch.int8)
        ctx.save_for_backward(x, scale, indices)  # what is inside is found again
        ctx.limits = (low, high)
        y.mul_(scale)
        kept.append(GridIndices(indices, scale.detach(), y.data_ptr()))
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (g,) = gradients
        x, scale, indices = ctx.saved_tensors
        is_outside = _is_outside(x * scale.reciprocal(), *ctx.limits)
        # in place, since weights of this size are what the memory of a training peaks at
        differences = GridIndices(indices, scale).values().sub_(x.masked_fill(is_outside, 0)).mul_(g)
        of_scale = _sum_to(differences, scale) / scale
        del differences
        return g.masked_fill(is_outside, 0), of_scale, None, None, None


def _is_outside(index: Tensor, low: int, high: int) -> Tensor:
    return (index < low).logical_or_(index > high)


class _FakeQuantizeAsymmetric(torch.autograd.Function):
    """One range for the whole tensor; few element-wise operations, which vectorize.

    With ``inside`` the gradient where x is in the range and 0 elsewhere, and the range's width w, the gradient of
    `high` is ``(sum(g y) - sum(inside x) - low (sum(g) - sum(inside))) / w``, and the gradients of both ends together
    are what is clamped: ``sum(g) - sum(inside)``. Those of the ends before tuning follow by the chain rule.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
        l, h, ctx.jacobian = tune_ends(float(low), float(high), bits)  # noqa: E741  # the paper's names
        scale, zero = step_and_zero(l, h, n_steps(bits))
        inverse = float(torch.tensor(scale).reciprocal())
        y = torch.mul(x, inverse).round_().clamp_(-zero, n_steps(bits) - zero).mul_(scale)  # rounds before z, as torch
        ctx.save_for_backward(x, y)
        ctx.ends = (l, h)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        (g,) = gradients
        x, y = ctx.saved_tensors
        low, high = ctx.ends
        inside = torch.ops.aten.hardtanh_backward(g, x, low, high)  # g where low < x < high, else 0
        if not any(ctx.needs_input_grad[1:3]):
            return inside, None, None, None
        of_high = _dot(g, y) - _dot(inside, x)
        if low == 0:  # as after a ReLU: nothing moves the lower end
            of_low, of_high = torch.zeros_like(of_high), of_high / high
        else:
            clamped = g.sum() - inside.sum()
            of_high = (of_high - low * clamped) / (high - low)
            of_low = clamped - of_high
        (low_low, low_high), (high_low, high_high) = ctx.jacobian
        return inside, of_low * low_low + of_high * high_low, of_low * low_high + of_high * high_high, None


class _FakeQuantizeChannels(torch.autograd.Function):
    """A range for each slice; the same formulas as for one range."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, high: Tensor, steps: int) -> Tensor:
        scale, zero = steps_and_zeros(low, high, steps)
        y = torch.clamp(torch.mul(x, scale.reciprocal()).round_(), -zero, steps - zero).mul_(scale)
        ctx.save_for_backward(x, y, low, high)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (g,) = gradients
        x, y, low, high = ctx.saved_tensors
        is_above, is_below = x >= high, x <= low
        inside = g.masked_fill(is_above | is_below, 0)
        rounding = _sum_to(inside * (y - x) / (high - low), low)
        above, below = (_sum_to(g.masked_fill(~where, 0), low) for where in (is_above, is_below))
        return inside, below - rounding, above + rounding, None


def _sum_to(x: Tensor, like: Tensor) -> Tensor:
    """`x` summed over the axes along which `like` is broadcast to it."""
    if like.dim() == 0:
        return x.sum()
    axes = [axis for axis in range(x.dim()) if like.shape[axis] == 1 and x.shape[axis] > 1]
    return x.sum(dim=axes, keepdim=True) if axes else x


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of products without a temporary where both are stored alike."""
    if a.dim() == 4 and all(t.is_contiguous(memory_format=torch.channels_last) for t in (a, b)):
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    return torch.dot(a.reshape(-1), b.reshape(-1))
