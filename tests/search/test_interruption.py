"""Ctrl-C and SIGTERM wait for a safe point."""

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from autocompress.search.interruption import Interruption


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_at_the_next_check_and_only_there(number: signal.Signals) -> None:
    with Interruption() as interruption:
        interruption.check()
        os.kill(os.getpid(), number)
        reached = sum(range(1000))
        with pytest.raises(KeyboardInterrupt):
            interruption.check()
        interruption.check()
        assert reached


def test_the_handlers_are_put_back() -> None:
    with pytest.raises(ValueError, match="x"), Interruption():
        raise ValueError("x")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def mine(_number: int, _frame: Any) -> None:
    """A handler of the caller's own."""


@pytest.mark.parametrize("handler", [signal.SIG_IGN, mine])
def test_handlers_of_the_callers_own_stay(handler: Any) -> None:
    signal.signal(signal.SIGINT, handler)
    with Interruption():
        assert signal.getsignal(signal.SIGINT) is handler


def test_another_thread_leaves_signals_alone() -> None:
    seen: list[Any] = []

    def enter() -> None:
        with Interruption() as interruption:
            interruption.check()
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
