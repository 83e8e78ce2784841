"""Binarization: values and gradients against the definitions in plain Python, and equal forms."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autocompress.compress.binarization import (
    ActivationBinarizer,
    BinarizationKind,
    WeightBinarizer,
    binarize_activation,
    binarize_dorefa,
    binarize_xnor,
    why_not_binary,
)
from autocompress.errors import CompressionError

KINDS: list[BinarizationKind] = ["xnor", "dorefa"]
FUNCTIONS = {"xnor": binarize_xnor, "dorefa": binarize_dorefa}
FILTERS = st.lists(st.lists(st.floats(-4, 4, width=32), min_size=6, max_size=6), min_size=1, max_size=5)
Function = Callable[[float, float, float], float]


def mean_size(values: list[float]) -> float:
    return math.fsum(abs(v) for v in values) / len(values)


@given(FILTERS)
def test_xnor_gives_each_filter_its_own_mean_of_absolute_weights(filters: list[list[float]]) -> None:
    found = binarize_xnor(torch.tensor(filters).reshape(-1, 2, 3, 1)).reshape(-1, 6)
    expected = [[mean_size(row) if w > 0 else -mean_size(row) for w in row] for row in filters]
    torch.testing.assert_close(found, torch.tensor(expected))


@given(FILTERS)
def test_dorefa_gives_all_filters_one_mean_of_absolute_weights(filters: list[list[float]]) -> None:
    found = binarize_dorefa(torch.tensor(filters).reshape(-1, 2, 3, 1)).reshape(-1, 6)
    size = mean_size([w for row in filters for w in row])
    torch.testing.assert_close(found, torch.tensor([[size if w > 0 else -size for w in row] for row in filters]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_zero_weight_has_the_sign_minus(kind: str) -> None:
    assert FUNCTIONS[kind](torch.tensor([[0.0, -0.0, 2.0, 2.0]])).tolist() == [[-1.0, -1.0, 1.0, 1.0]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_gets_the_gradient_of_its_binary_form_even_beyond_one(kind: str) -> None:
    weight = torch.tensor([[0.3, -2.0, 0.0], [5.0, 0.1, -0.1]], requires_grad=True)
    upstream = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    FUNCTIONS[kind](weight).backward(upstream)
    assert weight.grad is not None
    assert torch.equal(weight.grad, upstream)


@given(st.floats(-3, 3, width=32), st.floats(0.125, 3, width=32), st.floats(-1, 1, width=32))
def test_an_input_is_the_scale_above_the_scaled_threshold_and_else_zero(x: float, scale: float, t: float) -> None:
    found = binarize_activation(torch.tensor([x]).double(), torch.tensor(scale).double(), torch.tensor(t).double())
    assert found.tolist() == [scale if x > scale * t else 0.0]


def test_thresholds_are_a_channel() -> None:
    x = torch.full((2, 3, 1, 2), 1.0)
    found = binarize_activation(x, torch.tensor(2.0), torch.tensor([0.4, 0.5, 0.6]).reshape(3, 1, 1))
    assert found[:, :, 0, 0].tolist() == [[2.0, 0.0, 0.0]] * 2


def surrogate(x0: float, s0: float, t0: float) -> Function:
    """The formula with a ramp of slope 1 for the step, its error at the point held constant."""

    def ramp(x: float, s: float, t: float) -> float:
        return min(max(x / s - t + 0.5, 0.0), 1.0)

    step = 1.0 if x0 > s0 * t0 else 0.0
    error = step - ramp(x0, s0, t0)
    return lambda x, s, t: s * (ramp(x, s, t) + error)


def finite_differences(function: Function, point: tuple[float, float, float]) -> list[float]:
    slopes = []
    for axis in range(3):
        low, high = list(point), list(point)
        low[axis] -= 1e-6
        high[axis] += 1e-6
        slopes.append((function(*high) - function(*low)) / 2e-6)  # type: ignore[arg-type]
    return slopes


POINTS = [
    pytest.param(p, id=f"x={p[0]} s={p[1]} t={p[2]}")
    for p in itertools.product((-1.3, 0.2, 0.55, 0.9, 3.0), (0.7, 1.6), (-0.3, 0.0, 0.5))
]


@pytest.mark.parametrize("point", POINTS)
def test_gradients_of_an_input_are_those_of_a_ramp_in_the_window(point: tuple[float, float, float]) -> None:
    x, s, t = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in point)
    found = torch.autograd.grad(binarize_activation(x, s, t), (x, s, t))
    assert [float(g) for g in found] == pytest.approx(finite_differences(surrogate(*point), point), abs=1e-6)


def test_gradients_at_the_middle_threshold_are_those_of_nncf() -> None:
    x = torch.tensor([0.1, 0.9, 1.9, 2.5], dtype=torch.float64, requires_grad=True)
    s = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    upstream = [1.0, 10.0, 100.0, 1000.0]
    binarize_activation(x, s, torch.tensor(0.5).double()).backward(torch.tensor(upstream).double())
    values = [0.1, 0.9, 1.9, 2.5]
    outputs = [2.0 if v > 1.0 else 0.0 for v in values]
    to_scale = [(o - v) / 2.0 if v <= 2.0 else 1.0 for v, o in zip(values, outputs, strict=True)]
    assert x.grad is not None and s.grad is not None
    assert x.grad.tolist() == pytest.approx([1.0, 10.0, 100.0, 0.0])
    assert float(s.grad) == pytest.approx(sum(g * u for g, u in zip(to_scale, upstream, strict=True)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_both_forms_of_a_weight_are_equal_bit_for_bit(kind: BinarizationKind, seed: int) -> None:
    weight = torch.randn(5, 8, 3, 3, generator=torch.Generator().manual_seed(seed)) * 10.0 ** (seed - 1)
    weight[0] = 0.0
    weight[1, 0, 0, 0] = 0.0
    binarizer = WeightBinarizer(kind)
    training = binarizer(weight)
    binarizer.start_export()
    exported = binarizer(weight)
    zero = training == 0  # all the filter of a vanishing scale
    assert torch.equal(exported.masked_fill(zero, 0.0), training.masked_fill(zero, 0.0))
    assert exported.masked_select(zero).abs().sum() == 0
    binarizer.end_export()
    assert torch.equal(binarizer(weight), training)


RANGES = [
    pytest.param(0.0, 3.0, 3.0, 0.5, id="after ReLU"),
    pytest.param(0.5, 3.0, 3.0, 0.5, id="above zero"),
    pytest.param(-1.0, 1.0, 2.0, 0.0, id="both signs"),
    pytest.param(-3.0, 1.0, 4.0, -0.25, id="mostly negative"),
    pytest.param(-2.0, -1.0, 2.0, -0.5, id="only negative"),
    pytest.param(0.0, 0.0, 1.0, 0.5, id="all zero"),
    pytest.param(0.0, 1e-42, 1.0, 0.5, id="denormal"),
    pytest.param(0.0, 3e38, 1e30, 0.5, id="the whole of float32"),
]


@pytest.mark.parametrize(("low", "high", "scale", "threshold"), RANGES)
def test_a_range_starts_scale_and_thresholds(low: float, high: float, scale: float, threshold: float) -> None:
    binarizer = ActivationBinarizer(4)
    assert not binarizer.calibrated
    binarizer.set_range(low, high)
    assert binarizer.calibrated
    assert float(binarizer.log_scale.detach().exp()) == pytest.approx(scale, rel=1e-4)
    assert binarizer.threshold.flatten().tolist() == pytest.approx([threshold] * 4)


@pytest.mark.parametrize(("low", "high", "scale", "threshold"), RANGES)
def test_both_forms_of_an_input_are_equal_bit_for_bit(low: float, high: float, scale: float, threshold: float) -> None:
    binarizer = ActivationBinarizer(3)
    binarizer.set_range(low, high)
    with torch.no_grad():
        binarizer.threshold += torch.tensor([-0.1, 0.0, 0.1]).reshape(3, 1, 1)
    x = scale * (torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)) + threshold)
    training = binarizer(x).detach()
    assert len(training.unique()) == 2
    binarizer.start_export()
    assert torch.equal(binarizer(x), training)
    binarizer.end_export()
    assert torch.equal(binarizer(x).detach(), training)


def test_a_range_may_be_tensors_of_one_value() -> None:
    one, other = ActivationBinarizer(2), ActivationBinarizer(2)
    one.set_range(-1.0, 2.0)
    other.set_range(torch.tensor([-1.0]), torch.tensor(2.0))
    assert torch.equal(one.log_scale, other.log_scale)
    assert torch.equal(one.threshold, other.threshold)


@pytest.mark.parametrize("end", [math.nan, math.inf, -math.inf])
def test_a_range_that_is_not_finite_is_refused(end: float) -> None:
    with pytest.raises(CompressionError, match="must be finite"):
        ActivationBinarizer(2).set_range(0.0, end)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(CompressionError, match="must be one of xnor, dorefa, but got 'bnn'"):
        WeightBinarizer("bnn")  # type: ignore[arg-type]


def disabled_input() -> ActivationBinarizer:
    binarizer = ActivationBinarizer(3)
    binarizer.set_range(0.0, 1.0)
    binarizer.enabled = False
    return binarizer


def disabled_weight() -> WeightBinarizer:
    binarizer = WeightBinarizer("xnor")
    binarizer.enabled = False
    return binarizer


@pytest.mark.parametrize("exporting", [False, True], ids=["training", "export"])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: ActivationBinarizer(3), id="uncalibrated input"),
        pytest.param(disabled_input, id="disabled input"),
        pytest.param(disabled_weight, id="disabled weight"),
    ],
)
def test_what_does_not_binarize_passes_through_in_both_forms(make: Callable[[], nn.Module], exporting: bool) -> None:
    binarizer = make()
    if exporting:
        binarizer.start_export()  # type: ignore[operator]
    x = torch.randn(3, 3, 2, 2)
    assert binarizer(x) is x


def test_scale_and_thresholds_survive_a_state_dict() -> None:
    one, other = ActivationBinarizer(3), ActivationBinarizer(3)
    one.set_range(-1.0, 2.0)
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(other(x), one(x))
    assert len(other(x).unique()) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_binarizer_is_a_parametrization_that_can_be_removed(kind: BinarizationKind) -> None:
    layer = nn.Conv2d(8, 4, 3)
    before = layer.weight.detach().clone()
    parametrize.register_parametrization(layer, "weight", WeightBinarizer(kind))
    layer(torch.randn(1, 8, 5, 5)).square().sum().backward()
    latent: Tensor = layer.parametrizations["weight"].original  # type: ignore[index,union-attr,assignment]
    assert torch.equal(latent, before)
    assert latent.grad is not None and latent.grad.abs().sum() > 0
    parametrize.remove_parametrizations(layer, "weight")
    assert torch.equal(layer.weight, FUNCTIONS[kind](before))


LAYERS = [
    pytest.param(nn.Conv2d(8, 3, 3), "", id="plain"),
    pytest.param(nn.Conv2d(24, 3, (9, 7), padding=(4, 2), stride=2), "", id="at the limits"),
    pytest.param(nn.Conv2d(8, 3, 3, padding="same", dilation=2), "", id="same padding"),
    pytest.param(nn.Linear(8, 8), "Linear is not a Conv2d", id="linear"),
    pytest.param(nn.ConvTranspose2d(8, 8, 3), "ConvTranspose2d is not a Conv2d", id="transposed"),
    pytest.param(nn.Conv2d(16, 16, 3, groups=2), "it has 2 groups", id="groups"),
    pytest.param(nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), "'reflect'", id="reflecting"),
    pytest.param(nn.Conv2d(12, 8, 3), "it has 12 input channels", id="channels"),
    pytest.param(nn.Conv2d(8, 8, 9), "its kernel is 9 wide", id="wide kernel"),
    pytest.param(nn.Conv2d(8, 8, 7, padding=3), "it pads 3 columns", id="padding"),
    pytest.param(nn.Conv2d(8, 8, 3, padding="same", dilation=3), "it pads 3 columns", id="wide same padding"),
]


@pytest.mark.parametrize(("layer", "reason"), LAYERS)
def test_layers_without_a_binary_kernel_have_a_reason(layer: nn.Module, reason: str) -> None:
    found = why_not_binary(layer)
    assert reason in found
    assert bool(found) == bool(reason)
