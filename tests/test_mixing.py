"""Mixes of methods that hold every pair: all take effect, the order of insertion does not matter, exports agree."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autocompress.compress import CompressedModel, calibrate, compress, importance_scores, needs_data
from autocompress.compress.factored_layer import FactoredLayer
from autocompress.graph import ModelGraph, UnfoldedAttention, inspect_model
from autocompress.recipe import LayerRecipe, Recipe
from tests.deploy.deployed import deployed
from tests.nets import Net, conv_bn

CONVOLUTIONS = ("first.0", "second.0")  # three input channels are too few for a pattern of 2:4
MAPS = ("layer.self_attn.value", "layer.linear1", "layer.linear2")


class Wide(nn.Module):
    """A residual block wide enough for low rank after half of its filters are gone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = conv_bn(3, 64), conv_bn(64, 64), conv_bn(64, 64)
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.second(self.first(x))).mean(dim=(2, 3)))


class WideEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 64)
        self.layer = nn.TransformerEncoderLayer(64, 4, dim_feedforward=128, batch_first=True)
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x)).mean(dim=1))


@dataclass(frozen=True)
class Method:
    """What a method adds to the recipe of each layer and to the whole, and whether it took effect."""

    layer: dict[str, Any]
    whole: dict[str, Any]
    took_effect: Callable[[CompressedModel, str], bool]
    on: tuple[str, ...] = ("wide", "encoder")


def weight(model: CompressedModel, name: str) -> Tensor:
    """Weight of a layer, or of its last factor."""
    frozen = model.freeze_weights()
    layer = frozen.get_submodule(name)
    return (layer[-1] if isinstance(layer, nn.Sequential) else layer).weight


def is_sparse(model: CompressedModel, name: str) -> bool:
    return float((weight(model, name) == 0).float().mean()) > 0.45


def is_on_grid(n_values: int) -> Callable[[CompressedModel, str], bool]:
    return lambda model, name: max(len(row.unique()) for row in weight(model, name)) <= n_values


def lost_filters(model: CompressedModel, name: str) -> bool:
    return len(weight(model, name)) < {"layer.linear1": 128}.get(name, 64)


def is_factored(model: CompressedModel, name: str) -> bool:
    return isinstance(model.module.get_submodule(name), nn.Sequential)


METHODS = {
    "W7A8": Method({"weight_bits": 7, "activation_bits": 8}, {}, is_on_grid(127)),
    "W4A8": Method(
        {"weight_bits": 4, "activation_bits": 8},
        {"calibration": {"rounding": "gptq", "bias_correction": True}},
        is_on_grid(15),
    ),
    "W3": Method({"weight_bits": 3}, {}, is_on_grid(7)),
    "binary": Method({"weight_bits": 1, "activation_bits": 1}, {}, is_on_grid(2), on=("wide",)),
    "magnitude": Method({"sparsity": 0.5}, {}, is_sparse),
    "global magnitude": Method({"sparsity": 0.6}, {"sparsification": {"scope": "global"}}, lambda *_: True),
    "2:4": Method({"sparsity": 0.5}, {"sparsification": {"pattern": "2:4"}}, is_sparse),
    "gates": Method({"sparsity": 0.5}, {"sparsification": {"method": "regularization"}}, is_sparse),
    "movement": Method({"sparsity": 0.5}, {"sparsification": {"method": "movement"}}, is_sparse),
    "rows": Method(
        {"sparsity": 0.5}, {"sparsification": {"method": "movement", "structure": "rows"}}, is_sparse, on=("encoder",)
    ),
    "pruning": Method({}, {"pruning": 0.5}, lost_filters),
    "taylor pruning": Method({}, {"pruning": 0.5, "importance": "taylor"}, lost_filters),
    "low rank": Method({"rank_ratio": 0.25}, {}, is_factored),
}
NETS = {"wide": (Net("wide", Wide), CONVOLUTIONS), "encoder": (Net("encoder", WideEncoder, (7, 4)), MAPS)}
QUANTIZED = ("W7A8", "W4A8", "W3")
SPARSE = ("magnitude", "global magnitude", "2:4", "gates", "movement", "rows")
PRUNED = ("pruning", "taylor pruning")
GRAPHS: dict[str, ModelGraph] = {}


def mixes() -> list[Any]:
    """Of each pair that goes together at least one mix: a binary weight is never 0, rows of a factor cannot go."""
    found = [("wide", ("binary", "pruning", "low rank")), ("wide", ("binary", "taylor pruning"))]
    for net, (i, quantized), (j, sparse) in itertools.product(NETS, enumerate(QUANTIZED), enumerate(SPARSE)):
        rank = () if sparse == "rows" else ("low rank",)
        if net in METHODS[sparse].on:
            found.append((net, (quantized, sparse, PRUNED[(i + j) % 2], *rank)))
    return [pytest.param(net, mix, id=f"{net}, {' and '.join(mix)}") for net, mix in found]


def graph_of(net: str) -> ModelGraph:
    if net not in GRAPHS:
        GRAPHS[net] = inspect_model(NETS[net][0].build(), NETS[net][0].inputs())
    return GRAPHS[net]


def recipe_of(net: str, methods: tuple[str, ...]) -> Recipe:
    layer, whole = {}, {}
    for name in methods:
        layer |= METHODS[name].layer
        whole |= METHODS[name].whole
    if "pruning" in whole:
        whole["pruning"] = {group.name: whole["pruning"] for group in graph_of(net).prunable}
    layers = {name: LayerRecipe(**layer) for name in NETS[net][1]}
    return Recipe(layers=layers if layer else {}, **whole)


def compressed(net: str, methods: tuple[str, ...]) -> CompressedModel:
    made, recipe = NETS[net][0], recipe_of(net, methods)
    model, x = made.build(), made.inputs()
    scores = None
    if recipe.pruning and needs_data(recipe.importance):
        loss = torch.nn.functional.cross_entropy
        scores = importance_scores(model, x, recipe.importance, list(recipe.pruning), made.batches(), loss)
    result = compress(model, graph_of(net), recipe, x, scores=scores)
    if recipe.quantized:
        calibrate(result.module, made.batches(), recipe.calibration)
    return result


@pytest.mark.parametrize(("net", "mix"), mixes())
def test_methods_in_a_mix_take_effect_and_are_exported_as_they_are(net: str, mix: tuple[str, ...]) -> None:
    model = compressed(net, mix)
    for name, method in itertools.product(NETS[net][1], mix):
        assert METHODS[method].took_effect(model, name), f"{method}: {name}"
    x = NETS[net][0].inputs()
    assert max(deployed(model).errors(x)) < 0.03  # of the largest output; rounding ties differ


def test_the_mixes_hold_every_pair_of_methods_that_goes_together() -> None:
    held = {frozenset(pair) for row in mixes() for pair in itertools.combinations(row.values[1], 2)}
    alike = ({*QUANTIZED, "binary"}, {*SPARSE}, {*PRUNED})
    wanted = {frozenset(pair) for pair in itertools.combinations(METHODS, 2)}
    wanted -= {pair for pair in wanted if any(pair <= same for same in alike)}
    wanted -= {frozenset(("binary", sparse)) for sparse in SPARSE} | {frozenset(("rows", "low rank"))}
    assert wanted == held


@pytest.mark.parametrize(("net", "mix"), mixes())
def test_the_order_of_insertion_does_not_matter(net: str, mix: tuple[str, ...]) -> None:
    assert len({recipe_of(net, order).digest() for order in itertools.permutations(mix)}) == 1


@pytest.mark.parametrize("name", ["magnitude", "2:4", "rows", "pruning", "low rank"])
@pytest.mark.parametrize("net", NETS)
def test_a_float_method_alone_is_exported_as_it_is(net: str, name: str) -> None:
    if net not in METHODS[name].on:
        pytest.skip("the method is for other layers")
    model = compressed(net, (name,))
    assert all(METHODS[name].took_effect(model, layer) for layer in NETS[net][1])
    assert max(deployed(model).errors(NETS[net][0].inputs())) < 1e-4


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("net", NETS)
def test_the_same_recipe_twice_gives_the_same_weights(net: str, name: str) -> None:
    if net not in METHODS[name].on:
        pytest.skip("the method is for other layers")
    one, other = (compressed(net, (name,)).state() for _ in range(2))
    assert list(one) == list(other)
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("net", NETS)
def test_stripping_leaves_plain_modules_and_stripping_again_changes_nothing(net: str, name: str) -> None:
    if net not in METHODS[name].on:
        pytest.skip("the method is for other layers")
    model = compressed(net, (name,))
    plain = model.strip()
    again = CompressedModel(plain, Recipe(), NETS[net][0].inputs(), {}).strip()
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), again.state_dict().values(), strict=True))
    left = {type(module) for module in plain.modules() if type(module).__module__.startswith("autocompress")}
    assert left <= {FactoredLayer, UnfoldedAttention}  # torch's attention cannot hold fewer heads, nor factors
    assert not any(parametrize.is_parametrized(module) for module in plain.modules())
    if not model.recipe.quantized:
        x = NETS[net][0].inputs(3)
        with torch.no_grad():
            torch.testing.assert_close(plain(x), model.module(x))
