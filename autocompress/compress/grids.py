"""Integer grids: their limits, the tuning of ranges, and rounding with a gradient; one function a formula."""

from typing import Any

import torch
from torch import Tensor


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


def fake_quantize_symmetric(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Round weights to the symmetric grid and back: ``scale * round(clamp(weight / scale, -q, q))``.

    Formula 2 of the NNCF paper with banker's rounding. Rounding passes the gradient straight through, which gives
    the scale the gradient of LSQ (Esser et al. 2020, equation 3).

    Args:
        weight: Weights, output channels first.
        scale: Step of the grid, > 0; shape (channels, 1, ...).
        bits: 2..8.

    Returns:
        Tensor of the shape of `weight`.
    """
    limit = weight_limit(bits)
    index = (weight * scale.reciprocal()).clamp(-limit, limit)
    rounded = index + (index.round() - index).detach()
    return rounded * scale


def tune_range(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Widen a range as little as possible so that 0.0 is exactly on its grid (NNCF paper, section 4.1).

    Args:
        low: Lower end, shape ().
        high: Upper end, shape ().
        bits: 2..8.

    Returns:
        The tuned ends, `low <= 0 <= high`, differentiable in the given ones.

    >>> low, high = tune_range(torch.tensor(-0.1), torch.tensor(1.0), 4)
    >>> round(float(-low / (high - low) * 15), 5)
    1.0
    """
    steps = n_steps(bits)
    l1, h1 = low.clamp(max=0.0), high.clamp(min=0.0)
    width = (h1 - l1).clamp(min=torch.finfo(low.dtype).tiny * steps)
    zero = torch.round(-l1.detach() * steps / width.detach())
    if zero == 0 or zero == steps:
        return l1, h1
    t = (zero - steps) / zero
    h2, l2 = t * l1, h1 / t
    return (l1, h2) if h2 - l1 > h1 - l2 else (l2, h1)


def fake_quantize_asymmetric(x: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    """Round activations to the asymmetric grid of `bits` bits over [low, high] and back (NNCF paper, equation 3).

    The gradient to `x` is 1 inside the range and 0 outside; `low` and `high` get the straight-through gradient of
    the same formula: the rounding error a unit of width inside the range, 1 for what is clamped to that end.

    Args:
        x: Activations, any shape.
        low: Tuned lower end, shape (), <= 0.
        high: Tuned upper end, shape (), > low.
        bits: 2..8.

    Returns:
        Tensor of the shape of `x`.
    """
    return _FakeQuantizeAsymmetric.apply(x, low, high, n_steps(bits))  # type: ignore[no-any-return, no-untyped-call]


def step_and_zero(low: float, high: float, steps: int) -> tuple[float, int]:
    """Step of the grid over a tuned range, rounded to float32, and the grid index of 0.0.

    >>> step_and_zero(-1.0, 2.0, 3)
    (1.0, 1)
    """
    scale = float(torch.tensor((high - low) / steps))
    return scale, round(-low / scale)


class _FakeQuantizeAsymmetric(torch.autograd.Function):
    """Vectorized element-wise operations; eight times faster on a CPU than `torch.fake_quantize_per_tensor_affine`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, high: Tensor, steps: int) -> Tensor:
        l, h = float(low), float(high)  # noqa: E741  # the paper's names
        scale, zero = step_and_zero(l, h, steps)
        inverse = float(torch.tensor(scale).reciprocal())
        y = torch.mul(x, inverse).round_().clamp_(-zero, steps - zero).mul_(scale)  # rounds before z, as torch does
        ctx.save_for_backward(x, y)
        ctx.ends = (l, h)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (g,) = gradients
        x, y = ctx.saved_tensors
        low, high = ctx.ends
        inside = torch.ops.aten.hardtanh_backward(g, x, low, high)  # g where low < x < high, else 0
        rounding = (_dot(inside, y) - _dot(inside, x)) / (high - low)
        clamped = g.sum() - inside.sum()
        clamped_times_end = _dot(g, y) - _dot(inside, y)
        above = (clamped_times_end - low * clamped) / (high - low)
        return inside, (clamped - above) - rounding, above + rounding, None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of products without a temporary where both are stored alike."""
    if a.dim() == 4 and all(t.is_contiguous(memory_format=torch.channels_last) for t in (a, b)):
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    return torch.dot(a.reshape(-1), b.reshape(-1))
