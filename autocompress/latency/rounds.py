"""Interleaved timing of several models: in every round each runs one short block, in random order."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from autocompress.latency.intervals import paired_interval, relative_half_width, widened
from autocompress.latency.load import Load, Watch
from autocompress.latency.settings import LatencySettings
from autocompress.measurement import Speedup

Floats = npt.NDArray[np.float64]
Run = Callable[[], Any]
Clock = Callable[[], float]
WINDOW_SECONDS = 0.25  # over which the load of others is counted
LONG_SECONDS = 0.01  # inferences of this length hardly notice caches that another model has filled
LEAST_OWN_SHARE = 0.4  # of an inference's time, that the thread itself must have worked in the least disturbed one
LOADED = 0.005  # error of a log ratio, beyond what repeats show, where others use the machine; see `Session`
_WARM_UP_BLOCKS = 5
_MAX_WARM_UP = 1000  # inferences
_PATIENCE = 3  # times `min_pairs` rounds are spent on waiting for that many quiet ones
_STRICTER = 0.9  # times the half-width asked for must be reached to end early, for looking often favours luck


@dataclass(frozen=True)
class Round:
    """What one round found out.

    Attributes:
        copy: Which copy of each model ran.
        inferences: Seconds of every timed inference by the stopwatch, by model.
        walls: The same inferences by the clock on the wall, interruptions included.
        control: The same of a second copy of the first model; None in rounds without it.
    """

    copy: int
    inferences: tuple[Floats, ...]
    walls: tuple[Floats, ...]
    control: Floats | None


@dataclass
class Session:
    """All rounds of one measurement.

    Where busy rounds had to be used intervals are wider by a fixed part: after each interruption caches are cold, which
    costs long inferences more often than short ones and shows in every round alike. Beside a process that multiplied
    matrices 4 against 1 inferences were off by 0.8 % in the median (reports/benchmarks/timing.md has it as it is now).

    Attributes:
        settings: How it was measured.
        n_models: The first of them is the baseline.
        rounds: In the order of time.
        busy: By round, whether others kept the machine too busy.
        loads: Of the windows in which the load could be found out.
    """

    settings: LatencySettings
    n_models: int
    rounds: list[Round] = field(default_factory=list)
    busy: list[bool] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)

    @property
    def is_quiet(self) -> bool:
        """Whether enough rounds are quiet to do without the others."""
        return self.busy.count(False) >= max(self.settings.min_pairs, 2)

    @property
    def used(self) -> list[Round]:
        """The quiet rounds; all, where these are too few."""
        return [r for r, busy in zip(self.rounds, self.busy, strict=True) if not (busy and self.is_quiet)]

    @property
    def busy_share(self) -> float:
        """Mean share of the cores that other processes had, in [0, 1]."""
        return float(np.mean([load.busy_share for load in self.loads])) if self.loads else 0.0

    def speedup(self, slow: int, fast: int) -> Speedup:
        """Latency of model `slow` / latency of model `fast`."""
        return self._interval([_log(r.inferences[slow]) - _log(r.inferences[fast]) for r in self.used], self.used)

    def control(self) -> Speedup:
        """The baseline's ratio to itself: the A/A control."""
        used = [r for r in self.used if r.control is not None]
        if len(used) < 2:
            used = [r for r in self.rounds if r.control is not None]
        return self._interval([_log(r.inferences[0]) - _log(r.control) for r in used if r.control is not None], used)

    def seconds(self, model: int) -> Floats:
        """Seconds on the wall of every single inference of a model in the rounds used."""
        return np.concatenate([r.walls[model] for r in self.used])

    def _interval(self, log_ratios: list[float], rounds: list[Round]) -> Speedup:
        copies = np.array([r.copy for r in rounds])
        found = paired_interval(np.array(log_ratios), copies, np.random.default_rng(self.settings.seed))
        return found if self.is_quiet or not any(self.busy) else widened(found, LOADED)

    def is_narrow(self) -> bool:
        """Whether every ratio of two models is known closely enough, with a margin."""
        wanted = _STRICTER * self.settings.half_width
        pairs = ((i, j) for i in range(self.n_models) for j in range(i + 1, self.n_models))
        return all(relative_half_width(self.speedup(i, j)) <= wanted for i, j in pairs)


def _log(inferences: Floats) -> float:
    """Logarithm of the median, which an interrupted inference does not move."""
    return float(np.log(max(float(np.median(inferences)), 1e-12)))


def measure(
    models: Sequence[Sequence[Run]],
    settings: LatencySettings,
    watch: Watch,
    clock: Clock = time.perf_counter,
    stopwatch: Clock | None = None,
) -> Session:
    """Warm-up, then rounds until every ratio is known closely enough, or time or rounds are used up.

    Whether it is enough is looked at after windows of a quarter of a second whose number grows by a fifth, and must be
    found twice. Rounds of windows in which others were busy are measured again, as long as `min_pairs` quiet ones can
    be had in three times as many; chosen by the load, never by the ratio.

    Args:
        models: For each model its copies, each running one inference; the same number of every model.
        settings: How.
        watch: Asked for the load after every window.
        clock: Seconds, monotonic.
        stopwatch: What inferences are timed with; by default `clock`. Where all work is done by the calling thread,
            `time.thread_time` leaves out what waits for others, which happens more often within a long inference than
            within a short one and so would change the ratio; it is not used where it shows that others do the work.
    """
    rng = np.random.default_rng(settings.seed)
    blocks = _Blocks(models, settings, clock, stopwatch or clock)
    session = Session(settings, len(models))
    n_windows, next_look, narrow_before, start = 0, 1.0, False, clock()
    with watch:
        while True:
            _window(session, blocks, rng, clock, start)
            _judge(session, watch.read())
            n_windows += 1
            if _is_over(session, clock() - start):
                return session
            if n_windows >= next_look and _may_end(session, clock() - start):
                narrow, next_look = session.is_narrow(), 1.2 * n_windows
                if narrow and narrow_before:
                    return session
                narrow_before = narrow


class _Blocks:
    """Runs blocks of the copies of models, each of them warm."""

    def __init__(
        self, models: Sequence[Sequence[Run]], settings: LatencySettings, clock: Clock, stopwatch: Clock
    ) -> None:
        self.models, self._clock = models, clock
        warm = [[_warm_up(run, settings.block_seconds, clock, stopwatch) for run in copies] for copies in models]
        typical = [min(seconds for seconds, _ in copies) for copies in warm]
        self._stopwatch = stopwatch if all(max(own for _, own in c) > LEAST_OWN_SHARE for c in warm) else clock
        self._n_repeats = [max(1, round(settings.block_seconds / s)) for s in typical]
        self._n_untimed = 1 if min(typical) < LONG_SECONDS else 0
        self._order: list[int] = []

    def round(self, index: int, rng: np.random.Generator) -> Round:
        """One block of each model, of the same copy; in every other round, and the first two, one more of the first."""
        copy = self._copy(rng)
        runs = [copies[copy] for copies in self.models]
        if index % 2 == 0 or index < 2:
            runs.append(self.models[0][(copy + 1) % len(self.models[0])])
        blocks: dict[int, tuple[Floats, Floats]] = {}
        for which in rng.permutation(len(runs)):
            blocks[int(which)] = self._block(runs[which], self._n_repeats[which % len(self.models)])
        timed = [blocks[i] for i in range(len(self.models))]
        control = blocks.get(len(self.models))
        return Round(copy, tuple(own for own, _ in timed), tuple(wall for _, wall in timed), control and control[0])

    def _copy(self, rng: np.random.Generator) -> int:
        """Each copy equally often, in random order."""
        if not self._order:
            self._order = [int(i) for i in rng.permutation(len(self.models[0]))]
        return self._order.pop()

    def _block(self, run: Run, n_repeats: int) -> tuple[Floats, Floats]:
        """Seconds of each inference of a block by stopwatch and clock; the untimed one first fills the caches."""
        for _ in range(self._n_untimed):
            run()
        own, walls = [self._stopwatch()], [self._clock()]
        for _ in range(n_repeats):
            run()
            own.append(self._stopwatch())
            walls.append(self._clock())
        return np.diff(own), np.diff(walls)


def _warm_up(run: Run, block_seconds: float, clock: Clock, stopwatch: Clock) -> tuple[float, float]:
    """Run for a few blocks, twice at least.

    Returns:
        Median seconds of the later half of the inferences, and the largest share of one that the stopwatch saw.
    """
    run()
    start = clock()
    seconds: list[float] = []
    own = 0.0
    while not seconds or (clock() - start < _WARM_UP_BLOCKS * block_seconds and len(seconds) < _MAX_WARM_UP):
        begin, begin_own = clock(), stopwatch()
        run()
        seconds.append(clock() - begin)
        own = max(own, (stopwatch() - begin_own) / max(seconds[-1], 1e-9))
    return max(float(np.median(seconds[len(seconds) // 2 :])), 1e-9), own


def _window(session: Session, blocks: _Blocks, rng: np.random.Generator, clock: Clock, start: float) -> None:
    """Rounds for a quarter of a second, one at least, unless the measurement ends before that."""
    begin = clock()
    while True:
        session.rounds.append(blocks.round(len(session.rounds), rng))
        if clock() - begin >= WINDOW_SECONDS or _is_over(session, clock() - start):
            return


def _judge(session: Session, load: Load | None) -> None:
    """Mark the rounds since the last load."""
    n_new = len(session.rounds) - len(session.busy)
    session.busy += [load is not None and load.exceeds(session.settings.max_busy_share)] * n_new
    if load is not None:
        session.loads.append(load)


def _is_over(session: Session, seconds: float) -> bool:
    """Whether no further round may begin."""
    n, settings = len(session.rounds), session.settings
    return n >= max(settings.max_pairs, 2) or (n >= max(settings.min_pairs, 2) and seconds > settings.max_seconds)


def _may_end(session: Session, seconds: float) -> bool:
    """Whether it may end early, if the intervals are narrow."""
    n, settings = len(session.rounds), session.settings
    has_enough = session.is_quiet or n >= _PATIENCE * settings.min_pairs
    return n >= settings.min_pairs and seconds >= settings.min_seconds and has_enough
