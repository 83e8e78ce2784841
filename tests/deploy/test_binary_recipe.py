"""A recipe with binary layers: refused where it cannot be, trained in stages, deployed in the binary kernel."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autocompress.compress import CompressedModel, calibrate, compress, parameter_groups
from autocompress.compress.attaching import attached_input, attached_weight
from autocompress.deploy import load_openvino, save_openvino, to_openvino
from autocompress.errors import CompressionError
from autocompress.graph import inspect_model
from autocompress.latency import compile_model
from autocompress.measure import float_layers, layer_precisions
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.train import FinetuneSettings, Objective, Teacher, finetune
from tests.processor import exact_on_this_processor

W8A8 = LayerRecipe(weight_bits=8, activation_bits=8)
BINARY = LayerRecipe(weight_bits=1, activation_bits=1)
X = torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(0))
Y = (X.mean(dim=(1, 2, 3)) > 0).long()


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return nn.Sequential(
            *(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 2)),
        ).eval()


def compressed(binary: LayerRecipe = BINARY) -> CompressedModel:
    model = net()
    recipe = Recipe(layers={"0": W8A8, "3": binary, "8": W8A8})
    result = compress(model, inspect_model(model, X[:1]), recipe, X[:1])
    calibrate(result.module, [(X, Y)])
    return result


def trained(binary: LayerRecipe = BINARY) -> CompressedModel:
    result = compressed(binary)
    settings = FinetuneSettings(n_steps=9, learning_rate=1e-2)
    objective = Objective(cross_entropy, teacher=Teacher(net()))
    finetune(result.module, [(X, Y)], objective, settings, ranges=parameter_groups(result.module)[1])
    return result


def outputs(model: CompressedModel, x: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = model.module(x)
        return result


@exact_on_this_processor
@pytest.mark.parametrize("kind", ["xnor", "dorefa"])
def test_a_binary_layer_is_deployed_in_the_binary_kernel(kind: str, tmp_path: Path) -> None:
    model = trained(LayerRecipe(weight_bits=1, activation_bits=1, binarization=kind))
    with model.export_form() as module:
        compiled = compile_model(load_openvino(save_openvino(to_openvino(module, X[:1]), tmp_path)), 1)
    precisions = layer_precisions(compiled, model.recipe.layers)
    assert precisions["3"] == "u1"
    assert float_layers(precisions, model.recipe.layers) == ()
    found = np.concatenate([compiled(X[i : i + 1].numpy())[0] for i in range(8)])
    assert np.allclose(found, outputs(model, X[:8]), atol=1e-4)


@exact_on_this_processor
def test_binary_weights_with_an_8_bit_input_run_on_integers() -> None:
    model = trained(LayerRecipe(weight_bits=1, activation_bits=8))
    with model.export_form() as module:
        compiled = compile_model(to_openvino(module, X[:1]), 1)
    assert layer_precisions(compiled, ["3"]) == {"3": "i8"}
    assert np.allclose(compiled(X[:1].numpy())[0], outputs(model, X[:1]), atol=1e-4)


def test_training_ends_with_everything_binary() -> None:
    layer = trained().module[3]
    weight, binarizer = attached_weight(layer), attached_input(layer)
    assert weight is not None and weight.enabled
    assert binarizer is not None and binarizer.enabled
    assert all(len(filter_.unique()) == 2 for filter_ in layer.weight)


def test_state_restores_a_binary_model() -> None:
    model, again = trained(), compressed()
    again.load_state(load(save(model.state())))
    assert torch.equal(outputs(again, X), outputs(model, X))


def test_a_stripped_binary_model_keeps_its_two_weights_a_filter() -> None:
    plain = trained().strip()
    assert [type(m) for m in plain] == [type(m) for m in net()]
    assert all(len(filter_.unique()) == 2 for filter_ in plain[3].weight)


@pytest.mark.parametrize(
    ("layer", "reason"), [("8", "Linear is not a Conv2d"), ("0", "3 input channels, and the binary kernel needs")]
)
def test_a_layer_that_cannot_be_binary_is_named_with_the_reason(layer: str, reason: str) -> None:
    model = net()
    with pytest.raises(CompressionError, match=f"layer '{layer}': it cannot be binary: .*{reason}"):
        compress(model, inspect_model(model, X[:1]), Recipe(layers={layer: BINARY}), X[:1])
