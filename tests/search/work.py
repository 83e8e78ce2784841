"""Work for worker processes, each function with one way to end."""

import os
import signal
import time
from pathlib import Path

from autocompress.errors import MeasurementError
from autocompress.search.context import EvaluationContext


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
