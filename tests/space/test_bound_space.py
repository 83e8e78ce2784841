"""Recipes from parameter values and back."""

import itertools
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.recipe import INTEGER_BITS, LayerRecipe, Recipe
from autocompress.space.bound_space import BoundSpace, GroupChoices, InputChoices, LayerChoices, nearest_bits

W4A8, W8A8 = (LayerRecipe(weight_bits=bits, activation_bits=8) for bits in (4, 8))

TWO_READERS = BoundSpace(
    layers=(LayerChoices("a", (32, 8)), LayerChoices("b", (32, 8, 4)), LayerChoices("fixed", (8,))),
    inputs=(InputChoices(("a", "b"), (8, 4)), InputChoices(("fixed",), (8,))),
    groups=(GroupChoices("a", (0.0, 0.5)), GroupChoices("b", (0.25,))),
)


def choices_of(values: Sequence[Any], max_size: int = 3) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=max_size, unique=True).map(tuple)


fractions = st.sampled_from([((0.0,), (1.0,)), ((0.5, 0.0), (1.0,)), ((0.9,), (1.0, 0.5)), ((0.0,), (0.25,))])


@st.composite
def bound_spaces(draw: st.DrawFn) -> BoundSpace:
    names = [f"layer{index}" for index in range(draw(st.integers(1, 4)))]
    layers = tuple(LayerChoices(name, draw(choices_of((32, *INTEGER_BITS))), *draw(fractions)) for name in names)
    together: dict[int, list[str]] = {}
    for layer in layers:
        tensor = draw(st.integers(0, 2))
        if layer.weight_bits != (32,) and tensor < 2:  # 2: a layer that has weights only
            together.setdefault(tensor, []).append(layer.name)
    inputs = tuple(InputChoices(tuple(readers), draw(choices_of((32, *INTEGER_BITS)))) for readers in together.values())
    groups = tuple(GroupChoices(name, draw(choices_of((0.0, 0.125, 0.5, 0.75)))) for name in names[:2])
    return BoundSpace(layers, inputs, groups)


def every_recipe(bound: BoundSpace) -> list[Recipe]:
    """Every recipe of the space, one for each combination of values of all parameters."""
    combinations = itertools.product(*bound.parameters.values())
    values = [dict(zip(bound.parameters, combination, strict=True)) for combination in combinations]
    return [bound.suggest(lambda name, _, chosen=chosen: chosen[name]) for chosen in values]


bits = st.sampled_from((32, *INTEGER_BITS))
layer_recipes = st.builds(
    LayerRecipe,
    weight_bits=bits,
    activation_bits=bits,
    sparsity=st.sampled_from([0.0, 0.4, 0.8]),
    rank_ratio=st.sampled_from([0.3, 1.0]),
)
names = st.sampled_from(["layer0", "layer1", "layer2", "layer3", "unknown"])
any_recipes = st.builds(
    Recipe, layers=st.dictionaries(names, layer_recipes), pruning=st.dictionaries(names, st.sampled_from([0.1, 0.6]))
)


@given(st.data())
def test_encoding_a_suggested_recipe_gives_it_back(data: st.DataObject) -> None:
    bound = data.draw(bound_spaces())
    recipe = bound.suggest(lambda name, choices: data.draw(st.sampled_from(choices), label=name))
    assert bound.suggest(lambda name, _: bound.encode(recipe)[name]) == recipe


@given(bound_spaces(), any_recipes)
def test_encoding_any_recipe_gives_one_of_the_space(bound: BoundSpace, recipe: Recipe) -> None:
    encoded = bound.encode(recipe)
    assert all(value in bound.parameters[name] for name, value in encoded.items())
    nearest = bound.nearest(recipe)
    assert bound.nearest(nearest) == nearest


@given(bound_spaces(), any_recipes)
def test_encoding_holds_exactly_what_suggest_asks(bound: BoundSpace, recipe: Recipe) -> None:
    encoded = bound.encode(recipe)
    asked: list[str] = []
    bound.suggest(lambda name, _: asked.append(name) or encoded[name])
    assert list(encoded) == asked
    assert asked == [name for name in bound.parameters if name in asked]


@given(bound_spaces())
def test_the_number_of_recipes_is_that_of_different_ones(bound: BoundSpace) -> None:
    assert bound.n_recipes == len(set(every_recipe(bound)))


def test_a_choice_of_one_is_applied_but_is_no_parameter() -> None:
    assert list(TWO_READERS.parameters) == ["a/weight_bits", "b/weight_bits", "a/activation_bits", "a/pruning_ratio"]
    recipe = TWO_READERS.suggest(lambda _, choices: choices[0])
    assert recipe == Recipe(layers={"fixed": W8A8}, pruning={"b": 0.25})


def test_a_layer_with_weights_only_keeps_a_float_input() -> None:
    bound = BoundSpace(layers=(LayerChoices("words", (32, 8, 4)),))
    assert bound.n_recipes == 3
    wanted = Recipe(layers={"words": LayerRecipe(weight_bits=5, activation_bits=8)})
    assert bound.nearest(wanted) == Recipe(layers={"words": LayerRecipe(weight_bits=4)})


def test_readers_of_one_tensor_are_asked_once_even_if_the_leader_stays_float() -> None:
    values = {"a/weight_bits": 32, "b/weight_bits": 4, "a/activation_bits": 8, "a/pruning_ratio": 0.0}
    recipe = TWO_READERS.suggest(lambda name, _: values.pop(name))
    assert recipe.layers == {"b": W4A8, "fixed": W8A8}
    assert not values


def test_readers_of_one_tensor_get_the_same_bits() -> None:
    values = {"a/weight_bits": 8, "b/weight_bits": 4, "a/activation_bits": 8, "a/pruning_ratio": 0.0}
    assert TWO_READERS.suggest(lambda name, _: values[name]).layers == {"a": W8A8, "b": W4A8, "fixed": W8A8}


def test_activation_bits_are_not_asked_where_every_reader_is_float() -> None:
    asked = []
    TWO_READERS.suggest(lambda name, choices: asked.append(name) or choices[0])
    assert asked == ["a/weight_bits", "b/weight_bits", "a/pruning_ratio"]


def test_the_first_reader_with_integer_weights_decides_where_they_disagree() -> None:
    wanted = {"a": LayerRecipe(weight_bits=32, activation_bits=8), "b": LayerRecipe(weight_bits=4, activation_bits=4)}
    assert TWO_READERS.encode(Recipe(layers=wanted))["a/activation_bits"] == 4


@pytest.mark.parametrize(
    ("wanted", "choices", "nearest"),
    [
        pytest.param(8, (32, 8, 7), 8, id="itself"),
        pytest.param(8, (32, 7, 4), 7, id="the nearest below"),
        pytest.param(2, (32, 4, 8), 4, id="the nearest above"),
        pytest.param(6, (7, 5), 5, id="the narrower of two"),
        pytest.param(8, (32, 2), 2, id="any integer before float"),
        pytest.param(8, (32,), 32, id="float if nothing else"),
        pytest.param(32, (4, 32, 8), 32, id="float itself"),
        pytest.param(32, (4, 8, 7), 8, id="the widest for float"),
    ],
)
def test_bits_that_are_missing_are_replaced_by_the_nearest(wanted: int, choices: tuple[int], nearest: int) -> None:
    assert nearest_bits(wanted, choices) == nearest


@pytest.mark.parametrize(
    ("wanted", "nearest"),
    [
        pytest.param(0.0, 0.0, id="none"),
        pytest.param(0.25, 0.0, id="the lower of two"),
        pytest.param(0.3, 0.5, id="the nearest"),
        pytest.param(0.9, 0.5, id="the highest"),
    ],
)
def test_a_ratio_that_is_missing_is_replaced_by_the_nearest(wanted: float, nearest: float) -> None:
    assert TWO_READERS.encode(Recipe(pruning={"a": wanted}))["a/pruning_ratio"] == nearest


def test_a_bound_space_survives_pickling() -> None:
    assert pickle.loads(pickle.dumps(TWO_READERS)) == TWO_READERS
