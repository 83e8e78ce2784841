"""Ctrl-C and SIGTERM as a wish that is granted at the next safe point, never in the middle of writing a file."""

import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

_REPLACED: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class Interruption:
    """While entered, remembers that Ctrl-C was pressed, or that the process was asked to end, until `check`.

    Only the default handlers are replaced, and only in the main thread: a caller's own handlers and ignored signals
    stay as they are. Without it an exception may be raised inside Optuna's journal, which then keeps its lock.
    """

    def __init__(self) -> None:
        self._requested = False
        self._restore: list[Callable[[], Any]] = []

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number, default in _REPLACED.items():
                if signal.getsignal(number) is default:
                    signal.signal(number, self._remember)
                    self._restore.append(partial(signal.signal, number, default))
        return self

    def __exit__(self, *_: object) -> None:
        while self._restore:
            self._restore.pop()()

    def _remember(self, _number: int, _frame: FrameType | None) -> None:
        self._requested = True

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if it was asked for since the last check."""
        if self._requested:
            self._requested = False
            raise KeyboardInterrupt
