"""Trainings and timings keep out of each other's way, in all processes of one user on this machine.

A training holds the room together with other trainings, and lets a timing in between two of its steps; a timing has the
room for itself. Both first pass the gate, which a waiting timing keeps shut, so that trainings cannot starve it. The
locks belong to open files: those of a process that is killed are gone with it.
"""

import fcntl
import getpass
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from autocompress.errors import MeasurementError

LONGEST_WAIT = 600.0  # seconds that a timing waits for a training which never pauses
_POLL_SECONDS = 0.005


@contextmanager
def training() -> Iterator[Callable[[], None]]:
    """Hold the room for a training; the function that it gives lets waiting timings in, and is called after each step.

    It costs a few microseconds where nobody waits.
    """
    with _open("gate") as gate, _open("room") as room:

        def enter() -> None:
            fcntl.flock(gate, fcntl.LOCK_SH)
            fcntl.flock(room, fcntl.LOCK_SH)
            fcntl.flock(gate, fcntl.LOCK_UN)

        def pause() -> None:
            fcntl.flock(room, fcntl.LOCK_UN)
            enter()

        enter()
        yield pause


@contextmanager
def quiet(longest_wait: float = LONGEST_WAIT) -> Iterator[None]:
    """Hold the room for a timing; begins when no training is in a step, and keeps trainings from the next one.

    Args:
        longest_wait: Seconds.

    Raises:
        MeasurementError: A training did not pause for that long.
    """
    end = time.monotonic() + longest_wait
    with _open("gate") as gate, _open("room") as room:
        for file in (gate, room):
            while not _taken(file):
                if time.monotonic() > end:
                    raise MeasurementError(
                        f"latency was not measured: a training on this machine went on for {longest_wait:.0f} s "
                        "without a pause; end it, or call budget.scheduler.step() after each of its steps"
                    )
                time.sleep(_POLL_SECONDS)
        yield


def _taken(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _open(name: str) -> Iterator[int]:
    folder = Path(tempfile.gettempdir()) / f"autocompress-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    file = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield file
    finally:
        os.close(file)
