"""Bias correction: channel means of quantized layers become those of the float model."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.compress import CompressedModel, calibrate, compress
from autocompress.compress.attaching import quantized_weights
from autocompress.compress.bias_correction import channel_means
from autocompress.compress.calibration import switched_off
from autocompress.compress.quantization import InputQuantizer
from autocompress.compress.weight_quantization import WeightQuantizer
from autocompress.graph import inspect_model
from autocompress.recipe import Calibration, LayerRecipe, Recipe
from autocompress.space import uniform_recipe
from autocompress.task import call
from tests.nets import NETS

W3A4 = LayerRecipe(weight_bits=3, activation_bits=4)  # coarse, so that there is much to correct


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantized(model: nn.Module, batches: list[Any], *, corrected: bool, layer: LayerRecipe = W3A4) -> CompressedModel:
    example = batches[0][0]
    graph = inspect_model(model, example, with_groups=False)
    recipe = uniform_recipe(graph, layer, calibration=Calibration(bias_correction=corrected))
    result = compress(model, graph, recipe, example)
    calibrate(result.module, batches, recipe.calibration)
    return result


def means_by_hand(layer: nn.Module, y: Tensor) -> Tensor:
    """Mean over all but the channels: the last axis of Linear outputs, the second of batched convolutions."""
    axis = y.dim() - 1 if isinstance(layer, nn.Linear) else 1
    return torch.stack([piece.mean() for piece in y.unbind(axis)])


def layer_means(module: nn.Module, batches: list[Any]) -> dict[str, Tensor]:
    """Means of the outputs of the quantized layers, over batches and calls."""
    seen: dict[str, list[Tensor]] = {}
    layers = [(name, layer) for name, layer, _ in quantized_weights(module) if not isinstance(layer, nn.Embedding)]
    handles = [
        layer.register_forward_hook(
            lambda layer, _inputs, y, name=name: seen.setdefault(name, []).append(means_by_hand(layer, y))
        )
        for name, layer in layers
    ]
    with torch.no_grad():
        for x, _ in batches:
            call(module, x)
    for handle in handles:
        handle.remove()
    return {name: torch.stack(means).mean(dim=0) for name, means in seen.items()}


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        pytest.param(nn.Linear(3, 4), (5, 3), id="Linear"),
        pytest.param(nn.Linear(3, 4), (5, 6, 3), id="Linear on sequences"),
        pytest.param(nn.Conv1d(3, 4, 2), (5, 3, 6), id="Conv1d"),
        pytest.param(nn.Conv2d(3, 4, 2), (5, 3, 6, 7), id="Conv2d"),
        pytest.param(nn.Conv3d(3, 4, 2), (5, 3, 4, 3, 5), id="Conv3d"),
        pytest.param(nn.ConvTranspose2d(3, 4, 2), (5, 3, 4, 3), id="ConvTranspose2d"),
    ],
)
def test_means_are_those_of_the_output_channels(layer: nn.Module, shape: tuple[int, ...]) -> None:
    y = layer(random(*shape)).detach()
    assert torch.allclose(channel_means(layer, y), means_by_hand(layer, y), atol=1e-6)
    if not isinstance(layer, nn.Linear):
        assert torch.allclose(channel_means(layer, y[0]), means_by_hand(layer, y[:1]), atol=1e-6)


NAMES = ("residual", "depthwise", "conv1d", "mlp", "encoder", "upsampling", "grouped", "query_key_value", "volume")


def float_means(model: nn.Module, batches: list[Any]) -> dict[str, Tensor]:
    """Means of every layer's output in the model itself, with attention unfolded."""
    graph = inspect_model(model, batches[0][0], with_groups=False)
    nothing = compress(model, graph, uniform_recipe(graph, W3A4), batches[0][0])
    with switched_off(nothing.module, WeightQuantizer, InputQuantizer):
        return layer_means(nothing.module, batches)


@pytest.mark.parametrize("name", NAMES)
def test_means_of_every_layer_are_those_of_the_float_model(name: str) -> None:
    net = NETS[name]
    model, batches = net.build(), net.batches(n_batches=1, size=16)
    wanted = float_means(model, batches)

    def worst(*, corrected: bool) -> float:
        got = layer_means(quantized(model, batches, corrected=corrected).module, batches)
        assert set(got) == set(wanted)
        return max(float((got[layer] - wanted[layer]).abs().max()) for layer in got)

    assert worst(corrected=True) < 1e-5
    assert worst(corrected=False) > 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_several_batches_are_corrected_on_average(name: str) -> None:
    """Not exactly: the first batches run with corrections that are not final."""
    net = NETS[name]
    model, batches = net.build(), net.batches(n_batches=4, size=16)
    wanted = float_means(model, batches)

    def squared(*, corrected: bool) -> float:
        got = layer_means(quantized(model, batches, corrected=corrected).module, batches)
        return sum(float((got[layer] - wanted[layer]).square().sum()) for layer in got)

    assert squared(corrected=True) < 0.02 * squared(corrected=False)


def test_what_batches_differ_in_is_no_error() -> None:
    """Weights that are on their grid and a fine input grid leave nothing to correct, whatever the batches are."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 3))
    batches = [(random(8, 4, seed=seed) + 10 * seed, 0) for seed in range(4)]
    layer = LayerRecipe(weight_bits=8)
    plain = quantized(model, batches, corrected=False, layer=layer).strip()
    again = quantized(plain, batches, corrected=True, layer=layer)
    assert float(again.module[0].bias.detach().abs().max()) < 1e-3
    assert torch.allclose(again.module[2].bias, plain[2].bias, atol=1e-3)


@pytest.mark.parametrize("name", ["residual", "depthwise", "conv1d", "plain", "tied"])
def test_quantized_layers_without_a_bias_get_one_and_the_caller_s_do_not(name: str) -> None:
    net = NETS[name]
    model, batches = net.build(), net.batches(n_batches=1)
    keys = set(model.state_dict())
    result = quantized(model, batches, corrected=True)
    for layer in result.recipe.layers:
        module = result.module.get_submodule(layer)
        assert isinstance(module, nn.Embedding) or bool(module.bias.detach().abs().max() > 0)
    assert set(model.state_dict()) == keys
    uncorrected = quantized(model, batches, corrected=False).strip()
    assert set(uncorrected.state_dict()) == keys


def test_layers_that_stay_float_get_no_bias() -> None:
    net = NETS["residual"]
    model, batches = net.build(), net.batches(n_batches=1)
    calibration = Calibration(bias_correction=True)
    recipe = Recipe(layers={"first.0": W3A4}, calibration=calibration)
    result = compress(model, inspect_model(model, batches[0][0]), recipe, batches[0][0])
    calibrate(result.module, batches, calibration)
    assert result.module.first[0].bias is not None
    assert result.module.stem[0].bias is None
    assert torch.equal(result.module.head.bias, model.head.bias)


def test_a_layer_that_is_called_twice_is_corrected_by_the_mean_of_both() -> None:
    net = NETS["shared"]
    model, batches = net.build(), net.batches(n_batches=1, size=32)
    layer = LayerRecipe(weight_bits=3)
    before = quantized(model, batches, corrected=False, layer=layer)
    after = quantized(model, batches, corrected=True, layer=layer)
    assert after.module.twice.bias.shape == (16,)
    wanted = float_means(model, batches)["twice"]
    errors = [(layer_means(r.module, batches)["twice"] - wanted).square().sum().item() for r in (before, after)]
    assert errors[1] < 0.1 * errors[0]


def test_corrected_biases_stay_when_stripped() -> None:
    net = NETS["depthwise"]
    model, batches = net.build(), net.batches(n_batches=1)
    result = quantized(model, batches, corrected=True)
    plain = result.strip()
    for layer in result.recipe.layers:
        assert torch.equal(plain.get_submodule(layer).bias, result.module.get_submodule(layer).bias)


def test_correction_lowers_the_error_of_the_model() -> None:
    net = NETS["depthwise"]
    model, batches = net.build(), net.batches(n_batches=4, size=32)
    x = net.inputs(64, seed=99)
    with torch.no_grad():
        errors = [
            (quantized(model, batches, corrected=corrected).module(x) - model(x)).square().mean().item()
            for corrected in (False, True)
        ]
    assert errors[1] < 0.5 * errors[0]
