"""What a longer training leaves of a drop, and which candidate is worth one."""

import pytest

from autocompress.measurement import Interval, Measurement, Speedup
from autocompress.pareto import Candidate
from autocompress.recipe import Recipe
from autocompress.search.recovery import PRIOR_SHARE, Recovery, most_promising


def drop(value: float, error: float = 0.001) -> Interval:
    return Interval(value=value, low=value - 1.645 * error, high=value + 1.645 * error)


def candidate(digest: str, speed: float, seen: float = 0.02) -> Candidate:
    measurement = Measurement(
        accuracy=0.9,
        torch_accuracy=0.9,
        accuracy_drop=drop(seen),
        selection_drop=drop(seen),
        agreement=1.0,
        speedup=Speedup(value=speed, low=speed, high=speed, n_pairs=30),
        latency_ms=1.0,
        size_bytes=100,
        macs=1,
        n_samples=1000,
    )
    recipe = Recipe(pruning={digest: 0.5})
    return Candidate(digest=digest, recipe=recipe, rung="short", n_steps=50, measurement=measurement)


def test_before_any_longer_training_the_prior_counts() -> None:
    assert Recovery.learned([], 0.9).share == PRIOR_SHARE


@pytest.mark.parametrize("share", [0.1, 0.3, 0.8])
def test_the_share_is_learned_from_pairs(share: float) -> None:
    few, many = (Recovery.learned([(d, share * d) for d in (0.03, 0.05) * n], 0.9).share for n in (1, 50))
    assert abs(many - share) < 0.01 and abs(many - share) <= abs(few - share) <= abs(PRIOR_SHARE - share)


@pytest.mark.parametrize(
    ("pairs", "least", "most"),
    [
        pytest.param([(0.01, 0.5)] * 100, 0.99, 1.0, id="a longer training made it worse"),
        pytest.param([(0.05, -0.02)] * 100, 0.0, 0.06, id="better than the baseline"),
        pytest.param([(0.0, 0.0)], PRIOR_SHARE, PRIOR_SHARE, id="nothing lost, nothing learned"),
    ],
)
def test_the_share_stays_between_0_and_1(pairs: list[tuple[float, float]], least: float, most: float) -> None:
    assert least <= Recovery.learned(pairs, 0.9).share <= most


def test_the_chance_falls_with_the_drop_and_with_the_error() -> None:
    recovery = Recovery(0.5)
    chances = [recovery.chance(drop(d), drop(d), 0.01) for d in (0.0, 0.01, 0.02, 0.05)]
    assert chances == sorted(chances, reverse=True) and chances[0] > 0.9 and chances[-1] < 0.1
    assert recovery.chance(drop(0.01, 0.004), None, 0.01) < recovery.chance(drop(0.01), None, 0.01)


@pytest.mark.parametrize(
    ("found", "chosen"),
    [
        pytest.param([("slow", 1.5, 0.0)], None, id="slower than the choice"),
        pytest.param([("a", 3.0, 0.01), ("b", 3.0, 0.015)], "a", id="equally fast: the better"),
        pytest.param([("a", 2.5, 0.008), ("b", 4.0, 0.009)], "b", id="nearly as good, much faster"),
        pytest.param([("a", 2.5, 0.008), ("b", 9.0, 0.3)], "a", id="faster without a chance"),
        pytest.param([("b", 9.0, 0.3)], None, id="nobody has a chance"),
    ],
)
def test_the_candidate_that_gains_most_is_trained_longer(
    found: list[tuple[str, float, float]], chosen: str | None
) -> None:
    candidates = [candidate(name, speed, seen) for name, speed, seen in found]
    drops = {name: drop(seen) for name, _, seen in found}
    for order in (candidates, candidates[::-1]):
        best = most_promising(order, drops, Recovery(0.5), max_drop=0.01, chosen_speedup=2.0)
        assert (best and best.digest) == chosen


def test_a_candidate_without_a_short_drop_is_left_out() -> None:
    assert most_promising([candidate("a", 3.0, 0.0)], {}, Recovery(), 0.01, 1.0) is None
