"""The probe of this processor: what it rewards, asked with small nets in about a minute."""

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import openvino

from autocompress.cpu_probe import NO_TIME, CpuProbe, ProbeRow
from autocompress.errors import MeasurementError
from autocompress.latency import LatencyProcess, LatencySettings, PairedLatency
from autocompress.measure.environment import describe_environment, int8_saturates
from autocompress.measure.probe_models import ProbeNet, build
from autocompress.measure.probe_questions import Comparison, comparisons, float_nets
from autocompress.measure.runtime import default_precision_of
from autocompress.measurement import Speedup
from autocompress.processes import WorkFailedError

ISA_LIMIT = "ONEDNN_MAX_CPU_ISA"
_SHARE_OF_TIMING = 0.7  # of the time for a comparison; the rest is writing, compiling and warming up
_LEAST_SECONDS = 0.1

OnProgress = Callable[[int, int, str], None]
Inputs = list[npt.NDArray[Any]]


class Timer(Protocol):
    """What times two models against each other, as `LatencyProcess`."""

    def compare(self, baseline: Path, candidate: Path, inputs: Inputs, settings: LatencySettings) -> PairedLatency:
        """As `LatencyProcess.compare`."""

    def default_precision(self, model: Path, inputs: Inputs, settings: LatencySettings) -> Speedup:
        """As `LatencyProcess.default_precision`."""


class ProbeKey(NamedTuple):
    """What an answer depends on; fields as in `CpuProbe`."""

    cpu: str
    capabilities: tuple[str, ...]
    openvino: str
    n_threads: int
    isa_limit: str


def probe_key(n_threads: int) -> ProbeKey:
    """The key of probes in this process with `n_threads` threads."""
    here = describe_environment(n_threads)
    return ProbeKey(here.cpu, here.capabilities, here.versions["openvino"], n_threads, os.environ.get(ISA_LIMIT, ""))


def probe_cpu(
    n_threads: int = 1,
    seconds: float = 60.0,
    on_progress: OnProgress = lambda n_done, n_total, words: None,
    timer: Timer | None = None,
) -> CpuProbe:
    """Ask this processor what it rewards.

    Args:
        n_threads: Threads of every inference, at least 1.
        seconds: How long it may take, > 0; comparisons for which no time is left have no row.
        on_progress: Called before each comparison with how many are done, how many there are, and what comes.
        timer: What times two models; a process of its own if left out.

    Returns:
        The answers; a comparison that this processor cannot run is among the unanswered, with the reason.

    Raises:
        MeasurementError: An argument is out of range, or nothing at all could be timed.
    """
    if n_threads < 1 or not seconds > 0:
        raise MeasurementError(f"a probe needs n_threads >= 1 and seconds > 0, but got {n_threads} and {seconds}")
    start = time.monotonic()
    key = probe_key(n_threads)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="autocompress-probe-")))
        if timer is None:
            process = stack.enter_context(LatencyProcess())
            timer = process
        session = _Session(timer, folder, n_threads, start + seconds)
        session.ask_all(on_progress)
    if not session.rows:
        reasons = "; ".join(sorted(set(session.unanswered.values())))
        raise MeasurementError(f"nothing could be timed on this CPU: {reasons}; give the probe more seconds")
    return CpuProbe(
        **key._asdict(),
        int8_saturates=int8_saturates(),
        float_precision=session.precision,
        rows=tuple(session.rows),
        unanswered=session.unanswered,
        seconds=time.monotonic() - start,
    )


class _Session:
    """One run of the probe: its files, its deadline, its answers so far.

    Args:
        timer: What times two models.
        folder: For the files of the nets.
        n_threads: Threads of every inference.
        deadline: Reading of `time.monotonic` after which nothing is begun.
    """

    def __init__(self, timer: Timer, folder: Path, n_threads: int, deadline: float) -> None:
        self.rows: list[ProbeRow] = []
        self.unanswered: dict[str, str] = {}
        self.precision = self._ask_precision(n_threads)
        self._timer, self._folder, self._n_threads, self._deadline = timer, folder, n_threads, deadline
        self._files: dict[ProbeNet, Path] = {}

    def _ask_precision(self, n_threads: int) -> str:
        """In what OpenVINO runs float layers by itself; f32 where it then cannot run them at all."""
        try:
            return default_precision_of(build(float_nets()[0]), n_threads)
        except MeasurementError as error:
            self.unanswered["precision of float layers"] = str(error)
            return "f32"

    def ask_all(self, on_progress: OnProgress) -> None:
        """Ask everything; also about the precision in which OpenVINO runs float layers, if it is not f32."""
        asked = [(c.words, self._asking(c)) for c in comparisons()]
        if self.precision != "f32":
            name = self.precision.upper()
            asked += [
                (f"{name} against FP32: {n.kind}, {n.shape_words}", self._precision(n, name)) for n in float_nets()
            ]
        for i, (words, ask) in enumerate(asked):
            left = self._deadline - time.monotonic()
            if left <= 0:
                self.unanswered[words] = NO_TIME
                continue
            on_progress(i, len(asked), words)
            try:
                self.rows.append(ask(self._settings(left / (len(asked) - i))))
            except (WorkFailedError, MeasurementError) as error:
                self.unanswered[words] = str(error)
        on_progress(len(asked), len(asked), "")

    def _settings(self, seconds: float) -> LatencySettings:
        return LatencySettings(
            n_threads=self._n_threads,
            min_pairs=20,
            max_seconds=max(_LEAST_SECONDS, _SHARE_OF_TIMING * seconds),
            half_width=0.015,
            block_seconds=0.002,
        )

    def _asking(self, comparison: Comparison) -> Callable[[LatencySettings], ProbeRow]:
        def ask(settings: LatencySettings) -> ProbeRow:
            baseline, candidate = self._file(comparison.baseline), self._file(comparison.candidate)
            timed = self._timer.compare(baseline, candidate, _inputs(comparison.candidate), settings)
            return ProbeRow(
                question=comparison.question,
                kind=comparison.candidate.kind,
                shape=comparison.candidate.shape_words,
                variant=comparison.variant,
                baseline=comparison.baseline_words,
                speedup=timed.speedup,
                noise_floor=timed.check.noise_floor,
                is_noisy=timed.check.is_noisy,
                n_channels=comparison.n_channels,
            )

        return ask

    def _precision(self, net: ProbeNet, name: str) -> Callable[[LatencySettings], ProbeRow]:
        def ask(settings: LatencySettings) -> ProbeRow:
            speedup = self._timer.default_precision(self._file(net), _inputs(net), settings)
            return ProbeRow(
                question="float_precision",
                kind=net.kind,
                shape=net.shape_words,
                variant=name,
                baseline="FP32",
                speedup=speedup,
            )

        return ask

    def _file(self, net: ProbeNet) -> Path:
        if net not in self._files:
            self._files[net] = self._folder / f"{len(self._files)}.xml"
            openvino.save_model(build(net), self._files[net], compress_to_fp16=False)
        return self._files[net]


def _inputs(net: ProbeNet) -> Inputs:
    return [np.random.default_rng(0).random(net.input_shape, dtype=np.float32)]
