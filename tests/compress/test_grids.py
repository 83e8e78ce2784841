"""Grids against their formulas in plain Python and against torch's own fake quantization."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autocompress.compress.grids import (
    activation_limits,
    fake_quantize_asymmetric,
    fake_quantize_symmetric,
    n_steps,
    step_and_zero,
    steps_and_zeros,
    tune_range,
    weight_limit,
)
from autocompress.compress.quantization import lsq_gradient_scale, scale_gradient

BITS = range(2, 9)
SHAPES = [(7,), (2, 3), (2, 3, 4), (2, 3, 4, 5)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def symmetric_by_hand(x: float, scale: float, low: int, high: int) -> float:
    return round(min(max(x / scale, low), high)) * scale  # Python rounds half to even


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
def test_limits_are_those_of_the_table(bits: int) -> None:
    assert weight_limit(bits) == 2 ** (bits - 1) - 1
    assert activation_limits(bits, signed=True) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert activation_limits(bits, signed=False) == (0, 2**bits - 1)
    assert n_steps(bits) == 2**bits - 1


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_symmetric_values_are_those_of_the_formula(bits: int, signed: bool) -> None:
    scales, limits = [0.5, 0.25], activation_limits(bits, signed=signed)
    xs = [[k * 0.125 for k in range(-40, 41)], [k * 1.7 for k in range(-40, 41)]]  # halves are ties
    expected = [[symmetric_by_hand(x, s, *limits) for x in row] for row, s in zip(xs, scales, strict=True)]
    got = fake_quantize_symmetric(torch.tensor(xs), torch.tensor(scales)[:, None], *limits)
    assert torch.equal(got, torch.tensor(expected))


@given(st.integers(2, 8), st.integers(0, 2**31), st.sampled_from([1e-30, 1e-4, 1.0, 1e6, 1e30]), st.integers(0, 2))
@settings(max_examples=60)
def test_symmetric_is_bit_for_bit_what_torch_computes(bits: int, seed: int, size: float, axis: int) -> None:
    x = size * random(4, 3, 5, seed=seed)
    scale = size * random(x.shape[axis], seed=seed + 1).abs().clamp(min=0.01)
    limit, zeros = weight_limit(bits), torch.zeros(len(scale), dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(x, scale, zeros, axis, -limit, limit)
    along = scale.reshape([-1 if i == axis else 1 for i in range(3)])
    assert torch.equal(fake_quantize_symmetric(x, along, -limit, limit), expected)
    one = torch.fake_quantize_per_tensor_affine(x, float(scale[0]), 0, -limit, limit)
    assert torch.equal(fake_quantize_symmetric(x, scale[0], -limit, limit), one)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_symmetric_gradient_is_that_of_lsq(bits: int, signed: bool) -> None:
    x = torch.linspace(-3, 3, 62, dtype=torch.float64).reshape(2, 31).requires_grad_()
    scale = torch.tensor([[0.11], [0.7]], dtype=torch.float64, requires_grad=True)
    g = torch.linspace(-1, 2, 62, dtype=torch.float64).reshape(2, 31)
    low, high = activation_limits(bits, signed=signed)
    y = fake_quantize_symmetric(x, scale, low, high)
    got_x, got_scale = torch.autograd.grad((y * g).sum(), (x, scale))
    want_x, want_scale = torch.zeros(2, 31).double(), torch.zeros(2, 1).double()
    for row in range(2):
        s = scale[row, 0].item()
        for column in range(31):
            v, factor = x[row, column].item() / s, g[row, column].item()
            want_x[row, column] = factor if low <= v <= high else 0.0
            slope = round(v) - v if low < v < high else (low if v <= low else high)  # LSQ, equation 3
            want_scale[row, 0] += factor * slope
    assert torch.allclose(got_x, want_x)
    assert torch.allclose(got_scale, want_scale)


class Frozen:
    """The surrogate that training differentiates: rounding errors, in steps, and what is clamped are constants.

    Called, it has the surrogate's values and the gradients of our function, so that `gradcheck` compares the two.
    """

    def __init__(self, ours: Callable[..., Tensor], x: Tensor, low: Tensor, high: Tensor, steps: int) -> None:
        self.ours, self.steps = ours, steps
        index = (x / (high - low) * steps).detach()
        self.error, self.below, self.above = index.round() - index, x < low, x > high

    def value(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        inside = x + self.error * (high - low) / self.steps
        return torch.where(self.below, low, torch.where(self.above, high, inside))

    def __call__(self, x: Tensor, *parameters: Tensor) -> Tensor:
        ours = self.ours(x, *parameters)
        return self.value(x, *self.ends(*parameters)).detach() + ours - ours.detach()

    def ends(self, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        low, high = parameters
        return low, high


class FrozenSymmetric(Frozen):
    def ends(self, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        (scale,) = parameters
        return self.steps // 2 * -scale, self.steps // 2 * scale


def doubles(x: Tensor) -> Tensor:
    return x.double().requires_grad_()


PER = pytest.mark.parametrize(
    "shape", [(), (3, 1, 1), (1, 4, 1), (1, 1, 5)], ids=["tensor", "axis 0", "axis 1", "axis 2"]
)


@PER
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_symmetric_gradient_agrees_with_finite_differences(bits: int, shape: tuple[int, ...]) -> None:
    limit = weight_limit(bits)
    x, scale = doubles(random(3, 4, 5)), doubles((random(*shape, seed=1).abs() + 0.7) / limit)
    frozen = FrozenSymmetric(
        lambda x, s: fake_quantize_symmetric(x, s, -limit, limit), x, -limit * scale, limit * scale, 2 * limit
    )
    assert frozen.below.any()
    assert torch.allclose(frozen.ours(x, scale), frozen.value(x, -limit * scale, limit * scale))
    assert torch.autograd.gradcheck(frozen, (x, scale))


@PER
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_asymmetric_gradient_agrees_with_finite_differences(bits: int, shape: tuple[int, ...]) -> None:
    ends = tune_range(-0.5 - random(*shape, seed=1).abs(), 0.7 + random(*shape, seed=2).abs(), bits)
    ends = tuple(end / 2 for end in ends)
    x, low, high = doubles(random(3, 4, 5)), *(doubles(end) for end in ends)
    frozen = Frozen(lambda *inputs: fake_quantize_asymmetric(*inputs, bits), x, low, high, n_steps(bits))
    assert frozen.below.any()
    assert frozen.above.any()
    assert torch.allclose(frozen.ours(x, low, high), frozen.value(x, low, high), atol=1e-6)
    assert torch.autograd.gradcheck(frozen, (x, low, high))


RANGES = [
    pytest.param(0.0, 3.0, id="nothing below zero"),
    pytest.param(-2.0, 0.0, id="nothing above zero"),
    pytest.param(0.5, 3.0, id="only positive"),
    pytest.param(-3.0, -0.5, id="only negative"),
    pytest.param(-1.0, 1.0, id="balanced"),
    pytest.param(-0.3, 1.0, id="mostly positive"),
    pytest.param(-1.0, 0.3, id="mostly negative"),
    pytest.param(-1e-4, 1.0, id="zero-point rounds to the first index"),
    pytest.param(-1.0, 1e-4, id="zero-point rounds to the last index"),
]


@pytest.mark.parametrize("bits", BITS)
def test_tuned_ranges_are_those_of_the_paper_alone_and_together(bits: int) -> None:
    ranges = [param.values for param in RANGES]
    expected = [tuned_by_hand(low, high, bits) for low, high in ranges]
    lows, highs = torch.tensor(ranges, dtype=torch.float64).unbind(1)
    together = tune_range(lows, highs, bits)
    for i, (low, high) in enumerate(expected):
        alone = [float(end) for end in tune_range(lows[i], highs[i], bits)]
        assert alone == pytest.approx((low, high), rel=1e-12)
        assert [float(end[i]) for end in together] == alone


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=1, max_size=12), st.integers(2, 8))
@settings(max_examples=100)
def test_zero_is_on_every_tuned_grid_and_no_end_moves_inwards(pairs: list[tuple[float, float]], bits: int) -> None:
    lows, highs = torch.tensor([sorted(pair) for pair in pairs], dtype=torch.float64).unbind(1)
    for low, high, tuned_low, tuned_high in zip(lows, highs, *tune_range(lows, highs, bits), strict=True):
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        assert tuned_low <= low
        assert tuned_high >= high
        assert tuned_low == low or tuned_high == high
        if tuned_high - tuned_low < 1e-20 or (low, high) == (tuned_low, tuned_high):
            continue  # empty, or an end that is the zero-point within half a step
        index = -tuned_low / (tuned_high - tuned_low) * n_steps(bits)
        assert float(index) == pytest.approx(round(float(index)), abs=1e-6)


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_the_gradient_of_a_tuned_range_agrees_with_finite_differences(low: float, high: float) -> None:
    ends = [doubles(torch.tensor([end])) for end in (1.03 * low or -1e-3, high or 1e-3)]  # off kink and tie
    assert torch.autograd.gradcheck(lambda *ends: tune_range(*ends, 4), ends)


@pytest.mark.parametrize("shape", [(), (2,)], ids=["alone", "with another"])
@pytest.mark.parametrize(("low", "high"), [*RANGES, pytest.param(0.0, 0.0, id="empty")])
@pytest.mark.parametrize("bits", [2, 8])
def test_a_tuned_range_has_no_gradient_that_is_nan(low: float, high: float, bits: int, shape: tuple[int, ...]) -> None:
    ends = [torch.full(shape, end).requires_grad_() for end in (low, high)]
    if shape:
        with torch.no_grad():
            ends[0][1], ends[1][1] = -1.0, 0.7
    tuned = tune_range(*ends, bits)
    gradients = torch.autograd.grad(sum(end.sum() for end in tuned), ends)
    assert all(tensor.isfinite().all() for tensor in (*tuned, *gradients))


def test_an_empty_range_stays_empty() -> None:
    zero = torch.zeros(())
    assert [float(end) for end in tune_range(zero, zero, 8)] == [0.0, 0.0]


@pytest.mark.parametrize("bits", BITS)
def test_asymmetric_values_are_those_of_the_formula(bits: int) -> None:
    ranges = [tuned_by_hand(-1.0, 3.0, bits), tuned_by_hand(-2.0, 0.5, bits)]
    xs = [k / 7.3 for k in range(-30, 40)]
    expected = torch.tensor([[asymmetric_by_hand(x, *ends, bits) for x in xs] for ends in ranges])
    low, high = (torch.tensor(ends)[:, None] for ends in zip(*ranges, strict=True))
    assert torch.allclose(fake_quantize_asymmetric(torch.tensor([xs, xs]), low, high, bits), expected, atol=1e-6)
    got = fake_quantize_asymmetric(torch.tensor(xs), low[0, 0], high[0, 0], bits)
    assert torch.allclose(got, expected[0], atol=1e-6)


@given(
    st.integers(2, 8),
    st.integers(0, 2**31),
    st.sampled_from([1e-20, 1e-4, 1.0, 1e6, 1e30]),
    st.floats(-1, 0),
    st.floats(0.01, 1),
    st.sampled_from(SHAPES),
)
@settings(max_examples=80)
def test_asymmetric_is_bit_for_bit_what_torch_computes(
    bits: int, seed: int, size: float, low: float, high: float, shape: tuple[int, ...]
) -> None:
    x = 1.5 * size * random(*shape, seed=seed)
    ends = tune_range(torch.tensor(low * size), torch.tensor(high * size), bits)
    scale, zero = step_and_zero(*(float(end) for end in ends), n_steps(bits))
    expected = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, n_steps(bits))
    assert torch.equal(fake_quantize_asymmetric(x, *ends, bits), expected)
    channels = tuple(end.reshape([1] * x.dim()) for end in ends)
    assert torch.equal(fake_quantize_asymmetric(x, *channels, bits), expected)


@given(st.integers(2, 8), st.integers(0, 2**31), st.sampled_from([1e-20, 1.0, 1e30]), st.integers(0, 2))
@settings(max_examples=60)
def test_asymmetric_by_channel_is_bit_for_bit_what_torch_computes(bits: int, seed: int, size: float, axis: int) -> None:
    x = size * random(3, 4, 5, seed=seed)
    shape = [x.shape[i] if i == axis else 1 for i in range(3)]
    spread = size * random(*shape, seed=seed + 1)
    low, high = tune_range(spread.clamp(max=0), size * 0.3 + spread.abs(), bits)
    scale, zero = steps_and_zeros(low, high, n_steps(bits))
    zeros = zero.flatten().to(torch.int32)
    expected = torch.fake_quantize_per_channel_affine(x, scale.flatten(), zeros, axis, 0, n_steps(bits))
    assert torch.equal(fake_quantize_asymmetric(x, low, high, bits), expected)


@given(st.integers(2, 8), st.floats(-1e4, 0), st.floats(1e-3, 1e4))
def test_steps_for_one_range_and_for_channels_are_equal(bits: int, low: float, high: float) -> None:
    ends = tune_range(torch.tensor(low), torch.tensor(high), bits)
    one = step_and_zero(*(float(end) for end in ends), n_steps(bits))
    assert one == tuple(float(t) for t in steps_and_zeros(*ends, n_steps(bits)))


@pytest.mark.parametrize("bits", BITS)
def test_asymmetric_rounds_ties_as_torch_does(bits: int) -> None:
    low, high = -float(2 ** (bits - 1) - 1), float(2 ** (bits - 1))  # step 1, an odd zero-point
    x = torch.arange(low - 2, high + 2, 0.5)
    expected = torch.fake_quantize_per_tensor_affine(x, 1.0, int(-low), 0, n_steps(bits))
    assert torch.equal(fake_quantize_asymmetric(x, torch.tensor(low), torch.tensor(high), bits), expected)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 2.0), (-2.0, 0.0), (-3.0, 1.0)])
def test_one_range_and_ranges_of_channels_have_equal_gradients(
    bits: int, channels_last: bool, low: float, high: float
) -> None:
    """One range for 3 channels has the sum of the gradients of 3 equal ranges."""
    ends = tuned_by_hand(low, high, bits)
    x, g = 2 * random(2, 3, 4, 5, seed=bits), random(2, 3, 4, 5, seed=bits + 1)
    x[0, 0, 0, :2] = torch.tensor(ends)
    if channels_last:
        x, g = (t.contiguous(memory_format=torch.channels_last) for t in (x, g))

    def gradients(shape: tuple[int, ...]) -> tuple[Tensor, ...]:
        inputs = [x.clone().requires_grad_(), *(torch.full(shape, end).requires_grad_() for end in ends)]
        return torch.autograd.grad((fake_quantize_asymmetric(*inputs, bits) * g).sum(), inputs)

    one, each = gradients(()), gradients((1, 3, 1, 1))
    assert torch.equal(one[0], each[0])
    for of_one, of_each in zip(one[1:], each[1:], strict=True):
        assert of_each.shape == (1, 3, 1, 1)
        assert torch.allclose(of_one, of_each.sum(), atol=1e-4)


@given(st.integers(1, 10**7), st.integers(2, 8))
def test_the_gradient_scale_is_that_of_lsq(n_values: int, bits: int) -> None:
    assert lsq_gradient_scale(n_values, bits) == pytest.approx((n_values * (2 ** (bits - 1) - 1)) ** -0.5)


@given(st.floats(-(2.0**100), 2.0**100, width=32), st.floats(1e-6, 1))
def test_scaling_a_gradient_leaves_the_value_bit_for_bit(value: float, factor: float) -> None:
    x = torch.tensor(value, requires_grad=True)
    y = scale_gradient(x, factor)
    assert torch.equal(y, x)
    y.backward()
    assert float(x.grad) == pytest.approx(factor, rel=1e-6)
