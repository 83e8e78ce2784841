"""Latency as a paired ratio to the baseline, with an interval."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino

from autocompress.latency.intervals import relative_half_width
from autocompress.latency.load import LoadWatch, Watch
from autocompress.latency.models import compile_model, runner
from autocompress.latency.rounds import Clock, Run, Session, measure
from autocompress.latency.settings import JointLatency, LatencySettings, PairedLatency
from autocompress.measurement import LatencyCheck, Speedup

COMPILE_SECONDS = 1.5  # that the copies of all models may take to compile, but for two of each

Inputs = list[npt.NDArray[Any]]


def paired_latency(
    baseline: openvino.Model, candidate: openvino.Model, inputs: Inputs, settings: LatencySettings
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
    return joint_latency(baseline, [candidate], inputs, settings).results[0]


def joint_latency(
    baseline: openvino.Model, candidates: Sequence[openvino.Model], inputs: Inputs, settings: LatencySettings
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
    session = _measured([_compiler(model, inputs, settings) for model in (baseline, *candidates)], settings)
    names = range(1, session.n_models)
    return JointLatency(
        results=tuple(_result(session, i) for i in names),
        between=tuple(tuple(_between(session, i, j) for j in names) for i in names),
    )


def default_precision_speedup(model: openvino.Model, inputs: Inputs, settings: LatencySettings) -> Speedup:
    """How much faster `model` is where OpenVINO chooses the precision of float layers than in f32.

    Raises:
        MeasurementError: The model does not compile or does not take the inputs.
    """
    makers = [_compiler(model, inputs, settings, fix_precision=fixed) for fixed in (True, False)]
    return _measured(makers, settings).speedup(0, 1)


def compare(
    baseline: Run,
    candidate: Run,
    settings: LatencySettings,
    clock: Clock = time.perf_counter,
    watch: Watch | None = None,
) -> PairedLatency:
    """The protocol for any two callables, see `autocompress.latency.rounds.measure`.

    The interval is about these two as they lie in memory; that others made alike may differ has no part in it.

    Args:
        baseline: Runs one inference.
        candidate: Runs one inference.
        settings: How.
        clock: Seconds, monotonic.
        watch: Says how busy others were; by default the kernel's counters.
    """
    return _result(measure([[baseline], [candidate]], settings, watch or LoadWatch(pin=False), clock), 1)


def _compiler(
    model: openvino.Model, inputs: Inputs, settings: LatencySettings, *, fix_precision: bool = True
) -> Callable[[], Run]:
    """A function that compiles another copy of `model`, with a request and input tensors of its own."""
    return lambda: runner(compile_model(model, settings.n_threads, fix_precision=fix_precision), inputs)


def _measured(makers: Sequence[Callable[[], Run]], settings: LatencySettings) -> Session:
    """Compile the copies of each model in turn, so that none has the better places in memory, and time them."""
    start = time.perf_counter()
    copies = [[make() for make in makers]]
    n_affordable = int(COMPILE_SECONDS / max(time.perf_counter() - start, 1e-9))
    copies += [[make() for make in makers] for _ in range(min(settings.n_copies, max(n_affordable, 2)) - 1)]
    runs, is_single = list(zip(*copies, strict=True)), settings.n_threads == 1  # then the caller's thread does it all
    stopwatch = time.thread_time if is_single else time.perf_counter
    return measure(runs, settings, LoadWatch(pin=is_single), stopwatch=stopwatch)


def _result(session: Session, model: int) -> PairedLatency:
    speedup = session.speedup(0, model)
    milliseconds = session.seconds(model) * 1e3
    control, n_used = session.control(), len(session.used)
    p50, p90, p99 = (float(q) for q in np.quantile(milliseconds, [0.5, 0.9, 0.99]))
    return PairedLatency(
        speedup=speedup,
        latency_ms=p50,
        baseline_ms=float(np.median(session.seconds(0))) * 1e3,
        check=LatencyCheck(
            p90_ms=p90,
            p99_ms=p99,
            noise_floor=max(abs(control.low - 1), abs(control.high - 1)),
            busy_share=session.busy_share,
            n_discarded=len(session.rounds) - n_used,
            is_noisy=relative_half_width(speedup) > session.settings.half_width
            or (any(session.busy) and not session.is_quiet),
        ),
    )


def _between(session: Session, i: int, j: int) -> Speedup:
    if i == j:
        return Speedup(value=1, low=1, high=1, n_pairs=len(session.used))
    return session.speedup(i, j)
