"""Channels that go together."""

import pytest
import torch
from torch import Tensor, nn

from autocompress.graph import ChannelDependencies, ModelGraph, inspect_model, unfold_attention
from tests.nets import NETS


def graph_of(name: str) -> ModelGraph:
    return inspect_model(NETS[name].build(), NETS[name].inputs())


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        pytest.param("residual", {"stem.0": ("stem.0", "second.0"), "first.0": ("first.0",)}, id="residual add"),
        pytest.param("depthwise", {"body.0.0": ("body.0.0", "body.1.0"), "body.2.0": ("body.2.0",)}, id="depthwise"),
        pytest.param("concat", {"left": ("left",), "right": ("right",), "join": ("join",)}, id="concatenation"),
        pytest.param("shared", {"stem": ("stem", "twice")}, id="a layer called twice"),
        pytest.param("two_in_two_out", {"a": ("a", "b")}, id="two inputs added"),
        pytest.param("fixed_view", {"hidden": ("hidden",)}, id="a fixed view"),
        pytest.param("conv1d", {"0": ("0",), "3": ("3",)}, id="flattened"),
        pytest.param("frozen", {"stem.0": ("stem.0", "second.0"), "first.0": ("first.0",)}, id="frozen parameters"),
        pytest.param("tied", {"hidden": ("hidden",)}, id="tied weights"),
        pytest.param(
            "encoder",
            {"embed": ("embed", "layer.self_attn.out_proj", "layer.linear2"), "layer.linear1": ("layer.linear1",)},
            id="attention",
        ),
        pytest.param("volume", {"0": ("0",)}, id="three axes"),
        pytest.param("upsampling", {"down": ("down",)}, id="before a transposed convolution"),
    ],
)
def test_prunable_groups(name: str, groups: dict[str, tuple[str, ...]]) -> None:
    assert {group.name: group.layers for group in graph_of(name).prunable} == groups


@pytest.mark.parametrize(
    ("name", "group", "reason"),
    [
        pytest.param("mlp", "4", "it has 5 filters, and 8 are the least that are kept", id="few filters"),
        pytest.param("dict", "image", "its channels are outputs of the model", id="an output"),
        pytest.param("tied", "out", "its channels are outputs of the model", id="the output of a model"),
        pytest.param(
            "fixed_view", "conv", "the model does not run without some of its channels: shape", id="fixed view"
        ),
        pytest.param("query_key_value", "query", "the model does not run without some of its channels", id="heads"),
        pytest.param(
            "attention",
            "attention.query",
            "the model does not run without some of its channels: unflatten",
            id="heads of torch's attention",
        ),
        pytest.param("grouped", "body.1.0", "body.1.0 is a convolution of 4 groups", id="grouped convolution"),
        pytest.param("weight_norm", "second", "the model does not run without some of its channels", id="parametrized"),
    ],
)
def test_a_locked_group_says_why(name: str, group: str, reason: str) -> None:
    found = {g.name: g.reason for g in graph_of(name).groups}
    assert found[group].startswith(reason)


@pytest.mark.parametrize("name", NETS)
def test_every_layer_with_filters_that_runs_is_in_a_group(name: str) -> None:
    graph = graph_of(name)
    grouped = {layer for group in graph.groups for layer in group.layers}
    without_filters = ("ConvTranspose2d", "Embedding")
    assert {layer.name for layer in graph.compressible if layer.kind not in without_filters} <= grouped


@pytest.mark.parametrize("name", ["attention", "encoder"])
def test_an_unfolded_copy_has_the_groups_of_the_graph(name: str) -> None:
    model = NETS[name].build()
    unfold_attention(model)
    found = ChannelDependencies(model, NETS[name].inputs())
    assert {group.name: group.layers for group in graph_of(name).groups} == {
        group: tuple(part.layer for part in found.slices(group)) for group in found.groups
    }


def test_channels_around_attention_can_go_and_its_heads_stay() -> None:
    net = NETS["encoder"]
    model = net.build()
    unfold_attention(model)
    ChannelDependencies(model, net.inputs()).remove("embed", range(8))
    attention = model.layer.self_attn
    assert (attention.query.weight.shape, attention.out_proj.weight.shape) == ((16, 8), (8, 16))
    assert model(net.inputs()).shape == (1, 5)


def test_a_model_that_cannot_be_followed_keeps_its_layers() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 16)

        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                raise NotImplementedError("no gradients here")
            return self.layer(x)

    graph = inspect_model(Detached(), torch.ones(1, 6))
    assert [layer.name for layer in graph.compressible] == ["layer"]
    assert graph.groups[0].reason == "channel dependencies cannot be followed: NotImplementedError: no gradients here"


def test_removal_takes_what_depends_on_the_channels() -> None:
    net = NETS["concat"]
    model = net.build()
    kept = [i for i in range(40) if i not in (16 + 3, 16 + 5)]
    expected = model.join.weight.detach()[:, kept]
    ChannelDependencies(model, net.inputs()).remove("right", [3, 5])
    assert model.right.weight.shape[0] == 22
    assert torch.equal(model.join.weight, expected)


def test_frozen_parameters_stay_frozen() -> None:
    net = NETS["frozen"]
    model = net.build()
    dependencies = ChannelDependencies(model, net.inputs())
    assert not any(p.requires_grad for p in model.parameters())
    dependencies.remove("first.0", [0, 1])
    assert model.first[0].weight.shape[0] == 30
    assert not any(p.requires_grad for p in model.parameters())


def test_a_group_norm_that_divides_the_channels_can_be_pruned() -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.GroupNorm(4, 32), nn.ReLU(), nn.Conv2d(32, 4, 3))
    graph = inspect_model(model, torch.ones(1, 3, 8, 8))
    assert graph.groups[0].reason == ""
    odd = nn.Sequential(nn.Conv2d(3, 24, 3), nn.GroupNorm(6, 24), nn.ReLU(), nn.Conv2d(24, 4, 3))
    assert "does not run" in inspect_model(odd, torch.ones(1, 3, 8, 8)).groups[0].reason
