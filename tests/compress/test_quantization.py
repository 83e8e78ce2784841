"""Quantizers: both forms mean the same, and initial steps are never worse than min-max."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.compress.quantization import InputQuantizer, WeightQuantizer, mse_scale
from autocompress.errors import CompressionError

BITS = range(2, 9)


def max_abs_error(row: list[float], bits: int) -> float:
    limit = 2 ** (bits - 1) - 1
    step = max(abs(w) for w in row) / limit
    return sum((w - round(w / step) * step) ** 2 for w in row)


def weights(seed: int, shape: tuple[int, ...] = (6, 3, 3, 3)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", [(6, 40), (6, 3, 5), (6, 3, 3, 3), (6, 1, 3, 3)])
def test_both_forms_of_a_weight_quantizer_are_equal_bit_for_bit(bits: int, shape: tuple[int, ...]) -> None:
    weight = weights(bits, shape)
    quantizer = WeightQuantizer(weight, bits)
    with torch.no_grad():
        quantizer.log_scale += torch.linspace(-0.2, 0.2, 6).reshape(quantizer.log_scale.shape)
    training = quantizer(weight).detach()
    quantizer.start_export()
    assert torch.equal(quantizer(weight), training)
    quantizer.end_export()
    assert torch.equal(quantizer(weight), training)
    steps = quantizer.log_scale.detach().exp()
    assert float((training / steps - (training / steps).round()).abs().max()) < 1e-4
    assert len((training / steps).round().unique()) <= 2**bits - 1


RANGES = [
    pytest.param(-1.0, 2.0, 1.0, id="both signs"),
    pytest.param(0.0, 3.0, 1.0, id="after ReLU"),
    pytest.param(-2.0, 0.0, 1.0, id="only negative"),
    pytest.param(0.0, 0.0, 1.0, id="all zero"),
    pytest.param(2.0, 2.0, 1.0, id="constant"),
    pytest.param(-1e-20, 3e-20, 1e-20, id="tiny"),
    pytest.param(0.0, 1e-42, 1.0, id="denormal"),
    pytest.param(-2e30, 1e30, 1e30, id="huge"),
    pytest.param(-3e38, 3e38, 1e38, id="the whole of float32"),
]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("low", "high", "size"), RANGES)
def test_both_forms_of_an_input_are_equal_bit_for_bit(bits: int, low: float, high: float, size: float) -> None:
    normal = torch.randn(500, generator=torch.Generator().manual_seed(0))
    x = torch.cat([size * normal, torch.tensor([0.0, low, high])])
    quantizer = InputQuantizer(bits)
    quantizer.set_range(low, high)
    training = quantizer(x)
    quantizer.start_export()
    exported = quantizer(x)
    assert torch.isfinite(training).all()
    assert torch.equal(exported, training)
    assert len(training.unique()) <= 2**bits
    assert training[500] == 0.0


@given(st.integers(0, 10**6), st.integers(2, 8), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
@settings(max_examples=60)
def test_both_forms_stay_equal_in_a_trained_range(seed: int, bits: int, log_low: float, log_high: float) -> None:
    x = torch.randn(300, generator=torch.Generator().manual_seed(seed))
    quantizer = InputQuantizer(bits)
    quantizer.set_range(float(x.min()), float(x.max()))
    with torch.no_grad():
        quantizer.log_low.fill_(log_low)
        quantizer.log_high.fill_(log_high)
    training = quantizer(x)
    quantizer.start_export()
    assert torch.equal(quantizer(x), training)


def test_an_uncalibrated_quantizer_passes_its_input_through_in_both_forms() -> None:
    quantizer, x = InputQuantizer(4), torch.randn(5)
    assert torch.equal(quantizer(x), x)
    quantizer.start_export()
    assert torch.equal(quantizer(x), x)


@pytest.mark.parametrize("end", [float("nan"), float("inf"), -float("inf")])
def test_a_range_that_is_not_finite_is_refused(end: float) -> None:
    with pytest.raises(CompressionError, match="must be finite"):
        InputQuantizer(8).set_range(-1.0, end)


@given(st.integers(0, 10**6), st.integers(2, 8), st.sampled_from(["normal", "heavy", "uniform"]))
@settings(max_examples=60)
def test_the_initial_step_is_never_worse_than_min_max(seed: int, bits: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 12, generator=generator)
    weight = {"normal": weight, "heavy": weight**5, "uniform": weight.clamp(-1, 1)}[kind]
    steps = mse_scale(weight, bits)
    limit = 2 ** (bits - 1) - 1
    for row, step in zip(weight.tolist(), steps.flatten().tolist(), strict=True):
        error = sum((w - min(max(round(w / step), -limit), limit) * step) ** 2 for w in row)
        assert error <= max_abs_error(row, bits) * (1 + 1e-4) + 1e-12


def test_the_initial_step_is_the_best_of_the_tried_ones() -> None:
    weight, bits = weights(3, (4, 30)), 3
    limit = 2 ** (bits - 1) - 1
    for row, step in zip(weight.tolist(), mse_scale(weight, bits).flatten().tolist(), strict=True):
        largest = max(abs(w) for w in row)
        tried = [largest * (1.0 - 0.025 * k) / limit for k in range(29)]
        errors = [sum((w - min(max(round(w / s), -limit), limit) * s) ** 2 for w in row) for s in tried]
        assert step == pytest.approx(tried[errors.index(min(errors))], rel=1e-5)


def test_a_channel_of_zeros_stays_zero() -> None:
    weight = weights(1)
    weight[2] = 0
    quantizer = WeightQuantizer(weight, 4)
    assert torch.isfinite(quantizer.log_scale).all()
    assert quantizer(weight)[2].abs().max() == 0
    assert torch.equal(quantizer(weight)[2], weight[2])


def test_steps_have_one_value_a_channel() -> None:
    assert mse_scale(weights(1), 8).shape == (6, 1, 1, 1)
    assert mse_scale(weights(1, (6, 4)), 8).shape == (6, 1)


def test_a_trained_step_moves_towards_the_better_one() -> None:
    weight = weights(5, (4, 50))
    quantizer = WeightQuantizer(weight, 3)
    with torch.no_grad():
        quantizer.log_scale += 0.7  # far too coarse
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=0.05)
    errors = []
    for _ in range(20):
        error = (quantizer(weight) - weight).square().sum()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.6 * errors[0]
