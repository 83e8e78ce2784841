"""Latency as a paired ratio to the baseline, with an interval."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
from scipy.stats import binom

from autocompress.latency.models import compile_model, runner
from autocompress.latency.settings import JointLatency, LatencySettings, PairedLatency
from autocompress.measurement import LatencyCheck, Speedup


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
    runs = [runner(compile_model(model, settings.n_threads), inputs) for model in (baseline, candidate)]
    return compare(runs[0], runs[1], settings)


def joint_latency(
    baseline: openvino.Model,
    candidates: Sequence[openvino.Model],
    inputs: list[npt.NDArray[Any]],
    settings: LatencySettings,
) -> JointLatency:
    """All of `candidates` against `baseline` and against each other, in the same rounds.

    Args:
        baseline: Deployed FP32 model.
        candidates: At least one deployed model with the same inputs.
        inputs: One real inference's inputs.
        settings: How; measuring ends early when every interval is narrow enough.

    Raises:
        MeasurementError: A model does not compile or does not take the inputs.
    """
    raise NotImplementedError


def default_precision_speedup(
    model: openvino.Model, inputs: list[npt.NDArray[Any]], settings: LatencySettings
) -> Speedup:
    """How much faster `model` is where OpenVINO chooses the precision of float layers than in f32."""
    runs = [runner(compile_model(model, settings.n_threads, fix_precision=fixed), inputs) for fixed in (True, False)]
    return compare(runs[0], runs[1], settings).speedup


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
        check=LatencyCheck(
            p90_ms=float(np.quantile(times[1], 0.9)) * 1e3,
            p99_ms=float(np.quantile(times[1], 0.99)) * 1e3,
            noise_floor=0.0,
            busy_share=0.0,
        ),
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
