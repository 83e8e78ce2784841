"""Where the time of an inference goes: milliseconds by layer, from OpenVINO's own counters."""

import re
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
from openvino import properties
from openvino.properties import hint

from autocompress.errors import MeasurementError
from autocompress.latency import compile_model, reason

REST = ""  # the name of all that belongs to no layer
_N_SESSIONS = 3  # each compiles anew, since where memory happens to lie changes times by a percent or so
_N_FIRST = 3  # runs of a session that do not count
_SLOW = 1.25  # times the median: a run that took longer was interrupted, and does not count
_LAYER = re.compile(r"__module\.module\.(.+)/aten::(_convolution|linear|embedding|bilinear|lstm|gru|rnn_)")
_QUANTIZER = re.compile(r"__module\.module\.(.+)\.input_quantizer/")

Milliseconds = dict[str, float]


def profile_layers(
    model: openvino.Model, inputs: list[npt.NDArray[Any]], n_threads: int = 1, n_runs: int = 30
) -> Milliseconds:
    """Milliseconds of one inference by layer.

    A layer has the time of every node that computes it, with all that OpenVINO fused into these nodes: the batch norm,
    activation or addition after it. Nodes that only quantize a layer's input belong to that layer; several layers in
    one node have equal shares of it. The times are scaled so that their sum is the median without counters, since
    counters miss what happens between nodes and are whole microseconds.

    Args:
        model: What `autocompress.deploy.to_openvino` gives, or what was saved of it: names of operations say which
            layer they are of.
        inputs: One inference's inputs.
        n_threads: Inference threads.
        n_runs: Runs with counters, >= 1, and as many without.

    Returns:
        Milliseconds >= 0 by dotted name of layer, and under ``""`` all the rest: pooling, reorders, additions and
        activations that were not fused. A layer that has no name left in the model is not in it, its time is in ``""``.

    Raises:
        MeasurementError: The model does not compile or does not take the inputs.
    """
    n_each = -(-n_runs // _N_SESSIONS)
    sessions = [_session(model, inputs, n_threads, n_each) for _ in range(_N_SESSIONS)]
    plain_ms = median(duration for _, durations in sessions for duration in durations)
    counted = {name: median(times[name] for times, _ in sessions) for name in sessions[0][0]}
    scale = plain_ms / max(sum(counted.values()), 1e-9)
    return {name: scale * counted_ms for name, counted_ms in counted.items()}


def _session(
    model: openvino.Model, inputs: list[npt.NDArray[Any]], n_threads: int, n_runs: int
) -> tuple[Milliseconds, list[float]]:
    """Milliseconds by layer from counters, and those of each run without counters in between."""
    profiled = _profiled(model, n_threads)
    with_counters = _request(profiled, inputs)
    without = _request(compile_model(model, n_threads), inputs)
    counters, counted, plain = [_counters(with_counters)], [0.0], []
    for _ in range(_N_FIRST - 1 + n_runs):
        counted.append(_milliseconds(with_counters))
        counters.append(_counters(with_counters))
        plain.append(_milliseconds(without))
    limit = _SLOW * median(counted[_N_FIRST:])
    kept = [i for i in range(_N_FIRST, len(counted)) if counted[i] <= limit]
    return _by_layer(profiled, _mean(counters, kept)), plain[_N_FIRST - 1 :]


def _profiled(model: openvino.Model, n_threads: int) -> openvino.CompiledModel:
    """`compile_model`, with counters."""
    configuration: dict[str, Any] = {
        hint.performance_mode(): hint.PerformanceMode.LATENCY,
        hint.inference_precision(): openvino.Type.f32,
        properties.num_streams(): 1,
        properties.inference_num_threads(): n_threads,
        properties.enable_profiling(): True,
        **({hint.enable_cpu_pinning(): False} if n_threads == 1 else {}),
    }
    try:
        return openvino.Core().compile_model(model, "CPU", configuration)
    except RuntimeError as error:
        raise MeasurementError(f"OpenVINO cannot compile the model: {reason(error)}") from None


def _request(compiled: openvino.CompiledModel, inputs: list[npt.NDArray[Any]]) -> openvino.InferRequest:
    """A request that has run once on `inputs` and keeps them."""
    request = compiled.create_infer_request()
    try:
        for port, array in zip(compiled.inputs, inputs, strict=True):
            request.set_tensor(port, openvino.Tensor(np.ascontiguousarray(array)))
        request.infer()
    except (RuntimeError, ValueError) as error:
        raise MeasurementError(f"the model does not take the given inputs: {reason(error)}") from None
    return request


def _milliseconds(request: openvino.InferRequest) -> float:
    start = time.perf_counter()
    request.infer()
    return (time.perf_counter() - start) * 1e3


def _counters(request: openvino.InferRequest) -> Milliseconds:
    """By name of node: the mean over all runs since the model was compiled, rounded down to whole microseconds."""
    return {info.node_name: info.real_time.total_seconds() * 1e3 for info in request.profiling_info}


def _mean(counters: list[Milliseconds], kept: list[int]) -> Milliseconds:
    """Milliseconds by node, mean over some runs alone; the first ones, which prepare kernels, would change it much.

    Each counter is a sum of whole microseconds divided by the number of runs, both rounded down: on average half a
    microsecond is lost each time. So the sum after n runs is about n times the counter and a half more.

    Args:
        counters: After each run since the model was compiled.
        kept: Indices of the runs that count, each > 0; at least one.
    """
    half, means = 0.5e-3, {}
    for name in (name for name, ms in counters[-1].items() if ms > 0):
        sums = [n * (after[name] + half) for n, after in enumerate(counters, start=1)]
        means[name] = max(0.0, sum(sums[i] - sums[i - 1] for i in kept) / len(kept)) + half
    return means


def _by_layer(compiled: openvino.CompiledModel, nodes: Milliseconds) -> Milliseconds:
    layers: Milliseconds = {REST: 0.0}
    for node in compiled.get_runtime_model().get_ordered_ops():
        names = node.get_rt_info()["originalLayersNames"].astype(str).split(",")
        owners = list(_owners(names)) or [REST]
        for owner in owners:
            layers[owner] = layers.get(owner, 0.0) + nodes.get(node.get_friendly_name(), 0.0) / len(owners)
    return layers


def _owners(names: list[str]) -> Iterator[str]:
    """Layers that a node computes, by the operations in it; if there are none, those whose input it quantizes."""
    for pattern in (_LAYER, _QUANTIZER):
        found = dict.fromkeys(match[1] for match in map(pattern.match, names) if match)
        if found:
            yield from found
            return
