"""Layers of low rank in models: which are replaced, by what names, and that the models still run, train and deploy."""

import math
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from torch import Tensor, nn

from autocompress.compress.low_rank import apply_low_rank
from autocompress.deploy import to_openvino
from autocompress.errors import CompressionError
from autocompress.graph import inspect_model, unfold_attention
from autocompress.task import call, flatten
from tests.nets import NETS


def seeded(layer: nn.Module) -> Any:
    for index, parameter in enumerate(layer.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
    return layer


def names_of_parts(model: nn.Module, name: str) -> list[str]:
    return [f"{name}.{part}" for part, _ in model.get_submodule(name).named_children()]


def pair() -> nn.Module:
    return nn.Sequential(seeded(nn.Linear(64, 64)), nn.Sequential(seeded(nn.Conv1d(64, 64, 3)), nn.ReLU()))


def test_named_layers_are_replaced_and_their_parts_named() -> None:
    model = pair()
    expected = {"0": ("0.0", "0.1"), "1.0": ("1.0.0", "1.0.1", "1.0.2")}
    assert apply_low_rank(model, {"0": 0.25, "1.0": 0.25, "1.1": 0.5}) == expected
    for name, parts in expected.items():
        assert names_of_parts(model, name) == list(parts)


def test_layers_that_stay_whole_are_not_named() -> None:
    model = pair()
    before = list(model.named_modules())
    assert apply_low_rank(model, {"0": 0.9, "1.0": 1.0}) == {}
    assert list(model.named_modules()) == before


def test_an_input_shape_decides_where_the_strides_cannot() -> None:
    """At 3x3 without padding there is one output position and the first layer of 1x1 runs at nine."""
    ranks = {"0": 0.75}
    for shape, parts in {(64, 3, 3): {}, (1, 64, 30, 30): {"0": ("0.0", "0.1", "0.2")}}.items():
        assert apply_low_rank(nn.Sequential(seeded(nn.Conv2d(64, 64, 3))), ranks, {"0": shape}) == parts


def test_a_layer_at_two_places_stays_one_layer() -> None:
    layer = seeded(nn.Linear(64, 64))
    model = nn.ModuleDict({"a": layer, "b": nn.Sequential(layer), "c": nn.Linear(64, 64)})
    assert apply_low_rank(model, {"a": 0.25}) == {"a": ("a.0", "a.1")}
    assert model["a"] is model["b"][0]
    assert type(model["c"]) is nn.Linear


def test_one_layer_by_two_names_is_factored_once() -> None:
    layer = seeded(nn.Linear(64, 64))
    model = nn.ModuleList([layer, layer])
    assert apply_low_rank(model, {"0": 0.25, "1": 0.25}) == {"0": ("0.0", "0.1"), "1": ("1.0", "1.1")}
    assert model[0] is model[1]


def test_two_ratios_of_one_layer_are_refused() -> None:
    layer = nn.Linear(64, 64)
    with pytest.raises(
        CompressionError, match="'0' and '1' are one layer and need one rank_ratio, but got 0.25 and 0.5"
    ):
        apply_low_rank(nn.ModuleList([layer, layer]), {"0": 0.25, "1": 0.5})


@pytest.mark.parametrize("tied", ["weight", "bias"])
def test_a_layer_with_a_tied_parameter_stays_whole(tied: str) -> None:
    model = nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 64)])
    setattr(model[1], tied, getattr(model[0], tied))
    assert apply_low_rank(model, {"0": 0.25, "1": 0.25}) == {}


def test_a_model_that_is_one_layer_stays_whole() -> None:
    assert apply_low_rank(nn.Linear(64, 64), {"": 0.25}) == {}


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        pytest.param({"gone": 0.5}, "rank_ratio for 'gone', but the model has no such layer", id="no such layer"),
        pytest.param({"0": 0.0}, r"layer '0': rank_ratio must be in \(0, 1\], but got 0.0", id="no such ratio"),
    ],
)
def test_errors_name_the_layer(ranks: dict[str, float], message: str) -> None:
    with pytest.raises(CompressionError, match=message):
        apply_low_rank(pair(), ranks)


def test_weights_that_are_not_finite_are_refused_by_name() -> None:
    model = pair()
    model[0].weight.data[0, 0] = math.nan
    with pytest.raises(CompressionError, match="layer '0': .* must be finite"):
        apply_low_rank(model, {"0": 0.25})


def outputs_of(model: nn.Module, inputs: Any) -> list[Tensor]:
    outputs = call(model, inputs)
    return flatten(dict(outputs) if hasattr(outputs, "keys") else outputs)


def lowered(name: str) -> tuple[nn.Module, dict[str, tuple[str, ...]]]:
    """A network with all layers at the least rank that pays, and the names of the parts."""
    net = NETS[name]
    model = net.build()
    unfold_attention(model)
    graph = inspect_model(model, net.inputs(1), with_groups=False)
    shapes = {layer.name: layer.input_shape for layer in graph.layers}
    return model, apply_low_rank(model, dict.fromkeys(shapes, 0.01), shapes)


@pytest.mark.parametrize("name", sorted(NETS))
def test_every_network_runs_and_trains_with_less_to_compute(name: str) -> None:
    net = NETS[name]
    expected = outputs_of(net.build(), net.inputs(2))
    before = inspect_model(net.build(), net.inputs(1), with_groups=False)
    model, parts = lowered(name)
    outputs = outputs_of(model, net.inputs(2))
    assert [out.shape for out in outputs] == [out.shape for out in expected]
    if parts:
        with torch.no_grad():
            for out, again in zip(outputs, outputs_of(model, net.inputs(2)), strict=True):
                torch.testing.assert_close(again, out)
        model.requires_grad_()
        sum(out.square().sum() for out in outputs_of(model, net.inputs(2))).backward()
        after = inspect_model(model, net.inputs(1), with_groups=False)
        assert {part for row in parts.values() for part in row} <= {layer.name for layer in after.layers}
        assert sum(layer.macs for layer in after.layers) < sum(layer.macs for layer in before.layers)


@pytest.mark.parametrize(
    ("name", "replaced"),
    [
        pytest.param("depthwise", {"body.0.0": 2, "body.2.0": 2}, id="not the depthwise, nor the small head"),
        pytest.param("conv1d", {"3": 3}, id="not the first, which has two channels"),
        pytest.param("upsampling", {"down": 2, "out": 2}, id="not the transposed"),
        pytest.param("encoder", {"layer.linear1": 2, "layer.linear2": 2}, id="not the attention of 8 channels"),
        pytest.param("tied", {}, id="not the tied"),
        pytest.param("weight_norm", {"second": 3}, id="not the normed"),
    ],
)
def test_layers_are_replaced_where_they_can_and_it_pays(name: str, replaced: dict[str, int]) -> None:
    assert {layer: len(parts) for layer, parts in lowered(name)[1].items()} == replaced


@pytest.mark.parametrize("name", ["residual", "encoder"])
def test_openvino_computes_what_torch_computes(name: str) -> None:
    model, parts = lowered(name)
    assert parts
    x = NETS[name].inputs(1)
    compiled = openvino.compile_model(to_openvino(model, x), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled(x.numpy())[0], model(x).detach().numpy(), rtol=1e-4, atol=1e-4)
