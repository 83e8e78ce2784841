"""Layers, shapes and costs."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.errors import GraphError
from autocompress.graph import inspect_model, unfold_attention
from tests.nets import NETS


def macs_by_hand(module: nn.Module, x: Tensor, output: Tensor) -> int:
    """Products of one call, counted a loop at a time."""
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features * (output.numel() // module.out_features)
    n_kernel = 1
    for size in module.kernel_size:
        n_kernel *= size
    if module.transposed:
        return n_kernel * module.out_channels // module.groups * x.numel()
    return n_kernel * module.in_channels // module.groups * output.numel()


@pytest.mark.parametrize("name", NETS)
def test_macs_are_those_of_every_call(name: str) -> None:
    net = NETS[name]
    model, x = net.build(), net.inputs()
    unfold_attention(model)
    counted: dict[str, int] = {}

    def count(path: str, module: nn.Module, x: Tensor, output: Tensor) -> None:
        counted[path] = counted.get(path, 0) + macs_by_hand(module, x, output)

    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            module.register_forward_hook(lambda m, inputs, output, path=path: count(path, m, inputs[0], output))
    with torch.no_grad():
        model(**x) if isinstance(x, dict) else model(*x) if isinstance(x, tuple) else model(x)
    graph = inspect_model(net.build(), x, with_groups=False)
    assert {layer.name: layer.macs for layer in graph.layers if layer.macs} == counted
    assert graph.macs == sum(counted.values())


MACS = [  # id, layer, input shape, products written out
    ("conv3d", nn.Conv3d(2, 4, 3), (1, 2, 5, 5, 5), 27 * 2 * 4 * 27),
    ("grouped conv3d", nn.Conv3d(4, 4, 2, groups=2, stride=2), (1, 4, 4, 4, 4), 8 * 2 * 4 * 8),
    ("conv_transpose1d", nn.ConvTranspose1d(3, 5, 4, stride=2), (1, 3, 7), 4 * 5 * 3 * 7),
    ("conv_transpose2d", nn.ConvTranspose2d(3, 6, 2, stride=2, groups=3), (1, 3, 4, 5), 4 * 2 * 3 * 20),
    ("embedding", nn.Embedding(7, 3), (1, 4), 0),
]


@pytest.mark.parametrize(("layer", "shape", "macs"), [pytest.param(*row[1:], id=row[0]) for row in MACS])
def test_macs_by_hand(layer: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    x = torch.zeros(shape, dtype=torch.int64) if isinstance(layer, nn.Embedding) else torch.zeros(shape)
    found = inspect_model(layer, x, with_groups=False).layers[0]
    assert (found.macs, found.reason) == (macs, "")


def test_shapes_names_and_parameters() -> None:
    net = NETS["residual"]
    layer = inspect_model(net.build(), net.inputs()).layer("first.0")
    assert (layer.kind, layer.weight_shape) == ("Conv2d", (32, 16, 3, 3))
    assert (layer.input_shape, layer.output_shape) == ((1, 16, 8, 8), (1, 32, 8, 8))
    assert layer.n_parameters == 32 * 16 * 9
    assert inspect_model(net.build(), net.inputs()).layer("head").n_parameters == 16 * 5 + 5


LEFT_ALONE = [  # id, layer, inputs, reason
    (
        "transposed over three axes",
        nn.ConvTranspose3d(1, 1, 2),
        torch.zeros(1, 1, 2, 2, 2),
        "transposed convolutions over three axes are not compressed",
    ),
    (
        "a bag of embeddings",
        nn.EmbeddingBag(5, 2),
        torch.zeros(1, 3, dtype=torch.int64),
        "its lookup and its sum are one operation, which takes float weights",
    ),
    ("recurrent", nn.GRU(4, 4), torch.zeros(3, 1, 4), "OpenVINO's recurrent kernels take float weights"),
    (
        "bilinear",
        nn.Bilinear(2, 3, 4),
        (torch.zeros(1, 2), torch.zeros(1, 3)),
        "it multiplies two inputs, which no integer kernel does",
    ),
    (
        "an embedding that changes",
        nn.Embedding(5, 2, max_norm=1.0),
        torch.zeros(1, 3, dtype=torch.int64),
        "max_norm rewrites its weight while it runs",
    ),
]


@pytest.mark.parametrize(("layer", "inputs", "reason"), [pytest.param(*row[1:], id=row[0]) for row in LEFT_ALONE])
def test_a_kind_that_cannot_be_compressed_says_why(layer: nn.Module, inputs: Any, reason: str) -> None:
    graph = inspect_model(layer, inputs)
    assert [found.reason for found in graph.layers] == [reason]
    assert graph.compressible == ()


class ReadsItself(nn.Module):
    """Uses the weights of an attention without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        weight, out = self.inner.in_proj_weight, self.inner.out_proj
        bias = self.inner.in_proj_bias
        return F.multi_head_attention_forward(
            x, x, x, 8, 2, weight, bias, None, None, False, 0.0, out.weight, out.bias, training=False
        )[0]


def test_a_layer_that_is_not_called_says_so() -> None:
    net = NETS["never_called"]
    reason = "forward(example_input) does not call it"
    assert inspect_model(net.build(), net.inputs()).layer("unused").reason == reason
    assert {layer.reason for layer in inspect_model(ReadsItself(), torch.ones(3, 1, 8)).layers} == {reason}


def test_an_embedding_has_weights_but_no_input_to_quantize() -> None:
    net = NETS["tied"]
    graph = inspect_model(net.build(), net.inputs())
    assert [(layer.name, layer.weights_only, layer.reason) for layer in graph.layers] == [
        ("words", True, ""),
        ("hidden", False, ""),
        ("out", False, ""),
    ]


def test_layers_of_one_weight_are_found() -> None:
    net = NETS["tied"]
    graph = inspect_model(net.build(), net.inputs())
    assert {layer.name: layer.shares_weight_with for layer in graph.layers} == {
        "words": "words",
        "hidden": "hidden",
        "out": "words",
    }
    for other in ("weight_norm", "residual"):
        graph = inspect_model(NETS[other].build(), NETS[other].inputs(), with_groups=False)
        assert all(layer.shares_weight_with == layer.name for layer in graph.layers)


class Decoder(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=batch_first)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        return self.layer(x, memory)


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_maps_of_attention_share_the_tensors_that_they_read(batch_first: bool) -> None:
    graph = inspect_model(Decoder(batch_first), (torch.ones(2, 2, 8), torch.ones(2, 2, 8)))
    leaders = {layer.name: layer.shares_input_with for layer in graph.layers}
    for part, first in (("self_attn", "query"), ("multihead_attn", "key")):
        here = f"layer.{part}"
        assert leaders[f"{here}.query"] == f"{here}.query"
        assert leaders[f"{here}.key"] == f"{here}.{first}"
        assert leaders[f"{here}.value"] == f"{here}.{first}"
        assert leaders[f"{here}.out_proj"] == f"{here}.out_proj"


def test_the_caller_keeps_the_attention_of_torch() -> None:
    model = NETS["encoder"].build()
    inspect_model(model, NETS["encoder"].inputs())
    assert type(model.layer.self_attn) is nn.MultiheadAttention


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
