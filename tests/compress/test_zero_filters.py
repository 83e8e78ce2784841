"""Filters that are zero are removed, and nothing else changes."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.compress.zero_filters import remove_zero_filters
from autocompress.graph import ChannelDependencies, unfold_attention
from autocompress.task import call, flatten
from tests.nets import NETS, Net


def zero(model: nn.Module, names: str, channels: Sequence[int]) -> nn.Module:
    """`model` with weights and biases of its modules `names` zeroed at `channels`."""
    with torch.no_grad():
        for name in names.split():
            module = model.get_submodule(name)
            for parameter in (module.weight, module.bias):
                if parameter is not None:
                    parameter[list(channels)] = 0
    return model


def same_outputs(model: nn.Module, other: nn.Module, net: Net) -> bool:
    x = net.inputs(4, seed=9)
    with torch.no_grad():
        pairs = zip(flatten(call(model, x)), flatten(call(other, x)), strict=True)
        return all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


TWELVE = (0, 1, 2, 5, 6, 7, 9, 10, 11, 12, 14, 15)


@pytest.mark.parametrize(
    ("name", "layers", "zeros", "removed"),
    [
        pytest.param("plain", "0", range(16), {"0": 16}, id="convolution"),
        pytest.param("plain", "2", range(4, 20), {"2": 16}, id="second convolution"),
        pytest.param("mlp", "0", TWELVE, {"0": 8}, id="down to eight"),
        pytest.param("mlp", "2", range(24), {"2": 16}, id="zero as a whole"),
        pytest.param("mlp", "0 2", range(8, 16), {"0": 8, "2": 8}, id="two groups"),
        pytest.param("residual", "first.0 first.1", range(0, 32, 2), {"first.0": 16}, id="with its batch norm"),
        pytest.param("residual", "stem.0 stem.1 second.0 second.1", TWELVE, {"stem.0": 8}, id="residual add"),
        pytest.param("depthwise", "body.0.0 body.0.1 body.1.0 body.1.1", TWELVE, {"body.0.0": 8}, id="depthwise"),
        pytest.param("concat", "right", range(0, 24, 3), {"right": 8}, id="concatenation"),
        pytest.param("encoder", "layer.linear1", range(24), {"layer.linear1": 24}, id="width of a transformer"),
        pytest.param("tied", "hidden", range(10), {"hidden": 8}, id="tokens"),
        pytest.param("two_in_two_out", "a b", range(8), {"a": 8}, id="two inputs and outputs"),
        pytest.param("shared", "stem twice", range(8), {"stem": 8}, id="a layer called twice"),
        pytest.param("volume", "0 1", range(8), {"0": 8}, id="three axes"),
    ],
)
def test_channels_that_are_zero_are_removed(name: str, layers: str, zeros: Any, removed: dict[str, int]) -> None:
    net = NETS[name]
    model = zero(net.build(), layers, zeros)
    before = copy.deepcopy(model)
    assert remove_zero_filters(model, net.inputs()) == removed
    assert same_outputs(model, before, net)
    for group, n_removed in removed.items():
        widths = [len(m.get_submodule(group).weight) for m in (before, model)]
        assert widths[0] - widths[1] == n_removed


@pytest.mark.parametrize(
    ("name", "layers", "zeros"),
    [
        pytest.param("plain", "0", (), id="no zeros"),
        pytest.param("plain", "0", range(7), id="fewer than a step of eight"),
        pytest.param("mlp", "4", range(5), id="the output"),
        pytest.param("residual", "first.0", range(32), id="batch norm adds its bias"),
        pytest.param("residual", "stem.0 stem.1", range(16), id="the other branch of an add is not zero"),
        pytest.param("encoder", "embed", range(8), id="the other branches of an add are not zero"),
        pytest.param("encoder", "embed layer.self_attn.out_proj layer.linear2", range(8), id="normalized together"),
        pytest.param("fixed_view", "conv", range(8), id="a fixed view"),
    ],
)
def test_channels_that_are_needed_stay(name: str, layers: str, zeros: Any) -> None:
    net = NETS[name]
    model = zero(net.build(), layers, zeros)
    before = dict(model.state_dict())
    assert remove_zero_filters(model, net.inputs()) == {}
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(after[key].data_ptr() == before[key].data_ptr() for key in before)


def test_a_bias_keeps_its_channel() -> None:
    net = NETS["mlp"]
    model = zero(net.build(), "0", TWELVE)
    nn.init.ones_(model[0].bias)
    assert remove_zero_filters(model, net.inputs()) == {}


@pytest.mark.parametrize("parameter", ["weight", "bias"])
def test_both_parameters_of_a_batch_norm_must_be_zero(parameter: str) -> None:
    net = NETS["residual"]
    model = zero(net.build(), "first.0", range(16))
    nn.init.zeros_(getattr(model.first[1], parameter))
    assert remove_zero_filters(model, net.inputs()) == {}


@given(st.sets(st.integers(0, 31)))
@settings(max_examples=15, deadline=None)
def test_what_stays_is_a_multiple_of_eight_and_holds_all_that_is_not_zero(zeros: set[int]) -> None:
    net = NETS["plain"]
    model = zero(net.build(), "0", sorted(zeros))
    rows = model[0].weight.detach().tolist()
    n_removed = remove_zero_filters(model, net.inputs()).get("0", 0)
    assert 32 - n_removed == max(8, (32 - len(zeros) + 7) // 8 * 8)
    gone = sorted(zeros)[:n_removed]
    assert model[0].weight.tolist() == [row for index, row in enumerate(rows) if index not in gone]


@pytest.mark.parametrize(
    ("zeros", "n_removed"),
    [
        pytest.param(range(4), 4, id="one unit"),
        pytest.param((0, 1, 2, 3, 4, 5, 12, 13, 14, 15), 8, id="units that are not all zero stay"),
        pytest.param((0, 1, 2, 5, 6, 7), 0, id="neighbours across units"),
        pytest.param(range(16), 12, id="one unit at least"),
    ],
)
def test_units_go_whole(zeros: Any, n_removed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChannelDependencies, "unit", lambda self, group: 4 if group == "0" else 1, raising=False)
    net = NETS["mlp"]
    model = zero(net.build(), "0", zeros)
    before = copy.deepcopy(model)
    assert sum(remove_zero_filters(model, net.inputs()).values()) == n_removed
    assert same_outputs(model, before, net)


def test_channels_without_bias_go_where_others_have_one() -> None:
    net = NETS["mlp"]
    model = zero(net.build(), "2", range(24))
    nn.init.constant_(model[2].bias[:8], 0.5)
    assert remove_zero_filters(model, net.inputs()) == {"2": 16}
    assert model[2].bias.tolist() == [0.5] * 8


def test_channels_without_a_shift_go_where_others_have_one() -> None:
    net = NETS["residual"]
    model = zero(zero(net.build(), "first.0", range(16)), "first.1", range(8, 16))
    before = copy.deepcopy(model)
    assert remove_zero_filters(model, net.inputs()) == {"first.0": 8}
    assert torch.equal(model.first[1].bias, before.first[1].bias[[*range(8), *range(16, 32)]])


def test_outputs_of_the_model_stay() -> None:
    model = zero(nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 24)), "1", range(8))
    assert remove_zero_filters(model, torch.ones(2, 6)) == {}


MAPS = "layer.self_attn.query layer.self_attn.key layer.self_attn.value"


@pytest.mark.parametrize(
    ("maps", "zeros", "removed"),
    [
        pytest.param(MAPS, range(8, 16), {"layer.self_attn.query": 8}, id="a head"),
        pytest.param(MAPS, range(7, 15), {}, id="neighbours in two heads"),
        pytest.param(MAPS, range(16), {"layer.self_attn.query": 8}, id="every head but one"),
        pytest.param("layer.self_attn.query layer.self_attn.key", range(8), {}, id="values are not zero"),
    ],
)
def test_heads_that_are_zero_are_removed(maps: str, zeros: Any, removed: dict[str, int]) -> None:
    net = NETS["encoder"]
    model = net.build()
    unfold_attention(model)
    zero(model, maps, zeros)
    before = copy.deepcopy(model)
    assert remove_zero_filters(model, net.inputs()) == removed
    assert same_outputs(model, before, net)


class Shifted(nn.Module):
    """Its activation does not map 0 to 0 for inputs that reach above 0."""

    def forward(self, x: Tensor) -> Tensor:
        return x + x.amax().clamp(min=0)


def chain(activations: Sequence[nn.Module]) -> nn.Sequential:
    layers = [part for activation in activations for part in (nn.Linear(16, 16, bias=False), activation)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in layers[::2]:
            nn.init.normal_(layer.weight)
        return nn.Sequential(*layers, nn.Linear(16, 3)).eval()


GELU, SIGMOID = nn.GELU(), nn.Sigmoid()


@pytest.mark.parametrize(
    ("activations", "removed"),
    [
        pytest.param([nn.ReLU()], ["0"], id="relu"),
        pytest.param([GELU], ["0"], id="gelu"),
        pytest.param([nn.Tanh()], ["0"], id="tanh"),
        pytest.param([SIGMOID], [], id="sigmoid"),
        pytest.param([nn.Softmax(dim=-1)], [], id="softmax"),
        pytest.param([nn.LayerNorm(16)], [], id="layer norm"),
        pytest.param([GELU, SIGMOID, GELU, GELU, SIGMOID], ["0", "4", "6"], id="only where it may"),
    ],
)
def test_only_groups_whose_activation_keeps_zeros_lose_channels(activations: Any, removed: list[str]) -> None:
    model = chain(activations)
    for index in range(len(activations)):
        zero(model, str(2 * index), range(3, 11))
    before, x = copy.deepcopy(model), torch.randn(5, 16)
    assert remove_zero_filters(model, torch.ones(2, 16)) == dict.fromkeys(removed, 8)
    assert torch.allclose(model(x), before(x), atol=1e-5)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_channel_that_matters_stays_at_any_scale_of_outputs(scale: float) -> None:
    model = zero(chain([SIGMOID]), "0", range(8))
    with torch.no_grad():
        model[2].weight *= scale
        model[2].bias *= scale
    assert remove_zero_filters(model, torch.ones(2, 16)) == {}


def test_random_inputs_show_what_the_example_hides() -> None:
    model = chain([nn.ReLU()])
    model[1] = Shifted()
    with torch.no_grad():
        model[0].weight.abs_()
    zero(model, "0", range(8))
    assert remove_zero_filters(model, -torch.ones(2, 16)) == {}


def test_modes_and_the_random_state_stay_as_they_were() -> None:
    net = NETS["residual"]
    model = zero(net.build(), "first.0 first.1", range(16)).train()
    model.second.eval()
    model.stem[0].weight.requires_grad_(False)
    modes, state = [m.training for m in model.modules()], torch.get_rng_state()
    assert remove_zero_filters(model, net.inputs()) == {"first.0": 16}
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["stem.0.weight"]


def test_a_model_that_is_random_when_it_evaluates_can_lose_channels() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn(x.shape[-1:])

    model = nn.Sequential(zero(chain([nn.ReLU()]), "0", range(8)), Noisy())
    assert remove_zero_filters(model, torch.ones(2, 16)) == {"0.0": 8}


def test_a_second_call_finds_nothing() -> None:
    net = NETS["mlp"]
    model = zero(net.build(), "0", TWELVE)
    remove_zero_filters(model, net.inputs())
    assert remove_zero_filters(model, net.inputs()) == {}
