"""The protocol against streams of known ratio, with a clock that only moves when something runs."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from autocompress.latency import LatencySettings, PairedLatency
from autocompress.latency.load import Load
from autocompress.latency.protocol import _result, compare
from autocompress.latency.rounds import measure

SETTINGS = LatencySettings(min_pairs=30, max_pairs=60, max_seconds=1e9, half_width=0.0, block_seconds=0.003)
EARLY = replace(SETTINGS, max_pairs=1000, half_width=0.01)


class Machine:
    """A clock, and two models whose runs take time on it, slowed by a drift, by spikes and by waves."""

    def __init__(
        self,
        ratio: float,
        seed: int = 0,
        noise: float = 0.02,
        drift: float = 0.0,
        spikes: float = 0.0,
        wave: float = 0.0,
        cold: float = 1.0,
    ) -> None:
        self.now, self.order = 0.0, ""
        self._rng, self._ratio, self._noise, self._drift = np.random.default_rng(seed), ratio, noise, drift
        self._spikes, self._wave, self._level, self._cold = spikes, wave, 0.0, cold

    def clock(self) -> float:
        return self.now

    def run(self, name: str, seconds: float) -> None:
        self._level = 0.9 * self._level + self._wave * float(self._rng.standard_normal())
        slow = (1 + self._drift * self.now) * float(np.exp(self._level + self._noise * self._rng.standard_normal()))
        spike = 20.0 if self._rng.random() < self._spikes else 1.0
        cold = self._cold if self.order[-1:] != name else 1.0
        self.now += seconds * slow * spike * cold
        self.order += name

    def baseline(self) -> None:
        self.run("a", 0.004)

    def candidate(self) -> None:
        self.run("b", 0.004 / self._ratio)

    def copies(self, spread: float, n: int) -> list[list[Callable[[], None]]]:
        """Copies of both models whose speed differs by a fixed factor each."""
        seconds = np.exp(spread * self._rng.standard_normal((2, n))) * [[0.004], [0.004 / self._ratio]]
        return [[partial(self.run, name, s) for s in row] for name, row in zip("ab", seconds, strict=True)]


class Quiet:
    """A watch that reads out what it was given, the last for ever."""

    def __init__(self, *shares: float) -> None:
        self._shares, self.n_reads = shares or (0.0,), 0

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def read(self) -> Load:
        self.n_reads += 1
        return Load(self._shares[min(self.n_reads, len(self._shares)) - 1])


def timed(machine: Machine, settings: LatencySettings = SETTINGS, watch: Quiet | None = None) -> PairedLatency:
    return compare(machine.baseline, machine.candidate, settings, machine.clock, watch or Quiet())


class Shared(Machine):
    """Another process has the processor for half of the time, in turns that only long inferences are interrupted by."""

    turn = 0.003

    def __init__(self, ratio: float) -> None:
        super().__init__(ratio, noise=0.0)
        self.own = 0.0

    def stopwatch(self) -> float:
        return self.own

    def run(self, name: str, seconds: float) -> None:
        self.own += seconds
        self.now += seconds + self.turn * int(seconds / self.turn)
        self.order += name


def speedup(machine: Machine, settings: LatencySettings = SETTINGS):  # noqa: ANN201
    return timed(machine, settings).speedup


def test_the_ratio_is_baseline_over_candidate() -> None:
    found = timed(Machine(2.0, noise=0.0))
    assert found.speedup.value == pytest.approx(2.0)
    assert (found.baseline_ms, found.latency_ms) == (pytest.approx(4.0), pytest.approx(2.0))


@pytest.mark.parametrize(
    "machine",
    [
        pytest.param(lambda: Machine(1.5, drift=2.0), id="becomes slower all the time"),
        pytest.param(lambda: Machine(1.5, spikes=0.05), id="sometimes takes 20 times as long"),
        pytest.param(lambda: Machine(1.5, wave=0.05), id="is slow and fast by turns"),
        pytest.param(lambda: Machine(1.5, cold=3.0), id="is slow after another model"),
    ],
)
def test_the_ratio_holds_on_a_machine_that(machine: Callable[[], Machine]) -> None:
    assert speedup(machine()).value == pytest.approx(1.5, rel=0.02)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param({"noise": 0.1}, id="noise"),
        pytest.param({"noise": 0.02, "spikes": 0.05}, id="spikes"),
        pytest.param({"noise": 0.02, "wave": 0.05}, id="correlated noise"),
        pytest.param({"noise": 0.02, "drift": 2.0}, id="drift"),
    ],
)
def test_the_interval_covers_the_truth_in_at_least_93_of_100_sessions(kind: dict[str, float]) -> None:
    found = [speedup(Machine(1.3, seed=seed, **kind)) for seed in range(100)]
    assert sum(s.low <= 1.3 <= s.high for s in found) >= 93
    assert all(s.low <= s.value <= s.high for s in found)


def test_stopping_early_keeps_the_coverage() -> None:
    settings = replace(EARLY, max_pairs=400, half_width=0.02)
    found = [speedup(Machine(1.3, seed=seed, noise=0.04), settings) for seed in range(100)]
    assert np.median([s.n_pairs for s in found]) < 300
    assert sum(s.low <= 1.3 <= s.high for s in found) >= 93


def test_copies_that_lie_better_in_memory_widen_the_interval() -> None:
    hits = []
    for seed in range(100):
        machine = Machine(1.3, seed=seed, noise=0.005)
        session = measure(machine.copies(spread=0.003, n=6), SETTINGS, Quiet(), machine.clock)
        found = session.speedup(0, 1)
        hits.append(found.low <= 1.3 <= found.high)
    assert sum(hits) >= 93


def test_every_copy_runs_equally_often() -> None:
    machine = Machine(1.3)
    session = measure(machine.copies(spread=0.01, n=3), SETTINGS, Quiet(), machine.clock)
    assert np.bincount([r.copy for r in session.rounds]).tolist() == [20, 20, 20]


def test_the_order_within_rounds_is_mixed() -> None:
    machine = Machine(1.0)
    timed(machine)
    doubled = machine.order[-200:]
    assert "aabb" in doubled and "bbaa" in doubled


def test_the_first_inference_of_a_block_is_not_timed() -> None:
    assert timed(Machine(1.0, noise=0.0, cold=5.0)).latency_ms == pytest.approx(4.0)


def test_short_inferences_are_repeated_to_fill_a_block() -> None:
    machine = Machine(4.0, noise=0.0)
    timed(machine, replace(SETTINGS, block_seconds=0.012))
    blocks = machine.order[-40:].replace("ab", "a b").replace("ba", "b a").split()
    assert {len(b) - 1 for b in blocks[1:-1] if b[0] == "b"} == {12}
    assert {(len(b) - 1) % 3 for b in blocks[1:-1] if b[0] == "a"} <= {0, 1}


def test_measuring_ends_at_the_time_cap_but_not_before_the_least_number_of_rounds() -> None:
    capped = LatencySettings(min_pairs=10, max_pairs=1000, max_seconds=0.0, half_width=0.0)
    assert speedup(Machine(1.0), capped).n_pairs == 10


def test_a_quiet_machine_ends_early_and_a_noisy_one_does_not() -> None:
    assert speedup(Machine(1.0, noise=0.001), EARLY).n_pairs < 100
    assert speedup(Machine(1.0, noise=0.3), replace(EARLY, max_pairs=200)).n_pairs == 200


def test_rounds_from_a_busy_machine_are_measured_again() -> None:
    found = timed(Machine(1.5), EARLY, Quiet(0.5, 0.5, 0.0))
    assert found.check.n_discarded > 0 and not found.check.is_noisy
    assert 0 < found.check.busy_share < 0.5


def test_rounds_are_used_and_flagged_where_the_machine_is_always_busy() -> None:
    found = timed(Machine(1.5, noise=0.001), EARLY, Quiet(0.7))
    assert found.check.is_noisy and found.check.n_discarded == 0
    assert found.check.busy_share == pytest.approx(0.7)
    assert found.speedup.n_pairs >= 90


def test_a_little_load_is_no_reason_to_measure_again() -> None:
    found = timed(Machine(1.5), EARLY, Quiet(0.05))
    assert not found.check.is_noisy and found.check.n_discarded == 0


def test_an_interval_wider_than_asked_for_is_flagged() -> None:
    assert timed(Machine(1.5, noise=0.2), replace(SETTINGS, half_width=0.01)).check.is_noisy


def test_the_noise_floor_is_that_of_the_baseline_against_itself() -> None:
    floors = [timed(Machine(3.0, noise=noise)).check.noise_floor for noise in (0.0, 0.01, 0.1)]
    assert floors[0] == pytest.approx(0) and 0 < floors[1] < 0.03 < floors[2]


def test_percentiles_are_of_single_inferences() -> None:
    check = timed(Machine(1.0, noise=0.0, spikes=0.04), replace(SETTINGS, max_pairs=600, min_pairs=600)).check
    assert check.p90_ms == pytest.approx(4.0) and check.p99_ms > 20


def test_the_same_seed_gives_the_same_interval() -> None:
    assert speedup(Machine(1.2)) == speedup(Machine(1.2))
    assert speedup(Machine(1.2)) != speedup(Machine(1.2), replace(SETTINGS, seed=1))


def with_stopwatch(machine: Shared, stopwatch: Callable[[], float]) -> PairedLatency:
    runs = [[machine.baseline], [machine.candidate]]
    session = measure(runs, SETTINGS, Quiet(), machine.clock, stopwatch)
    return _result(session, 1)


def test_what_waits_for_others_is_not_in_the_ratio_but_in_the_percentiles() -> None:
    machine = Shared(2.0)
    found = with_stopwatch(machine, machine.stopwatch)
    assert found.speedup.value == pytest.approx(2.0)
    assert found.baseline_ms == pytest.approx(7.0) and found.latency_ms == pytest.approx(2.0)
    assert with_stopwatch(Shared(2.0), lambda: 0.0).speedup.value == pytest.approx(3.5)


def test_a_stopwatch_that_does_not_see_the_work_is_not_used() -> None:
    machine = Shared(2.0)
    assert with_stopwatch(machine, lambda: 0.3 * machine.own).speedup.value == pytest.approx(3.5)
    assert with_stopwatch(machine, lambda: 0.9 * machine.own).speedup.value == pytest.approx(2.0)


def test_intervals_from_a_busy_machine_are_wider() -> None:
    quiet, busy = timed(Machine(1.3, seed=1)), timed(Machine(1.3, seed=1), watch=Quiet(0.5))
    assert busy.check.is_noisy and busy.speedup.value == pytest.approx(quiet.speedup.value)
    assert busy.speedup.high - busy.speedup.low > quiet.speedup.high - quiet.speedup.low
