"""Reading search space files: what is right is kept, what is wrong is refused with its line."""

import pytest

from autocompress.errors import SearchSpaceError
from autocompress.recipe import Calibration, Sparsification
from autocompress.space.reading import read_space
from autocompress.space.search_space import Ignored, LayerRule, PruningRule

RIGHT = """\
description: A rule of each kind.
layers:
  - match: "*"
    weight_bits: [32, 8]
    activation_bits: [8, 4]
  - type: Linear
    weight_bits: [32]
  - regex: ".*(key|query)"
    weight_bits: [4]
    activation_bits: [8]
pruning:
  - match: "*"
    pruning_ratio: [0, 0.5]
ignored:
  - head
  - "type:Embedding"
calibration:
  rounding: gptq
  smoothing: 0.5
"""

LAYER = 'description: d\nlayers:\n  - match: "*"\n'
GROUP = 'description: d\npruning:\n  - match: "*"\n'

BROKEN = [  # id, text, line, what the message holds
    ("an empty file", "", 1, ["the file is empty"]),
    ("only a comment", "# nothing\n", 1, ["the file is empty"]),
    ("a syntax error", "description: d\nlayers: [\n", 3, ["must be one YAML document"]),
    ("a tab as indentation", "description: d\nlayers:\n\t- 1\n", 3, ["must be one YAML document"]),
    ("a lone asterisk", "description: d\nlayers:\n  - match: *\n", 3, ['match: "*"']),
    ("a key written twice", "description: d\ndescription: e\n", 2, ["duplicate key"]),
    ("two documents", "description: d\n---\ndescription: e\n", 2, ["another document"]),
    ("a date that does not exist", "description: 2024-99-99\n", 1, ["must be one YAML document"]),
    ("a list at the top", "- description: d\n", 1, ["a search space must be a mapping", "a list"]),
    ("an unknown key", "description: d\nlayerz: []\n", 2, ["layerz", "Did you mean layers?"]),
    ("a key that is a list", "description: d\n[a, b]: 1\n", 2, ["a key of a search space must be one of"]),
    ("no description", "layers: []\n", 1, ["must have a description"]),
    ("an empty description", 'description: " "\nlayers: []\n', 1, ["description must be a string"]),
    ("a number as description", "description: 7\nlayers: []\n", 1, ["but got 7", 'Did you mean "7"?']),
    ("no rules", "description: d\n", 1, ["must have layers or pruning"]),
    ("an empty list of rules", "description: d\nlayers: []\n", 2, ["layers must have at least one entry"]),
    ("rules without a value", "description: d\npruning:\n", 2, ["pruning must be a list", "got nothing"]),
    ("a rule that is a name", "description: d\nlayers:\n  - stem\n", 3, ["a layer rule must be a mapping", "'stem'"]),
    ("an unknown key of a layer rule", LAYER + "    weigth_bits: [8]\n", 4, ["Did you mean weight_bits?"]),
    ("both match and type", LAYER + "    type: Conv2d\n", 3, ["exactly one of", "but got match and type"]),
    (
        "neither match nor type",
        "description: d\nlayers:\n  - weight_bits: [8]\n",
        3,
        ["exactly one of", "got none of them"],
    ),
    ("both regex and match", LAYER + "    regex: a\n", 3, ["exactly one of match, regex and type", "match and regex"]),
    ("a broken regex", "description: d\nlayers:\n  - weight_bits: [32]\n    regex: a(\n", 4, ["'a('", "position 1"]),
    ("a number as regex", "description: d\nlayers:\n  - regex: 0\n", 3, ["regex must be a string", 'mean "0"?']),
    ("nothing ignored", LAYER + "    weight_bits: [32]\nignored: []\n", 5, ["ignored must have at least one entry"]),
    ("ignored as a name", LAYER + "    weight_bits: [32]\nignored: stem\n", 5, ["ignored must be a list", "'stem'"]),
    ("a number ignored", LAYER + "    weight_bits: [32]\nignored:\n  - a\n  - 7\n", 7, ["must be a string", "got 7"]),
    (
        "no such rounding",
        LAYER + "    weight_bits: [32]\ncalibration:\n  rounding: up\n",
        6,
        ["rounding", "'gptq'", "'up'"],
    ),
    ("no such setting", LAYER + "    weight_bits: [32]\ncalibration:\n  round: gptq\n", 6, ["rounding"]),
    ("only ignored", "description: d\nignored: [a]\n", 1, ["must have layers or pruning"]),
    ("a number as pattern", "description: d\nlayers:\n  - match: 0\n", 3, ["match must be a string", 'mean "0"?']),
    ("no weight_bits", LAYER + "    activation_bits: [8]\n", 3, ["must have weight_bits"]),
    ("bits that are no list", LAYER + "    weight_bits: 8\n", 4, ["must be a list", "Did you mean [8]?"]),
    ("no bits in the list", LAYER + "    weight_bits: []\n", 4, ["at least one entry"]),
    ("9 bits", LAYER + "    weight_bits: [8, 9]\n", 4, ["one of 2..8 or 32, but got 9. Did you mean 8?"]),
    ("1 bit", LAYER + "    weight_bits: [1]\n", 4, ["but got 1. Did you mean 2?"]),
    ("31 bits", LAYER + "    weight_bits: [31]\n", 4, ["Did you mean 32?"]),
    ("bits as text", LAYER + "    weight_bits: ['8']\n", 4, ["but got '8'. Did you mean 8?"]),
    ("bits as a fraction", LAYER + "    weight_bits: [8.0]\n", 4, ["but got 8.0. Did you mean 8?"]),
    ("bits that are no number", LAYER + "    weight_bits: [.nan]\n", 4, ["but got nan."]),
    ("a boolean as bits", LAYER + "    weight_bits: [true]\n", 4, ["but got true."]),
    ("an anchored boolean as bits", LAYER + "    weight_bits: [&yes true]\n", 4, ["but got true."]),
    ("a list as bits", LAYER + "    weight_bits: [[8]]\n", 4, ["but got a list."]),
    ("wrong bits on a later line", LAYER + "    weight_bits:\n      - 8\n      - 9\n", 6, ["but got 9."]),
    ("the same bits twice", LAYER + "    weight_bits: [8, 4, 8]\n", 4, ["must not name a choice twice", "8 again"]),
    ("sparsity of one", LAYER + "    sparsity: [1]\n", 4, ["sparsity must be a number in [0, 1), but got 1."]),
    ("sparsity in percent", LAYER + "    sparsity: [50]\n", 4, ["but got 50. Did you mean 0.5?"]),
    ("no rank at all", LAYER + "    rank_ratio: [0]\n", 4, ["rank_ratio must be a number in (0, 1], but got 0."]),
    ("a rank in percent", LAYER + "    rank_ratio: [25]\n", 4, ["but got 25. Did you mean 0.25?"]),
    (
        "sparsity off the pattern",
        LAYER + "    sparsity: [0, 0.7]\nsparsification:\n  pattern: '2:4'\n",
        3,
        ["sparsity must be 0 or 0.5 with the pattern 2:4, but got 0.7"],
    ),
    ("a wrong pattern", LAYER + "    sparsity: [0]\nsparsification:\n  pattern: '4:2'\n", 6, ["N:M", "'4:2'"]),
    (
        "settings that don't fit",
        LAYER + "    sparsity: [0]\nsparsification:\n  structure: rows\n",
        5,
        ["sparsification a structure of rows needs method movement"],
    ),
    (
        "no such importance",
        LAYER + "    weight_bits: [32]\nimportance: l3\n",
        5,
        ["importance must be one of l1", "'l3'"],
    ),
    ("integer weights alone", LAYER + "    weight_bits: [32, 8]\n", 3, ["must have activation_bits"]),
    ("bits for a float input", LAYER + "    weight_bits: [32]\n    activation_bits: [8]\n", 5, ["must be left out"]),
    ("wrong activation_bits", LAYER + "    weight_bits: [8]\n    activation_bits: [9]\n", 5, ["activation_bits", "9"]),
    ("no pruning_ratio", GROUP, 3, ["must have pruning_ratio"]),
    ("no match", "description: d\npruning:\n  - pruning_ratio: [0]\n", 3, ["must have match"]),
    ("a type of group", GROUP + "    type: Conv2d\n", 4, ["a key of a pruning rule must be one of match"]),
    ("a ratio of one", GROUP + "    pruning_ratio: [1.0]\n", 4, ["in [0, 1), but got 1.0."]),
    ("a negative ratio", GROUP + "    pruning_ratio: [-0.1]\n", 4, ["but got -0.1."]),
    ("a ratio in percent", GROUP + "    pruning_ratio: [25]\n", 4, ["but got 25. Did you mean 0.25?"]),
    ("a ratio as text", GROUP + "    pruning_ratio: ['0.5']\n", 4, ["but got '0.5'. Did you mean 0.5?"]),
    ("a ratio that is no number", GROUP + "    pruning_ratio: [.nan]\n", 4, ["but got nan."]),
    ("a boolean as ratio", GROUP + "    pruning_ratio: [false]\n", 4, ["but got false."]),
    ("the same ratio twice", GROUP + "    pruning_ratio: [0, 0.0]\n", 4, ["must not name a choice twice"]),
]


def test_a_right_file_is_read_with_every_rule_and_its_line() -> None:
    space = read_space(RIGHT, file="my.yaml", name="my")
    assert (space.name, space.description) == ("my", "A rule of each kind.")
    assert space.layers == (
        LayerRule("*", "match", weight_bits=(32, 8), activation_bits=(8, 4), where=""),
        LayerRule("Linear", "type", weight_bits=(32,), activation_bits=(), where=""),
        LayerRule(".*(key|query)", "regex", weight_bits=(4,), activation_bits=(8,), where=""),
    )
    assert space.calibration == Calibration(rounding="gptq", smoothing=0.5)
    assert space.ignored == (Ignored("head", where=""), Ignored("type:Embedding", where=""))
    assert space.pruning == (PruningRule("*", pruning_ratio=(0.0, 0.5), where=""),)
    places = [entry.where for entry in (*space.layers, *space.pruning, *space.ignored)]
    assert places == [f"my.yaml:{line}" for line in (3, 6, 8, 12, 15, 16)]


def test_sparsity_ranks_and_their_settings_are_read() -> None:
    text = (
        LAYER
        + """\
    sparsity: [0.0, 0.5]
    rank_ratio: [1.0, 0.25]
importance: taylor
sparsification: {method: movement, structure: rows, end: 0.5}
"""
    )
    space = read_space(text, file="my.yaml", name="my")
    assert space.layers[0].weight_bits == (32,)
    assert (space.layers[0].sparsity, space.layers[0].rank_ratio) == ((0.0, 0.5), (1.0, 0.25))
    assert space.importance == "taylor"
    assert space.sparsification == Sparsification(method="movement", structure="rows", end=0.5)


def test_numbers_are_plain_python_numbers() -> None:
    space = read_space(RIGHT, file="my.yaml", name="my")
    values = [*space.layers[0].weight_bits, *space.pruning[0].pruning_ratio]
    assert [type(value) for value in values] == [int, int, float, float]


def test_a_yaml_merge_brings_keys_in() -> None:
    text = """\
description: d
layers:
  - &all {match: "*", weight_bits: [8], activation_bits: [8]}
  - <<: *all
    weight_bits: [4]
"""
    space = read_space(text, file="my.yaml", name="my")
    assert [rule.weight_bits for rule in space.layers] == [(8,), (4,)]


@pytest.mark.parametrize(("text", "line", "parts"), [pytest.param(*row[1:], id=row[0]) for row in BROKEN])
def test_a_wrong_file_is_refused_with_its_line(text: str, line: int, parts: list[str]) -> None:
    with pytest.raises(SearchSpaceError) as caught:
        read_space(text, file="my.yaml", name="my")
    message = str(caught.value)
    assert message.startswith(f"my.yaml:{line}: ")
    assert "\n" not in message
    for part in parts:
        assert part in message
