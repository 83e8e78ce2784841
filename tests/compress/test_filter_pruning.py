"""Filter pruning: which filters go, and that the rest computes what it did."""

import pytest
import torch
from torch import nn

from autocompress.compress import compress
from autocompress.compress.filter_pruning import l1_importance, n_kept, prune_filters
from autocompress.errors import CompressionError
from autocompress.graph import ChannelDependencies, inspect_model
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


def test_importance_is_a_sum_of_absolute_weights() -> None:
    net = NETS["plain"]
    model = net.build()
    importance = l1_importance(model, ChannelDependencies(model, net.inputs()), "0")
    norms = model[0].weight.detach().abs().sum(dim=(1, 2, 3))
    assert torch.allclose(importance, norms / norms.mean())


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
    for group in graph.prunable:
        pruned = compress(model, graph, Recipe(pruning={group.name: ratio}), x).module
        for layer in group.layers:
            before, after = (len(m.get_submodule(layer).weight) for m in (model, pruned))
            assert after < before or n_kept(group.n_channels, ratio) == group.n_channels
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
