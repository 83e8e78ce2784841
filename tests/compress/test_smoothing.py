"""Smoothing: the formula, the float function that stays, and what is left alone."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.compress import CompressedModel, calibrate, compress
from autocompress.compress.attaching import attached_input, weight_before
from autocompress.compress.calibration import switched_off
from autocompress.compress.quantization import InputQuantizer
from autocompress.compress.smoothing import input_channel_maxima, scale_input_channels, smoothing_scale
from autocompress.compress.weight_quantization import SymmetricWeights, WeightQuantizer
from autocompress.graph import inspect_model
from autocompress.recipe import Calibration, LayerRecipe, Recipe
from autocompress.space import uniform_recipe
from autocompress.task import call, flatten
from tests.nets import NETS

W8A8 = LayerRecipe(weight_bits=8, activation_bits=8)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def smoothed(model: nn.Module, x: Any, strength: float = 0.5, layer: LayerRecipe = W8A8) -> CompressedModel:
    graph = inspect_model(model, x, with_groups=False)
    recipe = uniform_recipe(graph, layer, calibration=Calibration(smoothing=strength))
    result = compress(model, graph, recipe, x)
    calibrate(result.module, [(x, 0)], recipe.calibration)
    return result


def outputs(model: nn.Module, x: Any) -> list[Tensor]:
    with torch.no_grad():
        return flatten(call(model, x))


def close(a: list[Tensor], b: list[Tensor], tolerance: float = 1e-5) -> bool:
    return all(torch.allclose(p, q, rtol=tolerance, atol=tolerance) for p, q in zip(a, b, strict=True))


def smoothing_of(layer: nn.Module) -> Tensor:
    quantizer = attached_input(layer)
    assert isinstance(quantizer, InputQuantizer)
    assert quantizer.smoothing is not None
    return quantizer.smoothing.flatten()


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
def test_divisors_are_those_of_the_formula(strength: float) -> None:
    inputs, weights = [0.1, 3.0, 50.0], [2.0, 0.5, 0.01]
    got = smoothing_scale(torch.tensor(inputs), torch.tensor(weights), strength)
    expected = [x**strength / w ** (1 - strength) for x, w in zip(inputs, weights, strict=True)]
    assert got.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_channel_that_is_always_zero_keeps_its_scale(strength: float) -> None:
    got = smoothing_scale(torch.tensor([0.0, 4.0, 0.0, 4.0]), torch.tensor([1.0, 0.0, 0.0, 4.0]), strength)
    assert got.tolist() == [1.0, 1.0, 1.0, 1.0 if strength == 0.5 else 4.0]


@pytest.mark.parametrize(("inputs", "weights"), [(1e-42, 1e30), (1e30, 1e-42), (3e38, 1e-45)])
def test_extreme_channels_have_divisors_that_float32_can_use(inputs: float, weights: float) -> None:
    scale = float(smoothing_scale(torch.tensor([inputs]), torch.tensor([weights]), 0.5))
    assert 0.99e-4 < scale < 1.01e4


LAYERS = [
    pytest.param(nn.Linear(6, 4), (5, 6), id="Linear"),
    pytest.param(nn.Conv1d(6, 4, 3), (2, 6, 8), id="Conv1d"),
    pytest.param(nn.Conv2d(6, 4, 3, padding=1), (2, 6, 5, 5), id="Conv2d"),
    pytest.param(nn.Conv2d(6, 4, 3, groups=2, stride=2), (2, 6, 7, 5), id="grouped"),
    pytest.param(nn.Conv2d(6, 12, 3, groups=6), (2, 6, 5, 5), id="depthwise, two filters a channel"),
    pytest.param(nn.Conv3d(6, 4, 2), (2, 6, 3, 4, 3), id="Conv3d"),
    pytest.param(nn.ConvTranspose1d(6, 4, 3, stride=2), (2, 6, 5), id="ConvTranspose1d"),
    pytest.param(nn.ConvTranspose2d(6, 4, 3, groups=2), (2, 6, 5, 5), id="grouped ConvTranspose2d"),
    pytest.param(nn.Conv2d(6, 4, 3), (6, 5, 5), id="Conv2d without a batch axis"),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_scaled_weights_read_divided_inputs(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """Against the layer's own arithmetic: input channels times s, then weights over s."""
    x, scale = random(*shape), random(6, seed=1).exp()
    axis = len(shape) - layer.weight.dim() + 1 if not isinstance(layer, nn.Linear) else len(shape) - 1
    along = scale.reshape([6 if i == axis else 1 for i in range(len(shape))])
    before, original = outputs(layer, x), layer.weight.detach().clone()
    scale_input_channels(layer, scale)
    assert close(outputs(layer, x / along), before, 1e-4)
    scale_input_channels(layer, scale.reciprocal())
    assert torch.allclose(layer.weight, original, rtol=1e-5)


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_the_maxima_of_a_channel_are_over_the_weights_that_read_it(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """A weight reads channel j if the output changes with that channel alone."""
    got = input_channel_maxima(layer)
    for channel in range(6):
        read = layer.weight.detach().clone()
        scale_input_channels(layer, torch.tensor([0.0 if i == channel else 1.0 for i in range(6)]))
        changed = read != layer.weight
        assert float(got[channel]) == float(read[changed].abs().max())
        layer.weight.data = read


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize(
    "name", [n for n in NETS if n not in ("no_layers", "never_called", "two_in_two_out", "fixed_view", "frozen")]
)
def test_the_float_function_stays(name: str, strength: float) -> None:
    net = NETS[name]
    model, x = net.build(), net.inputs(8)
    result = smoothed(model, x, strength)
    with switched_off(result.module, WeightQuantizer, InputQuantizer):
        assert close(outputs(result.module, x), outputs(model, x))
    if name != "weight_norm":
        inputs = [layer for layer in result.module.modules() if isinstance(attached_input(layer), InputQuantizer)]
        assert any(not torch.equal(smoothing_of(layer), torch.ones_like(smoothing_of(layer))) for layer in inputs)


@pytest.mark.parametrize("name", ["mlp", "grouped", "depthwise", "upsampling", "query_key_value", "encoder", "tied"])
def test_stripping_undoes_it(name: str) -> None:
    net = NETS[name]
    model, x = net.build(), net.inputs(8)
    result = smoothed(model, x)
    plain = result.strip()
    assert not any("smoothing" in key for key in plain.state_dict())
    with switched_off(result.module, InputQuantizer):
        assert close(outputs(plain, x), outputs(result.module, x))


def test_it_makes_the_channels_of_a_depthwise_input_equal_at_exponent_1() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4))
    x = random(8, 4, 6, 6) * torch.tensor([0.01, 1.0, 30.0, 0.3]).reshape(4, 1, 1)
    result = smoothed(model, x, 1.0)
    quantizer = result.module[0].input_quantizer
    largest = (x / quantizer.smoothing).abs().amax(dim=(0, 2, 3))
    assert torch.allclose(largest, torch.ones(4))
    assert torch.allclose(weight_before(result.module[0]), model[0].weight * quantizer.smoothing[:, None])


def test_layers_that_read_one_tensor_are_smoothed_together() -> None:
    net = NETS["query_key_value"]
    model, x = net.build(), net.inputs(8)
    with torch.no_grad():
        model.key.weight[:, 3] *= 20  # the largest of the three decides
    result = smoothed(model, x)
    inputs = x.abs().amax(dim=(0, 1)).tolist()
    weights = [getattr(model, name).weight.detach().abs().amax(dim=0).tolist() for name in ("query", "key", "value")]
    expected = [math.sqrt(top / max(ws)) for top, *ws in zip(inputs, *weights, strict=True)]
    assert smoothing_of(result.module.query).tolist() == pytest.approx(expected, rel=1e-5)
    for name in ("query", "key", "value"):
        scaled = getattr(model, name).weight * torch.tensor(expected)
        assert torch.allclose(weight_before(getattr(result.module, name)), scaled, rtol=1e-5)


def test_tied_weights_are_left_alone() -> None:
    net = NETS["tied"]
    model, x = net.build(), net.inputs(8)
    module = smoothed(model, x).module
    assert torch.equal(smoothing_of(module.out), torch.ones(16))
    assert torch.equal(weight_before(module.out), model.out.weight)
    assert torch.equal(weight_before(module.words), model.words.weight)
    assert not torch.equal(smoothing_of(module.hidden), torch.ones(16))


def test_an_input_is_left_alone_if_one_of_its_readers_is_tied() -> None:
    class HalfTied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own, self.tied, self.other = (nn.Linear(4, 4) for _ in range(3))
            self.other.weight = self.tied.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.other((self.own(x) + self.tied(x)).relu())

    model, x = HalfTied(), random(8, 4)
    module = smoothed(model, x).module
    for name in ("own", "tied", "other"):
        assert torch.equal(smoothing_of(getattr(module, name)), torch.ones(4))
        assert torch.equal(weight_before(getattr(module, name)), getattr(model, name).weight)


def test_weights_with_a_parametrization_of_their_own_are_left_alone() -> None:
    net = NETS["weight_norm"]
    module = smoothed(net.build(), net.inputs(8)).module
    assert torch.equal(smoothing_of(module.first), torch.ones(3))
    assert not torch.equal(smoothing_of(module.second), torch.ones(16))


def test_layers_that_count_channels_differently_are_smoothed_apart() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv1d(4, 8, 1), nn.Linear(6, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).mean(dim=2) + self.linear(x).mean(dim=1)

    model, x = Both(), random(5, 4, 6)
    result = smoothed(model, x)
    assert smoothing_of(result.module.conv).shape == (4,)
    assert smoothing_of(result.module.linear).shape == (6,)
    with switched_off(result.module, WeightQuantizer, InputQuantizer):
        assert close(outputs(result.module, x), outputs(model, x))


def test_steps_of_the_weights_are_those_of_the_scaled_weights() -> None:
    net = NETS["mlp"]
    module = smoothed(net.build(), net.inputs(8), layer=LayerRecipe(weight_bits=4, activation_bits=8)).module
    for layer in (module[0], module[2], module[4]):
        quantizer = layer.parametrizations.weight[0]
        fresh = SymmetricWeights(weight_before(layer), 4, quantizer.layout)
        assert torch.equal(quantizer.log_scale, fresh.log_scale)


def test_doing_it_twice_changes_nothing_more_at_exponent_1() -> None:
    net = NETS["mlp"]
    model, x = net.build(), net.inputs(8)
    module = smoothed(model, x, 1.0).module
    before, first = weight_before(module[0]).clone(), smoothing_of(module[0]).clone()
    calibrate(module, [(x, 0)], Calibration(smoothing=1.0))
    assert torch.allclose(smoothing_of(module[0]), first, rtol=1e-5)
    assert torch.allclose(weight_before(module[0]), before, rtol=1e-5)


def test_largest_inputs_are_over_all_batches_and_calls() -> None:
    net = NETS["shared"]
    model = net.build()
    recipe = Recipe(layers={"stem": W8A8, "twice": W8A8}, calibration=Calibration(smoothing=1.0))
    module = compress(model, inspect_model(model, net.inputs()), recipe, net.inputs()).module
    batches = [(net.inputs(4, seed=seed), 0) for seed in range(3)]
    calibrate(module, batches, recipe.calibration)
    x = torch.cat([batch for batch, _ in batches])
    assert torch.allclose(smoothing_of(module.stem), x.abs().amax(dim=0))
    first = model.stem(x).relu()
    second = model.twice(first).relu()
    largest = torch.maximum(first, second).amax(dim=0)
    assert torch.allclose(smoothing_of(module.twice), largest.masked_fill(largest == 0, 1.0), rtol=1e-5)


def test_it_lowers_the_error_of_inputs_with_outlying_channels() -> None:
    model = nn.Sequential(nn.Linear(32, 16))
    x = random(64, 32)
    x[:, 5] *= 100
    errors = []
    for strength in (0.0, 0.5):
        module = smoothed(model, x, strength).module
        errors.append(float((outputs(module, x)[0] - outputs(model, x)[0]).square().mean()))
    assert errors[1] < 0.2 * errors[0]
