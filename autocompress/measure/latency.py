"""Latency as a paired ratio to the baseline, with an interval."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
from scipy.stats import binom

from autocompress.errors import MeasurementError
from autocompress.measure.runtime import compile_model
from autocompress.measurement import Speedup


@dataclass(frozen=True)
class LatencySettings:
    """How to measure.

    Attributes:
        n_threads: Inference threads.
        min_pairs: Paired blocks measured at least.
        max_pairs: Paired blocks measured at most.
        max_seconds: No further block is begun after this time.
        half_width: Relative half-width of the interval at which measuring ends early.
        block_seconds: Least length of one block; short inferences are repeated in it.
        seed: Of the order within pairs.
    """

    n_threads: int = 1
    min_pairs: int = 30
    max_pairs: int = 200
    max_seconds: float = 3.0
    half_width: float = 0.01
    block_seconds: float = 0.003
    seed: int = 0


@dataclass(frozen=True)
class PairedLatency:
    """Result of one comparison: the ratio with its interval, and both medians in milliseconds."""

    speedup: Speedup
    latency_ms: float
    baseline_ms: float


def paired_latency(
    baseline: openvino.Model, candidate: openvino.Model, inputs: list[npt.NDArray[Any]], settings: LatencySettings
) -> PairedLatency:
    """Speed-up of `candidate` over `baseline`: median of the ratios of interleaved blocks, in random order.

    Args:
        baseline: Deployed FP32 model.
        candidate: Deployed model with the same inputs.
        inputs: One real inference's inputs.
        settings: How.

    Raises:
        MeasurementError: A model does not compile or does not take the inputs.
    """
    runs = [_runner(compile_model(model, settings.n_threads), inputs) for model in (baseline, candidate)]
    return compare(runs[0], runs[1], settings)


def default_precision_speedup(
    model: openvino.Model, inputs: list[npt.NDArray[Any]], settings: LatencySettings
) -> Speedup:
    """How much faster `model` is where OpenVINO chooses the precision of float layers than in f32."""
    runs = [_runner(compile_model(model, settings.n_threads, fix_precision=fixed), inputs) for fixed in (True, False)]
    return compare(runs[0], runs[1], settings).speedup


def random_inputs(model: openvino.Model, seed: int = 0) -> list[npt.NDArray[Any]]:
    """Inputs in [0, 1) (integers: 0 or 1) at the static shapes of `model`; a dynamic batch dimension counts as 1.

    Raises:
        MeasurementError: A dimension other than the first is dynamic.
    """
    rng = np.random.default_rng(seed)
    arrays = []
    for port in model.inputs:
        shape = [1 if i == 0 and d.is_dynamic else d for i, d in enumerate(port.partial_shape)]
        if any(not isinstance(d, int) and d.is_dynamic for d in shape):
            raise MeasurementError(
                f"input {port.any_name} has the dynamic shape {port.partial_shape}; reshape the model to a static one"
            )
        sizes = [d if isinstance(d, int) else d.get_length() for d in shape]
        kind = port.element_type.to_dtype()
        arrays.append(
            rng.random(sizes).astype(kind) if np.issubdtype(kind, np.floating) else rng.integers(0, 2, sizes, kind)
        )
    return arrays


def _runner(compiled: openvino.CompiledModel, inputs: list[npt.NDArray[Any]]) -> Callable[[], None]:
    request = compiled.create_infer_request()
    try:
        for port, array in zip(compiled.inputs, inputs, strict=True):
            request.set_tensor(port, openvino.Tensor(np.ascontiguousarray(array)))
        request.infer()
    except (RuntimeError, ValueError) as error:
        last = next((line for line in reversed(str(error).splitlines()) if line.strip()), "")
        raise MeasurementError(f"the model does not take the given inputs: {last.strip()[:200]}") from None
    return request.infer  # type: ignore[no-any-return]


def compare(
    baseline: Callable[[], Any],
    candidate: Callable[[], Any],
    settings: LatencySettings,
    clock: Callable[[], float] = time.perf_counter,
) -> PairedLatency:
    """The protocol, for any two callables: warm-up, then pairs of blocks until the interval is narrow enough.

    Args:
        baseline: Runs one inference.
        candidate: Runs one inference.
        settings: How.
        clock: Seconds, monotonic.
    """
    rng = np.random.default_rng(settings.seed)
    runs = (baseline, candidate)
    n_repeats = [_warm_up(run, settings.block_seconds, clock) for run in runs]
    times: list[list[float]] = [[], []]
    start = clock()
    while len(times[0]) < settings.max_pairs:
        for which in rng.permutation(2):
            times[which].append(_block(runs[which], n_repeats[which], clock))
        n = len(times[0])
        if n >= settings.min_pairs and clock() - start > settings.max_seconds:
            break
        if n >= settings.min_pairs and n % 10 == 0 and _is_narrow(_speedup(times), settings.half_width):
            break
    return PairedLatency(
        speedup=_speedup(times),
        latency_ms=float(np.median(times[1])) * 1e3,
        baseline_ms=float(np.median(times[0])) * 1e3,
    )


def _warm_up(run: Callable[[], Any], block_seconds: float, clock: Callable[[], float]) -> int:
    """Run for a while; returns how many runs fill one block."""
    run()
    start, n = clock(), 0
    while clock() - start < 5 * block_seconds and n < 1000:
        run()
        n += 1
    seconds = max((clock() - start) / n, 1e-9)
    return max(1, round(block_seconds / seconds))


def _block(run: Callable[[], Any], n_repeats: int, clock: Callable[[], float]) -> float:
    """Seconds of one inference, averaged over a block."""
    start = clock()
    for _ in range(n_repeats):
        run()
    return (clock() - start) / n_repeats


def _speedup(times: list[list[float]]) -> Speedup:
    """Median ratio of pairs and its 95 % interval between order statistics.

    The interval holds for any distribution of the ratios (David & Nagaraja 2003, Order Statistics, section 7.1).
    """
    ratios = np.sort(np.asarray(times[0]) / np.maximum(np.asarray(times[1]), 1e-12))
    n = len(ratios)
    n_outside = max(0, int(binom.ppf(0.025, n, 0.5)) - 1)
    low, high = float(ratios[n_outside]), float(ratios[n - 1 - n_outside])
    return Speedup(value=float(np.median(ratios)), low=low, high=high, n_pairs=n)


def _is_narrow(speedup: Speedup, half_width: float) -> bool:
    return (speedup.high - speedup.low) / 2 <= half_width * speedup.value
