"""How busy other processes keep the cores, and which core is left to the timing."""

import os
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import psutil

MIN_SECONDS = 0.1  # the kernel counts in ticks of 10 ms; shorter windows say nothing
_WORTH_MOVING = 0.1  # of a core's time that another core must be less busy
_THROTTLED = 0.2  # of the highest frequency seen


@dataclass(frozen=True)
class Load:
    """What else went on in a window of time.

    Attributes:
        busy_share: Share of the cores' time that other processes had or the host of a virtual machine took, in [0, 1].
        frequency_drop: How far the processor's frequency lies below the highest seen, in [0, 1); 0 where it is unknown.
    """

    busy_share: float
    frequency_drop: float = 0.0

    def exceeds(self, max_busy_share: float) -> bool:
        """Whether timings of this window should not be trusted."""
        return self.busy_share > max_busy_share or self.frequency_drop > _THROTTLED


class Watch(Protocol):
    """Told of windows of time; entered before the first and left after the last."""

    def __enter__(self) -> object:
        """Begin the first window."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End watching."""

    def read(self) -> Load | None:
        """End a window and begin the next one; None where nothing could be found out."""


@dataclass(frozen=True)
class _Snapshot:
    total: dict[int, float]
    idle: dict[int, float]
    own: float
    time: float


class LoadWatch:
    """Reads the kernel's counters, about 0.3 ms a window, and keeps the calling thread on the core that is least busy.

    All other processes count, the caller's parent and children included. The cores are those that this process may use.
    Where counters or affinity cannot be had it does without.

    Args:
        pin: Whether the calling thread is bound to one core at a time; only for work that it does by itself.
    """

    def __init__(self, *, pin: bool) -> None:
        self._pin, self._core, self._highest = pin, -1, 0.0
        self._allowed: set[int] = set()
        self._last: _Snapshot | None = None

    def __enter__(self) -> "LoadWatch":
        self._allowed = allowed_cores()
        self._last = _snapshot(self._allowed)
        return self

    def __exit__(self, *_: object) -> None:
        if self._core >= 0:
            _bind(self._allowed)

    def read(self) -> Load | None:
        """The load since the last call, at least 0.1 s ago; the thread may be on another core after it."""
        now, last = _snapshot(self._allowed), self._last
        if now is None or last is None or now.time - last.time < MIN_SECONDS:
            return None
        self._last = now
        total = {core: now.total[core] - last.total[core] for core in now.total}
        busy = {core: total[core] - now.idle[core] + last.idle[core] for core in total}
        own = now.own - last.own
        if sum(total.values()) <= 0:
            return None
        share = (sum(busy.values()) - own) / sum(total.values())
        if self._pin:
            self._move({core: busy[core] - own * (core == self._core) for core in busy}, now.time - last.time)
        return Load(busy_share=min(max(share, 0.0), 1.0), frequency_drop=self._frequency_drop())

    def _move(self, others: dict[int, float], seconds: float) -> None:
        """Bind the thread to the core with the least of `others`, seconds of the window, if that is worth it."""
        best = min(others, key=lambda core: others[core])
        if self._core >= 0 and others[self._core] - others[best] < _WORTH_MOVING * seconds:
            best = self._core
        if len(others) > 1 and _bind({best}):
            self._core = best

    def _frequency_drop(self) -> float:
        try:
            current = float(psutil.cpu_freq().current)
        except (AttributeError, NotImplementedError, OSError, RuntimeError, ValueError):
            return 0.0
        self._highest = max(self._highest, current)
        return 1 - current / self._highest if self._highest > 0 else 0.0


def allowed_cores() -> set[int]:
    """Numbers of the cores on which this thread may run."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _bind(cores: set[int]) -> bool:
    try:
        os.sched_setaffinity(0, cores)
    except (AttributeError, OSError):
        return False
    return True


def _snapshot(cores: set[int]) -> _Snapshot | None:
    """Seconds since the start by core; guests count as users already, and waiting for a disk is idle."""
    try:
        times = dict(enumerate(psutil.cpu_times(percpu=True)))
    except (OSError, RuntimeError, ValueError, IndexError):
        return None
    mine = {core: times[core]._asdict() for core in cores if core in times}
    return _Snapshot(
        total={core: sum(v for k, v in t.items() if not k.startswith("guest")) for core, t in mine.items()},
        idle={core: t["idle"] + t.get("iowait", 0.0) for core, t in mine.items()},
        own=time.process_time(),
        time=time.monotonic(),
    )
