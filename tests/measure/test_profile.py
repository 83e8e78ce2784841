"""Milliseconds by layer, from counters that are rounded means over all runs."""

import numpy as np
import openvino
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openvino import opset13 as ops
from torch import nn

from autocompress.deploy import to_openvino
from autocompress.errors import MeasurementError
from autocompress.latency import random_inputs
from autocompress.measure import profile
from autocompress.measure.profile import profile_layers
from autocompress.recipe import LayerRecipe
from tests.deploy.deployed import deployed, quantized
from tests.nets import NETS, Net

INTEGER = LayerRecipe(weight_bits=8, activation_bits=8)
MLP = Net("mlp", lambda: nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5)), (6,))


def profiled(model: openvino.Model) -> dict[str, float]:
    return profile_layers(model, random_inputs(model), n_runs=3)


CASES = [  # id, net, recipe, layers
    ("float convolutions with batch norms", NETS["residual"], LayerRecipe(), ["stem.0", "first.0", "second.0", "head"]),
    ("integer convolutions", NETS["residual"], INTEGER, ["stem.0", "first.0", "second.0", "head"]),
    ("depthwise", NETS["depthwise"], INTEGER, ["body.0.0", "body.1.0", "body.2.0", "head"]),
    ("transposed", NETS["upsampling"], LayerRecipe(), ["down", "up", "out"]),
    ("only weights are integers", NETS["residual"], LayerRecipe(weight_bits=4), ["stem.0", "first.0", "second.0"]),
    ("two layers in one node", MLP, LayerRecipe(), ["0", "2"]),
    (
        "attention",
        NETS["encoder"],
        INTEGER,
        ["embed", *(f"layer.self_attn.{name}" for name in ("query", "key", "value", "out_proj")), "layer.linear1"],
    ),
]


@pytest.mark.parametrize(("net", "recipe", "layers"), [pytest.param(*row[1:], id=row[0]) for row in CASES])
def test_each_layer_has_its_time(net: Net, recipe: LayerRecipe, layers: list[str]) -> None:
    times = profiled(deployed(quantized(net.build(), net.inputs(), recipe, net.batches())).model)
    assert set(layers) <= set(times) and "" in times
    assert all(times[name] > 0 for name in layers)
    assert min(times.values()) >= 0


def test_layers_in_one_node_share_its_time_equally() -> None:
    times = profiled(to_openvino(MLP.build(), MLP.inputs()))
    assert times["0"] == pytest.approx(times["2"])


def test_a_layer_with_a_thousand_times_the_work_takes_more_time_than_all_others() -> None:
    net = Net(
        "wide", lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 256, 7), nn.Conv2d(256, 2, 1)), (3, 24, 24)
    )
    times = profiled(to_openvino(net.build(), net.inputs()))
    assert times["1"] > sum(times.values()) / 2


def test_the_times_sum_to_the_median_of_runs_without_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "_N_FIRST", 1)
    durations = iter([value for plain in (7, 5, 100, 6, 8, 4, 6, 7, 5) for value in (50.0, plain)])  # counted, plain
    monkeypatch.setattr(profile, "_milliseconds", lambda _: next(durations))
    net = NETS["residual"]
    model = to_openvino(net.build(), net.inputs())
    assert sum(profile_layers(model, random_inputs(model), n_runs=9).values()) == pytest.approx(6.0)


def test_a_model_of_another_tool_is_all_rest() -> None:
    x = ops.parameter([1, 3, 8, 8], np.float32)
    weight = ops.constant(np.ones((4, 3, 3, 3), np.float32))
    model = openvino.Model([ops.convolution(x, weight, [1, 1], [0, 0], [0, 0], [1, 1])], [x])
    assert set(profiled(model)) == {""}


def test_inputs_that_do_not_fit_are_refused() -> None:
    net = NETS["residual"]
    with pytest.raises(MeasurementError, match="does not take the given inputs"):
        profile_layers(to_openvino(net.build(), net.inputs()), [np.zeros((1, 3, 5, 5), np.float32)] * 2)


OWNERS = [  # id, operations of a node, layers
    ("fused batch norm and activation", ["a.0/aten::_convolution/Convolution", "a.1/aten::batch_norm/B"], ["a.0"]),
    ("its dequantization", ["a/aten::linear/MatMul/DequantizationMultiply", "a/aten::linear/Add"], ["a"]),
    ("the quantizer of the next layer", ["a/aten::linear/Add", "b.input_quantizer/aten::f/F"], ["a"]),
    ("nothing but a quantizer", ["x/aten::add/Add", "b.input_quantizer/aten::f/F"], ["b"]),
    ("two layers", ["a/aten::linear/MatMul", "b/aten::linear/MatMul"], ["a", "b"]),
    ("one layer called twice", ["a/aten::linear/MatMul", "a/aten::linear/MatMul_1"], ["a"]),
    ("a product of activations", ["attention/aten::matmul/MatMul"], []),
    ("a lookup", ["words/aten::embedding/Gather"], ["words"]),
    ("a name like a number", ["0/aten::linear/Add"], ["0"]),
    ("nothing", [], []),
]


@pytest.mark.parametrize(("operations", "layers"), [pytest.param(*row[1:], id=row[0]) for row in OWNERS])
def test_a_node_belongs_to_the_layer_that_it_computes(operations: list[str], layers: list[str]) -> None:
    names = [f"__module.module.{name}" for name in operations] + ["Multiply_4711", ""]
    assert list(profile._owners(names)) == layers


def counters(runs: list[float]) -> list[dict[str, float]]:
    """OpenVINO's counter after each run of so many microseconds: `PerfCount::avg` in its intel_cpu/src/perf_count.h."""
    return [{"node": sum(int(run) for run in runs[:n]) // n / 1e3} for n in range(1, len(runs) + 1)]


@given(st.lists(st.floats(100, 5000), min_size=3, max_size=3), st.lists(st.floats(2, 200), min_size=5, max_size=40))
def test_slow_first_runs_do_not_count(first: list[float], runs: list[float]) -> None:
    found = profile._mean(counters(first + runs), list(range(3, 3 + len(runs))))["node"] * 1e3
    rounding = 0.5 + (0.5 * (3 + len(runs)) + 1.5) / len(runs)  # of each run, and of both means
    assert found == pytest.approx(np.mean(runs), abs=rounding + 1e-6)


def test_a_run_that_was_interrupted_does_not_count() -> None:
    runs = [900.0, 40.0, 40.0, *[20.0] * 5, 3000.0, *[20.0] * 4]
    kept = [i for i in range(3, len(runs)) if i != 8]
    assert profile._mean(counters(runs), kept)["node"] * 1e3 == pytest.approx(20.5, abs=1.5)
    assert profile._mean(counters(runs), list(range(3, len(runs))))["node"] * 1e3 > 300


def test_a_node_that_never_ran_takes_no_time() -> None:
    assert profile._mean([{"fused": 0.0}, {"fused": 0.0}], [1]) == {}
