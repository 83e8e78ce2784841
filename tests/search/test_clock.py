"""Keeping a search within its budget, with a clock that the test moves."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.pareto import Candidate
from autocompress.search.budget import Budget
from autocompress.search.clock import LONG_FACTOR, LONG_STEPS, MAX_STEPS, MIN_STEPS, SearchClock
from tests.examples import candidate


class Now:
    """Seconds that pass only when told."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def finished(n_steps: int, **seconds: float) -> Candidate:
    return candidate("a", 0.0, 2.0, 500).model_copy(update={"n_steps": n_steps, "seconds": seconds})


def test_time_counts_from_the_start() -> None:
    now = Now()
    clock = SearchClock(Budget(seconds=600), now)
    now.seconds += 40
    assert clock.elapsed == 40
    assert clock.seconds_to_end(3, 100) == 560


def test_the_budget_may_have_begun_before() -> None:
    clock = SearchClock(Budget(seconds=600), Now(), start=70.0)
    assert clock.elapsed == 30 and clock.seconds_to_end(0, 0) == 570


def test_time_to_finish_is_kept_back() -> None:
    clock = SearchClock(Budget(seconds=600), Now())
    assert clock.deadline == pytest.approx(100 + 600 - clock.finish_seconds)
    assert clock.seconds_left() == pytest.approx(600 - clock.finish_seconds)


def test_without_a_time_nothing_is_killed() -> None:
    clock = SearchClock(Budget(n_trials=4), Now())
    assert clock.deadline is None and clock.seconds_left() == float("inf")
    assert clock.seconds_to_end(4, 100) == pytest.approx(4 * clock.forecast(100) + clock.finish_seconds)


def test_a_candidate_that_would_not_be_done_in_time_does_not_begin() -> None:
    now = Now()
    clock = SearchClock(Budget(seconds=600), now)
    assert clock.allows_short(0, 50)
    now.seconds += 600 - clock.finish_seconds - clock.forecast(50) + 1
    assert not clock.allows_short(0, 50)


def test_how_long_a_candidate_took_is_learnt() -> None:
    clock = SearchClock(Budget(seconds=600), Now())
    for _ in range(20):
        clock.learn(finished(100, finetune=30.0, export=2.0, evaluation=3.0))
    assert clock.step_seconds == pytest.approx(0.3, rel=1e-3)
    assert clock.measuring_seconds == pytest.approx(5.0, rel=1e-3)
    assert clock.forecast(100) == pytest.approx(1.1 * 35, rel=1e-3)


def test_an_untrained_candidate_says_nothing_about_steps() -> None:
    clock = SearchClock(Budget(seconds=600), Now())
    before = clock.step_seconds
    clock.learn(finished(0, evaluation=3.0))
    assert clock.step_seconds == before


def test_a_failed_candidate_says_nothing() -> None:
    clock = SearchClock(Budget(seconds=600), Now())
    before = clock.forecast(100)
    clock.learn(candidate("failed").model_copy(update={"n_steps": 100, "seconds": {"compress": 0.1}}))
    assert clock.forecast(100) == before


@given(seconds=st.floats(10, 36_000), step=st.floats(1e-4, 20), measuring=st.floats(0.1, 100))
def test_steps_suit_the_budget(seconds: float, step: float, measuring: float) -> None:
    clock = SearchClock(Budget(seconds=seconds), Now())
    clock.step_seconds, clock.measuring_seconds = step, measuring
    assert MIN_STEPS <= clock.short_steps() <= MAX_STEPS
    n_short = clock.short_steps()
    n_long = clock.long_steps(0, n_short, step)
    assert n_long == 0 or 2 * n_short <= n_long <= max(LONG_FACTOR * n_short, LONG_STEPS)
    assert n_long * step <= seconds


@given(seconds=st.floats(10, 3600), took=st.floats(0.5, 60), n_steps=st.integers(10, 200))
def test_a_whole_search_ends_in_time(seconds: float, took: float, n_steps: int) -> None:
    """Candidates that all take equally long; the first shows how long, so only it may surprise."""
    now = Now()
    clock = SearchClock(Budget(seconds=seconds), now)
    n_done = 0
    for _ in range(12):  # learnt by then
        clock.learn(finished(n_steps, finetune=0.5 * took, evaluation=0.5 * took))
    while clock.allows_short(n_done, n_steps):
        now.seconds += took
        n_done += 1
        clock.learn(finished(n_steps, finetune=0.5 * took, evaluation=0.5 * took))
        assert n_done < 10_000
    assert clock.elapsed + clock.finish_seconds <= seconds + 1e-6 or n_done == 0


@pytest.mark.parametrize(
    ("n_trials", "n_short"),
    [
        pytest.param(1, 1, id="one"),
        pytest.param(4, 4, id="too few for a longer training"),
        pytest.param(5, 4, id="the fifth is long"),
        pytest.param(40, 32, id="a fifth of forty"),
    ],
)
def test_trials_count_longer_trainings_too(n_trials: int, n_short: int) -> None:
    clock = SearchClock(Budget(n_trials=n_trials), Now())
    n_done = 0
    while clock.allows_short(n_done, 10):
        n_done += 1
    assert n_done == n_short
    while clock.long_steps(n_done, 10, 0.1):
        n_done += 1
    assert n_done == n_trials


@pytest.mark.parametrize(
    ("minutes", "n_anchors", "has_long"),
    [
        pytest.param(1, 2, False, id="too short for a longer training"),
        pytest.param(3, 4, True, id="the anchors and one longer training"),
        pytest.param(10, 9, True, id="samples too"),
    ],
)
def test_a_longer_training_goes_before_many_short_ones(minutes: int, n_anchors: int, has_long: bool) -> None:
    """Times as measured on the fashion task: 0.2 s a step, 5 s for measuring."""
    now = Now()
    clock = SearchClock(Budget(seconds=60 * minutes), now)
    clock.step_seconds, clock.measuring_seconds = 0.2, 5.0
    now.seconds += 15
    n_steps, n_done = clock.short_steps(), 0
    while clock.allows_short(n_done, n_steps):
        n_done += 1
        now.seconds += 5 + 0.2 * n_steps
    assert n_done >= n_anchors
    assert (clock.long_steps(n_done, n_steps, 0.15) >= 0.7 * LONG_STEPS) == has_long


def test_what_is_kept_back_for_longer_trainings_can_be_spent() -> None:
    clock = SearchClock(Budget(n_trials=10), Now())
    assert not clock.allows_short(8, 10)
    assert clock.allows_short(8, 10, reserve=False)
    assert not clock.allows_short(10, 10, reserve=False)


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        pytest.param(Budget(seconds=20), "no time for a candidate; a longer budget would be needed", id="a moment"),
        pytest.param(Budget(seconds=60), "no time for longer trainings", id="a minute"),
        pytest.param(Budget(seconds=3600), "s for training the best longer", id="an hour"),
        pytest.param(Budget(n_trials=20), "16 candidates trained for 50 steps", id="trials"),
        pytest.param(Budget(n_trials=3), "3 candidates trained for 50 steps .* 0 trained longer", id="few trials"),
    ],
)
def test_what_will_be_done_is_told_before(budget: Budget, said: str) -> None:
    assert re.search(said, SearchClock(budget, Now()).plan(50, planning_seconds=12.0))


def test_the_time_for_planning_follows_from_the_budget() -> None:
    share = [SearchClock(Budget(seconds=s), Now()).planning_seconds(0.1, 60.0, 50) for s in (60, 300, 3600)]
    assert share == [6.0, 30.0, 60.0]
    trials = [SearchClock(Budget(n_trials=n), Now()).planning_seconds(0.1, 60.0, 100) for n in (2, 40, 1000)]
    assert trials[0] == 30.0 < trials[1] < trials[2] == 60.0


@given(st.floats(10, 10_000), st.integers(0, 300), st.floats(0, 100))
def test_no_forecast_is_negative(seconds: float, n_steps: int, planning: float) -> None:
    assert "-" not in SearchClock(Budget(seconds=seconds), Now()).plan(n_steps, planning)
