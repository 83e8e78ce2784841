"""Work in a process of its own: if it crashes or hangs, one piece of work fails and the caller goes on."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic, TypeVar

import loky
from loky.process_executor import TerminatedWorkerError

from autocompress.errors import AutocompressError

Context = TypeVar("Context")
Result = TypeVar("Result")
_POLL_SECONDS = 0.25
_ENVIRONMENT = {
    "LOKY_MAX_MEMORY_LEAK_SIZE": "1e15",  # a process that trains does grow; don't restart it for that
}
_context: Any = None


class WorkFailedError(AutocompressError):
    """A piece of work failed; the message is its reason."""


class OutOfTimeError(WorkFailedError):
    """The work was stopped because its time was up."""


def _start(context: Context, prepare: Callable[[Context], None], start_method: str | None) -> None:
    """Prepare the process: Ctrl-C is for the parent alone, a killed parent ends it.

    The parent's start method is set, since the processes of a user's DataLoader cannot be started by loky's own.
    """
    global _context
    multiprocessing.set_start_method(start_method, force=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    prepare(context)
    _context = context


def _end_with(parent: int) -> None:
    """End this process soon after the process `parent` has ended, however that happened."""
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(1)


def _run(function: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    try:
        return function(_context, *arguments)
    except AutocompressError as error:
        raise WorkFailedError(str(error)) from None
    except Exception as error:  # whatever the user's model, loss or score raises
        first = (str(error).strip().splitlines() or [""])[0]
        raise WorkFailedError(f"{type(error).__name__}: {first}") from None


class WorkProcess(Generic[Context]):
    """Runs functions in one process that has a context; it is started at the first call and again after a crash.

    Args:
        context: First argument of every function; pickled once, when the process starts.
        prepare: Called with the context at the start of the process; a function of a module.
        name: What messages call the process.
        on_wait: Called about four times a second while work is under way; `KeyboardInterrupt` from it ends the work.
    """

    def __init__(
        self,
        context: Context,
        prepare: Callable[[Context], None],
        name: str,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self._context, self._prepare, self._name, self._on_wait = context, prepare, name, on_wait
        self._executor: loky.ProcessPoolExecutor | None = None

    def call(self, function: Callable[..., Result], *arguments: Any, deadline: float | None = None) -> Result:
        """``function(context, *arguments)`` in the process.

        Args:
            function: A function of a module, its first parameter the context.
            arguments: Its other arguments.
            deadline: `time.monotonic()` at which the process is killed.

        Raises:
            WorkFailedError: It raised or crashed.
            OutOfTimeError: It was killed at the deadline.
        """
        if self._executor is None:
            start_method = multiprocessing.get_start_method(allow_none=True)
            arguments_of_start = (self._context, self._prepare, start_method)
            self._executor = loky.ProcessPoolExecutor(
                max_workers=1, initializer=_start, initargs=arguments_of_start, env=_ENVIRONMENT
            )
        future: Future[Result] = self._executor.submit(_run, function, arguments)
        try:
            return self._wait(future, deadline)
        except (KeyboardInterrupt, OutOfTimeError):
            self.stop()
            raise
        except (TerminatedWorkerError, BrokenProcessPool, CancelledError) as error:
            self.stop()
            first = (str(error).strip().splitlines() or [""])[0]
            raise WorkFailedError(f"{self._name} died, for example for lack of memory: {first}") from None

    def _wait(self, future: Future[Result], deadline: float | None) -> Result:
        while True:
            try:
                return future.result(timeout=_POLL_SECONDS)
            except TimeoutError:
                self._on_wait()
            if deadline is not None and time.monotonic() > deadline:
                raise OutOfTimeError("it was stopped because the budget was used up")

    def stop(self, kill: bool = True) -> None:
        """End the process, at once or when its work is done; the next call starts a new one."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, kill_workers=kill)
            self._executor = None

    def __enter__(self) -> "WorkProcess[Context]":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop(kill=kind is not None)
