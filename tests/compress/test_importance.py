"""Importance of filters, against its formulas."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autocompress.compress.importance import batch_norms_behind, importance_scores, needs_data, over_units
from autocompress.errors import CompressionError
from autocompress.graph import ChannelDependencies, inspect_model, unfold_attention
from tests.compress.scoring import everything_of, scores_of, to_mean_1, total_square
from tests.nets import NETS, Net

KINDS = ("l1", "l2", "batch_norm", "geometric_median", "taylor", "activation")


def rows_of(layer: Any) -> list[list[float]]:
    return layer.weight.detach().flatten(1).tolist()


REFERENCES = {
    "l1": lambda rows: [sum(abs(w) for w in row) for row in rows],
    "l2": lambda rows: [math.sqrt(sum(w * w for w in row)) for row in rows],
    "geometric_median": lambda rows: [sum(math.dist(row, other) for other in rows) for row in rows],
}


@pytest.mark.parametrize("kind", REFERENCES)
@pytest.mark.parametrize("group", ["0", "2", "6"])
def test_scores_of_weights_are_their_formula(kind: str, group: str) -> None:
    net = NETS["plain"]
    rows = rows_of(net.build().get_submodule(group))
    expected = torch.tensor(to_mean_1(REFERENCES[kind](rows)))
    assert torch.allclose(scores_of(net, kind)[group], expected, rtol=1e-5)


@pytest.mark.parametrize("kind", REFERENCES)
def test_layers_of_a_group_are_scaled_to_mean_1_and_added(kind: str) -> None:
    net = NETS["residual"]
    model = net.build()
    parts = [to_mean_1(REFERENCES[kind](rows_of(layer))) for layer in (model.stem[0], model.second[0])]
    expected = torch.tensor([sum(pair) for pair in zip(*parts, strict=True)])
    assert torch.allclose(scores_of(net, kind)["stem.0"], expected, rtol=1e-5)


def test_batch_norm_scores_are_its_scales() -> None:
    net = NETS["residual"]
    model = net.build()
    scores = importance_scores(model, net.inputs(), "batch_norm")
    assert torch.allclose(scores["first.0"], torch.tensor(to_mean_1(model.first[1].weight.abs().tolist())))
    both = [to_mean_1(norm.weight.abs().tolist()) for norm in (model.stem[1], model.second[1])]
    assert torch.allclose(scores["stem.0"], torch.tensor([a + b for a, b in zip(*both, strict=True)]))


def test_the_sign_of_a_scale_does_not_matter() -> None:
    net = NETS["residual"]
    model = net.build()
    before = importance_scores(model, net.inputs(), "batch_norm")["first.0"]
    with torch.no_grad():
        model.first[1].weight[::2] *= -1
    assert torch.equal(importance_scores(model, net.inputs(), "batch_norm")["first.0"], before)


def conv_then(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 16, 3), *layers, nn.Conv2d(16, 2, 1))


class RowsAsChannels(nn.Module):
    """A batch norm reads the layer's output, but its channels are another axis."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layer(x)))


IMAGE = torch.ones(1, 3, 8, 8)


@pytest.mark.parametrize(
    ("model", "example", "group"),
    [
        pytest.param(conv_then(nn.ReLU()), IMAGE, "0", id="no batch norm"),
        pytest.param(conv_then(nn.ReLU(), nn.BatchNorm2d(16)), IMAGE, "0", id="an activation between"),
        pytest.param(conv_then(nn.BatchNorm2d(16, affine=False)), IMAGE, "0", id="no scales"),
        pytest.param(conv_then(nn.GroupNorm(1, 16)), IMAGE, "0", id="another norm"),
        pytest.param(RowsAsChannels(), torch.randn(1, 16, 4), "layer", id="another axis"),
    ],
)
def test_without_a_batch_norm_directly_behind_it_the_l2_norm_counts(model: nn.Module, example: Any, group: str) -> None:
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    found, expected = (importance_scores(model.eval(), example, kind)[group] for kind in ("batch_norm", "l2"))
    assert torch.equal(found, expected)


def test_only_the_layer_without_a_batch_norm_falls_back() -> None:
    net = NETS["residual"]
    model = net.build()
    model.second[1] = nn.Identity()
    scale, norm = to_mean_1(model.stem[1].weight.tolist()), to_mean_1(REFERENCES["l2"](rows_of(model.second[0])))
    expected = torch.tensor([s + n for s, n in zip(scale, norm, strict=True)])
    assert torch.allclose(importance_scores(model, net.inputs(), "batch_norm")["stem.0"], expected, rtol=1e-5)


def test_batch_norms_are_found_by_execution() -> None:
    net = NETS["residual"]
    model = net.build()
    found = batch_norms_behind(model, net.inputs(), ["stem.0", "first.0", "head"])
    assert found == {"stem.0": model.stem[1], "first.0": model.first[1]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in NETS if name != "no_layers"])
def test_every_group_of_every_net_has_one_score_a_channel(name: str, kind: str) -> None:
    net = NETS[name]
    model = net.build()
    scores = importance_scores(model, net.inputs(), kind, None, net.batches(), total_square)
    unfold_attention(model)
    dependencies = ChannelDependencies(model, net.inputs())
    assert list(scores) == list(dependencies.groups)
    for group, values in scores.items():
        assert values.shape == (dependencies.n_channels(group),)
        assert values.isfinite().all()
        assert (values >= 0).all()
        assert not values.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_equal_filters_have_equal_scores(kind: str) -> None:
    net = NETS["plain"]
    model = net.build()
    twins = [3, 11, 20, 31]
    with torch.no_grad():
        model[0].weight[twins] = model[0].weight[3].clone()
        model[2].weight[:, twins] = model[2].weight[:, [3]]
    scores = importance_scores(model, net.inputs(), kind, ["0"], net.batches(), cross_entropy)["0"]
    if needs_data(kind):
        assert torch.allclose(scores[twins], scores[3], rtol=1e-4)
    else:
        assert len(set(scores[twins].tolist())) == 1


def test_a_filter_counts_as_often_as_it_is_there() -> None:
    net = NETS["plain"]
    model = net.build()
    with torch.no_grad():
        model[0].weight[4:12] = model[0].weight[3].clone()
    expected = torch.tensor(to_mean_1(REFERENCES["geometric_median"](rows_of(model[0]))))
    assert torch.allclose(importance_scores(model, net.inputs(), "geometric_median")["0"], expected, rtol=1e-5)


def test_a_model_that_is_random_when_it_evaluates_leaves_the_random_state() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn(x.shape[-1:])

    model = nn.Sequential(nn.Linear(6, 16), Noisy(), nn.Linear(16, 3))
    state = torch.get_rng_state()
    importance_scores(model, torch.ones(2, 6), "l1")
    assert torch.equal(torch.get_rng_state(), state)


def test_a_layer_of_zeros_has_scores_of_zero() -> None:
    net = NETS["plain"]
    model = net.build()
    nn.init.zeros_(model[0].weight)
    assert importance_scores(model, net.inputs(), "l1", ["0"])["0"].tolist() == [0.0] * 32


@pytest.mark.parametrize("kind", KINDS)
def test_channels_of_a_unit_share_the_sum_of_their_scores(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChannelDependencies, "unit", lambda self, group: 1, raising=False)
    single = scores_of(NETS["plain"], kind)["0"].tolist()
    monkeypatch.setattr(ChannelDependencies, "unit", lambda self, group: 8 if group != "6" else 1)
    shared = scores_of(NETS["plain"], kind)["0"].tolist()
    assert shared == pytest.approx([sum(single[i // 8 * 8 : i // 8 * 8 + 8]) for i in range(32)], rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_of_a_model_as_the_user_gave_it_are_scored(kind: str) -> None:
    net = NETS["encoder"]
    model = net.build()
    groups = [group.name for group in inspect_model(model, net.inputs()).prunable]
    scores = importance_scores(model, net.inputs(), kind, groups, net.batches(), cross_entropy)
    heads = scores["layer.self_attn.query"].tolist()
    assert heads == [heads[0]] * 8 + [heads[8]] * 8
    assert sum(heads) == pytest.approx(3 * 16 * 8, rel=1e-4)
    assert type(model.layer.self_attn) is nn.MultiheadAttention


def test_a_unit_of_one_changes_nothing() -> None:
    scores = torch.tensor([3.0, 1.0, 2.0])
    assert torch.equal(over_units(scores, 1), scores)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("with_gradients", [False, True])
def test_the_model_and_the_random_state_stay_as_they_were(kind: str, with_gradients: bool) -> None:
    net = NETS["residual"]
    model = net.build()
    model.first.append(nn.Dropout(0.5))
    model.train()
    model.second.eval()
    model.head.weight.requires_grad_(False)
    if with_gradients:
        model(net.inputs(4)).sum().backward()
    before = everything_of(model)
    importance_scores(model, net.inputs(), kind, None, net.batches(), cross_entropy)
    assert everything_of(model) == before


def test_only_the_groups_asked_for_are_scored() -> None:
    assert list(scores_of(NETS["residual"], "l1", groups=["first.0"])) == ["first.0"]


def test_kinds_that_need_data_say_so() -> None:
    assert [kind for kind in KINDS if needs_data(kind)] == ["taylor", "activation"]


def with_nan(net: Net) -> list[Any]:
    return [(torch.full_like(net.inputs(2), math.nan), torch.tensor([0, 1]))]


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        pytest.param(
            "taylor", {"batches": None}, "'taylor' needs training data, but got none; give batches", id="taylor"
        ),
        pytest.param(
            "activation", {"batches": None}, "'activation' needs training data, but got none", id="activation"
        ),
        pytest.param("taylor", {"loss": None}, "needs the loss of a batch, but got none; give loss", id="no loss"),
        pytest.param("taylor", {"batches": []}, "at least one batch of training data, but got none", id="empty"),
        pytest.param(
            "activation", {"n_batches": 0}, "at least one batch of training data, but got none", id="none read"
        ),
        pytest.param("l1", {"groups": ["no"]}, "'no', but the model's channel groups are: 0, 2, 4", id="unknown group"),
        pytest.param(
            "activation", {"batches": with_nan(NETS["mlp"])}, "finite numbers, but '0' has nan", id="nan data"
        ),
        pytest.param(
            "taylor", {"batches": with_nan(NETS["mlp"])}, "finite numbers, but '0' has nan", id="nan gradient"
        ),
        pytest.param(
            "taylor",
            {"loss": lambda outputs, targets: outputs},
            r"a scalar tensor that depends on the outputs, but got shape \(8, 5\) with a gradient",
            id="loss of many numbers",
        ),
        pytest.param(
            "taylor",
            {"loss": lambda outputs, targets: outputs.detach().sum()},
            r"but got shape \(\) without a gradient",
            id="loss without a gradient",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(kind: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(CompressionError, match=said):
        scores_of(NETS["mlp"], kind, **options)


@pytest.mark.parametrize("kind", REFERENCES)
def test_a_weight_that_is_not_finite_is_refused(kind: str) -> None:
    net = NETS["mlp"]
    model = net.build()
    with torch.no_grad():
        model[2].weight[1, 1] = math.inf
    with pytest.raises(CompressionError, match="importance must be finite numbers, but '2' has (inf|nan)"):
        importance_scores(model, net.inputs(), kind)
