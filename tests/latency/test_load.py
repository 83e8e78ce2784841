"""The load of other processes, from the kernel's counters or without them, and the core of the timing."""

import os
import time
from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from autocompress.latency import load
from autocompress.latency.load import Load, LoadWatch

Times = namedtuple("Times", "user system idle iowait steal guest")


class Kernel:
    """Two cores whose counters are set by hand, and this process's affinity."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.cores, self.own, self.now, self.mask, self.mhz = [[0.0] * 6, [0.0] * 6], 0.0, 0.0, {0, 1}, 2000.0
        patch.setattr(psutil, "cpu_times", lambda percpu: [Times(*core) for core in self.cores])
        patch.setattr(psutil, "cpu_freq", lambda: SimpleNamespace(current=self.mhz))
        patch.setattr(time, "process_time", lambda: self.own)
        patch.setattr(time, "monotonic", lambda: self.now)
        patch.setattr(os, "sched_getaffinity", lambda _: set(self.mask), raising=False)
        patch.setattr(os, "sched_setaffinity", lambda _, cores: setattr(self, "mask", set(cores)), raising=False)

    def second(self, *, own: float = 0.0, **busy: tuple[float, float]) -> None:
        """One second passes, in which each core was busy for these; the rest is idle."""
        for core, counters in enumerate(self.cores):
            used = {name: share[core] for name, share in busy.items()}
            for name, value in (used | {"idle": 1 - sum(used.values())}).items():
                counters[Times._fields.index(name)] += value
        self.own, self.now = self.own + own, self.now + 1


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


@pytest.mark.parametrize(
    ("busy", "own", "share"),
    [
        pytest.param({}, 0.0, 0.0, id="idle"),
        pytest.param({"user": (1.0, 0.0)}, 1.0, 0.0, id="only this process"),
        pytest.param({"user": (1.0, 0.6)}, 1.0, 0.3, id="this and another one"),
        pytest.param({"system": (0.0, 0.4)}, 0.0, 0.2, id="the kernel for another one"),
        pytest.param({"user": (0.8, 0.0), "steal": (0.2, 0.0)}, 0.8, 0.1, id="the host took some"),
    ],
)
def test_the_busy_share_is_what_others_had(kernel: Kernel, busy: Any, own: float, share: float) -> None:
    with LoadWatch(pin=False) as watch:
        kernel.second(own=own, **busy)
        found = watch.read()
    assert found is not None and found.busy_share == pytest.approx(share)


def test_every_window_is_for_itself(kernel: Kernel) -> None:
    with LoadWatch(pin=False) as watch:
        kernel.second(user=(1.0, 1.0))
        first = watch.read()
        kernel.second()
        second = watch.read()
    assert first is not None and second is not None and (first.busy_share, second.busy_share) == (1.0, 0.0)


def test_a_window_of_less_than_ten_ticks_says_nothing(kernel: Kernel) -> None:
    with LoadWatch(pin=False) as watch:
        kernel.now += 0.05
        assert watch.read() is None


def test_a_processor_that_slows_down_is_noticed(kernel: Kernel) -> None:
    drops = []
    with LoadWatch(pin=False) as watch:
        for kernel.mhz in (2000.0, 1000.0):
            kernel.second()
            found = watch.read()
            drops.append(found and found.frequency_drop)
    assert drops == [0.0, 0.5]
    assert Load(0.0, 0.5).exceeds(0.1) and not Load(0.05, 0.05).exceeds(0.1) and Load(0.2).exceeds(0.1)


def test_the_thread_goes_to_the_less_busy_core_and_stays_there_until_it_is_worth_moving(kernel: Kernel) -> None:
    masks = []
    with LoadWatch(pin=True) as watch:
        for busy, own in (((0.9, 0.0), 0.0), ((0.0, 1.0), 1.0), ((0.0, 0.05), 0.0), ((0.0, 0.9), 0.1)):
            kernel.second(user=busy, own=own)
            watch.read()
            masks.append(kernel.mask)
    assert masks == [{1}, {1}, {1}, {0}]
    assert kernel.mask == {0, 1}


def test_without_permission_the_thread_stays_where_it_is(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", refuse, raising=False)
    with LoadWatch(pin=True) as watch:
        kernel.second(user=(0.9, 0.0))
        assert watch.read() is not None


@pytest.mark.parametrize("error", [OSError, RuntimeError], ids=lambda e: e.__name__)
def test_without_counters_nothing_is_known(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    def fail(percpu: bool) -> None:
        raise error("no /proc")

    monkeypatch.setattr(psutil, "cpu_times", fail)
    with LoadWatch(pin=True) as watch:
        kernel.now += 1
        assert watch.read() is None


@pytest.mark.parametrize("frequency", [lambda: None, lambda: (_ for _ in ()).throw(NotImplementedError)])
def test_without_a_frequency_the_load_is_still_known(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, frequency: Any
) -> None:
    monkeypatch.setattr(psutil, "cpu_freq", frequency)
    with LoadWatch(pin=False) as watch:
        kernel.second(user=(0.5, 0.5))
        assert watch.read() == Load(0.5, 0.0)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs affinity")
def test_affinity_is_what_it_was_before() -> None:
    before = os.sched_getaffinity(0)
    with LoadWatch(pin=True) as watch:
        time.sleep(load.MIN_SECONDS)
        watch.read()
    assert os.sched_getaffinity(0) == before
