"""The recipes that a search starts from."""

import dataclasses

import pytest

from autocompress.graph.model_graph import ModelGraph
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.space import anchors, load_space
from autocompress.space.reading import read_space

LAYERS = ("stem", "block.query", "block.key", "block.value")
INT8 = {name: LayerRecipe(weight_bits=8, activation_bits=8) for name in LAYERS}
INT8_W7 = {name: LayerRecipe(weight_bits=7, activation_bits=8) for name in LAYERS}


def test_the_full_space_starts_from_all_five(graph: ModelGraph) -> None:
    assert anchors(load_space("full").bind(graph), graph) == {
        "fp32": Recipe(),
        "int8": Recipe(layers=INT8),
        "int8-w7": Recipe(layers=INT8_W7),
        "int8-prune25": Recipe(layers=INT8, pruning={"stem": 0.25}),
        "int8-prune50": Recipe(layers=INT8, pruning={"stem": 0.5}),
    }


def test_where_8_bits_saturate_7_bits_come_first_and_are_pruned(graph: ModelGraph) -> None:
    found = anchors(load_space("full").bind(graph), graph, int8_saturates=True)
    assert list(found) == ["fp32", "int8-w7", "int8", "int8-prune25", "int8-prune50"]
    assert found == {
        "fp32": Recipe(),
        "int8-w7": Recipe(layers=INT8_W7),
        "int8": Recipe(layers=INT8),
        "int8-prune25": Recipe(layers=INT8_W7, pruning={"stem": 0.25}),
        "int8-prune50": Recipe(layers=INT8_W7, pruning={"stem": 0.5}),
    }


@pytest.mark.parametrize("int8_saturates", [True, False])
def test_a_layer_with_weights_only_has_a_float_input(graph: ModelGraph, int8_saturates: bool) -> None:
    words = dataclasses.replace(graph.layers[-1], reason="", weights_only=True)
    graph = dataclasses.replace(graph, layers=(*graph.layers[:-1], words))
    found = anchors(load_space("full").bind(graph), graph, int8_saturates=int8_saturates)
    assert len(found) == 5
    for label, recipe in found.items():
        bits = recipe.layers["block.query"].weight_bits if label != "fp32" else 32
        assert recipe.layer("words") == LayerRecipe(weight_bits=bits)


def test_a_space_without_integer_weights_names_what_it_prunes(graph: ModelGraph) -> None:
    assert anchors(load_space("pruning").bind(graph), graph) == {
        "fp32": Recipe(),
        "prune25": Recipe(pruning={"stem": 0.25}),
        "prune50": Recipe(pruning={"stem": 0.5}),
    }


@pytest.mark.parametrize("name", ["int8", "mixed-precision"])
def test_a_space_without_pruning_starts_from_bits_alone(name: str, graph: ModelGraph) -> None:
    assert list(anchors(load_space(name).bind(graph), graph)) == ["fp32", "int8", "int8-w7"]


def test_a_model_without_prunable_groups_starts_from_bits_alone(graph: ModelGraph) -> None:
    bare = dataclasses.replace(graph, groups=())
    assert list(anchors(load_space("full").bind(bare), bare)) == ["fp32", "int8", "int8-w7"]


@pytest.mark.parametrize("int8_saturates", [True, False])
def test_equal_recipes_keep_the_first_label(graph: ModelGraph, int8_saturates: bool) -> None:
    text = "description: d\nlayers:\n  - {match: '*', weight_bits: [32, 8], activation_bits: [8]}\n"
    bound = read_space(text, file="my.yaml", name="my").bind(graph)
    assert list(anchors(bound, graph, int8_saturates=int8_saturates)) == ["fp32", "int8"]


def test_fp32_is_the_identity_even_where_the_space_lacks_it(graph: ModelGraph) -> None:
    text = "description: d\nlayers:\n  - {match: '*', weight_bits: [4], activation_bits: [8]}\n"
    bound = read_space(text, file="my.yaml", name="my").bind(graph)
    found = anchors(bound, graph)
    assert found["fp32"].is_identity
    assert found["int8"].layer("stem").weight_bits == 4
