"""Paired latency against streams of known ratio, with a clock that only moves when something runs."""

import numpy as np
import pytest

from autocompress.latency import LatencySettings
from autocompress.latency.protocol import compare

SETTINGS = LatencySettings(min_pairs=30, max_pairs=60, max_seconds=1e9, half_width=0.0, block_seconds=0.003)


class Machine:
    """A clock, and two models whose runs take time on it, slowed by a drift and by spikes."""

    def __init__(
        self, ratio: float, seed: int = 0, noise: float = 0.02, drift: float = 0.0, spikes: float = 0.0
    ) -> None:
        self.now, self.order = 0.0, ""
        self._rng, self._ratio, self._noise, self._drift, self._spikes = (
            np.random.default_rng(seed),
            ratio,
            noise,
            drift,
            spikes,
        )

    def clock(self) -> float:
        return self.now

    def run(self, name: str, seconds: float) -> None:
        slow = (1 + self._drift * self.now) * float(np.exp(self._noise * self._rng.standard_normal()))
        spike = 20.0 if self._rng.random() < self._spikes else 1.0
        self.now += seconds * slow * spike
        self.order += name

    def baseline(self) -> None:
        self.run("a", 0.004)

    def candidate(self) -> None:
        self.run("b", 0.004 / self._ratio)


def speedup(machine: Machine, settings: LatencySettings = SETTINGS):  # noqa: ANN201
    return compare(machine.baseline, machine.candidate, settings, machine.clock).speedup


def test_the_ratio_is_baseline_over_candidate() -> None:
    assert speedup(Machine(2.0, noise=0.0)).value == pytest.approx(2.0)


def test_a_machine_that_becomes_slower_does_not_change_the_ratio() -> None:
    assert speedup(Machine(1.5, drift=2.0)).value == pytest.approx(1.5, rel=0.03)


def test_a_few_spikes_do_not_change_the_ratio() -> None:
    assert speedup(Machine(1.5, spikes=0.05)).value == pytest.approx(1.5, rel=0.05)


def test_the_interval_covers_the_truth_in_at_least_90_of_100_sessions() -> None:
    found = [speedup(Machine(1.3, seed=seed, noise=0.1)) for seed in range(100)]
    assert sum(s.low <= 1.3 <= s.high for s in found) >= 90
    assert all(s.low <= s.value <= s.high for s in found)


def test_the_order_within_pairs_is_mixed() -> None:
    machine = Machine(1.0, noise=0.0)
    speedup(machine)
    pairs = [machine.order[i : i + 2] for i in range(len(machine.order) - 100, len(machine.order), 2)]
    assert {"ab", "ba"} <= set(pairs)


def test_measuring_ends_at_the_time_cap_but_not_before_the_least_number_of_pairs() -> None:
    capped = LatencySettings(min_pairs=10, max_pairs=1000, max_seconds=0.0, half_width=0.0)
    assert speedup(Machine(1.0), capped).n_pairs == 10


def test_a_quiet_machine_ends_early() -> None:
    settings = LatencySettings(min_pairs=30, max_pairs=1000, max_seconds=1e9, half_width=0.01)
    assert speedup(Machine(1.0, noise=0.001), settings).n_pairs == 30
