"""Quantizers of inputs: their grids, their two forms, and what compression tells about them."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.compress import CompressedModel, calibrate, compress
from autocompress.compress.quantization import InputQuantizer, lsq_gradient_scale
from autocompress.errors import CompressionError
from autocompress.graph import inspect_model
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.space import uniform_recipe
from tests.nets import NETS

BITS = range(2, 9)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def in_both_forms(quantizer: InputQuantizer, x: Tensor) -> tuple[Tensor, Tensor]:
    training = quantizer(x).detach()
    quantizer.start_export()
    exported = quantizer(x)
    quantizer.end_export()
    assert torch.equal(quantizer(x), training)
    return training, exported


def calibrated(model: nn.Module, x: Tensor, **layer: Any) -> CompressedModel:
    graph = inspect_model(model, x)
    recipe = uniform_recipe(graph, LayerRecipe(**{"weight_bits": 8, "activation_bits": 8, **layer}))
    result = compress(model, graph, recipe, x)
    calibrate(result.module, [(x, 0)], recipe.calibration)
    return result


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
SYMMETRIC = pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])


@SYMMETRIC
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("low", "high", "size"), RANGES)
def test_both_forms_are_equal_bit_for_bit(bits: int, low: float, high: float, size: float, symmetric: bool) -> None:
    x = torch.cat([size * random(500), torch.tensor([0.0, low, high])])
    quantizer = InputQuantizer(bits, symmetric=symmetric)
    quantizer.set_range(low, high)
    training, exported = in_both_forms(quantizer, x)
    assert torch.isfinite(training).all()
    assert torch.equal(exported, training)
    assert len(training.unique()) <= 2**bits
    assert training[500] == 0.0


@given(
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    shape=st.sampled_from([(), (4,), (3, 1), (2, 1, 1)]),
    size=st.sampled_from([1e-20, 1e-3, 1.0, 1e10]),
    smoothed=st.booleans(),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=120)
def test_both_forms_stay_equal_in_trained_ranges_of_every_shape(
    bits: int, symmetric: bool, shape: tuple[int, ...], size: float, smoothed: bool, seed: int
) -> None:
    x = size * random(5, 2, 3, 4, seed=seed)
    quantizer = InputQuantizer(bits, shape, symmetric=symmetric, smoothed_shape=(2, 1, 1) if smoothed else None)
    centre, width = size * random(*shape, seed=seed + 1), size * random(*shape, seed=seed + 2).abs()
    quantizer.set_range(centre - width, centre + width)
    with torch.no_grad():
        if smoothed:
            quantizer.smoothing.copy_(random(2, 1, 1, seed=seed).exp())
        for index, end in enumerate(quantizer.parameters()):
            end.copy_(0.3 * random(*shape, seed=seed + 3 + index))
    training, exported = in_both_forms(quantizer, x)
    assert torch.equal(exported, training)
    assert training.isfinite().all()
    assert in_both_forms(quantizer, torch.zeros_like(x))[0].abs().max() == 0


def test_an_uncalibrated_quantizer_passes_its_input_through_in_both_forms() -> None:
    x = random(5)
    assert all(torch.equal(form, x) for form in in_both_forms(InputQuantizer(4), x))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("low", "high"), [(-1.0, 0.9), (-0.2, 1.0), (-1.0, -0.5), (0.0, 1.0), (0.3, 1.0)])
def test_a_symmetric_grid_uses_exactly_the_indices_of_its_sign(bits: int, low: float, high: float) -> None:
    signed = low < 0
    lowest, highest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    quantizer = InputQuantizer(bits, symmetric=True)
    quantizer.set_range(low, high)
    scale = max(low / lowest if signed else 0.0, high / highest)  # the smallest grid that holds the range
    indices = quantizer(torch.linspace(-3, 3, 4001)).detach() / scale
    assert torch.allclose(indices, indices.round(), atol=1e-3)
    assert set(indices.round().int().tolist()) == set(range(lowest, highest + 1))
    assert quantizer.signed is signed


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("low", "high"), [(-1.0, 0.9), (-0.2, 1.0), (0.3, 1.0), (-2.0, -1.0)])
def test_an_asymmetric_grid_uses_all_its_indices(bits: int, low: float, high: float) -> None:
    quantizer = InputQuantizer(bits)
    quantizer.set_range(low, high)
    scale, zero = quantizer.step_and_zero()
    indices = quantizer(torch.linspace(-3, 3, 4001)).detach() / scale + zero
    assert torch.allclose(indices, indices.round(), atol=1e-3)
    assert set(indices.round().int().tolist()) == set(range(2**bits))


@SYMMETRIC
@pytest.mark.parametrize(
    ("layer", "shape", "range_shape"),
    [
        pytest.param(nn.Conv1d(3, 4, 2), (2, 3, 6), (3, 1), id="Conv1d"),
        pytest.param(nn.Conv2d(3, 4, 2), (2, 3, 6, 5), (3, 1, 1), id="Conv2d"),
        pytest.param(nn.Conv3d(3, 4, 2), (2, 3, 4, 5, 3), (3, 1, 1, 1), id="Conv3d"),
        pytest.param(nn.ConvTranspose2d(3, 4, 2), (2, 3, 6, 5), (3, 1, 1), id="ConvTranspose2d"),
        pytest.param(nn.Linear(3, 4), (2, 3), (3,), id="Linear"),
        pytest.param(nn.Linear(3, 4), (2, 5, 3), (3,), id="Linear on sequences"),
    ],
)
def test_every_channel_is_quantized_as_if_it_were_alone(
    layer: nn.Module, shape: tuple[int, ...], range_shape: tuple[int, ...], symmetric: bool
) -> None:
    axis = len(shape) - len(range_shape)
    spread, shift = torch.tensor([0.01, 1.0, 30.0]), torch.tensor([0.0, 5.0, 0.0])
    x = (random(*shape).movedim(axis, -1) * spread + shift).movedim(-1, axis)
    scheme = "symmetric" if symmetric else "asymmetric"
    model = calibrated(nn.Sequential(layer), x, activation_granularity="per_channel", activation_scheme=scheme)
    quantizer = model.module[0].input_quantizer
    assert quantizer.initial_low.shape == quantizer.log_high.shape == range_shape
    got = quantizer(x)
    for channel in range(3):
        mine = x.select(axis, channel)
        alone = InputQuantizer(8, symmetric=symmetric)
        alone.set_range(float(mine.min()), float(mine.max()))
        assert torch.allclose(got.select(axis, channel), alone(mine), rtol=1e-5)
    training, exported = in_both_forms(quantizer, x)
    assert torch.equal(training, exported)


def test_layers_that_count_channels_differently_don_t_share_ranges_of_channels() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv1d(4, 8, 1), nn.Linear(6, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).mean(dim=2) + self.linear(x).mean(dim=1)

    x = random(2, 4, 6)
    module = calibrated(Both(), x, activation_granularity="per_channel").module
    assert module.conv.input_quantizer.initial_low.shape == (4, 1)
    assert module.linear.input_quantizer.initial_low.shape == (6,)
    module = calibrated(Both(), x).module
    assert module.conv.input_quantizer is module.linear.input_quantizer


def test_an_empty_channel_among_others_stays_zero_and_changes_nothing_for_them() -> None:
    x = random(8, 3)
    x[:, 1] = 0
    quantizer = InputQuantizer(4, (3,))
    quantizer.set_range(x.amin(dim=0), x.amax(dim=0))
    assert quantizer.calibrated
    training, exported = in_both_forms(quantizer, x)
    assert torch.equal(training, exported)
    assert training[:, 1].abs().max() == 0
    assert float((training - x).abs().max()) < float(x.max() - x.min()) / 15
    quantizer(x).square().sum().backward()
    assert all(end.grad.isfinite().all() for end in quantizer.parameters())


@pytest.mark.parametrize("low", [0.0, -1.0])
@pytest.mark.parametrize("end", [float("nan"), float("inf"), -float("inf")])
def test_a_range_that_is_not_finite_is_refused(low: float, end: float) -> None:
    with pytest.raises(CompressionError, match="must be finite, but got .*(nan|inf)"):
        InputQuantizer(8).set_range(low, end)
    with pytest.raises(CompressionError, match="must be finite"):
        InputQuantizer(8, (2,)).set_range(torch.tensor([low, end]), torch.ones(2))


def test_the_sign_of_an_input_is_detected_and_stated() -> None:
    net = NETS["residual"]
    rows = calibrated(net.build(), net.inputs(8), activation_scheme="symmetric").describe()
    stated = {row["layer"]: row["activation_scheme"] for row in rows}
    assert stated == {"stem.0": "signed", "first.0": "unsigned", "second.0": "unsigned", "head": "unsigned"}
    for row in rows:
        signed = row["activation_scheme"] == "signed"
        ratio = -row["low"] / row["high"]
        assert ratio == pytest.approx(128 / 127 if signed else 0.0, rel=1e-5)


def test_an_asymmetric_input_is_stated_with_its_range() -> None:
    model = calibrated(nn.Sequential(nn.Linear(4, 2)), torch.tensor([[-1.0, 0.0, 0.5, 4.0]]))
    (row,) = model.describe()
    assert row["activation_scheme"] == "asymmetric"
    assert row["weight_bits"] == row["activation_bits"] == 8
    assert (row["low"], row["high"]) == pytest.approx((-1.0, 4.0), abs=5 / 255)


def test_a_float_input_is_stated_as_such() -> None:
    net = NETS["mlp"]
    for row in calibrated(net.build(), net.inputs(4), activation_bits=32).describe():
        assert row["activation_scheme"] == ""
        assert math.isnan(row["low"])
        assert math.isnan(row["high"])


def test_transposed_convolutions_alone_have_symmetric_inputs_by_default() -> None:
    net = NETS["upsampling"]
    rows = calibrated(net.build(), net.inputs(2)).describe()
    stated = {row["layer"]: row["activation_scheme"] for row in rows}
    assert stated == {"down": "asymmetric", "up": "unsigned", "out": "asymmetric"}


def step(quantizer: InputQuantizer, error: Tensor, size: float) -> None:
    """One step of descent by the signs of the gradients."""
    parameters = list(quantizer.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(error, parameters), strict=True):
        parameter.data -= size * gradient.sign()


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_a_symmetric_range_stays_symmetric_in_training(signed: bool) -> None:
    quantizer = InputQuantizer(4, symmetric=True)
    quantizer.set_range(-1.0 if signed else 0.0, 1.0)
    assert len(list(quantizer.parameters())) == 1
    x = 3 * random(100)
    for _ in range(3):
        step(quantizer, (quantizer(x) - x).square().mean(), 0.1)
    low, high = (end.item() for end in quantizer.tuned_range())
    assert high > 1.05
    assert -low / high == pytest.approx(8 / 7 if signed else 0.0, rel=1e-6)


@pytest.mark.parametrize("shape", [(), (4,)], ids=["tensor", "channels"])
def test_a_trained_range_moves_towards_the_better_one(shape: tuple[int, ...]) -> None:
    x = random(200, 4)
    quantizer = InputQuantizer(3, shape)
    quantizer.set_range(torch.full(shape, -9.0), torch.full(shape, 0.5))
    errors = []
    for _ in range(20):
        error = (quantizer(x) - x).square().mean()
        step(quantizer, error, 0.1)
        errors.append(error.item())
    assert errors[-1] < 0.5 * errors[0]


def test_lsq_scales_only_the_gradients_of_the_ends() -> None:
    x = (2 * random(40)).requires_grad_()
    results = []
    for factor in (1.0, 0.01):
        quantizer = InputQuantizer(4, gradient_scale=factor)
        quantizer.set_range(-1.0, 1.3)
        y = quantizer(x)
        results.append((y, torch.autograd.grad((y * x.detach()).sum(), [x, quantizer.log_low, quantizer.log_high])))
    (y, (gx, *ends)), (y_scaled, (gx_scaled, *ends_scaled)) = results
    assert torch.equal(y, y_scaled)
    assert torch.equal(gx, gx_scaled)
    assert any(end != 0 for end in ends)
    for end, scaled in zip(ends, ends_scaled, strict=True):
        assert float(scaled) == pytest.approx(0.01 * float(end), rel=1e-5)


def test_lsq_counts_the_values_of_one_inference() -> None:
    net = NETS["residual"]
    model, x = net.build(), net.inputs()
    recipe = Recipe(layers={"first.0": LayerRecipe(weight_bits=4, activation_bits=5)})
    result = compress(model, inspect_model(model, x), recipe, x, lsq=True)
    layer = result.module.first[0]
    assert layer.input_quantizer.gradient_scale == lsq_gradient_scale(16 * 8 * 8, 5)
    assert layer.parametrizations.weight[0].gradient_scale == lsq_gradient_scale(16 * 3 * 3, 4)
    assert compress(model, inspect_model(model, x), recipe, x).module.first[0].input_quantizer.gradient_scale == 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_inputs_of_mixed_precision_meet_a_grid_in_32_bits(dtype: torch.dtype) -> None:
    quantizer = InputQuantizer(8)
    quantizer.set_range(-1.0, 3.0)
    x = random(64, 7).to(dtype)
    assert torch.equal(quantizer(x), quantizer(x.float()))
