"""What a probe does to a space: labels, what goes, what stays, and that old recipes still find their place."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.cpu_probe import CpuProbe, ProbeRow
from autocompress.errors import SearchSpaceError
from autocompress.graph.model_graph import ChannelGroup, Layer, ModelGraph
from autocompress.measurement import Speedup
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.space import anchors, load_space
from autocompress.space.bound_space import BoundSpace, GroupChoices, InputChoices, LayerChoices
from autocompress.space.rewards import probed_kind, reward_sentences, rewards, useless_choices, without

NEAR, FAST, SLOW, NOISE = (1.0, 0.98, 1.02), (2.0, 1.9, 2.1), (0.8, 0.78, 0.82), (1.0, 0.7, 1.4)
KINDS = ("conv3x3", "conv1x1", "depthwise", "linear")
SPEED, SIZE, ZIPPED = (
    ("accuracy_drop", "latency"),
    ("accuracy_drop", "latency", "size_bytes"),
    ("latency", "zipped_bytes"),
)
NOTHING_FASTER_THAN_INT8 = dict.fromkeys(
    ["narrow_weights", "weights_only_int8", "weights_only_int4", "sparse", "narrow_inputs", "seven_bits"], NEAR
)


def probe(saturates=False, **answers):
    """A probe with one row a question and kind; what is not given is not asked. `int8_linear=...` is for one kind."""
    rows = []
    for name, ratio in answers.items():
        question, _, only = name.partition("__")
        for kind in [only] if only else KINDS:
            speedup = Speedup(value=ratio[0], low=ratio[1], high=ratio[2], n_pairs=40)
            row = ProbeRow(question=question, kind=kind, shape="s", variant="v", baseline="b", speedup=speedup)
            rows = [r for r in rows if (r.question, r.kind) != (question, kind)] + [row]
    key = {"cpu": "c", "capabilities": (), "openvino": "1", "n_threads": 1}
    return CpuProbe(**key, int8_saturates=saturates, rows=tuple(rows))


def rewarded(bound, graph, answers, objectives):
    """What a study does with a probe: the space that it searches, and what it says about it."""
    dropped = useless_choices(bound, graph, answers, objectives)
    return without(bound, dropped), reward_sentences(rewards(bound, graph, answers), dropped)


USUAL = {"int8": FAST, **NOTHING_FASTER_THAN_INT8}


def layer(name, kind="Conv2d", weight_shape=(16, 8, 3, 3), input_shape=(1, 8, 6, 6)):
    return Layer(name, kind, weight_shape, input_shape, (1, 16, 6, 6), 1000, 100, name)


GRAPH = ModelGraph(
    layers=(layer("conv"), layer("head", "Linear", (10, 16), (1, 16))),
    groups=(ChannelGroup("conv", ("conv",), 16),),
)


def space(weight_bits=(32, 8, 7, 4), activation_bits=(8,), sparsity=(0.0,), name="conv"):
    return BoundSpace(
        layers=(LayerChoices(name, weight_bits, sparsity),), inputs=(InputChoices((name,), activation_bits),)
    )


LAYERS = [  # id, class, weight shape, input shape, kind
    ("a 3x3 convolution", "Conv2d", (16, 8, 3, 3), (1, 8, 6, 6), "conv3x3"),
    ("a 5x5 convolution", "Conv2d", (16, 8, 5, 5), (1, 8, 6, 6), "conv3x3"),
    ("a 1x1 convolution", "Conv2d", (16, 8, 1, 1), (1, 8, 6, 6), "conv1x1"),
    ("a depthwise convolution", "Conv2d", (8, 1, 3, 3), (1, 8, 6, 6), "depthwise"),
    ("a convolution of grey images", "Conv2d", (16, 1, 3, 3), (1, 1, 28, 28), "conv3x3"),
    ("a grouped convolution", "Conv2d", (8, 4, 3, 3), (1, 8, 6, 6), None),
    ("a Linear layer", "Linear", (10, 16), (1, 16), "linear"),
    ("a convolution in one dimension", "Conv1d", (16, 8, 3), (1, 8, 6), None),
    ("a transposed convolution", "ConvTranspose2d", (8, 16, 3, 3), (1, 8, 6, 6), None),
    ("an Embedding", "Embedding", (100, 16), (1, 7), None),
]


@pytest.mark.parametrize(("kind", "weight", "read", "probed"), [pytest.param(*r[1:], id=r[0]) for r in LAYERS])
def test_the_probe_s_kind_of_a_layer(kind, weight, read, probed) -> None:
    assert probed_kind(layer("x", kind, weight, read)) == probed


LABELS = [  # id, space, probe, parameter, label by choice
    (
        "bits where products are exact",
        space(),
        probe(**USUAL),
        "weight_bits",
        {8: "speed", 7: "nothing", 4: "size only"},
    ),
    (
        "bits where products saturate",
        space(),
        probe(saturates=True, **USUAL),
        "weight_bits",
        {8: "speed", 7: "accuracy", 4: "size only"},
    ),
    (
        "bits that noise says nothing of",
        space(),
        probe(int8=NOISE),
        "weight_bits",
        {8: "unknown", 7: "nothing", 4: "unknown"},
    ),
    (
        "INT8 that is slower",
        space(),
        probe(**USUAL | {"int8": SLOW}),
        "weight_bits",
        {8: "size only", 7: "nothing", 4: "size only"},
    ),
    (
        "4 bits that are faster",
        space(),
        probe(**USUAL | {"narrow_weights": FAST}),
        "weight_bits",
        {8: "speed", 7: "nothing", 4: "speed"},
    ),
    ("4 bits alone", space((32, 4)), probe(**USUAL), "weight_bits", {4: "speed"}),
    ("4 bits behind 7", space((7, 4)), probe(saturates=True, **USUAL), "weight_bits", {7: "speed", 4: "size only"}),
    (
        "weights alone where that is faster",
        space((32, 8), (32,)),
        probe(**USUAL | {"weights_only_int8": FAST, "int8": SLOW}),
        "weight_bits",
        {8: "speed"},
    ),
    (
        "7-bit weights whose products are floats",
        space((8, 7), (32,)),
        probe(saturates=True, **USUAL),
        "weight_bits",
        {8: "size only", 7: "nothing"},
    ),
    ("weights alone where it is not", space((32, 8), (32,)), probe(**USUAL), "weight_bits", {8: "size only"}),
    (
        "inputs",
        space((32, 8), (32, 8, 4)),
        probe(**USUAL),
        "activation_bits",
        {32: "size only", 8: "speed", 4: "nothing"},
    ),
    ("narrow inputs alone", space((32, 8), (4,)), probe(**USUAL), "activation_bits", {4: "speed"}),
    (
        "narrow inputs of which nothing is known",
        space((8,), (8, 4)),
        probe(int8=FAST),
        "activation_bits",
        {8: "speed", 4: "unknown"},
    ),
    ("zeros", space(sparsity=(0.0, 0.5)), probe(**USUAL), "sparsity", {0.5: "zipped size only"}),
    ("zeros that are faster", space(sparsity=(0.0, 0.5)), probe(sparse=FAST), "sparsity", {0.5: "speed"}),
]


@pytest.mark.parametrize(("bound", "asked", "knob", "labels"), [pytest.param(*r[1:], id=r[0]) for r in LABELS])
def test_the_labels_of(bound, asked, knob, labels) -> None:
    assert rewards(bound, GRAPH, asked)[f"conv/{knob}"] == labels


def test_fewer_channels_are_for_speed_where_the_probe_saw_that() -> None:
    bound = BoundSpace(groups=(GroupChoices("conv", (0.0, 0.5)),))
    assert rewards(bound, GRAPH, probe(channels__conv3x3=FAST)) == {"conv/pruning_ratio": {0.5: "speed"}}
    assert rewards(bound, GRAPH, probe()) == {"conv/pruning_ratio": {0.5: "unknown"}}


DROPS = [  # id, space, probe, objectives, weight_bits, activation_bits and sparsity that are left
    ("exact products, with size", space(), probe(**USUAL), SIZE, (32, 8, 4), (8,), (0.0,)),
    ("exact products, without size", space(), probe(**USUAL), SPEED, (32, 8), (8,), (0.0,)),
    ("saturation, with size", space(), probe(True, **USUAL), SIZE, (32, 8, 7, 4), (8,), (0.0,)),
    ("saturation, without size", space(), probe(True, **USUAL), SPEED, (32, 8, 7), (8,), (0.0,)),
    ("slower INT8, with size", space(), probe(True, **USUAL | {"int8": SLOW}), SIZE, (32, 8, 7, 4), (8,), (0.0,)),
    ("slower INT8, without size", space(), probe(True, **USUAL | {"int8": SLOW}), SPEED, (32,), None, (0.0,)),
    ("slower INT8 without float", space((8, 7)), probe(True, **USUAL | {"int8": SLOW}), SPEED, (8, 7), (8,), (0.0,)),
    (
        "4 bits that are faster than slower 8 bits, without float",
        space((8, 4)),
        probe(**USUAL | {"int8": SLOW, "narrow_weights": FAST}),
        SPEED,
        (8, 4),
        (8,),
        (0.0,),
    ),
    ("only narrow weights", space((4,)), probe(**USUAL | {"int8": SLOW}), SPEED, (4,), (8,), (0.0,)),
    ("noise everywhere", space(), probe(True, **dict.fromkeys(USUAL, NOISE)), SPEED, (32, 8, 7, 4), (8,), (0.0,)),
    ("nothing asked", space(), probe(True), SPEED, (32, 8, 7, 4), (8,), (0.0,)),
    ("float inputs, without size", space((32, 8), (8, 32)), probe(**USUAL), SPEED, (32, 8), (8,), (0.0,)),
    ("float inputs, with size", space((32, 8), (8, 32)), probe(**USUAL), SIZE, (32, 8), (8, 32), (0.0,)),
    ("float inputs, no float weights", space((8,), (8, 32)), probe(**USUAL), SPEED, (8,), (8, 32), (0.0,)),
    ("narrow inputs", space((32, 8), (8, 4, 2)), probe(**USUAL), SIZE, (32, 8), (8,), (0.0,)),
    ("zeros, zipped size", space(sparsity=(0.0, 0.5)), probe(**USUAL), ZIPPED, (32, 8, 4), (8,), (0.0, 0.5)),
    ("zeros, plain size", space(sparsity=(0.0, 0.5)), probe(**USUAL), SIZE, (32, 8, 4), (8,), (0.0,)),
    ("zeros and no way without", space(sparsity=(0.5, 0.7)), probe(**USUAL), SIZE, (32, 8, 4), (8,), (0.5, 0.7)),
    (
        "zeros that are faster",
        space(sparsity=(0.0, 0.5)),
        probe(**USUAL | {"sparse": FAST}),
        SPEED,
        (32, 8),
        (8,),
        (0.0, 0.5),
    ),
]


@pytest.mark.parametrize(
    ("bound", "asked", "objectives", "weight_bits", "activation_bits", "sparsity"),
    [pytest.param(*row[1:], id=row[0]) for row in DROPS],
)
def test_what_is_left_with(bound, asked, objectives, weight_bits, activation_bits, sparsity) -> None:
    left, _ = rewarded(bound, GRAPH, asked, objectives)
    assert left.layers == (LayerChoices("conv", weight_bits, sparsity),)
    assert left.inputs == ((InputChoices(("conv",), activation_bits),) if activation_bits else ())


def test_each_kind_of_layer_is_judged_by_its_own_rows() -> None:
    both = BoundSpace(
        layers=(LayerChoices("conv", (32, 8)), LayerChoices("head", (32, 8))),
        inputs=(InputChoices(("conv",), (8,)), InputChoices(("head",), (8,))),
    )
    left, _ = rewarded(both, GRAPH, probe(**USUAL | {"int8__linear": SLOW}), SPEED)
    assert [weights.weight_bits for weights in left.layers] == [(32, 8), (32,)]
    assert [tensor.readers for tensor in left.inputs] == [("conv",)]


def test_a_tensor_keeps_its_name_when_its_first_reader_becomes_float() -> None:
    both = BoundSpace(
        layers=(LayerChoices("head", (32, 8)), LayerChoices("conv", (32, 8))),
        inputs=(InputChoices(("head", "conv"), (8, 32)),),
    )
    left, _ = rewarded(
        both, GRAPH, probe(int8=FAST, weights_only_int8=FAST, int8__linear=SLOW, weights_only_int8__linear=NEAR), SPEED
    )
    assert [weights.weight_bits for weights in left.layers] == [(32,), (32, 8)]
    assert list(left.parameters) == ["conv/weight_bits", "head/activation_bits"]
    assert left.n_recipes == 3
    assert set(left.parameters) <= set(both.parameters)


def test_sentences_say_what_went_and_what_stays_for_size() -> None:
    _, without_size = rewarded(space(), GRAPH, probe(**USUAL), SPEED)
    assert without_size == [
        "weight_bits 7 was left out for one layer or tensor: on this CPU it buys nothing",
        "weight_bits 4 was left out for one layer or tensor: on this CPU it is for size only, which is no objective",
    ]
    _, with_size = rewarded(space(), GRAPH, probe(True, **USUAL), SIZE)
    assert with_size == [
        "weight_bits 7 keeps the accuracy that 8-bit weights lose by saturation on this CPU, for one layer or tensor",
        "weight_bits 4 is for size only on this CPU, for one layer or tensor",
    ]


def test_a_space_of_which_nothing_is_known_stays_as_it_is() -> None:
    bound = load_space("mixed-precision").bind(GRAPH)
    assert useless_choices(bound, GRAPH, probe(saturates=True), SPEED) == {}
    assert rewarded(bound, GRAPH, probe(saturates=True), SPEED)[0] == bound


def test_what_was_dropped_survives_json() -> None:
    bound = space((32, 8, 7, 4), (8, 4), (0.0, 0.5, 0.7))
    dropped = useless_choices(bound, GRAPH, probe(**USUAL), SPEED)
    assert without(bound, json.loads(json.dumps(dropped))) == rewarded(bound, GRAPH, probe(**USUAL), SPEED)[0]


def test_a_parameter_cannot_lose_all_its_choices() -> None:
    with pytest.raises(SearchSpaceError, match=r"conv/weight_bits must keep a choice, but all of \[32, 8\]"):
        without(space((32, 8)), {"conv/weight_bits": [8, 32]})


BITS = st.lists(st.sampled_from([32, 8, 7, 5, 4, 2]), min_size=1, unique=True).map(tuple)
SPARSITY = st.lists(st.sampled_from([0.0, 0.5, 0.9]), min_size=1, unique=True).map(tuple)
ANSWERS = st.dictionaries(st.sampled_from(sorted(USUAL)), st.sampled_from([NEAR, FAST, SLOW, NOISE]))


@given(BITS, BITS, SPARSITY, ANSWERS, st.booleans(), st.sampled_from([SPEED, SIZE, ZIPPED, ("size_bytes",)]))
def test_whatever_the_probe_says_old_recipes_find_their_place(
    bits, inputs, sparsity, answers, saturates, wished
) -> None:
    bound = space(bits, inputs, sparsity)
    left, _ = rewarded(bound, GRAPH, probe(saturates, **answers), wished)
    assert 1 <= left.n_recipes <= bound.n_recipes
    assert all(set(choices) <= set(bound.parameters[name]) for name, choices in left.parameters.items())
    assert max(left.layers[0].weight_bits) == max(bits)
    for weight_bits in (32, 8, 4):
        old = bound.nearest(Recipe(layers={"conv": LayerRecipe(weight_bits=weight_bits, sparsity=0.5)}))
        new = left.nearest(old)
        assert left.nearest(new) == new
        assert bound.nearest(new) == new
    assert all(left.nearest(recipe) == recipe for name, recipe in anchors(left, GRAPH).items() if name != "fp32")
