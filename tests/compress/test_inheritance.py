"""Warm start of a compressed model from another one: what is taken over, what is set up anew, what is refused."""

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autocompress.compress import CompressedModel, calibrate, compress
from autocompress.compress.attaching import attached_input, attached_weight, weight_before
from autocompress.compress.inheritance import inherit, why_not_inherited
from autocompress.compress.mask_attaching import attached_mask, weight_before_mask
from autocompress.compress.weight_quantization import SymmetricWeights
from autocompress.errors import CompressionError
from autocompress.graph import inspect_model
from autocompress.recipe import Calibration, Distillation, LayerRecipe, Recipe, Sparsification
from autocompress.space import uniform_recipe
from autocompress.task import call, flatten
from tests.nets import NETS, Net

INT8, INT4 = {"weight_bits": 8, "activation_bits": 8}, {"weight_bits": 4, "activation_bits": 8}


def recipe_for(net: Net, layer: dict[str, Any], pruning_ratio: float = 0.0, **whole: Any) -> Recipe:
    graph = inspect_model(net.build(), net.inputs())
    pruning = {group.name: pruning_ratio for group in graph.prunable}
    return Recipe(layers=uniform_recipe(graph, LayerRecipe(**layer)).layers, pruning=pruning, **whole)


def fresh(net: Net, recipe: Recipe, scores: dict[str, Tensor] | None = None) -> CompressedModel:
    """Compressed, not calibrated."""
    model, x = net.build(), net.inputs()
    return compress(model, inspect_model(model, x), recipe, x, scores=scores)


def trained(net: Net, recipe: Recipe) -> CompressedModel:
    """Calibrated, and every tensor of it moved, as training does; masks are those of the moved weights."""
    result = fresh(net, recipe, scores={})
    calibrate(result.module, net.batches(), recipe.calibration)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in result.module.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        for name, statistic in result.module.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                statistic += 0.05 * torch.rand(statistic.shape, generator=generator)
    result.training(n_steps=1).finish()
    return result


def outputs(compressed: CompressedModel, net: Net) -> list[Tensor]:
    with torch.no_grad():
        return flatten(call(compressed.module, net.inputs(4)))


def assert_equal(found: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(found) == len(wanted)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


ALIKE = [
    pytest.param("residual", INT8, {}, id="8 bits"),
    pytest.param("residual", INT8, {"pruning_ratio": 0.5}, id="filters removed"),
    pytest.param("depthwise", {**INT4, "weight_scheme": "asymmetric"}, {}, id="asymmetric"),
    pytest.param("tied", INT4, {}, id="tied weights"),
    pytest.param("attention", {"sparsity": 0.5, **INT8}, {"pruning_ratio": 0.5}, id="everything on attention"),
    pytest.param("weight_norm", INT4, {}, id="weight norm"),
    pytest.param("upsampling", {"rank_ratio": 0.5, **INT8}, {}, id="low rank"),
    pytest.param("never_called", INT8, {}, id="layer never called"),
    pytest.param("mlp", {"sparsity": 0.5}, {"sparsification": Sparsification(method="movement")}, id="movement"),
    pytest.param("mlp", {"sparsity": 0.5}, {"sparsification": Sparsification(method="regularization")}, id="gates"),
    pytest.param(
        "mlp",
        INT4,
        {"calibration": Calibration(rounding="gptq", bias_correction=True, smoothing=0.5)},
        id="calibration",
    ),
]


@pytest.mark.parametrize(("name", "layer", "whole"), ALIKE)
def test_a_model_compressed_like_its_parent_computes_the_same(
    name: str, layer: dict[str, Any], whole: dict[str, Any]
) -> None:
    net = NETS[name]
    recipe = recipe_for(net, layer, **whole)
    parent, child = trained(net, recipe), fresh(net, recipe)
    inherit(child, parent, net.batches())
    assert_equal(outputs(child, net), outputs(parent, net))
    assert_equal(list(child.state().values()), list(parent.state().values()))


def test_another_distillation_is_no_other_model() -> None:
    net = NETS["mlp"]
    recipe = recipe_for(net, INT4, calibration=Calibration(rounding="gptq"))
    child = fresh(net, recipe.model_copy(update={"distillation": Distillation(weight=0.0)}))
    parent = trained(net, recipe)
    inherit(child, parent, net.batches())
    assert_equal(outputs(child, net), outputs(parent, net))


def untouched(layer: nn.Module) -> Tensor:
    """The weight before masks and quantizers."""
    if not parametrize.is_parametrized(layer, "weight"):
        return layer.weight.detach()
    return weight_before_mask(layer) if attached_mask(layer) else weight_before(layer)


OTHERS = [
    pytest.param("residual", INT8, INT4, 0.0, id="fewer bits"),
    pytest.param("residual", {}, INT8, 0.5, id="bits after filters"),
    pytest.param("residual", {"sparsity": 0.5}, {"sparsity": 0.7, **INT8}, 0.0, id="more zeros and bits"),
    pytest.param("attention", {"weight_bits": 8}, INT4, 0.0, id="attention"),
    pytest.param("tied", {"weight_bits": 8}, {"weight_bits": 4}, 0.0, id="tied weights"),
    pytest.param("weight_norm", INT8, {"sparsity": 0.5, **INT4}, 0.0, id="weight norm"),
    pytest.param("upsampling", {"rank_ratio": 0.5}, {"rank_ratio": 0.5, **INT8}, 0.0, id="bits after low rank"),
    pytest.param("never_called", INT8, INT4, 0.0, id="layer never called"),
    pytest.param("frozen", INT8, INT4, 0.0, id="frozen"),
]


@pytest.mark.parametrize(("name", "before", "after", "pruning_ratio"), OTHERS)
def test_weights_before_the_chain_and_all_else_of_the_model_are_those_of_the_parent(
    name: str, before: dict[str, Any], after: dict[str, Any], pruning_ratio: float
) -> None:
    net = NETS[name]
    parent = trained(net, recipe_for(net, before, pruning_ratio))
    child = fresh(net, recipe_for(net, after, pruning_ratio))
    inherit(child, parent, net.batches())
    modules = dict(parent.module.named_modules())
    for layer_name in child.layers:
        mine, theirs = child.module.get_submodule(layer_name), modules[layer_name]
        assert torch.equal(untouched(mine), untouched(theirs)), layer_name
        assert getattr(mine, "bias", None) is None or torch.equal(mine.bias, theirs.bias)
    statistics = [(key, value) for key, value in child.state().items() if "running_" in key]
    assert all(torch.equal(value, parent.state()[key]) for key, value in statistics)
    assert all(torch.isfinite(y).all() for y in outputs(child, net))


@pytest.mark.parametrize("name", ["residual", "attention"])
def test_all_else_is_set_up_as_if_the_parent_s_weights_had_been_compressed(name: str) -> None:
    net = NETS[name]
    after = recipe_for(net, {**INT4, "sparsity": 0.5})
    first = next(iter(after.layers))
    parent = trained(net, Recipe(layers={first: LayerRecipe(**INT8)}))
    unrounded = copy.deepcopy(parent)
    attached_weight(unrounded.module.get_submodule(first)).enabled = False
    plain = unrounded.strip()
    wanted = compress(plain, inspect_model(plain, net.inputs()), after, net.inputs())
    calibrate(wanted.module, net.batches())
    child = fresh(net, after)
    inherit(child, parent, net.batches())
    assert list(child.state()) == list(wanted.state())
    assert_equal(list(child.state().values()), list(wanted.state().values()))


def test_learned_steps_and_ranges_stay_where_the_layer_has_the_same_recipe() -> None:
    net = NETS["mlp"]
    parent = trained(net, recipe_for(net, INT8))
    after = Recipe(layers={**parent.recipe.layers, "2": LayerRecipe(**INT4)})
    child = fresh(net, after)
    inherit(child, parent, net.batches())
    for attached in (attached_weight, attached_input):
        for name, same in {"0": True, "2": False, "4": True}.items():
            mine, theirs = (attached(m.module.get_submodule(name)).state_dict() for m in (child, parent))
            assert all(torch.equal(mine[key], theirs[key]) for key in theirs) is same, name


def test_steps_are_set_up_anew_where_calibrations_differ() -> None:
    net = NETS["mlp"]
    parent = trained(net, recipe_for(net, INT8))
    child = fresh(net, recipe_for(net, INT8, calibration=Calibration(weight_ranges="min_max")))
    inherit(child, parent, net.batches())
    layer = child.module.get_submodule("2")
    quantizer = attached_weight(layer)
    assert isinstance(quantizer, SymmetricWeights)
    widest = untouched(layer).abs().amax(dim=1, keepdim=True)
    torch.testing.assert_close(quantizer.log_scale.exp() * 127, widest)


def test_binary_weights_are_inherited_before_the_binarizer() -> None:
    net = NETS["residual"]
    binary = {"first.0": LayerRecipe(weight_bits=1, activation_bits=1)}
    parent = trained(net, Recipe(layers={"first.0": LayerRecipe(**INT8)}))
    child = fresh(net, Recipe(layers=binary))
    inherit(child, parent, net.batches())
    layer = child.module.get_submodule("first.0")
    assert torch.equal(untouched(layer), untouched(parent.module.get_submodule("first.0")))
    assert len(layer.weight[0].unique()) == 2
    assert attached_input(layer).ready


def test_nothing_of_the_parent_changes_and_nothing_is_shared() -> None:
    net = NETS["residual"]
    parent = trained(net, recipe_for(net, INT8))
    parent.module.train()
    before = parent.state()
    for after in (INT8, INT4):
        child = fresh(net, recipe_for(net, after))
        inherit(child, parent, net.batches())
        with torch.no_grad():
            for parameter in child.module.parameters():
                parameter += 1.0
        assert_equal(list(parent.state().values()), list(before.values()))
    assert parent.module.training


def test_a_model_with_an_inherited_start_can_be_trained() -> None:
    net = NETS["residual"]
    parent = trained(net, recipe_for(net, INT8))
    child = fresh(net, recipe_for(net, INT4))
    wanted = {name: p.requires_grad for name, p in child.module.named_parameters()}
    inherit(child, parent, net.batches())
    call(child.module.train(), net.inputs(4)).square().mean().backward()
    assert {name: p.requires_grad for name, p in child.module.named_parameters()} == wanted
    assert all(p.grad is not None and p.is_leaf for p in child.module.parameters())


A, B = LayerRecipe(**INT8), LayerRecipe(**INT4)
REASONS = [
    pytest.param({"pruning": {"0": 0.5}}, {"pruning": {"0": 0.25}}, "other filters", id="ratio"),
    pytest.param({"pruning": {"0": 0.5}}, {}, "other filters", id="no pruning"),
    pytest.param(
        {"pruning": {"0": 0.5}}, {"pruning": {"0": 0.5}, "importance": "l2"}, "other filters", id="importance"
    ),
    pytest.param({"layers": {"0": LayerRecipe(rank_ratio=0.5)}}, {}, "other ranks", id="rank"),
    pytest.param(
        {"layers": {"0": LayerRecipe(sparsity=0.5)}, "sparsification": {"method": "movement", "structure": "rows"}},
        {},
        "rows",
        id="rows",
    ),
    pytest.param(
        {"layers": {"0": A}, "calibration": {"rounding": "gptq"}}, {"layers": {"0": A}}, "calibration", id="gptq"
    ),
    pytest.param(
        {"layers": {"0": B}, "calibration": {"smoothing": 0.5}},
        {"layers": {"0": A}, "calibration": {"smoothing": 0.5}},
        "calibration",
        id="smoothing on both sides",
    ),
    pytest.param({"layers": {"0": A}, "calibration": {"bias_correction": True}}, {}, "calibration", id="biases"),
    pytest.param({"layers": {"0": A}, "calibration": {"input_ranges": "mse"}}, {}, "", id="ranges alone"),
    pytest.param({"layers": {"0": A}}, {"layers": {"0": B}}, "", id="bits alone"),
]


@pytest.mark.parametrize(("first", "second", "reason"), REASONS)
def test_a_reason_names_what_excludes_inheriting_in_either_direction(
    first: dict[str, Any], second: dict[str, Any], reason: str
) -> None:
    for a, b in ((first, second), (second, first)):
        found = why_not_inherited(Recipe(**a), Recipe(**b))
        assert (reason in found) if reason else found == ""


def assert_refused(child: CompressedModel, parent: CompressedModel, net: Net, match: str) -> None:
    before = child.state()
    with pytest.raises(CompressionError, match=match):
        inherit(child, parent, net.batches())
    assert_equal(list(child.state().values()), list(before.values()))


def test_a_parent_with_other_filters_is_refused() -> None:
    net = NETS["residual"]
    parent = trained(net, recipe_for(net, INT8, 0.5))
    assert_refused(fresh(net, recipe_for(net, INT8, 0.25)), parent, net, "nothing can be inherited: .* other filters")


@pytest.mark.parametrize("alike", [True, False])
def test_a_parent_of_other_shapes_is_refused(alike: bool) -> None:
    net, wider = NETS["mlp"], Net("wider", lambda: nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 20)), (6,))
    layers = {"0": LayerRecipe(**INT8)}
    other = {"0": LayerRecipe(**(INT8 if alike else INT4))}
    parent = trained(wider, Recipe(layers=layers))
    assert_refused(fresh(net, Recipe(layers=other)), parent, net, re.escape("only one has '4.bias'"))
    narrow = Net("narrow", lambda: nn.Sequential(*[m for n in (6, 7) for m in (nn.Linear(n, 7), nn.ReLU())]), (6,))
    thin = Net("thin", lambda: nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 5)), (6,))
    parent = trained(thin, Recipe(layers=layers))
    assert_refused(
        fresh(narrow, Recipe(layers=other)), parent, narrow, re.escape("'2.weight' has (5, 7) instead of (7, 7)")
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_parent_that_diverged_is_refused(value: float) -> None:
    net = NETS["mlp"]
    parent = trained(net, recipe_for(net, INT8))
    with torch.no_grad():
        parent.module.get_submodule("2").bias[0] = value
    assert_refused(fresh(net, recipe_for(net, INT4)), parent, net, "must be finite, but '2.bias'")


def test_new_ranges_need_data() -> None:
    net = NETS["mlp"]
    parent, child = (f(net, recipe_for(net, layer)) for f, layer in ((trained, INT8), (fresh, INT4)))
    with pytest.raises(CompressionError, match="at least one batch"):
        inherit(child, parent, [])
