"""Units with choices: plans to recipes and back, what decides together, what is one choice."""

import itertools
import math
from dataclasses import replace

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.errors import SearchSpaceError
from autocompress.graph.model_graph import Layer, ModelGraph
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.search.plan_space import PlanSpace, plan_space
from autocompress.search.plan_unit import MAX_CHOICES, spread_out
from autocompress.space.bound_space import BoundSpace, GroupChoices, InputChoices, LayerChoices
from tests.search.plan_nets import inspected

NETS = ("tiny", "residual", "depthwise", "concat", "encoder", "query_key_value", "tied")
SPACES = ("full", "int8", "sparse", "low-rank", "mixed-precision")


def layer(name: str, reads: str = "", kind: str = "Conv2d", shape: tuple[int, ...] = (16, 16, 1, 1)) -> Layer:
    return Layer(name, kind, shape, (1, 16, 4, 4), (1, 16, 4, 4), 4096, 256, reads or name)


CONVS = ModelGraph((layer("a"), layer("b"), layer("c", "b")), ())
LINEARS = ModelGraph(
    tuple(layer(n, "q", "Linear", (16, 16)) for n in "qkv") + (layer("o", "", "Linear", (16, 16)),), ()
)
BITS = (32, 8, 4)
MANY = BoundSpace(  # of CONVS
    layers=tuple(LayerChoices(n, BITS) for n in "abc"),
    inputs=(InputChoices(("a",), (8,)), InputChoices(("b", "c"), (8, 4))),
)


def draw_plan(data: st.DataObject, space: PlanSpace) -> tuple[int, ...]:
    return tuple(data.draw(st.integers(0, n - 1)) for n in space.n_choices)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(NETS), st.sampled_from(SPACES))
def test_a_plan_comes_back_from_its_values_and_from_its_recipe(data: st.DataObject, net: str, name: str) -> None:
    space = inspected(net).plans(name)
    plan = draw_plan(data, space)
    assert space.encode(space.decode(plan)) == plan
    assert space.plan_of(space.recipe(plan)) == plan


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(NETS), st.sampled_from(SPACES))
def test_a_plan_has_the_recipe_that_the_space_makes_of_its_values(data: st.DataObject, net: str, name: str) -> None:
    space = inspected(net).plans(name)
    plan = draw_plan(data, space)
    values = space.decode(plan)
    assert space.recipe(plan) == space.bound.suggest(lambda parameter, choices: values[parameter])
    assert all(value in space.bound.parameters[parameter] for parameter, value in values.items())
    assert list(values) == list(space.bound.parameters)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(("tiny", "residual", "depthwise", "concat")), st.sampled_from(SPACES))
def test_without_ties_every_recipe_of_the_space_has_a_plan_that_does_the_same(
    data: st.DataObject, net: str, name: str
) -> None:
    found = inspected(net)
    space, asked = found.plans(name), {}
    recipe = space.bound.suggest(lambda p, choices: asked.setdefault(p, data.draw(st.sampled_from(choices))))
    planned = space.recipe(space.encode(asked))
    assert planned.layers == recipe.layers
    for group in found.architecture.groups:
        removed = [group.n_removed(r.pruning.get(group.name, 0.0)) for r in (recipe, planned)]
        assert removed[0] == removed[1]


def test_values_without_effect_do_not_change_the_plan() -> None:
    graph = ModelGraph((layer("a"),), ())
    bound = BoundSpace((LayerChoices("a", (8, 32)),), (InputChoices(("a",), (8, 6)),))
    space = plan_space(bound, graph)
    plans = {space.encode({"a/weight_bits": 32, **more}) for more in ({}, {"a/activation_bits": 6})}
    assert plans == {(0,)}
    assert space.n_choices == (3,)
    assert space.decode((0,)) == {"a/weight_bits": 32, "a/activation_bits": 8}


def test_distributions_are_those_that_trials_get_from_suggest() -> None:
    space = inspected("residual").plans("full")
    trial = optuna.create_study().ask(space.distributions)
    asked = optuna.create_study().ask()
    space.bound.suggest(asked.suggest_categorical)
    assert trial.distributions == asked.distributions
    assert list(space.distributions) == list(space.bound.parameters)


@pytest.mark.parametrize("net", NETS)
def test_the_first_choice_of_a_unit_changes_nothing_and_damage_rises(net: str) -> None:
    space = inspected(net).plans("full")
    assert space.recipe([0] * len(space.units)).is_identity
    for unit in space.units:
        energies = [option.energy for option in unit.options]
        assert energies[0] == 0
        assert energies == sorted(energies)


def test_layers_that_share_an_input_with_choices_are_one_unit() -> None:
    space = plan_space(MANY, CONVS)
    assert [unit.name for unit in space.units] == ["a", "b, c"]
    assert space.n_choices == (3, 5)  # 17 combinations are too many, so both take the same bits


def test_layers_that_share_an_input_without_choices_decide_alone() -> None:
    bound = replace(MANY, inputs=(InputChoices(("a",), (8,)), InputChoices(("b", "c"), (8,))))
    assert plan_space(bound, CONVS).n_choices == (3, 3, 3)


def test_query_key_and_value_take_the_same_values() -> None:
    bound = BoundSpace(tuple(LayerChoices(n, BITS) for n in "qkvo"), (InputChoices(tuple("qkv"), (8,)),))
    space = plan_space(bound, LINEARS)
    assert [(unit.name, len(unit.options)) for unit in space.units] == [("q, k, v", 3), ("o", 3)]
    four = LayerRecipe(weight_bits=4, activation_bits=8)
    assert space.recipe((2, 0)) == Recipe(layers=dict.fromkeys("qkv", four))


def test_linear_layers_of_other_shapes_are_not_tied() -> None:
    graph = ModelGraph((*LINEARS.layers[:2], layer("v", "q", "Linear", (32, 16))), ())
    bound = BoundSpace(tuple(LayerChoices(n, BITS) for n in "qkv"), (InputChoices(tuple("qkv"), (8,)),))
    assert [unit.name for unit in plan_space(bound, graph).units] == ["q, k", "v"]


def test_a_recipe_that_ties_forbid_gets_the_nearest_plan() -> None:
    bound = BoundSpace(tuple(LayerChoices(n, BITS) for n in "qkv"), (InputChoices(tuple("qkv"), (8,)),))
    space = plan_space(bound, ModelGraph(LINEARS.layers[:3], ()))
    mixed = {"q/weight_bits": 8, "k/weight_bits": 8, "v/weight_bits": 4}
    assert space.units[0].options[space.encode(mixed)[0]].label == "8 bits"


def test_ratios_that_remove_the_same_filters_are_one_choice() -> None:
    space = inspected("residual").plans("pruning")  # groups of 16 and of 32 channels, in steps of 8
    labels = [[option.label for option in unit.options] for unit in space.units]
    assert labels == [
        ["16 of 16 filters", "8 of 16 filters"],
        [f"{n} of 32 filters" for n in (32, 24, 16, 8)],
    ]
    plans = [space.encode({"first.0/pruning_ratio": ratio})[1] for ratio in (0.0, 0.125, 0.25, 0.375, 0.5)]
    assert plans[0] == 0
    assert plans == sorted(plans)
    assert plans[-1] == 2


def test_a_parameter_whose_choices_do_the_same_is_fixed() -> None:
    graph = inspected("residual").graph
    bound = BoundSpace((LayerChoices("head", (32, 8)),), (), (GroupChoices("stem.0", (0.1, 0.0)),))
    space = plan_space(bound, graph)
    assert [unit.name for unit in space.units] == ["head"]
    assert space.decode((1,)) == {"head/weight_bits": 8, "stem.0/pruning_ratio": 0.0}


def test_what_has_one_choice_is_in_the_fixed_recipe() -> None:
    bound = replace(MANY, layers=(LayerChoices("a", (4,)), *MANY.layers[1:]))
    space = plan_space(bound, CONVS)
    assert space.fixed_recipe == Recipe(layers={"a": LayerRecipe(weight_bits=4, activation_bits=8)})
    assert space.recipe((0,)) == space.fixed_recipe


def test_a_space_with_nothing_to_decide_is_an_error_that_says_so() -> None:
    with pytest.raises(SearchSpaceError, match="at least two different choices"):
        plan_space(BoundSpace((LayerChoices("a", (8,)),), (InputChoices(("a",), (8,)),)), CONVS)


def test_isolated_recipes_change_one_unit_and_leave_out_none() -> None:
    space = inspected("encoder").plans("full")
    wanted = {option.recipe for unit in space.units for option in unit.options[1:]}
    assert set(space.isolated) == wanted
    assert len(space.isolated) == len(wanted)
    for unit, recipe in itertools.product(space.units, space.isolated[: len(space.units)]):
        touched = {*recipe.layers, *(f"filters of {name}" for name in recipe.pruning)}
        mine = {*(choices.name for choices in unit.bound.layers), unit.name if unit.groups else ""}
        assert touched <= mine or not touched & mine
    firsts = [next(u.name for u in space.units if r in {o.recipe for o in u.options}) for r in space.isolated]
    assert set(firsts[: len(space.units)]) == {unit.name for unit in space.units}


def test_a_unit_with_very_many_combinations_keeps_a_dozen_from_end_to_end() -> None:
    widths = (32, 8, 7, 6, 5, 4, 3, 2)
    layers = tuple(LayerChoices(n, widths[: 8 - i], (0.0, 0.5, 0.9), (1.0, 0.5)) for i, n in enumerate("abc"))
    graph = ModelGraph(tuple(layer(n, "a") for n in "abc"), ())
    (unit,) = plan_space(BoundSpace(layers, (InputChoices(tuple("abc"), (8, 6)),)), graph).units
    assert len(unit.options) == MAX_CHOICES
    assert unit.options[0].recipe.is_identity
    assert unit.options[-1].values["a/weight_bits"] == 2


def test_spread_out_points_keep_the_ends_and_what_lies_apart() -> None:
    assert spread_out(np.array([[0.0], [0.1], [5.0], [9.9], [10.0]]), 3) == [0, 2, 4]


def test_a_thinned_space_keeps_its_choices_and_encodes_others_as_the_nearest() -> None:
    space = inspected("chain").plans("mixed-precision")
    thinned = space.thinned([[0, 1, 3]] * 5)
    assert thinned.n_choices == (3,) * 5
    assert thinned.recipe((2,) * 5) == space.recipe((3,) * 5)
    assert thinned.plan_of(space.recipe((2,) * 5)) == (1,) * 5  # 7 bits become 8
    one = thinned.thinned([[1]] * 5)
    assert one.encode(space.decode((0,) * 5)) == (0,) * 5


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_dropped_choice_becomes_the_one_at_least_distance(data: st.DataObject) -> None:
    space = inspected("chain").plans("low-rank")
    kept = [sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=4))) for n in space.n_choices]
    plan = draw_plan(data, space)
    thinned = space.thinned(kept)
    for unit, small, old, new in zip(space.units, thinned.units, plan, thinned.encode(space.decode(plan)), strict=True):
        wanted = unit.options[old].levels
        distances = [sum(abs(a - b) for a, b in zip(o.levels, wanted, strict=True)) for o in small.options]
        assert distances[new] == pytest.approx(min(distances), abs=1e-12)


def test_gentler_is_a_comparison_along_all_knobs_but_not_of_8_with_7_bits() -> None:
    (unit, *_) = inspected("chain").plans("low-rank").units
    names = [option.label for option in unit.options]
    assert names[:3] == ["float", "8 bits", "7 bits"]
    for (i, a), (j, b) in itertools.product(enumerate(unit.options), repeat=2):
        bits = a.values["conv0/weight_bits"], b.values["conv0/weight_bits"]
        ranks = a.values["conv0/rank_ratio"], b.values["conv0/rank_ratio"]
        assert unit.is_gentler[i, j] == (bits[0] >= bits[1] and bits != (8, 7) and ranks[0] >= ranks[1])


def test_encoding_is_cheap_and_does_not_depend_on_what_was_encoded_before() -> None:
    space = inspected("residual").plans("full")
    plans = list(itertools.product(*(range(n) for n in space.n_choices[:3])))
    tail = (0,) * (len(space.units) - 3)
    assert [space.encode(space.decode((*p, *tail)))[:3] for p in plans] == plans
    assert math.prod(space.n_choices[:3]) == len(plans)
