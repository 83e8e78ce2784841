"""Attention heads that go as a whole, whoever wrote the attention."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.errors import GraphError
from autocompress.graph import ChannelDependencies, inspect_model, unfold_attention
from autocompress.task import call, flatten
from tests.architectures import ARCHITECTURES
from tests.architectures.transformer import FusedAttention
from tests.nets import NETS

BERT, VIT = "model.bert.encoder.layer.0.attention", "model.vit.layers.1.attention"
SWIN = "model.swin.encoder.layers.1.blocks.0.attention"
ALBERT = "model.albert.encoder.albert_layer_groups.0.albert_layers.0.attention"
DISTILBERT, OPT = "model.distilbert.transformer.layer.1.attention", "model.decoder.layers.0.self_attn"

CASES = [  # architecture, first map of the attention, layer that reads its heads, where the heads are counted
    pytest.param("bert", f"{BERT}.self.query", f"{BERT}.output.dense", f"{BERT}.self.num_attention_heads", id="bert"),
    pytest.param("vit", f"{VIT}.q_proj", f"{VIT}.o_proj", f"{VIT}.num_attention_heads", id="vit"),
    pytest.param("swin", f"{SWIN}.q_proj", f"{SWIN}.o_proj", f"{SWIN}.num_attention_heads", id="swin"),
    pytest.param("albert", f"{ALBERT}.query", f"{ALBERT}.dense", f"{ALBERT}.num_attention_heads", id="albert"),
    pytest.param(
        "distilbert", f"{DISTILBERT}.q_lin", f"{DISTILBERT}.out_lin", f"{DISTILBERT}.n_heads", id="distilbert"
    ),
    pytest.param("opt", f"{OPT}.k_proj", f"{OPT}.out_proj", f"{OPT}.num_heads", id="opt"),
    pytest.param(
        "gpt", "blocks.0.attention.qkv", "blocks.0.attention.proj", "blocks.0.attention.num_heads", id="fused"
    ),
    pytest.param(
        "torch_encoder",
        "encoder.layers.0.self_attn.query",
        "encoder.layers.0.self_attn.out_proj",
        "encoder.layers.0.self_attn.num_heads",
        id="torch",
    ),
]


def built(name: str) -> tuple[nn.Module, Any]:
    model = ARCHITECTURES[name].build()
    unfold_attention(model)
    return model, ARCHITECTURES[name].inputs(2)


def first_output(model: nn.Module, x: Any) -> Tensor:
    with torch.no_grad():
        return flatten(call(model, x))[0]


@pytest.mark.parametrize(("name", "group", "output", "count"), CASES)
def test_without_heads_a_model_computes_what_it_did_when_nothing_read_them(
    name: str, group: str, output: str, count: str
) -> None:
    model, x = built(name)
    reference, _ = built(name)
    dependencies = ChannelDependencies(model, x)
    size, n_channels = dependencies.unit(group), dependencies.n_channels(group)
    gone = [*range(size), *range(n_channels - size, n_channels)] if n_channels > 2 * size else list(range(size))
    with torch.no_grad():
        reference.get_submodule(output).weight[:, gone] = 0
    dependencies.remove(group, gone)
    assert torch.allclose(first_output(model, x), first_output(reference, x), atol=1e-5)
    owner, _, attribute = count.rpartition(".")
    assert getattr(model.get_submodule(owner), attribute) == (n_channels - len(gone)) // size
    assert model.get_submodule(output).weight.shape[1] == dependencies.n_channels(group) == n_channels - len(gone)


@pytest.mark.parametrize(("name", "group", "output", "count"), CASES)
def test_slices_name_the_rows_of_every_map(name: str, group: str, output: str, count: str) -> None:
    model, x = built(name)
    dependencies = ChannelDependencies(model, x)
    n_channels = dependencies.n_channels(group)
    slices = dependencies.slices(group)
    assert slices[0].layer == group
    assert sum(len(part.filters) for part in slices) == 3 * n_channels
    for part in slices:
        assert sorted(part.filters) == list(range(len(model.get_submodule(part.layer).weight)))
        assert all(row % n_channels == channel for row, channel in zip(part.filters, part.channels, strict=True))


def test_the_rows_that_stay_are_those_of_the_other_heads() -> None:
    model, x = built("torch_encoder")
    attention = model.encoder.layers[0].self_attn
    before = {name: getattr(attention, name).weight.detach().clone() for name in ("query", "key", "value", "out_proj")}
    ChannelDependencies(model, x).remove("encoder.layers.0.self_attn.query", range(8, 16))
    kept = [*range(8), *range(16, 32)]
    for name in ("query", "key", "value"):
        assert torch.equal(getattr(attention, name).weight, before[name][kept])
    assert torch.equal(attention.out_proj.weight, before["out_proj"][:, kept])


def test_a_bias_for_each_head_goes_with_it() -> None:
    model, x = built("swin")
    table = model.get_submodule(SWIN).relative_position_bias.relative_position_bias_table.detach().clone()
    ChannelDependencies(model, x).remove(f"{SWIN}.q_proj", range(8, 16))
    found = model.get_submodule(SWIN).relative_position_bias.relative_position_bias_table
    assert torch.equal(found, table[:, [0, 2, 3]])


def test_learned_rows_of_torch_attention_go_with_their_heads() -> None:
    class WithRows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(32, 4, batch_first=True, add_bias_kv=True, kdim=6, vdim=10)
            self.head = nn.Linear(32, 5)

        def forward(self, x: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return self.head(self.attention(x, key, value)[0].mean(dim=1))

    torch.manual_seed(0)
    model = WithRows().eval()
    unfold_attention(model)
    x = (torch.randn(2, 5, 32), torch.randn(2, 7, 6), torch.randn(2, 7, 10))
    assert [g.name for g in inspect_model(model, x).prunable] == ["attention.query", "attention.out_proj"]
    dependencies = ChannelDependencies(model, x)
    dependencies.silence("attention.query", range(8, 16))
    wanted = first_output(model, x)
    dependencies.remove("attention.query", range(8, 16))
    assert model.attention.bias_k.shape == (1, 1, 24)
    assert torch.allclose(first_output(model, x), wanted, atol=1e-6)


class Interleaved(FusedAttention):
    """Rows of queries, keys and values head by head, as in GPT-NeoX."""

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, length, self.num_heads, 3, -1).permute(3, 0, 2, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, -1))


class SplitSize(FusedAttention):
    """Counts its rows in an attribute, as GPT-2 does."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__(width, n_heads)
        self.split_size, self.head_dim = width, width // n_heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for p in
                   self.qkv(x).split(self.split_size, dim=-1))  # fmt: skip
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class FixedHeads(FusedAttention):
    """A number of heads written into forward."""

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, 4, 8).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, -1))


class OneHead(FusedAttention):
    def __init__(self, width: int, _n_heads: int) -> None:
        super().__init__(width, 1)


class Classifier(nn.Module):
    def __init__(self, kind: type[FusedAttention]) -> None:
        super().__init__()
        self.embed, self.attention, self.head = nn.Linear(4, 32), kind(32, 4), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(self.embed(x)).mean(dim=1))


class GroupedQueries(FusedAttention):
    """Two heads of keys and values for four of queries (Ainslie et al. 2023)."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__(width, n_heads)
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(width, 32), nn.Linear(width, 16), nn.Linear(width, 16)
        del self.qkv

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            p(x).unflatten(-1, (-1, 8)).transpose(1, 2).repeat_interleave(4 * 8 // p.out_features, dim=1)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class NoOutput(FusedAttention):
    """The rows of the heads are the output; the classifier behind it reads them."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__(width, n_heads)
        self.proj = nn.Identity()


class Normalized(FusedAttention):
    """A norm over all heads stands between them and the layer that reads them."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__(width, n_heads)
        self.proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))


@pytest.mark.parametrize("kind", [FusedAttention, Interleaved, SplitSize, NoOutput])
def test_one_layer_for_all_maps_loses_three_rows_a_channel(kind: type[FusedAttention]) -> None:
    torch.manual_seed(0)
    model, x = Classifier(kind).eval(), torch.randn(2, 6, 4)
    assert "attention.qkv" in [group.name for group in inspect_model(model, x).prunable]
    dependencies = ChannelDependencies(model, x)
    dependencies.silence("attention.qkv", range(16, 24))
    wanted = first_output(model, x)
    dependencies.remove("attention.qkv", range(16, 24))
    assert (model.attention.qkv.out_features, model.attention.num_heads) == (72, 3)
    assert torch.allclose(first_output(model, x), wanted, atol=1e-6)


def test_an_output_layer_of_zeros_hides_no_order_of_rows() -> None:
    torch.manual_seed(0)
    model, x = Classifier(Interleaved).eval(), torch.randn(2, 6, 4)
    rows = model.attention.qkv.weight.detach().clone()
    nn.init.zeros_(model.attention.proj.weight)
    ChannelDependencies(model, x).remove("attention.qkv", range(8))
    assert torch.equal(model.attention.qkv.weight, rows[24:])


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        pytest.param(FixedHeads, "attention does not compute the same with fewer heads: shape", id="written heads"),
        pytest.param(OneHead, "attention has one head, and one is the least that is kept", id="one head"),
        pytest.param(GroupedQueries, "queries, keys and values of attention have different numbers", id="shared keys"),
        pytest.param(Normalized, "attention does not compute the same with fewer heads", id="normalized first"),
    ],
)
def test_heads_that_cannot_go_say_why(kind: type[FusedAttention], reason: str) -> None:
    torch.manual_seed(0)
    graph = inspect_model(Classifier(kind).eval(), torch.randn(2, 6, 4))
    (found,) = [group for group in graph.groups if group.name in ("attention.qkv", "attention.q_proj")]
    assert found.reason.startswith(reason)
    assert "embed" in [group.name for group in graph.prunable]


@settings(max_examples=25, deadline=None)
@given(removals=st.permutations(range(4)).map(lambda order: order[:3]), n_calls=st.integers(1, 3))
def test_heads_that_go_one_after_the_other_are_as_if_all_went_at_once(removals: list[int], n_calls: int) -> None:
    torch.manual_seed(0)
    model, x = Classifier(FusedAttention).eval(), torch.randn(2, 6, 4)
    rows = [model.attention.qkv.weight.detach()[8 * h + 32 * part : 8 * h + 32 * part + 8] for part in range(3)
            for h in range(4) if h not in removals[:n_calls]]  # fmt: skip
    dependencies, left = ChannelDependencies(model, x), [0, 1, 2, 3]
    for head in removals[:n_calls]:
        first = 8 * left.index(head)
        dependencies.remove("attention.qkv", range(first, first + 8))
        left.remove(head)
    assert torch.equal(model.attention.qkv.weight, torch.cat(rows))
    assert model(x).shape == (2, 5)


def test_biases_shared_by_all_layers_lock_their_heads() -> None:
    graph = inspect_model(ARCHITECTURES["t5_encoder"].build(), ARCHITECTURES["t5_encoder"].inputs())
    found = [group for group in graph.groups if group.unit > 1]
    assert len(found) == 2
    assert all("SelfAttention" in group.name and "size of tensor" in group.reason for group in found)


def test_heads_that_no_attribute_counts_are_plain_filters_and_locked() -> None:
    found = {g.name: g for g in inspect_model(NETS["query_key_value"].build(), NETS["query_key_value"].inputs()).groups}
    assert found["query"].unit == 1
    assert "does not run without" in found["query"].reason


@pytest.mark.parametrize(
    ("channels", "law"),
    [
        pytest.param(range(4), "must be removed as whole heads of 8 neighbours", id="half a head"),
        pytest.param(range(4, 12), "must be removed as whole heads of 8 neighbours", id="two halves"),
        pytest.param(range(32, 40), "must be removed as whole heads of 8 neighbours below 32", id="beyond the last"),
        pytest.param(range(32), "at least one head .* must stay, but all 4 were to be removed", id="all heads"),
    ],
)
def test_only_whole_heads_go_and_one_stays(channels: range, law: str) -> None:
    model, x = built("torch_encoder")
    with pytest.raises(GraphError, match=law):
        ChannelDependencies(model, x).remove("encoder.layers.0.self_attn.query", channels)


def test_frozen_heads_stay_frozen_and_their_modes_too() -> None:
    model, x = built("bert")
    model.requires_grad_(False).train()
    ChannelDependencies(model, x).remove(f"{BERT}.self.query", range(8))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("name", ["bert", "vit", "distilbert", "albert", "opt", "gpt", "swin", "torch_encoder"])
def test_widths_of_feed_forward_parts_are_plain_groups(name: str) -> None:
    graph = inspect_model(ARCHITECTURES[name].build(), ARCHITECTURES[name].inputs())
    wide = ("intermediate.dense", "fc1", "lin1", "ffn", "wide", "linear1")
    found = [group for group in graph.prunable if group.name.endswith(wide) and len(group.layers) == 1]
    assert len(found) >= (1 if name == "albert" else 2)
    assert all(group.unit == 1 and group.n_channels >= 64 for group in found)
