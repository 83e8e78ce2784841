"""The process in which nothing happens but timing: no torch, no training, fixed threads."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from autocompress.latency.models import read_model
from autocompress.latency.protocol import default_precision_speedup, joint_latency, paired_latency
from autocompress.latency.settings import JointLatency, LatencySettings, PairedLatency
from autocompress.latency.training_lock import quiet
from autocompress.measurement import Speedup
from autocompress.processes import WorkProcess

Inputs = list[npt.NDArray[Any]]


class LatencyProcess:
    """Times models in a process of its own, which is started at the first call and again after a crash.

    Each call waits until no training of this machine's user is in a step, and keeps trainings from the next one.

    Args:
        on_wait: Called about four times a second meanwhile; `KeyboardInterrupt` from it ends the work.
    """

    def __init__(self, on_wait: Callable[[], None] = lambda: None) -> None:
        self._process = WorkProcess(None, _prepare, "the measuring process", on_wait)

    def compare(self, baseline: Path, candidate: Path, inputs: Inputs, settings: LatencySettings) -> PairedLatency:
        """`paired_latency` of the models in two files.

        Raises:
            WorkFailedError: A model cannot be read or compiled or does not take the inputs, or the process died.
        """
        return self._process.call(_compare, baseline, candidate, inputs, settings)

    def compare_all(
        self, baseline: Path, candidates: Sequence[Path], inputs: Inputs, settings: LatencySettings
    ) -> JointLatency:
        """`joint_latency` of the models in files.

        Raises:
            WorkFailedError: As `compare`.
        """
        return self._process.call(_compare_all, baseline, tuple(candidates), inputs, settings)

    def default_precision(self, model: Path, inputs: Inputs, settings: LatencySettings) -> Speedup:
        """`default_precision_speedup` of the model in a file.

        Raises:
            WorkFailedError: As `compare`.
        """
        return self._process.call(_default_precision, model, inputs, settings)

    def stop(self) -> None:
        """End the process; the next call starts a new one."""
        self._process.stop()

    def __enter__(self) -> "LatencyProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _prepare(_: None) -> None:
    """Nothing but the imports above."""


def _compare(_: None, baseline: Path, candidate: Path, inputs: Inputs, settings: LatencySettings) -> PairedLatency:
    models = [read_model(path) for path in (baseline, candidate)]
    with quiet():
        return paired_latency(models[0], models[1], inputs, settings)


def _compare_all(
    _: None, baseline: Path, candidates: tuple[Path, ...], inputs: Inputs, settings: LatencySettings
) -> JointLatency:
    models = [read_model(path) for path in (baseline, *candidates)]
    with quiet():
        return joint_latency(models[0], models[1:], inputs, settings)


def _default_precision(_: None, model: Path, inputs: Inputs, settings: LatencySettings) -> Speedup:
    with quiet():
        return default_precision_speedup(read_model(model), inputs, settings)
