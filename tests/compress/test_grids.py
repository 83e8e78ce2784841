"""Grids against their formulas in plain Python and against torch's own fake quantization."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autocompress.compress.grids import (
    fake_quantize_asymmetric,
    fake_quantize_symmetric,
    n_steps,
    step_and_zero,
    tune_range,
    weight_limit,
)

BITS = range(2, 9)


def symmetric_by_hand(weight: float, scale: float, bits: int) -> float:
    limit = 2 ** (bits - 1) - 1
    return round(min(max(weight / scale, -limit), limit)) * scale  # Python rounds half to even


def tuned_by_hand(r_min: float, r_max: float, bits: int) -> tuple[float, float]:
    """NNCF paper, section 4.1, letter by letter."""
    l1, h1 = min(r_min, 0.0), max(r_max, 0.0)
    z = round(-l1 * (2**bits - 1) / (h1 - l1))
    if z in (0, 2**bits - 1):
        return l1, h1
    t = (z - 2**bits + 1) / z
    h2, l2 = t * l1, h1 / t
    return (l1, h2) if h2 - l1 > h1 - l2 else (l2, h1)


def asymmetric_by_hand(x: float, low: float, high: float, bits: int) -> float:
    step = (high - low) / (2**bits - 1)
    zero = -low / step
    return (round(min(max(x, low), high) / step + zero) - zero) * step


@pytest.mark.parametrize("bits", BITS)
def test_symmetric_values_are_those_of_the_formula(bits: int) -> None:
    scales = [0.5, 0.25]
    weights = [[k * 0.125 for k in range(-40, 41)], [k * 1.7 for k in range(-40, 41)]]  # halves are ties
    expected = [[symmetric_by_hand(w, s, bits) for w in row] for row, s in zip(weights, scales, strict=True)]
    got = fake_quantize_symmetric(torch.tensor(weights), torch.tensor(scales)[:, None], bits)
    assert torch.equal(got, torch.tensor(expected))


@given(st.integers(2, 8), st.integers(0, 2**31), st.sampled_from([1e-30, 1e-4, 1.0, 1e6, 1e30]))
@settings(max_examples=60)
def test_symmetric_is_bit_for_bit_what_torch_computes(bits: int, seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = size * torch.randn(4, 3, 5, generator=generator)
    scale = size * torch.rand(4, generator=generator).clamp(min=0.01)
    limit = 2 ** (bits - 1) - 1
    zeros = torch.zeros(4, dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -limit, limit)
    assert torch.equal(fake_quantize_symmetric(weight, scale[:, None, None], bits), expected)


def straight_through_round(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_symmetric_gradient_is_that_of_lsq(bits: int) -> None:
    weight = torch.linspace(-3, 3, 62, dtype=torch.float64).reshape(2, 31).requires_grad_()
    scale = torch.tensor([[0.11], [0.7]], dtype=torch.float64, requires_grad=True)
    g = torch.linspace(-1, 2, 62, dtype=torch.float64).reshape(2, 31)
    y = fake_quantize_symmetric(weight, scale, bits)
    got_weight, got_scale = torch.autograd.grad((y * g).sum(), (weight, scale))
    limit = weight_limit(bits)
    want_weight, want_scale = torch.zeros(2, 31), torch.zeros(2, 1)
    for row in range(2):
        s = scale[row, 0].item()
        for column in range(31):
            v, factor = weight[row, column].item() / s, g[row, column].item()
            want_weight[row, column] = factor if -limit <= v <= limit else 0.0
            slope = round(v) - v if -limit < v < limit else math.copysign(limit, v)  # LSQ, equation 3
            want_scale[row, 0] += factor * slope
    assert torch.allclose(got_weight.float(), want_weight)
    assert torch.allclose(got_scale.float(), want_scale, atol=1e-5)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        pytest.param(0.0, 3.0, id="nothing below zero"),
        pytest.param(-2.0, 0.0, id="nothing above zero"),
        pytest.param(0.5, 3.0, id="only positive"),
        pytest.param(-3.0, -0.5, id="only negative"),
        pytest.param(-1.0, 1.0, id="balanced"),
        pytest.param(-0.3, 1.0, id="mostly positive"),
        pytest.param(-1.0, 0.3, id="mostly negative"),
        pytest.param(-1e-4, 1.0, id="zero-point rounds to the first index"),
        pytest.param(-1.0, 1e-4, id="zero-point rounds to the last index"),
    ],
)
@pytest.mark.parametrize("bits", BITS)
def test_tuned_range_is_that_of_the_paper(low: float, high: float, bits: int) -> None:
    ends = (torch.tensor(end, dtype=torch.float64) for end in (low, high))
    got = [float(end) for end in tune_range(*ends, bits)]
    assert got == pytest.approx(tuned_by_hand(low, high, bits), rel=1e-12)


@given(st.floats(-100, 100), st.floats(-100, 100), st.integers(2, 8))
@settings(max_examples=100)
def test_zero_is_on_every_tuned_grid_that_reaches_both_sides(a: float, b: float, bits: int) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    l, h = (float(end) for end in tune_range(torch.tensor(low).double(), torch.tensor(high).double(), bits))  # noqa: E741
    assert l <= 0 <= h
    if h - l < 1e-20 or round(-low / max(high - low, 1e-300) * n_steps(bits)) in (0, n_steps(bits)):
        return
    index = -l / (h - l) * n_steps(bits)
    assert index == pytest.approx(round(index), abs=1e-6)
    assert l <= low * (1 - 1e-12) or h >= high * (1 - 1e-12)


def test_an_empty_range_is_tuned_without_nan() -> None:
    zero = torch.zeros(())
    assert [float(end) for end in tune_range(zero, zero, 8)] == [0.0, 0.0]


@pytest.mark.parametrize("bits", BITS)
def test_asymmetric_values_are_those_of_the_formula(bits: int) -> None:
    low, high = tuned_by_hand(-1.0, 3.0, bits)
    xs = [k / 7.3 for k in range(-30, 40)]
    expected = torch.tensor([asymmetric_by_hand(x, low, high, bits) for x in xs])
    got = fake_quantize_asymmetric(torch.tensor(xs), torch.tensor(low), torch.tensor(high), bits)
    assert torch.allclose(got, expected, atol=1e-6)


@given(
    st.integers(2, 8),
    st.integers(0, 2**31),
    st.sampled_from([1e-20, 1e-4, 1.0, 1e6, 1e30]),
    st.floats(-1, 0),
    st.floats(0.01, 1),
    st.sampled_from([(7,), (2, 3), (2, 3, 4), (2, 3, 4, 5)]),
)
@settings(max_examples=80)
def test_asymmetric_is_bit_for_bit_what_torch_computes(
    bits: int, seed: int, size: float, low: float, high: float, shape: tuple[int, ...]
) -> None:
    x = 1.5 * size * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    ends = tune_range(torch.tensor(low * size), torch.tensor(high * size), bits)
    scale, zero = step_and_zero(*(float(end) for end in ends), n_steps(bits))
    expected = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, n_steps(bits))
    assert torch.equal(fake_quantize_asymmetric(x, *ends, bits), expected)


@pytest.mark.parametrize("bits", BITS)
def test_asymmetric_rounds_ties_as_torch_does(bits: int) -> None:
    low, high = -float(2 ** (bits - 1) - 1), float(2 ** (bits - 1))  # step 1, an odd zero-point
    x = torch.arange(low - 2, high + 2, 0.5)
    expected = torch.fake_quantize_per_tensor_affine(x, 1.0, int(-low), 0, n_steps(bits))
    assert torch.equal(fake_quantize_asymmetric(x, torch.tensor(low), torch.tensor(high), bits), expected)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 2.0), (-2.0, 0.0), (-3.0, 1.0)])
def test_asymmetric_gradient_is_that_of_the_straight_through_formula(
    bits: int, channels_last: bool, low: float, high: float
) -> None:
    generator = torch.Generator().manual_seed(bits)
    ends = tuned_by_hand(low, high, bits)
    x = 2 * torch.randn(2, 3, 4, 5, generator=generator)
    g = torch.randn(2, 3, 4, 5, generator=generator)
    if channels_last:
        x, g = (t.contiguous(memory_format=torch.channels_last) for t in (x, g))

    def gradients(dtype: torch.dtype, function: object) -> list[Tensor]:
        inputs = [t.detach().to(dtype).requires_grad_() for t in (x, *map(torch.tensor, ends))]
        return list(torch.autograd.grad((function(*inputs) * g.to(dtype)).sum(), inputs))  # type: ignore[operator]

    def formula(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        step = (high - low) / (2**bits - 1)
        clamped = torch.where(x < low, low, torch.where(x > high, high, x))
        return straight_through_round((clamped - low) / step) * step + low

    got = gradients(torch.float32, lambda x, low, high: fake_quantize_asymmetric(x, low, high, bits))
    for mine, reference in zip(got, gradients(torch.float64, formula), strict=True):
        assert torch.allclose(mine.double(), reference, atol=1e-4, rtol=1e-4)


def test_the_straight_through_formula_itself_agrees_with_finite_differences() -> None:
    """With the rounding error held fixed, the surrogate is a plain function of its range."""
    low, high, bits, eps = -0.8, 1.6, 4, 1e-6
    x = torch.linspace(-1.2345, 2.0171, 33, dtype=torch.float64)  # none at an end, where the formula has a kink
    step = (high - low) / 15
    error = ((x.clamp(low, high) - low) / step).round() - (x.clamp(low, high) - low) / step

    def surrogate(low: float, high: float) -> float:
        return float((x.clamp(low, high) + error * (high - low) / 15).sum())

    ends = [torch.tensor(e, dtype=torch.float64, requires_grad=True) for e in (low, high)]
    got = torch.autograd.grad(fake_quantize_asymmetric(x, *ends, bits).sum(), ends)
    assert float(got[0]) == pytest.approx((surrogate(low + eps, high) - surrogate(low - eps, high)) / 2 / eps, abs=1e-3)
    assert float(got[1]) == pytest.approx((surrogate(low, high + eps) - surrogate(low, high - eps)) / 2 / eps, abs=1e-3)
