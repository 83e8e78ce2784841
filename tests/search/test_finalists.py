"""Which candidates are timed together at the end, and what is made of it."""

import pytest

from autocompress.latency import JointLatency, PairedLatency
from autocompress.measurement import LatencyCheck, Speedup
from autocompress.pareto import DEFAULT_OBJECTIVES, Candidate, ParetoFront, Wishes
from autocompress.recipe import Recipe
from autocompress.search.finalists import MAX_FINALISTS, choose_finalists, compared, with_latencies
from tests.examples import candidate

BASELINE = candidate("base", 0.0, 1.0, 1000, recipe=Recipe())
WISHES = Wishes(max_drop=0.05)


def chosen_of(*candidates: Candidate, chosen: str = "a") -> list[str]:
    front = ParetoFront.of([BASELINE, *candidates], BASELINE, DEFAULT_OBJECTIVES)
    present = next((c for c in candidates if c.digest == chosen), BASELINE)
    return [c.digest for c in choose_finalists(front, present, WISHES, 1)]


def speedup(value: float) -> Speedup:
    return Speedup(value=value, low=value * 0.99, high=value * 1.01, n_pairs=99)


def joint(*values: float) -> JointLatency:
    check = LatencyCheck(p90_ms=1.5, p99_ms=2.5, noise_floor=0.01, busy_share=0.0)
    results = tuple(PairedLatency(speedup(value), 3.0 / value, 3.0, check) for value in values)
    return JointLatency(results, tuple(tuple(speedup(b / a) for b in values) for a in values))


def test_the_choice_comes_first_then_those_that_keep_the_floor_then_the_fastest() -> None:
    fast, kept, slow = candidate("c", 0.2, 4.0, 900), candidate("b", 0.03, 3.0, 900), candidate("a", 0.02, 2.0, 900)
    assert chosen_of(fast, kept, slow) == ["a", "b", "c"]


def test_a_choice_off_the_front_is_timed_too() -> None:
    better, chosen = candidate("b", 0.001, 4.0, 900), candidate("a", 0.04, 3.0, 950)
    assert chosen_of(better, chosen) == ["a", "b"]


def test_there_are_not_more_than_a_few() -> None:
    many = [candidate(f"{n:x}", 0.001 * n, 2.0 + n, 900) for n in range(20)]
    assert len(chosen_of(*many)) == MAX_FINALISTS


@pytest.mark.parametrize(
    "others",
    [
        pytest.param([], id="only the baseline"),
        pytest.param([candidate("a", 0.02, 2.0, 900)], id="only the choice beside it"),
    ],
)
def test_one_alone_is_not_compared(others: list[Candidate]) -> None:
    assert chosen_of(*others) == []


def test_latencies_of_the_session_replace_those_of_each_candidates_own() -> None:
    before = [candidate("a", 0.02, 2.0, 900), candidate("b", 0.03, 3.0, 800)]
    after = with_latencies(before, joint(2.5, 2.4))
    found = [(c.measurement.speedup.value, c.measurement.latency_ms, c.measurement.size_bytes) for c in after]  # type: ignore[union-attr]
    assert found == [(2.5, 1.2, 900), (2.4, 1.25, 800)]
    assert after[0].measurement.latency_check.p99_ms == 2.5  # type: ignore[union-attr]


def test_every_two_are_compared_fastest_first() -> None:
    found = compared(
        [candidate("a", 0.02, 2.0, 900), candidate("b", 0.03, 3.0, 800), candidate("c")], joint(2, 4, 3.98)
    )
    assert found.digests == ("b", "c", "a")
    pairs = [(pair.faster, pair.slower, round(pair.ratio.value, 3), pair.is_told_apart) for pair in found.pairs]
    assert pairs == [("b", "c", 1.005, False), ("b", "a", 2.0, True), ("c", "a", 1.99, True)]
