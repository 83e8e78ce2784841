"""Inferences per second where many run at a time."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
from openvino import properties
from openvino.properties import hint

from autocompress.errors import MeasurementError
from autocompress.latency.intervals import paired_interval
from autocompress.latency.load import LoadWatch
from autocompress.latency.models import reason
from autocompress.latency.rounds import measure
from autocompress.latency.settings import LatencySettings
from autocompress.measurement import Speedup

BURST_SECONDS = 0.05
_LEAST_A_STREAM = 10  # inferences in a burst, so that its begin and end, when streams are idle, hardly count

Inputs = list[npt.NDArray[Any]]


@dataclass(frozen=True)
class Throughput:
    """Inferences per second: median of bursts with the 95 % interval.

    Attributes:
        value: Inferences per second; samples per second are that times the batch of the inputs.
        low: Lower end.
        high: Upper end.
        n_bursts: Behind it.
        n_streams: Inferences that ran at a time.
    """

    value: float
    low: float
    high: float
    n_bursts: int
    n_streams: int


def throughput(model: openvino.Model, inputs: Inputs, n_threads: int, seconds: float = 3.0) -> Throughput:
    """How many inferences a second `model` does where OpenVINO may run several at a time.

    Args:
        model: Deployed model.
        inputs: One inference's inputs.
        n_threads: Threads in all streams together.
        seconds: How long to measure, at least; two bursts are always measured.

    Raises:
        MeasurementError: The model does not compile or does not take the inputs.
    """
    bursts = _Bursts(model, inputs, n_threads)
    n = bursts.size(BURST_SECONDS)
    rates: list[float] = []
    end = time.perf_counter() + seconds
    while len(rates) < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        bursts.run(n)
        rates.append(math.log(n / (time.perf_counter() - start)))
    found = paired_interval(np.array(rates), np.zeros(len(rates), np.int64), np.random.default_rng(0))
    return Throughput(found.value, found.low, found.high, found.n_pairs, bursts.n_streams)


def throughput_speedup(
    baseline: openvino.Model, candidate: openvino.Model, inputs: Inputs, settings: LatencySettings
) -> Speedup:
    """Throughput of `candidate` / throughput of `baseline`, from interleaved bursts of equally many inferences.

    Args:
        baseline: Deployed FP32 model.
        candidate: Deployed model with the same inputs.
        inputs: One inference's inputs.
        settings: How; a burst is a block.

    Raises:
        MeasurementError: A model does not compile or does not take the inputs.
    """
    pairs = [
        [_Bursts(model, inputs, settings.n_threads) for model in (baseline, candidate)]
        for _ in range(settings.n_copies)
    ]
    n = max(bursts.size(BURST_SECONDS / 2) for bursts in pairs[0])
    runs = [[bursts.runner(n) for bursts in copies] for copies in zip(*pairs, strict=True)]
    return measure(runs, settings, LoadWatch(pin=False)).speedup(0, 1)


class _Bursts:
    """Bursts of inferences on all streams of one compiled model."""

    def __init__(self, model: openvino.Model, inputs: Inputs, n_threads: int) -> None:
        try:
            compiled = openvino.Core().compile_model(model, "CPU", _configuration(n_threads))
            self._queue = openvino.AsyncInferQueue(compiled)
            for request in self._queue:
                for port, array in zip(compiled.inputs, inputs, strict=True):
                    request.set_tensor(port, openvino.Tensor(np.array(array, order="C")))
            self.n_streams = len(self._queue)
            self.run(self.n_streams)
        except (RuntimeError, ValueError) as error:
            raise MeasurementError(f"OpenVINO cannot run the model on the given inputs: {reason(error)}") from None

    def run(self, n: int) -> None:
        """Run `n` inferences; returns when all are done."""
        for _ in range(n):
            self._queue.start_async()
        self._queue.wait_all()

    def runner(self, n: int) -> Callable[[], None]:
        """A call that runs `n` inferences."""
        return lambda: self.run(n)

    def size(self, seconds: float) -> int:
        """Inferences in a burst of about `seconds`, after a warm-up of as long; no fewer than fill the streams well."""
        least = _LEAST_A_STREAM * self.n_streams
        start, n = time.perf_counter(), 0
        while not n or time.perf_counter() - start < seconds:
            self.run(least)
            n += least
        return max(least, round(n * seconds / (time.perf_counter() - start)))


def _configuration(n_threads: int) -> dict[str, Any]:
    return {
        hint.performance_mode(): hint.PerformanceMode.THROUGHPUT,
        properties.inference_num_threads(): n_threads,
        hint.inference_precision(): openvino.Type.f32,
    }
