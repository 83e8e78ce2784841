"""Layers, shapes and costs."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.errors import GraphError
from autocompress.graph import inspect_model
from tests.nets import NETS


def macs_by_hand(module: nn.Module, output: Tensor) -> int:
    """Products of one call, counted a loop at a time."""
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features * (output.numel() // module.out_features)
    n_kernel = 1
    for size in module.kernel_size:
        n_kernel *= size
    return n_kernel * module.in_channels // module.groups * output.numel()


@pytest.mark.parametrize("name", [n for n in NETS if n not in ("attention", "encoder")])
def test_macs_are_those_of_every_call(name: str) -> None:
    net = NETS[name]
    model, x = net.build(), net.inputs()
    counted: dict[str, int] = {}
    kinds = (nn.Conv1d, nn.Conv2d, nn.Linear)
    for path, module in model.named_modules():
        if isinstance(module, kinds):
            module.register_forward_hook(
                lambda m, _i, output, path=path: counted.update({path: counted.get(path, 0) + macs_by_hand(m, output)})
            )
    with torch.no_grad():
        model(**x) if isinstance(x, dict) else model(*x) if isinstance(x, tuple) else model(x)
    graph = inspect_model(net.build(), x)
    assert {layer.name: layer.macs for layer in graph.layers if layer.macs} == counted
    assert graph.macs == sum(counted.values())


def test_shapes_names_and_parameters() -> None:
    net = NETS["residual"]
    layer = inspect_model(net.build(), net.inputs()).layer("first.0")
    assert (layer.kind, layer.weight_shape) == ("Conv2d", (32, 16, 3, 3))
    assert (layer.input_shape, layer.output_shape) == ((1, 16, 8, 8), (1, 32, 8, 8))
    assert layer.n_parameters == 32 * 16 * 9
    assert inspect_model(net.build(), net.inputs()).layer("head").n_parameters == 16 * 5 + 5


@pytest.mark.parametrize(
    ("name", "layer", "reason"),
    [
        pytest.param("upsampling", "up", "ConvTranspose2d is not compressed", id="transposed convolution"),
        pytest.param("tied", "words", "Embedding is not compressed", id="embedding"),
        pytest.param("never_called", "unused", "forward(example_input) does not call it", id="never called"),
        pytest.param(
            "attention", "attention.out_proj", "forward(example_input) does not call it", id="weights only read"
        ),
    ],
)
def test_a_layer_that_cannot_be_compressed_says_why(name: str, layer: str, reason: str) -> None:
    net = NETS[name]
    graph = inspect_model(net.build(), net.inputs())
    assert graph.layer(layer).reason == reason
    assert layer not in {found.name for found in graph.compressible}


@pytest.mark.parametrize(
    ("name", "leaders"),
    [
        pytest.param("query_key_value", {"query": "query", "key": "query", "value": "query", "head": "head"}, id="qkv"),
        pytest.param("concat", {"left": "left", "right": "left", "join": "join", "head": "head"}, id="branches"),
        pytest.param("mlp", {"0": "0", "2": "2", "4": "4"}, id="a chain"),
        pytest.param("two_in_two_out", {"a": "a", "b": "b", "first": "first", "second": "first"}, id="two heads"),
    ],
)
def test_layers_that_read_one_tensor_are_found(name: str, leaders: dict[str, str]) -> None:
    net = NETS[name]
    graph = inspect_model(net.build(), net.inputs())
    assert {layer.name: layer.shares_input_with for layer in graph.layers} == leaders


def test_a_model_without_layers_has_an_empty_graph() -> None:
    net = NETS["no_layers"]
    graph = inspect_model(net.build(), net.inputs())
    assert (graph.layers, graph.groups, graph.macs) == ((), (), 0)


def test_a_layer_with_two_names_is_one() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    model.append(model[0])
    graph = inspect_model(model, torch.ones(1, 6))
    assert [layer.name for layer in graph.layers] == ["0"]
    assert graph.layer("0").macs == 2 * 36


@pytest.mark.parametrize(
    "example", [torch.ones(1, 7), torch.ones(6, dtype=torch.int64), {"y": torch.ones(1, 6)}, "text"]
)
def test_an_example_input_that_does_not_fit_is_an_error(example: Any) -> None:
    with pytest.raises(GraphError, match="does not run on its example_input"):
        inspect_model(NETS["mlp"].build(), example)


def test_a_model_in_training_mode_is_inspected_in_evaluation_mode() -> None:
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)).train()
    graph = inspect_model(model, torch.ones(1, 6))  # batch norm refuses a single sample in training mode
    assert len(graph.compressible) == 2
    assert model.training
    assert model[1].num_batches_tracked == 0


def test_forward_hooks_of_the_user_keep_working() -> None:
    """One that doubles the channels: without it the second layer would not fit."""
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(16, 3))
    model[0].register_forward_hook(lambda _module, _inputs, output: torch.cat([output, output], dim=-1))
    graph = inspect_model(model, torch.ones(1, 6))
    assert len(graph.compressible) == 2
    assert not any("does not run" in group.reason or "followed" in group.reason for group in graph.groups)


def test_an_unknown_layer_is_an_error_with_the_nearest_name() -> None:
    net = NETS["residual"]
    with pytest.raises(GraphError, match="no layer 'frist.0'; did you mean first.0"):
        inspect_model(net.build(), net.inputs()).layer("frist.0")


def test_groups_can_be_left_out() -> None:
    net = NETS["residual"]
    assert inspect_model(net.build(), net.inputs(), with_groups=False).groups == ()
