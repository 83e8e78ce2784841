"""Layers by pattern."""

import pytest

from autocompress.errors import GraphError
from autocompress.graph import Layer, ModelGraph, select_layers

NAMES = ("stem", "encoder.0.query", "encoder.0.key", "encoder.1.query", "encoder.1.out", "encoders", "head[0]")
GRAPH = ModelGraph(
    tuple(Layer(name, "Conv2d" if name == "stem" else "Linear", (), (), (), 0, 0, name) for name in NAMES), ()
)
SMALL = ModelGraph(GRAPH.layers[:1], ())

FOUND = [  # id, patterns, names
    ("no pattern", [], ()),
    ("a name", ["stem"], ("stem",)),
    ("everything", ["*"], NAMES),
    ("a container is no prefix of another name", ["encoder"], NAMES[1:5]),
    ("a container inside", ["encoder.1"], NAMES[3:5]),
    ("a glob", ["encoder.*.query"], ("encoder.0.query", "encoder.1.query")),
    ("a star over dots", ["enc*y"], NAMES[1:4]),
    ("one character", ["encoder.?.key"], ("encoder.0.key",)),
    ("a choice of characters", ["encoder.[01].out"], ("encoder.1.out",)),
    ("a name that looks like a glob", ["head[0]"], ("head[0]",)),
    ("a regular expression", [r"re:encoder\.\d\.(key|out)"], ("encoder.0.key", "encoder.1.out")),
    ("a regular expression is for the whole name", ["re:encoder.*", "re:st.m"], NAMES[:6]),
    ("a class", ["type:Conv2d"], ("stem",)),
    ("several in the order of the model, each once", ["encoder.0", "stem", "*.query", "s*"], NAMES[:4]),
]


@pytest.mark.parametrize(("patterns", "names"), [pytest.param(*row[1:], id=row[0]) for row in FOUND])
def test_layers_are_found(patterns: list[str], names: tuple[str, ...]) -> None:
    assert select_layers(GRAPH, patterns) == names
    assert select_layers(GRAPH, iter(patterns)) == names


NOTHING = [  # id, graph, pattern, what the message holds
    ("a slip", GRAPH, "encoder.0.kuery", ["'encoder.0.kuery'", "did you mean encoder.0.query or"]),
    ("upper case", GRAPH, "STEM", ["'STEM'", "it has stem, encoder.0.query, encoder.0.key, ..."]),
    ("half a name", GRAPH, "ste", ["did you mean stem?"]),
    ("a class as a name", GRAPH, "Conv2d", ["a name, a glob or re:"]),
    ("a name as a class", GRAPH, "type:stem", ["the name of a class", "it has Conv2d, Linear"]),
    ("a wrong class", GRAPH, "type:Conv2D", ["did you mean type:Conv2d?"]),
    ("part of a name", GRAPH, "re:encoder", ["'re:encoder'"]),
    ("an open bracket", GRAPH, "re:encoder(", ["regular expression of Python's re", "'re:encoder('", "position 7"]),
    ("few layers", SMALL, "zzz", ["it has stem"]),
    ("no layers", ModelGraph((), ()), "*", ["it has none"]),
    ("an empty pattern", GRAPH, "", ["but got ''"]),
]


@pytest.mark.parametrize(("graph", "pattern", "parts"), [pytest.param(*row[1:], id=row[0]) for row in NOTHING])
def test_a_pattern_that_finds_nothing_is_refused(graph: ModelGraph, pattern: str, parts: list[str]) -> None:
    with pytest.raises(GraphError) as caught:
        select_layers(graph, [*(["*"] if graph.layers else []), pattern])
    for part in parts:
        assert part in str(caught.value)
