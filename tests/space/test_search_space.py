"""Binding rules to the layers of a model."""

import dataclasses
from dataclasses import replace

import pytest

from autocompress.errors import GraphError, SearchSpaceError
from autocompress.graph.model_graph import Layer, ModelGraph
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.space.bound_space import BoundSpace, GroupChoices, InputChoices
from autocompress.space.reading import read_space

HEAD = "description: d\n"
ALL = '  - {match: "*", weight_bits: [32, 8, 4], activation_bits: [8]}\n'
PRUNE_ALL = '  - {match: "*", pruning_ratio: [0.0, 0.5]}\n'


def bind(text: str, graph: ModelGraph) -> BoundSpace:
    return read_space(HEAD + text, file="my.yaml", name="my").bind(graph)


def weight_bits(bound: BoundSpace) -> dict[str, tuple[int, ...]]:
    return {weights.name: weights.weight_bits for weights in bound.layers}


def test_layers_that_cannot_be_compressed_are_left_out(graph: ModelGraph) -> None:
    assert list(weight_bits(bind("layers:\n" + ALL, graph))) == ["stem", "block.query", "block.key", "block.value"]


def test_groups_that_cannot_be_pruned_are_left_out(graph: ModelGraph) -> None:
    assert bind("pruning:\n" + PRUNE_ALL, graph).groups == (GroupChoices("stem", (0.0, 0.5)),)


def test_the_last_rule_that_matches_wins_whether_by_name_or_by_class(graph: ModelGraph) -> None:
    text = "layers:\n" + ALL + "  - {type: Linear, weight_bits: [32]}\n" + "  - {match: '*.key', weight_bits: [8]"
    bound = bind(text + ", activation_bits: [4]}\n", graph)
    expected = {"stem": (32, 8, 4), "block.query": (32,), "block.key": (8,), "block.value": (32,)}
    assert weight_bits(bound) == expected
    assert bound.inputs == (InputChoices(("stem",), (8,)), InputChoices(("block.key",), (4,)))


def test_a_regex_matches_whole_names(graph: ModelGraph) -> None:
    bound = bind("layers:\n" + ALL + "  - {regex: '.*(query|key)|ste', weight_bits: [32]}\n", graph)
    expected = {"stem": (32, 8, 4), "block.query": (32,), "block.key": (32,), "block.value": (32, 8, 4)}
    assert weight_bits(bound) == expected


@pytest.mark.parametrize(
    ("ignored", "left"),
    [
        pytest.param("[stem]", ["block.query", "block.key", "block.value"], id="a name"),
        pytest.param("[block]", ["stem"], id="a container"),
        pytest.param("['re:.*(query|key)', 'type:Conv2d']", ["block.value"], id="a regex and a class"),
        pytest.param("[words]", ["stem", "block.query", "block.key", "block.value"], id="float anyway"),
        pytest.param("['*']", [], id="everything"),
    ],
)
def test_ignored_layers_stay_float_whatever_the_rules(ignored: str, left: list[str], graph: ModelGraph) -> None:
    bound = bind("layers:\n" + ALL + f"pruning:\n{PRUNE_ALL}ignored: {ignored}\n", graph)
    assert list(weight_bits(bound)) == left
    assert [name for tensor in bound.inputs for name in tensor.readers] == left
    assert [group.name for group in bound.groups] == ["stem"]
    recipe = bound.nearest(Recipe(layers={layer.name: LayerRecipe(weight_bits=8) for layer in graph.layers}))
    assert sorted(recipe.layers) == sorted(left)


def test_a_rule_for_a_layer_that_is_ignored_may_idle(graph: ModelGraph) -> None:
    bound = bind("layers:\n" + ALL + "  - {match: stem, weight_bits: [32]}\nignored: [stem]\n", graph)
    assert "stem" not in weight_bits(bound)


def test_weights_without_an_input_have_choices_and_no_question_about_it(graph: ModelGraph) -> None:
    words = dataclasses.replace(graph.layers[-1], reason="", weights_only=True)
    bound = bind("layers:\n" + ALL, dataclasses.replace(graph, layers=(*graph.layers[:-1], words)))
    assert weight_bits(bound)["words"] == (32, 8, 4)
    assert all("words" not in tensor.readers for tensor in bound.inputs)
    recipe = bound.suggest(lambda _, choices: 4 if 4 in choices else choices[-1])
    assert recipe.layer("words") == LayerRecipe(weight_bits=4)


def test_the_last_pruning_rule_that_matches_wins(graph: ModelGraph) -> None:
    bound = bind("pruning:\n" + PRUNE_ALL + "  - {match: stem, pruning_ratio: [0.25]}\n", graph)
    assert bound.groups == (GroupChoices("stem", (0.25,)),)


def test_a_layer_without_a_rule_stays_float(graph: ModelGraph) -> None:
    bound = bind("layers:\n  - {match: stem, weight_bits: [8], activation_bits: [8]}\n", graph)
    assert weight_bits(bound) == {"stem": (8,)}
    assert list(bound.suggest(lambda _, choices: choices[0]).layers) == ["stem"]


def test_names_are_matched_with_their_case(graph: ModelGraph) -> None:
    with pytest.raises(SearchSpaceError, match="'STEM'"):
        bind("layers:\n  - {match: STEM, weight_bits: [32]}\n", graph)


def test_layers_that_read_the_same_tensor_share_one_question(graph: ModelGraph) -> None:
    bound = bind("layers:\n" + ALL, graph)
    assert bound.inputs == (
        InputChoices(("stem",), (8,)),
        InputChoices(("block.query", "block.key", "block.value"), (8,)),
    )


def test_the_same_choices_in_another_order_are_no_contradiction(graph: ModelGraph) -> None:
    rules = '  - {match: "*", weight_bits: [8], activation_bits: [8, 4]}\n'
    rules += "  - {match: block.key, weight_bits: [8], activation_bits: [4, 8]}\n"
    assert bind("layers:\n" + rules, graph).inputs[1].activation_bits == (8, 4)


def test_a_pruning_rule_for_everything_may_idle_where_nothing_can_be_pruned(graph: ModelGraph) -> None:
    bare = dataclasses.replace(graph, groups=graph.groups[1:])
    assert bind("pruning:\n" + PRUNE_ALL, bare).n_recipes == 1


def test_a_model_without_compressible_layers_is_refused_with_the_reason(graph: ModelGraph) -> None:
    with pytest.raises(GraphError, match=r"no layer that can be compressed \(words: an Embedding has no input"):
        bind("layers:\n" + ALL, dataclasses.replace(graph, layers=graph.layers[-1:]))


IDLE = [  # id, rules, line, what the message holds
    ("a wrong name", "layers:\n" + ALL + "  - {match: block.kay, weight_bits: [32]}\n", 4, ["Did you mean block.key?"]),
    ("a glob", "layers:\n  - {match: 'head*', weight_bits: [32]}\n", 3, ["stem, block.query, block.key, ..."]),
    (
        "a wrong regex",
        "layers:\n  - {regex: stem., weight_bits: [32]}\n",
        3,
        ["regex must match", "Did you mean stem?"],
    ),
    ("ignored in vain", "layers:\n" + ALL + "ignored: [stem,\n  block.kay]\n", 5, ["'block.kay'", "block.key"]),
    ("an ignored regex", "layers:\n" + ALL + "ignored: ['re:a(']\n", 4, ["Python's re", "'re:a('"]),
    ("a wrong class", "layers:\n  - {type: Conv2D, weight_bits: [32]}\n", 3, ["Did you mean Conv2d?"]),
    ("a hopeless layer", "layers:\n  - {match: words, weight_bits: [32]}\n", 3, ["(words: an Embedding has no input"]),
    ("a wrong group", "pruning:\n  - {match: stern, pruning_ratio: [0]}\n", 3, ["Did you mean stem?"]),
    ("a hopeless group", "pruning:\n  - {match: '*.value', pruning_ratio: [0]}\n", 3, ["gives the output"]),
    (
        "readers that disagree",
        "layers:\n" + ALL + "  - {match: '*.key', weight_bits: [8], activation_bits: [4]}\n",
        4,
        ["[4] for 'block.key'", "[8] for 'block.query' (my.yaml:3)"],
    ),
]


@pytest.mark.parametrize(("text", "line", "parts"), [pytest.param(*row[1:], id=row[0]) for row in IDLE])
def test_a_rule_that_cannot_hold_is_refused_with_its_line(
    text: str, line: int, parts: list[str], graph: ModelGraph
) -> None:
    with pytest.raises(SearchSpaceError) as caught:
        bind(text, graph)
    assert str(caught.value).startswith(f"my.yaml:{line}: ")
    for part in parts:
        assert part in str(caught.value)


def test_a_named_pruning_rule_is_refused_where_nothing_can_be_pruned(graph: ModelGraph) -> None:
    with pytest.raises(SearchSpaceError, match="the model has none"):
        bind("pruning:\n  - {match: stem, pruning_ratio: [0]}\n", dataclasses.replace(graph, groups=()))


def test_tied_weights_stay_dense_and_whole_and_only_factorable_layers_get_ranks(graph: ModelGraph) -> None:
    tied = [replace(layer, shares_weight_with="block.query") for layer in graph.layers if layer.name == "block.key"]
    lookup = Layer("table", "Embedding", (9, 4), (1, 3), (1, 3, 4), 0, 36, "table", weights_only=True)
    others = [layer for layer in graph.layers if layer.name not in ("block.key", "words")]
    rule = "layers:\n  - {match: '*', sparsity: [0.5, 0], rank_ratio: [1, 0.5]}\n"
    bound = bind(rule, ModelGraph((*others, *tied, lookup), ()))
    offered = {choices.name: (choices.sparsity, choices.rank_ratio) for choices in bound.layers}
    free, dense = ((0.5, 0.0), (1.0, 0.5)), ((0.0,), (1.0,))
    assert offered == {
        "stem": free,
        "block.query": dense,
        "block.value": free,
        "block.key": dense,
        "table": ((0.5, 0.0), (1.0,)),
    }
