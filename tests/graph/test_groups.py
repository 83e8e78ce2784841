"""Channels that go together."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.errors import GraphError
from autocompress.graph import ChannelDependencies, ModelGraph, inspect_model, unfold_attention
from tests.architectures import ARCHITECTURES
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
            {
                "embed": ("embed", "layer.self_attn.out_proj", "layer.linear2"),
                "layer.self_attn.query": tuple(f"layer.self_attn.{name}" for name in ("query", "key", "value")),
                "layer.linear1": ("layer.linear1",),
            },
            id="attention",
        ),
        pytest.param("grouped", {"body.2.0": ("body.2.0",)}, id="behind a grouped convolution"),
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
            "grouped",
            "body.1.0",
            "it has 8 filters in each of 4 parts, and 8 are the least that are kept",
            id="grouped convolution",
        ),
        pytest.param(
            "weight_norm",
            "second",
            "the weight of head is parametrized, as by weight_norm; make it a plain weight first",
            id="parametrized",
        ),
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


@pytest.mark.parametrize(
    ("name", "group", "n_channels"),
    [
        pytest.param("resnext", "body.1.body.0.0", 16, id="read by a convolution of 4 groups"),
        pytest.param("resnext", "body.1.body.1.0", 16, id="a convolution of 4 groups"),
        pytest.param("cross_stage", "stem.0", 16, id="two halves read by different layers"),
        pytest.param("gated_units", "gated", 32, id="two halves multiplied"),
    ],
)
def test_channels_in_parts_lose_the_same_offsets_of_each(name: str, group: str, n_channels: int) -> None:
    architecture = ARCHITECTURES[name]
    model, x = architecture.build(), architecture.inputs()
    before = model.get_submodule(group).weight.detach().clone()
    dependencies = ChannelDependencies(model, x)
    n_parts = len(before) // n_channels
    assert (dependencies.n_channels(group), dependencies.n_parts(group)) == (n_channels, n_parts)
    slices = {part.layer: part for part in dependencies.slices(group)}
    assert set(zip(slices[group].filters, slices[group].channels, strict=True)) == {
        (row, row % n_channels) for row in range(len(before))
    }
    dependencies.remove(group, [0, 5])
    kept = [row for row in range(len(before)) if row % n_channels not in (0, 5)]
    assert torch.equal(model.get_submodule(group).weight, before[kept])
    assert model(x).shape == (1, 10)


class Sum(nn.Module):
    """The sum of 24 channels and of 16 joined with 8."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.whole = nn.Linear(6, 16), nn.Linear(6, 8), nn.Linear(6, 24)
        self.hidden, self.head = nn.Linear(24, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.left(x), self.right(x)], dim=1) + self.whole(x)
        return self.head(self.hidden(joined.relu()).relu())


class Overlapping(Sum):
    """Two such sums that have `right` in common."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.other = nn.Linear(6, 16), nn.Linear(6, 24)

    def forward(self, x: Tensor) -> Tensor:
        right = self.right(x)
        first = torch.cat([self.left(x), right], dim=1) + self.whole(x)
        second = torch.cat([right, self.last(x)], dim=1) + self.other(x)
        return self.head(self.hidden((first * second).relu()).relu())


class SumTheOtherWay(Sum):
    def forward(self, x: Tensor) -> Tensor:
        joined = self.whole(x).tanh() + torch.cat([self.left(x), self.right(x)], dim=1)
        return self.head(self.hidden(joined.relu()).relu())


@pytest.mark.parametrize("kind", [Sum, SumTheOtherWay])
def test_a_sum_of_joined_channels_is_one_group_of_all(kind: type[Sum]) -> None:
    dependencies = ChannelDependencies(kind(), torch.ones(1, 6))
    (found,) = [group for group in dependencies.groups if group not in ("hidden", "head")]
    assert (dependencies.n_channels(found), {s.layer for s in dependencies.slices(found)}) == (
        24,
        {"left", "right", "whole"},
    )
    assert {g.reason for g in inspect_model(kind(), torch.ones(1, 6)).groups if g.name != "head"} == {""}


def test_sums_that_overlap_in_part_are_locked() -> None:
    groups = inspect_model(Overlapping(), torch.ones(1, 6)).groups
    tied = [group for group in groups if group.name not in ("hidden", "head")]
    assert tied
    assert all(group.reason for group in tied)


def test_weights_that_are_all_zero_hide_no_permutation() -> None:
    model = ARCHITECTURES["shufflenet"].build()
    for name in ("body.1.last", "body.2.last"):
        nn.init.zeros_(model.get_submodule(name).weight)
    found = {g.name: g.reason for g in inspect_model(model, ARCHITECTURES["shufflenet"].inputs()).groups}
    assert "computes something else" in found["body.1.first.0"]


def test_a_permutation_of_channels_locks_the_group() -> None:
    graph = inspect_model(ARCHITECTURES["shufflenet"].build(), ARCHITECTURES["shufflenet"].inputs())
    found = {group.name: group.reason for group in graph.groups}
    assert found["body.1.first.0"].startswith("the model computes something else without some of its channels")
    assert found["body.0.0"] == found["body.3.0"] == ""


class MixedChannels(nn.Module):
    """The mean over channels is no channel: each that goes changes it for the others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head(self.second(x * x.mean(dim=1, keepdim=True)).mean(dim=(2, 3)))


def test_one_locked_group_leaves_the_others_open() -> None:
    found = {g.name: g.reason for g in inspect_model(MixedChannels(), torch.ones(1, 3, 8, 8)).groups}
    assert "computes something else" in found["first"]
    assert found["second"] == ""


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"num_layers": 2}], ids=["one", "both ways", "two"])
def test_recurrent_layers_lose_inputs_and_keep_outputs(kind: type[nn.RNNBase], options: dict[str, Any]) -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.recurrent = nn.Linear(4, 24), kind(24, 16, batch_first=True, **options)
            width = 32 if options.get("bidirectional") else 16
            self.hidden, self.head = nn.Linear(width, 24), nn.Linear(24, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.hidden(self.recurrent(self.embed(x).relu())[0][:, -1]).relu())

    model, x = Classifier().eval(), torch.randn(2, 7, 4)
    assert [group.name for group in inspect_model(model, x).prunable] == ["embed", "hidden"]
    dependencies = ChannelDependencies(model, x)
    with torch.no_grad():
        for name, weight in model.recurrent.named_parameters():
            if "weight_ih_l0" in name:
                weight[:, [1, 4]] = 0
        wanted = model(x)
    dependencies.remove("embed", [1, 4])
    assert model.recurrent.input_size == 22
    assert torch.allclose(model(x), wanted, atol=1e-6)


def test_the_sum_of_a_recurrent_layer_and_its_input_is_locked() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.recurrent, self.head = nn.Linear(4, 16), nn.GRU(16, 16), nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            return self.head(x + self.recurrent(x)[0])

    found = inspect_model(Residual(), torch.ones(3, 1, 4)).groups[0].reason
    assert "outputs of a recurrent layer must all stay" in found


def test_the_mode_of_every_module_stays() -> None:
    model = ARCHITECTURES["resnet"].build().train()
    model.body[0].eval()
    modes = [module.training for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    dependencies = ChannelDependencies(model, ARCHITECTURES["resnet"].inputs())
    dependencies.remove("body.1.conv1", [0])
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers() if name != "body.1.bn1.running_mean"
               and name != "body.1.bn1.running_var")  # fmt: skip


@pytest.mark.parametrize("name", ["resnet", "convnext", "ghostnet", "unet", "lstm", "resnext"])
def test_a_model_computes_without_channels_what_it_did_with_their_readers_silent(name: str) -> None:
    architecture = ARCHITECTURES[name]
    x = architecture.inputs(2)
    for group in inspect_model(architecture.build(), x).prunable:
        model = architecture.build()
        dependencies = ChannelDependencies(model, x)
        if dependencies.normalizers(group.name):
            continue
        dependencies.silence(group.name, [1, 3])
        wanted = model(x)
        dependencies.remove(group.name, [1, 3])
        assert torch.allclose(model(x), wanted, atol=1e-5 * wanted.abs().max().item()), group.name


@pytest.mark.parametrize("name", ["cross_stage", "densenet", "unet", "resnext", "vgg", "bert", "gpt", "torch_encoder"])
def test_the_order_of_removals_does_not_matter(name: str) -> None:
    architecture = ARCHITECTURES[name]
    x = architecture.inputs(2)
    prunable = inspect_model(architecture.build(), x).prunable
    outputs = []
    for order in (prunable, prunable[::-1]):
        model = architecture.build()
        unfold_attention(model)
        dependencies = ChannelDependencies(model, x)
        for group in order:
            n_removed = max(group.unit, group.n_channels // 2 // group.unit * group.unit)
            dependencies.remove(group.name, range(n_removed))
        outputs.append(model(x))
    assert torch.equal(*outputs)


def test_a_locked_group_refuses_removal() -> None:
    dependencies = ChannelDependencies(NETS["weight_norm"].build(), NETS["weight_norm"].inputs())
    with pytest.raises(GraphError, match="a group must be prunable to lose channels, but 'first' is not: the weight"):
        dependencies.remove("first", [0])


def test_a_group_norm_that_divides_the_channels_can_be_pruned() -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.GroupNorm(4, 32), nn.ReLU(), nn.Conv2d(32, 4, 3))
    graph = inspect_model(model, torch.ones(1, 3, 8, 8))
    assert graph.groups[0].reason == ""
    odd = nn.Sequential(nn.Conv2d(3, 24, 3), nn.GroupNorm(6, 24), nn.ReLU(), nn.Conv2d(24, 4, 3))
    assert "does not run" in inspect_model(odd, torch.ones(1, 3, 8, 8)).groups[0].reason
