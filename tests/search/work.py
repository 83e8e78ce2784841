"""Work for worker processes, each function with one way to end."""

import os
import signal
import time
from pathlib import Path

from autocompress.errors import MeasurementError
from autocompress.latency import LatencySettings
from autocompress.processes import WorkFailedError
from autocompress.recipe import Recipe
from autocompress.search.context import EvaluationContext, Rung
from autocompress.search.evaluate import export_candidate, measure_candidate
from autocompress.search.training import train_candidate


def add(context: EvaluationContext, a: int, b: int) -> int:
    return a + b


def process(context: EvaluationContext) -> int:
    return os.getpid()


def n_cores(context: EvaluationContext) -> int:
    return context.n_cores


def fail(context: EvaluationContext) -> None:
    raise ValueError("first line\nsecond line")


def refuse(context: EvaluationContext) -> None:
    raise MeasurementError("the score is nan")


def crash(context: EvaluationContext) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(context: EvaluationContext) -> None:
    os._exit(3)


def sleep(context: EvaluationContext, seconds: float, file: Path) -> None:
    file.write_text(str(os.getpid()))
    time.sleep(seconds)


class DyingTimer:
    """A process for timing that dies of every comparison."""

    def compare(self, *_: object) -> None:
        raise WorkFailedError("the measuring process died, for example for lack of memory")


def candidate_with_a_dying_timer(context: EvaluationContext) -> None:
    train_candidate(context, Recipe(), context.baseline_folder, Rung("baseline", 0), 0)
    export_candidate(context, Recipe(), context.baseline_folder)
    context._timer.append(DyingTimer())  # type: ignore[arg-type]
    measure_candidate(context, Recipe(), context.baseline_folder, "validation", LatencySettings())
