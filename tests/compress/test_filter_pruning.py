"""Filter pruning: which filters go, and that the rest computes what it did."""

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.compress import compress
from autocompress.compress.filter_pruning import least_important, n_kept, prune_filters
from autocompress.compress.importance import importance_scores
from autocompress.errors import CompressionError
from autocompress.graph import ChannelDependencies, inspect_model, unfold_attention
from autocompress.recipe import Recipe
from autocompress.task import call, flatten
from tests.nets import NETS


@pytest.mark.parametrize(
    ("n_channels", "ratio", "kept"),
    [
        pytest.param(64, 0.0, 64, id="nothing asked"),
        pytest.param(64, 0.25, 48, id="exact"),
        pytest.param(64, 0.3, 48, id="44.8 rounds up"),
        pytest.param(64, 0.32, 40, id="43.5 rounds down"),
        pytest.param(64, 0.3125, 48, id="44 is a tie, which keeps more"),
        pytest.param(64, 0.05, 64, id="rounds to all"),
        pytest.param(64, 0.999, 8, id="eight at least"),
        pytest.param(8, 0.9, 8, id="eight are never pruned"),
        pytest.param(5, 0.9, 5, id="fewer than eight neither"),
        pytest.param(9, 0.5, 8, id="just above eight"),
        pytest.param(20, 0.0, 20, id="no multiple of eight, nothing asked"),
        pytest.param(20, 0.01, 16, id="19.8 rounds to 16"),
        pytest.param(20, 0.5, 8, id="10 rounds to 8"),
        pytest.param(100, 0.5, 48, id="50 rounds to 48"),
    ],
)
def test_filters_kept(n_channels: int, ratio: float, kept: int) -> None:
    assert n_kept(n_channels, ratio) == kept


def test_filters_kept_obey_their_laws_everywhere() -> None:
    ratios = [k / 100 for k in range(100)]
    for n_channels in range(1, 200):
        kept = [n_kept(n_channels, ratio) for ratio in ratios]
        assert kept[0] == n_channels
        assert all(min(8, n_channels) <= k <= n_channels for k in kept)
        assert all(k == n_channels or k % 8 == 0 for k in kept)
        assert kept == sorted(kept, reverse=True)
        wanted = [n_channels * (1 - ratio) for ratio in ratios]
        assert all(abs(k - w) <= 4 + 1e-9 or k in (8, n_channels) for k, w in zip(kept, wanted, strict=True))


@pytest.mark.parametrize("n_channels", range(24, 300))
def test_a_ratio_of_three_tenths_never_removes_much_more(n_channels: int) -> None:
    assert n_kept(n_channels, 0.3) >= 0.5 * n_channels


@given(st.integers(1, 400), st.integers(2, 80), st.integers(0, 99))
def test_units_are_kept_whole(n_units: int, unit: int, percent: int) -> None:
    n_channels, ratio = n_units * unit, percent / 100
    kept = n_kept(n_channels, ratio, unit=unit)
    assert kept % unit == 0
    assert unit <= kept <= n_channels
    assert abs(kept - n_channels * (1 - ratio)) <= unit / 2 + 1e-6 or kept == unit
    assert kept >= n_kept(n_channels, min(ratio + 0.05, 0.99), unit=unit)


@pytest.mark.parametrize(
    ("n_channels", "ratio", "unit", "kept"),
    [
        pytest.param(64, 0.5, 16, 32, id="two of four heads"),
        pytest.param(64, 0.3, 16, 48, id="44.8 rounds to three heads"),
        pytest.param(64, 0.375, 16, 48, id="40 is a tie, which keeps more"),
        pytest.param(64, 0.99, 16, 16, id="one at least"),
        pytest.param(64, 0.99, 64, 64, id="the only one stays"),
        pytest.param(36, 0.4, 12, 24, id="no multiple of eight"),
        pytest.param(12, 0.9, 2, 2, id="floor below eight"),
        pytest.param(64, 0.0, 16, 64, id="nothing asked"),
    ],
)
def test_channels_kept_in_units(n_channels: int, ratio: float, unit: int, kept: int) -> None:
    assert n_kept(n_channels, ratio, unit) == kept


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 99))
def test_the_least_important_go_and_of_equals_the_first(values: list[int], percent: int) -> None:
    n_removed = len(values) - n_kept(len(values), percent / 100)
    expected = sorted(sorted(range(len(values)), key=lambda i: (values[i], i))[:n_removed])
    assert list(least_important(torch.tensor(values, dtype=torch.float), percent / 100)) == expected


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(2, 5), st.integers(0, 99))
def test_units_of_the_least_sum_go_whole(values: list[int], unit: int, percent: int) -> None:
    scores = [v * unit + (1 if j else -1 if unit % 2 == 0 else 0) for v in values for j in range(unit)]
    n_removed = len(values) - n_kept(len(scores), percent / 100, unit) // unit
    units = sorted(sorted(range(len(values)), key=lambda i: (values[i], i))[:n_removed])
    expected = [i * unit + j for i in units for j in range(unit)]
    assert list(least_important(torch.tensor(scores, dtype=torch.float), percent / 100, unit)) == expected


def zeroed(model: nn.Sequential, layer: int, n_removed: int) -> tuple[nn.Sequential, list[int]]:
    """`model` with the filters of smallest L1 norm zeroed, and which they were; plain Python."""
    weight = model[layer].weight.tolist()
    norms = [sum(abs(w) for plane in f for row in plane for w in row) for f in weight]
    removed = sorted(sorted(range(len(norms)), key=norms.__getitem__)[:n_removed])
    with torch.no_grad():
        model[layer].weight[removed] = 0
    return model, removed


@pytest.mark.parametrize("seed", range(3))
def test_a_pruned_net_computes_what_it_does_with_the_smallest_filters_zeroed(seed: int) -> None:
    net = NETS["plain"]
    model, x = net.build(seed), net.inputs(4)
    graph = inspect_model(model, net.inputs())
    pruned = compress(model, graph, Recipe(pruning={"0": 0.5, "2": 0.3}), net.inputs()).module
    assert pruned[0].weight.shape == (16, 3, 3, 3)
    assert pruned[2].weight.shape == (16, 16, 3, 3)
    assert pruned[6].weight.shape == (5, 16)
    reference, first = zeroed(model, 0, 16)
    reference, _ = zeroed(reference, 2, 8)
    with torch.no_grad():
        assert torch.allclose(pruned(x), reference(x), atol=1e-6)
    kept = [i for i in range(32) if i not in first]
    assert torch.equal(pruned[0].weight, model[0].weight[kept])


def test_costs_become_really_smaller() -> None:
    net = NETS["plain"]
    model, x = net.build(), net.inputs()
    graph = inspect_model(model, x)
    pruned = compress(model, graph, Recipe(pruning={"0": 0.5}), x).module
    after = inspect_model(pruned, x)
    assert after.layer("0").macs * 2 == graph.layer("0").macs
    assert after.layer("2").macs * 2 == graph.layer("2").macs
    assert after.layer("6").macs == graph.layer("6").macs


def test_layers_that_are_added_lose_the_same_channels_by_their_common_importance() -> None:
    net = NETS["residual"]
    model, x = net.build(), net.inputs()
    first, second = model.stem[0].weight.detach(), model.second[0].weight.detach()
    norms = [weight.abs().sum(dim=(1, 2, 3)) for weight in (first, second)]
    common = sum(n / n.mean() for n in norms)
    kept = sorted(common.argsort()[8:].tolist())
    pruned = compress(model, inspect_model(model, x), Recipe(pruning={"stem.0": 0.5}), x).module
    assert torch.equal(pruned.stem[0].weight, first[kept])
    assert torch.equal(pruned.second[0].weight, second[kept])
    assert torch.equal(pruned.stem[1].running_var, model.stem[1].running_var[kept])
    assert torch.equal(pruned.head.weight, model.head.weight[:, kept])


def test_a_depthwise_layer_follows_the_layer_before_it() -> None:
    net = NETS["depthwise"]
    model, x = net.build(), net.inputs()
    pruned = compress(model, inspect_model(model, x), Recipe(pruning={"body.0.0": 0.5}), x).module
    assert pruned.body[1][0].weight.shape == (8, 1, 3, 3)
    assert pruned.body[1][0].groups == 8


def test_equal_filters_go_in_order() -> None:
    net = NETS["plain"]
    model, x = net.build(), net.inputs()
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight[:1].expand(32, -1, -1, -1))
        model[2].weight.copy_(torch.arange(32.0).reshape(1, 32, 1, 1).expand(24, 32, 3, 3))
    prune_filters(model, x, {"0": 0.5})
    assert model[2].weight[0, :, 0, 0].tolist() == list(range(16, 32))


@pytest.mark.parametrize("name", [n for n, net in NETS.items() if net.prunable])
@pytest.mark.parametrize("ratio", [0.3, 0.6, 0.95])
def test_every_open_group_can_be_pruned_and_trained(name: str, ratio: float) -> None:
    net = NETS[name]
    model, x = net.build(), net.inputs()
    graph = inspect_model(model, x)
    assert graph.prunable
    unfolded = copy.deepcopy(model)
    unfold_attention(unfolded)
    for group in graph.prunable:
        pruned = compress(model, graph, Recipe(pruning={group.name: ratio}), x).module
        for layer in group.layers:
            before, after = (len(m.get_submodule(layer).weight) for m in (unfolded, pruned))
            assert after < before or n_kept(group.n_channels, ratio, group.unit) == group.n_channels
        assert inspect_model(pruned, x, with_groups=False).macs <= graph.macs
        outputs, before = flatten(call(pruned.train(), net.inputs(4))), flatten(call(model, net.inputs(4)))
        assert [o.shape for o in outputs] == [o.shape for o in before]
        if name == "frozen":
            assert not any(p.requires_grad for p in pruned.parameters())
        else:
            sum(o.square().sum() for o in outputs).backward()
            assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in pruned.parameters())


def test_an_unknown_group_is_named_with_those_that_exist() -> None:
    net = NETS["plain"]
    with pytest.raises(CompressionError, match="'nowhere', but the model's channel groups are: 0, 2, 6"):
        prune_filters(net.build(), net.inputs(), {"nowhere": 0.5})


def norm_after(model: nn.Module, layer: str) -> nn.Module | None:
    """The batch norm that the net's author wrote behind `layer`, by its place in the Sequential."""
    parent, _, index = layer.rpartition(".")
    following = f"{parent}.{int(index) + 1}".lstrip(".") if index.isdigit() else ""
    found = dict(model.named_modules()).get(following)
    return found if isinstance(found, nn.modules.batchnorm._BatchNorm) else None


def silence(model: nn.Module, layers: tuple[str, ...], channels: tuple[int, ...]) -> None:
    """Let the filters of `layers` at `channels` give zeros behind their batch norms."""
    with torch.no_grad():
        for name in layers:
            layer = model.get_submodule(name)
            for module in (layer, norm_after(model, name)):
                for parameter in (module.weight, module.bias) if module else ():
                    if parameter is not None:
                        parameter[list(channels)] = 0


ZERO_KEEPING = ("residual", "depthwise", "conv1d", "mlp", "concat", "two_in_two_out", "shared", "upsampling", "volume")


@pytest.mark.parametrize("name", [*ZERO_KEEPING, "plain", "fixed_view", "tied"])
@pytest.mark.parametrize("importance", ["l1", "l2", "batch_norm", "geometric_median"])
def test_a_pruned_net_equals_the_original_with_those_filters_and_batch_norms_zeroed(name: str, importance: Any) -> None:
    net = NETS[name]
    model, x = net.build(), net.inputs(4)
    open_groups = {group.name: group.layers for group in inspect_model(model, net.inputs()).prunable}
    pruned, expected = copy.deepcopy(model), copy.deepcopy(model)
    removed = prune_filters(pruned, net.inputs(), dict.fromkeys(open_groups, 0.5), importance)
    assert set(removed) == set(open_groups)
    for group, channels in removed.items():
        silence(expected, open_groups[group], channels)
        widths = [(len(pruned.get_submodule(n).weight), len(model.get_submodule(n).weight)) for n in open_groups[group]]
        assert all(after == before - len(channels) for after, before in widths)
    with torch.no_grad():
        outputs = zip(flatten(call(pruned, x)), flatten(call(expected, x)), strict=True)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in outputs)


def test_removed_channels_are_returned_by_group() -> None:
    net = NETS["plain"]
    model, x = net.build(), net.inputs()
    norms = model[0].weight.detach().abs().sum(dim=(1, 2, 3)).tolist()
    expected = tuple(sorted(sorted(range(32), key=norms.__getitem__)[:16]))
    assert prune_filters(model, x, {"0": 0.5, "2": 0.1}) == {"0": expected}


@pytest.mark.parametrize("pruning", [{}, {"0": 0.0}, {"0": 0.1, "2": 0.0}], ids=["no group", "zero", "rounds to all"])
def test_nothing_to_remove_leaves_the_model_as_it_is(pruning: dict[str, float]) -> None:
    net = NETS["plain"]
    model = net.build()
    before = {name: (id(p), p.clone()) for name, p in model.named_parameters()}
    assert prune_filters(model, net.inputs(), pruning) == {}
    for name, parameter in model.named_parameters():
        assert (id(parameter), parameter.tolist()) == (before[name][0], before[name][1].tolist())


@pytest.mark.parametrize("importance", ["batch_norm", "geometric_median", "l2"])
def test_the_filters_of_least_importance_go(importance: Any) -> None:
    net = NETS["residual"]
    model = net.build()
    scores = importance_scores(model, net.inputs(), importance)["first.0"].tolist()
    expected = tuple(sorted(sorted(range(32), key=scores.__getitem__)[:16]))
    assert prune_filters(model, net.inputs(), {"first.0": 0.5}, importance) == {"first.0": expected}


def test_scores_win_over_importance() -> None:
    net = NETS["plain"]
    scores = {"0": torch.arange(32.0).flip(0)}
    removed = prune_filters(net.build(), net.inputs(), {"0": 0.5}, "taylor", scores)
    assert removed == {"0": tuple(range(16, 32))}


@pytest.mark.parametrize("scores", [{}, {"0": torch.zeros(32)}], ids=["missing", "zeros"])
def test_without_differences_the_first_filters_go(scores: dict[str, Tensor]) -> None:
    net = NETS["plain"]
    model = net.build()
    kept = model[0].weight[16:].tolist()
    assert prune_filters(model, net.inputs(), {"0": 0.5}, scores=scores) == {"0": tuple(range(16))}
    assert model[0].weight.tolist() == kept


def test_units_go_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChannelDependencies, "unit", lambda self, group: 4 if group == "0" else 1, raising=False)
    net = NETS["mlp"]
    scores = torch.tensor([9.0, 9, 9, 0, 5, 5, 5, 5, 1, 1, 1, 1, 9, 9, 9, 9])
    assert prune_filters(net.build(), net.inputs(), {"0": 0.5}, scores={"0": scores}) == {"0": tuple(range(4, 12))}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param({"importance": "taylor"}, "'taylor' needs training data; give scores", id="taylor"),
        pytest.param({"importance": "activation"}, "'activation' needs training data; give scores", id="activation"),
        pytest.param(
            {"scores": {"0": torch.ones(31)}},
            r"'0' must be 32 finite numbers, one a channel, but got shape \(31,\)",
            id="too few",
        ),
        pytest.param({"scores": {"0": torch.ones(32, 1)}}, r"but got shape \(32, 1\)", id="two axes"),
        pytest.param({"scores": {"0": torch.full((32,), math.nan)}}, "with values that are not finite", id="nan"),
    ],
)
def test_unusable_importance_is_refused_before_anything_is_removed(options: dict[str, Any], said: str) -> None:
    net = NETS["plain"]
    model = net.build()
    with pytest.raises(CompressionError, match=said):
        prune_filters(model, net.inputs(), {"2": 0.5, "0": 0.5}, **options)
    assert (len(model[0].weight), len(model[2].weight)) == (32, 24)


HEADS = "layer.self_attn.query"


def unfolded_encoder() -> nn.Module:
    model = NETS["encoder"].build()
    unfold_attention(model)
    return model


@pytest.mark.parametrize("importance", ["l1", "l2", "batch_norm", "geometric_median"])
def test_attention_loses_the_head_of_least_importance(importance: Any) -> None:
    net, model, expected = NETS["encoder"], unfolded_encoder(), unfolded_encoder()
    scores = importance_scores(model, net.inputs(), importance, [HEADS])[HEADS].tolist()
    weakest = range(8) if scores[0] <= scores[8] else range(8, 16)
    assert scores == [scores[0]] * 8 + [scores[8]] * 8
    assert prune_filters(model, net.inputs(), {HEADS: 0.5}, importance) == {HEADS: tuple(weakest)}
    assert model.get_submodule(HEADS).weight.shape == (8, 16)
    with torch.no_grad():
        expected.layer.self_attn.out_proj.weight[:, list(weakest)] = 0
        assert torch.allclose(model(net.inputs(4)), expected(net.inputs(4)), atol=1e-5)
