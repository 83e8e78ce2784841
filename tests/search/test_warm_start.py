"""Which finished candidate a new one starts from, and the start itself, by way of folders."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autocompress.compress import CompressedModel, calibrate, compress
from autocompress.deploy import write_tensors
from autocompress.graph import inspect_model
from autocompress.recipe import Calibration, LayerRecipe, Recipe, Sparsification
from autocompress.search.context import EvaluationContext
from autocompress.search.folder import WEIGHTS
from autocompress.search.warm_start import distance, nearest, rounding_error, sparsity_error, warm_start
from autocompress.task import call
from tests import tiny

MACS = {"a": 100, "b": 900, "c": 0}


def layers(**bits: int) -> dict[str, LayerRecipe]:
    """Weights of so many bits by layer, inputs of 8."""
    return {name: LayerRecipe(weight_bits=b, activation_bits=8) for name, b in bits.items()}


def sparse(**sparsity: float) -> dict[str, LayerRecipe]:
    return {name: LayerRecipe(sparsity=s) for name, s in sparsity.items()}


BITS = st.sampled_from([2, 3, 4, 7, 8, 32])
LAYER = st.builds(
    lambda weights, inputs, zeros: LayerRecipe(
        weight_bits=weights, activation_bits=32 if weights == 32 else inputs, sparsity=zeros
    ),
    *(BITS, BITS, st.floats(0.0, 0.99)),
)
RECIPE = st.builds(
    lambda layers, pruning, scope: Recipe(layers=layers, pruning=pruning, sparsification=Sparsification(scope=scope)),
    st.dictionaries(st.sampled_from("abc"), LAYER),
    st.sampled_from([{}, {}, {"a": 0.5}]),
    st.sampled_from(["local", "global"]),
)


@given(RECIPE, RECIPE)
def test_distance_is_symmetric_and_not_negative(a: Recipe, b: Recipe) -> None:
    assert distance(a, b, MACS) == distance(b, a, MACS) >= 0


@given(RECIPE)
def test_a_recipe_is_at_distance_0_from_itself(recipe: Recipe) -> None:
    assert distance(recipe, recipe, MACS) == 0


@given(RECIPE, RECIPE)
def test_distance_is_infinite_exactly_where_filters_differ(a: Recipe, b: Recipe) -> None:
    assert math.isinf(distance(a, b, MACS)) is (a.pruning != b.pruning)


OTHER_SHAPES = [
    pytest.param({}, {"pruning": {"a": 0.5}}, id="pruned"),
    pytest.param({"pruning": {"a": 0.25}}, {"pruning": {"a": 0.5}}, id="ratio"),
    pytest.param({"pruning": {"a": 0.5}}, {"pruning": {"a": 0.5}, "importance": "l2"}, id="importance"),
    pytest.param({}, {"layers": {"a": LayerRecipe(rank_ratio=0.5)}}, id="rank"),
]


@pytest.mark.parametrize(("a", "b"), OTHER_SHAPES)
def test_other_shapes_are_infinitely_far(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert distance(Recipe(**a), Recipe(**b), MACS) == math.inf


def test_a_distance_is_the_mean_of_errors_that_differ_weighted_by_macs() -> None:
    a, b = Recipe(layers=layers(a=8, b=4, c=8)), Recipe(layers={**layers(a=2, c=2), **sparse(b=0.5)})
    root = math.sqrt(3)
    bits_a = root * (2**-2 + 2**-8)  # inputs have the same grid
    bits_b = root * (2**-4 + 2**-8) + 0.26707  # weights, inputs, zeros
    wanted = (100 * bits_a + 900 * bits_b + 1 * bits_a) / 1001
    assert distance(a, b, MACS) == pytest.approx(wanted, rel=1e-4)


GRIDS = [
    pytest.param({"weight_scheme": "asymmetric"}, 2 * 2**-4, id="scheme of weights"),
    pytest.param({"weight_granularity": "per_tensor"}, 2 * 2**-4, id="granularity of weights"),
    pytest.param({"activation_scheme": "symmetric"}, 2 * 2**-8, id="scheme of inputs"),
    pytest.param({"activation_granularity": "per_channel"}, 2 * 2**-8, id="granularity of inputs"),
    pytest.param({"activation_bits": 32}, 2**-8, id="float inputs"),
    pytest.param({"activation_bits": 32, "group_size": 8}, 2 * 2**-4 + 2**-8, id="groups"),
    pytest.param({}, 0, id="the same"),
]


@pytest.mark.parametrize(("changes", "wanted"), GRIDS)
def test_errors_of_other_grids_add_up(changes: dict[str, Any], wanted: float) -> None:
    a = LayerRecipe(weight_bits=4, activation_bits=8)
    b = LayerRecipe(**{"weight_bits": 4, "activation_bits": 8, **changes})
    found = distance(Recipe(layers={"a": a}), Recipe(layers={"a": b}), {"a": 7})
    assert found == pytest.approx(math.sqrt(3) * wanted)


def test_zeros_of_other_methods_add_up() -> None:
    magnitude, movement = (
        Recipe(layers=sparse(a=0.5, b=0.5, c=0.5), sparsification=Sparsification(method=method))
        for method in ("magnitude", "movement")
    )
    assert distance(magnitude, movement, MACS) == pytest.approx(2 * sparsity_error(0.5))
    assert distance(magnitude, Recipe(), MACS) == pytest.approx(sparsity_error(0.5))


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_the_rounding_error_is_that_of_normal_values_within_three_standard_deviations(bits: int) -> None:
    x = np.random.default_rng(0).normal(size=100_000).clip(-3, 3)
    step = 6 / 2**bits
    rounded = (np.floor(x / step) + 0.5) * step
    assert rounding_error(bits) == pytest.approx(np.sqrt(np.mean((rounded - x) ** 2)), rel=0.06)


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9, 0.99])
def test_the_sparsity_error_is_the_share_of_the_smallest_normal_values(sparsity: float) -> None:
    x = np.sort(np.abs(np.random.default_rng(0).normal(size=400_000)))
    removed = x[: round(sparsity * len(x))]
    assert sparsity_error(sparsity) == pytest.approx(np.sqrt(np.sum(removed**2) / len(x)), rel=0.02)


W8, W4, W2 = (Recipe(layers=layers(a=b, b=b)) for b in (8, 4, 2))
A4_B2, A2_B4 = Recipe(layers=layers(a=4, b=2)), Recipe(layers=layers(a=2, b=4))
P50, P50_W8, P50_W4, P50_W2 = (Recipe(pruning={"a": 0.5}, layers=layers(a=b, b=b) if b else {}) for b in (0, 8, 4, 2))
GPTQ = Recipe(layers=layers(a=4, b=4), calibration=Calibration(rounding="gptq"))
ROWS = Recipe(layers=sparse(a=0.5), sparsification=Sparsification(method="movement", structure="rows"))
NEAREST = [
    pytest.param(W4, [], None, id="nothing is finished"),
    pytest.param(W4, [Recipe()], None, id="only FP32"),
    pytest.param(W4, [Recipe(), W8], None, id="other bits have nothing in common"),
    pytest.param(W2, [Recipe(layers=layers(a=2, b=8)), W8, A4_B2], A4_B2, id="the same in most multiplications"),
    pytest.param(W2, [A2_B4], None, id="the same in few multiplications"),
    pytest.param(P50_W2, [P50_W4, P50_W8], P50_W8, id="the least error, of other bits"),
    pytest.param(W8, [W4], None, id="more bits"),
    pytest.param(W4, [W8, W4], W4, id="itself"),
    pytest.param(W4, [Recipe(layers=layers(a=2, b=4))], None, id="fewer bits in one layer"),
    pytest.param(P50_W4, [Recipe(pruning={"a": 0.5}, layers={"a": LayerRecipe(weight_bits=8, activation_bits=4)})],
                 None, id="fewer bits of inputs"),
    pytest.param(P50_W8, [W8, P50], P50, id="filters are infinitely far"),
    pytest.param(P50_W8, [W8], None, id="other filters"),
    pytest.param(P50, [P50_W8], None, id="float from quantized"),
    pytest.param(Recipe(layers=sparse(a=0.7)), [Recipe(layers=sparse(a=s)) for s in (0.3, 0.6, 0.8)],
                 Recipe(layers=sparse(a=0.6)), id="fewer zeros"),
    pytest.param(Recipe(layers=sparse(a=0.7), sparsification=Sparsification(scope="global")),
                 [Recipe(layers=sparse(a=0.6))], None, id="zeros of another kind"),
    pytest.param(GPTQ, [W8, W4], None, id="weights rounded by calibration"),
    pytest.param(GPTQ, [W8, GPTQ], GPTQ, id="itself, weights rounded by calibration"),
    pytest.param(ROWS, [ROWS], None, id="rows"),
    pytest.param(Recipe(), [Recipe(), W8], None, id="FP32 itself"),
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "finished", "wanted"), NEAREST)
def test_the_nearest_finished_recipe_is_found(recipe: Recipe, finished: list[Recipe], wanted: Recipe | None) -> None:
    assert nearest(recipe, finished, MACS) == wanted


def test_of_equally_near_recipes_itself_comes_first_then_the_lowest_digest() -> None:
    ranges = ("mse", "min_max", "percentile")
    alike = [Recipe(layers=layers(a=4, b=4), calibration=Calibration(input_ranges=name)) for name in ranges]
    lowest, middle, highest = sorted(alike, key=Recipe.digest)
    for finished in ([lowest, middle, highest], [highest, middle, lowest]):
        assert nearest(highest, finished, MACS) == highest
        assert nearest(W4, finished, MACS) == lowest


@given(RECIPE, st.lists(RECIPE, max_size=5))
def test_a_parent_is_nearer_than_fp32_and_nowhere_compressed_more(recipe: Recipe, finished: list[Recipe]) -> None:
    parent = nearest(recipe, finished, MACS)
    if parent is not None:
        assert distance(recipe, parent, MACS) < distance(recipe, Recipe(), MACS)
        assert parent.pruning == recipe.pruning
        for name in MACS:
            mine, theirs = recipe.layer(name), parent.layer(name)
            assert theirs.weight_bits >= mine.weight_bits
            assert theirs.activation_bits >= mine.activation_bits
            assert theirs.sparsity <= mine.sparsity
    assert nearest(recipe, [*finished, recipe], MACS) == (None if recipe.layers == {} == recipe.pruning else recipe)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> EvaluationContext:
    task = tiny.tiny()
    graph = inspect_model(task.model, task.example_input)
    return EvaluationContext(task, graph, tmp_path_factory.mktemp("candidates"), n_cores=1)


def pruned(context: EvaluationContext, weight_bits: int) -> Recipe:
    """Half of the filters gone; no layers are quantized with 32 bits."""
    names = [layer.name for layer in context.graph.compressible] if weight_bits < 32 else []
    pruning = {group.name: 0.5 for group in context.graph.prunable}
    return Recipe(layers=layers(**dict.fromkeys(names, weight_bits)), pruning=pruning)


def fresh(context: EvaluationContext, recipe: Recipe) -> CompressedModel:
    return compress(context.task.model, context.graph, recipe, context.task.example_input)


def finish(context: EvaluationContext, recipe: Recipe, offset: float = 0.01) -> CompressedModel:
    """A finished candidate with its folder; `offset` stands for what training moved."""
    trained = fresh(context, recipe)
    if recipe.quantized:
        calibrate(trained.module, context.task.train, recipe.calibration)
    with torch.no_grad():
        for parameter in trained.module.parameters():
            parameter += offset
    folder = context.folder / recipe.digest()
    folder.mkdir(exist_ok=True)
    write_tensors(trained.state(), folder / WEIGHTS)
    return trained


def output(compressed: CompressedModel, context: EvaluationContext) -> Tensor:
    with torch.no_grad():
        return call(compressed.module, next(iter(context.task.validation))[0])


def test_a_longer_training_starts_from_the_shorter_one(context: EvaluationContext) -> None:
    recipe = pruned(context, 8)
    trained, child = finish(context, recipe), fresh(context, recipe)
    assert warm_start(context, child, [Recipe(), recipe]) == recipe.digest()
    assert torch.equal(output(child, context), output(trained, context))


def test_a_model_that_lost_filters_starts_from_one_that_lost_the_same(context: EvaluationContext) -> None:
    parent, recipe = pruned(context, 32), pruned(context, 8)
    trained, child = finish(context, parent), fresh(context, recipe)
    assert warm_start(context, child, [parent]) == parent.digest()
    assert torch.equal(child.module[4].running_mean, trained.module[4].running_mean)
    wanted, found = output(trained, context), output(child, context)
    assert not torch.equal(found, wanted)
    assert (found - wanted).abs().mean() < 0.1 * wanted.abs().mean()


def damage(path: Path, kind: str, context: EvaluationContext) -> None:
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:100])
    elif kind == "another model":
        write_tensors({"weight": torch.zeros(3)}, path)
    else:
        finish(context, pruned(context, 8), offset=float("nan"))


@pytest.mark.parametrize("kind", ["missing", "truncated", "another model", "not finite"])
def test_a_damaged_parent_is_passed_over(kind: str, context: EvaluationContext) -> None:
    near, far, recipe = (pruned(context, bits) for bits in (8, 7, 6))
    for parent in (near, far):
        finish(context, parent)
    damage(context.folder / near.digest() / WEIGHTS, kind, context)
    child = fresh(context, recipe)
    assert warm_start(context, child, [near, far]) == far.digest()


def test_without_a_parent_the_model_is_as_it_was(context: EvaluationContext) -> None:
    child = fresh(context, pruned(context, 2))
    before = child.state()
    missing = pruned(context, 5)
    assert warm_start(context, child, []) == ""
    assert warm_start(context, child, [missing, pruned(context, 2)]) == ""
    assert all(torch.equal(before[name], tensor) for name, tensor in child.state().items())


def test_a_start_that_fails_halfway_leaves_the_model_as_it_was(context: EvaluationContext) -> None:
    parent, child = pruned(context, 8), fresh(context, pruned(context, 4))
    finish(context, parent)
    before = child.state()
    without_data = replace(context, task=tiny.no_train())
    assert warm_start(without_data, child, [parent]) == ""
    assert all(torch.equal(before[name], tensor) for name, tensor in child.state().items())
