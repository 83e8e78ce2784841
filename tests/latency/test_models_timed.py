"""Real models through the protocol: known order, joint ratios, throughput, threads."""

from dataclasses import replace

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from autocompress.errors import MeasurementError
from autocompress.latency import (
    LatencySettings,
    compile_model,
    default_precision_speedup,
    joint_latency,
    paired_latency,
    random_inputs,
    throughput,
    throughput_speedup,
)

SHORT = LatencySettings(min_pairs=6, max_pairs=12, max_seconds=0.3, min_seconds=0.0, n_copies=2, block_seconds=0.001)


def convolutions(n: int) -> openvino.Model:
    rng = np.random.default_rng(0)
    first = last = ops.parameter([1, 16, 24, 24], np.float32)
    for _ in range(n):
        weight = ops.constant(rng.standard_normal((16, 16, 3, 3)).astype(np.float32) / 12)
        last = ops.relu(ops.convolution(last, weight, [1, 1], [1, 1], [1, 1], [1, 1]))
    return openvino.Model([last], [first], f"{n} convolutions")


ONE, EIGHT = convolutions(1), convolutions(8)
INPUTS = random_inputs(ONE)


def test_a_model_with_fewer_layers_is_faster() -> None:
    found = paired_latency(EIGHT, ONE, INPUTS, SHORT)
    assert found.speedup.value > 2 and found.latency_ms < found.baseline_ms
    assert found.latency_ms <= found.check.p90_ms <= found.check.p99_ms


def test_candidates_are_compared_with_the_baseline_and_with_each_other() -> None:
    found = joint_latency(EIGHT, [ONE, convolutions(4), EIGHT], INPUTS, SHORT)
    values = [result.speedup.value for result in found.results]
    assert values[0] > values[1] > values[2] and len(found.between) == 3
    assert [found.between[i][i].value for i in range(3)] == [1, 1, 1]
    assert found.between[1][0].value == pytest.approx(1 / found.between[0][1].value)
    assert found.between[2][0].value == pytest.approx(values[0] / values[2], rel=0.3)


def test_float_layers_in_the_default_precision_are_compared_with_f32() -> None:
    assert default_precision_speedup(ONE, INPUTS, SHORT).n_pairs >= 6


@pytest.mark.parametrize("n_threads", [1, 2])
def test_threads_and_streams_are_fixed(n_threads: int) -> None:
    compiled = compile_model(ONE, n_threads)
    assert compiled.get_property("INFERENCE_NUM_THREADS") == n_threads
    assert compiled.get_property("NUM_STREAMS") == 1


def test_openvino_leaves_a_single_thread_on_the_core_that_was_chosen() -> None:
    assert compile_model(ONE, 1).get_property("ENABLE_CPU_PINNING") is False


def test_inputs_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(MeasurementError, match="does not take the given inputs"):
        paired_latency(ONE, EIGHT, [np.zeros((1, 3, 8, 8), np.float32)], SHORT)
    with pytest.raises(MeasurementError, match="cannot run the model on the given inputs"):
        throughput(ONE, [np.zeros((1, 3, 8, 8), np.float32)], 1, seconds=0)


def test_throughput_is_inferences_a_second() -> None:
    found = throughput(EIGHT, INPUTS, n_threads=1, seconds=0.2)
    alone = 1e3 / paired_latency(ONE, EIGHT, INPUTS, SHORT).latency_ms
    assert 0.2 * alone < found.value < 5 * alone and found.low <= found.value <= found.high
    assert found.n_bursts >= 2 and found.n_streams >= 1


def test_throughput_of_two_models_is_paired() -> None:
    assert throughput_speedup(EIGHT, ONE, INPUTS, replace(SHORT, min_pairs=9, max_pairs=9)).value > 1
