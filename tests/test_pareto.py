"""Domination, hypervolume, the front and the choice."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from autocompress.errors import StudyError
from autocompress.measurement import Interval, Speedup
from autocompress.pareto import (
    DEFAULT_OBJECTIVES,
    Candidate,
    ParetoFront,
    Wishes,
    beats,
    bound_of_drop,
    choose,
    dominates,
    hypervolume,
    objective_values,
)
from autocompress.recipe import Recipe
from tests.examples import candidate, measurement

BASELINE = candidate("base", 0.0, 1.0, 1000, recipe=Recipe())
coordinate = st.integers(0, 5).map(float)
points_2d = st.lists(st.tuples(coordinate, coordinate), max_size=5)
points_3d = st.lists(st.tuples(coordinate, coordinate, coordinate), max_size=6)


@given(st.lists(st.tuples(coordinate, coordinate, coordinate), min_size=3, max_size=3))
def test_domination_is_a_strict_order(points: list[tuple[float, ...]]) -> None:
    a, b, c = points
    assert not dominates(a, a)
    assert not (dominates(a, b) and dominates(b, a))
    assert not (dominates(a, b) and dominates(b, c)) or dominates(a, c)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param((1, 2), (2, 3), True, id="better everywhere"),
        pytest.param((1, 2), (1, 3), True, id="better once, else equal"),
        pytest.param((1, 2), (1, 2), False, id="equal"),
        pytest.param((1, 3), (2, 2), False, id="a trade"),
        pytest.param((2, 2), (1, 2), False, id="worse"),
    ],
)
def test_domination(a: tuple[float, ...], b: tuple[float, ...], expected: bool) -> None:
    assert dominates(a, b) is expected


def by_inclusion_and_exclusion(points: list[tuple[float, ...]], reference: tuple[float, ...]) -> float:
    total = 0.0
    inside = [p for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    for n in range(1, len(inside) + 1):
        for chosen in itertools.combinations(inside, n):
            corner = [max(column) for column in zip(*chosen, strict=True)]
            total -= (-1) ** n * float(np.prod([r - x for x, r in zip(corner, reference, strict=True)]))
    return total


@given(points_2d)
def test_area_is_that_of_inclusion_and_exclusion(points: list[tuple[float, ...]]) -> None:
    assert hypervolume(points, (4.0, 5.0)) == pytest.approx(by_inclusion_and_exclusion(points, (4.0, 5.0)))


@given(points_3d)
def test_volume_is_the_number_of_unit_cells_covered(points: list[tuple[float, ...]]) -> None:
    """Points have whole coordinates, so every cell is covered wholly or not at all."""
    cells = itertools.product(range(5), range(5), range(5))
    covered = sum(any(all(p <= c for p, c in zip(point, cell, strict=True)) for point in points) for cell in cells)
    assert hypervolume(points, (5.0, 5.0, 5.0)) == pytest.approx(covered)


def test_volume_is_that_of_monte_carlo() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((8, 3))
    samples = rng.random((100_000, 3))
    share = np.mean((points[None] <= samples[:, None]).all(axis=2).any(axis=1))
    assert hypervolume(points.tolist(), (1.0, 1.0, 1.0)) == pytest.approx(share, abs=0.006)  # four standard errors


@given(points_3d, st.tuples(coordinate, coordinate, coordinate), st.randoms())
def test_volume_grows_with_points_whatever_their_order(
    points: list[tuple[float, ...]], extra: tuple[float, ...], chance: object
) -> None:
    reference = (5.0, 4.0, 3.0)
    volume = hypervolume(points, reference)
    assert hypervolume([*points, extra], reference) >= volume
    shuffled = list(points)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert hypervolume(shuffled + shuffled, reference) == pytest.approx(volume)


def test_points_at_or_beyond_the_reference_count_nothing() -> None:
    assert hypervolume([(2.0, 0.0), (3.0, 1.0), (0.0, 2.0)], (2.0, 2.0)) == 0.0
    assert hypervolume([], (1.0,)) == 0.0


def digests(front: ParetoFront) -> list[str]:
    return [c.digest for c in front.candidates]


def test_the_front_holds_what_nothing_dominates_fastest_first() -> None:
    candidates = [
        BASELINE,
        candidate("slow", 0.01, 0.9, 1100),
        candidate("fast", 0.01, 3.0, 300),
        candidate("small", 0.02, 2.0, 100),
        candidate("worse", 0.02, 1.5, 400),
        candidate("failed"),
    ]
    front = ParetoFront.of(candidates, BASELINE, DEFAULT_OBJECTIVES)
    assert digests(front) == ["fast", "small", "base"]
    assert len(front) == 3


def test_equal_candidates_are_both_on_the_front() -> None:
    front = ParetoFront.of([candidate("a", 0.0, 2.0, 10), candidate("b", 0.0, 2.0, 10)], BASELINE, DEFAULT_OBJECTIVES)
    assert sorted(digests(front)) == ["a", "b"]


def test_the_last_measurement_of_a_candidate_counts() -> None:
    candidates = [candidate("a", 0.0, 9.0, 10), candidate("b", 0.0, 3.0, 10), candidate("a", 0.0, 2.0, 10)]
    assert digests(ParetoFront.of(candidates, BASELINE, DEFAULT_OBJECTIVES)) == ["b"]


def test_only_the_asked_objectives_count() -> None:
    candidates = [candidate("fast", 0.5, 3.0, 900), candidate("small", 0.0, 2.0, 100)]
    assert digests(ParetoFront.of(candidates, BASELINE, ["latency"])) == ["fast"]
    assert digests(ParetoFront.of(candidates, BASELINE, ["size_bytes"])) == ["small"]


def test_an_unknown_objective_is_an_error() -> None:
    with pytest.raises(StudyError, match="must be one of accuracy_drop, latency, size_bytes, but got 'speed'"):
        ParetoFront.of([], BASELINE, ["speed"])


def test_the_hypervolume_of_a_front_is_a_share_of_the_box() -> None:
    """Half the allowed drop, half the latency, a quarter of the size."""
    front = ParetoFront.of([candidate("a", 0.025, 2.0, 250)], BASELINE, DEFAULT_OBJECTIVES)
    assert front.hypervolume() == pytest.approx(0.5 * 0.5 * 0.75)
    assert front.reference == (0.05, 1.0, 1000.0)
    assert ParetoFront.of([BASELINE], BASELINE, DEFAULT_OBJECTIVES).hypervolume() == 0.0


def test_what_was_not_measured_has_no_values() -> None:
    with pytest.raises(StudyError, match="candidate x was not measured: it crashed"):
        objective_values(candidate("x"), DEFAULT_OBJECTIVES)
    assert objective_values(candidate("x", 0.02, 4.0, 70), DEFAULT_OBJECTIVES) == (0.02, 0.25, 70.0)


def test_a_candidate_is_either_measured_or_failed() -> None:
    for fields in ({}, {"measurement": measurement(), "failure": "both"}):
        with pytest.raises(ValidationError, match="either a measurement or a failure"):
            Candidate(digest="x", recipe=Recipe(), rung="short", **fields)


@pytest.mark.parametrize(
    ("wishes", "chosen", "meets"),
    [
        pytest.param(Wishes(), "fastest", True, id="no wish"),
        pytest.param(Wishes(max_drop=0.03), "fast", True, id="drop, by its bound: .025 + .01 is too much"),
        pytest.param(Wishes(max_drop=0.02), "base", True, id="only the baseline keeps it"),
        pytest.param(Wishes(max_latency_ms=0.6), "fastest", True, id="latency"),
        pytest.param(Wishes(max_size_bytes=150), "small", True, id="size"),
        pytest.param(Wishes(max_drop=0.03, max_size_bytes=600), "fast", True, id="two wishes"),
        pytest.param(Wishes(max_drop=0.005), "base", False, id="none, the nearest"),
        pytest.param(Wishes(max_size_bytes=90), "small", False, id="none is small enough"),
        pytest.param(Wishes(max_latency_ms=0.01), "fastest", False, id="none is fast enough"),
    ],
)
def test_the_choice(wishes: Wishes, chosen: str, meets: bool) -> None:
    candidates = [
        BASELINE,
        candidate("failed"),
        candidate("fast", 0.015, 2.0, 500),
        candidate("fastest", 0.025, 4.0, 400),
        candidate("small", 0.1, 1.5, 100),
    ]
    for order in (candidates, candidates[::-1]):
        choice = choose(order, wishes)
        assert (choice.candidate.digest, choice.meets_wishes) == (chosen, meets)
        assert ("no candidate keeps every bound" in choice.reason) != meets


@pytest.mark.parametrize(
    ("wishes", "problem"),
    [
        pytest.param({"max_drop": -0.01}, "max_drop must be at least 0, but got -0.01", id="negative drop"),
        pytest.param({"max_drop": float("nan")}, "max_drop must be at least 0, but got nan", id="drop not a number"),
        pytest.param({"max_drop": float("inf")}, "max_drop must be at least 0, but got inf", id="infinite drop"),
        pytest.param({"max_latency_ms": 0.0}, "max_latency_ms must be above 0, but got 0.0", id="no latency"),
        pytest.param({"max_latency_ms": float("nan")}, "max_latency_ms must be above 0", id="latency not a number"),
        pytest.param({"max_size_bytes": -1}, "max_size_bytes must be above 0, but got -1", id="negative size"),
    ],
)
def test_a_wish_that_nothing_can_keep_is_an_error(wishes: dict[str, float], problem: str) -> None:
    with pytest.raises(StudyError, match=problem):
        Wishes(**wishes)  # type: ignore[arg-type]


def test_the_bound_of_one_candidate_is_the_end_of_its_interval() -> None:
    assert bound_of_drop(Interval(value=0.02, low=0.01, high=0.03), 1) == pytest.approx(0.03)


def test_the_bound_holds_for_all_that_are_compared() -> None:
    """Of many candidates that all lose exactly the floor, hardly one in twenty searches may find one that keeps it."""
    generator, n_candidates, error = np.random.default_rng(0), 20, 0.003
    found = found_alone = 0
    for drops in generator.normal(0.01, error, size=(2000, n_candidates)):
        intervals = [Interval(value=d, low=d - 1.645 * error, high=d + 1.645 * error) for d in drops]
        found += any(bound_of_drop(interval, n_candidates) <= 0.01 for interval in intervals)
        found_alone += any(interval.high <= 0.01 for interval in intervals)
    assert 0.03 < found / 2000 < 0.06 < 0.5 < found_alone / 2000


def test_more_candidates_make_the_choice_more_careful() -> None:
    good = candidate("good", 0.0, 2.0, 500)  # its own bound is 0.01
    others = [candidate(str(i), 0.5, 1.5, 900) for i in range(5)]
    assert choose([BASELINE, good], Wishes(max_drop=0.01)).candidate.digest == "good"
    assert choose([BASELINE, good, *others], Wishes(max_drop=0.01)).candidate == BASELINE


def test_of_equally_fast_candidates_the_smaller_is_chosen() -> None:
    pair = [candidate("large", 0.0, 2.0, 500), candidate("small", 0.0, 2.0, 400)]
    assert choose(pair, Wishes()).candidate.digest == "small"
    assert choose(pair[::-1], Wishes()).candidate.digest == "small"


def test_the_reason_names_every_broken_wish() -> None:
    reason = choose([candidate("a", 0.1, 1.0, 500)], Wishes(max_drop=0.01, max_latency_ms=1, max_size_bytes=100)).reason
    for text in ("accuracy drop is 0.1100, above max_drop 0.01", "2.000 ms, above", "500 bytes, above"):
        assert text in reason


def test_nothing_measured_cannot_be_chosen_from() -> None:
    with pytest.raises(StudyError, match="no candidate was measured"):
        choose([candidate("failed")], Wishes())


def interval(value: float, half_width: float) -> Interval:
    return Interval(value=value, low=value - half_width, high=value + half_width)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param([(1.0, 0.1)], [(1.3, 0.1)], True, id="disjoint intervals"),
        pytest.param([(1.0, 0.1)], [(1.1, 0.1)], False, id="intervals that meet"),
        pytest.param([(1.0, 0.1), (2.0, 0.1)], [(1.3, 0.1), (1.9, 0.5)], False, id="better, but worse by chance"),
        pytest.param([(1.0, 0.1), (2.0, 0.1)], [(1.3, 0.1), (2.0, 0.1)], True, id="better once, else equal"),
        pytest.param([(1.0, 0.0)], [(1.0, 0.0)], False, id="equal"),
    ],
)
def test_a_candidate_is_beaten_only_beyond_the_error(
    a: list[tuple[float, float]], b: list[tuple[float, float]], expected: bool
) -> None:
    assert beats([interval(*x) for x in a], [interval(*x) for x in b]) is expected


measured_once = st.tuples(coordinate, coordinate).map(lambda pair: interval(*pair))


@given(st.lists(st.tuples(measured_once, measured_once), min_size=1, max_size=6))
def test_somebody_is_always_unbeaten_and_nobody_unbeaten_is_beaten_without_error(
    points: list[tuple[Interval, Interval]],
) -> None:
    unbeaten = [p for p in points if not any(beats(other, p) for other in points)]
    assert unbeaten
    values = [tuple(x.value for x in p) for p in points]
    best = [p for p, v in zip(points, values, strict=True) if not any(dominates(other, v) for other in values)]
    assert all(p in unbeaten for p in best)


def with_error(digest: str, drop: tuple[float, float], speed: tuple[float, float], size: int) -> Candidate:
    speedup = Speedup(value=speed[0], low=speed[0] - speed[1], high=speed[0] + speed[1], n_pairs=30)
    measured = measurement(drop[0], speed[0], size, accuracy_drop=interval(*drop), speedup=speedup)
    return candidate(digest, 0.0, 1.0).model_copy(update={"measurement": measured})


@pytest.mark.parametrize(
    ("drop", "speed", "size", "is_on_front"),
    [
        pytest.param((0.011, 0.005), (1.99, 0.03), 1001, True, id="alike in everything"),
        pytest.param((0.011, 0.005), (1.99, 0.03), 1100, False, id="certainly larger"),
        pytest.param((0.011, 0.005), (1.80, 0.03), 1001, False, id="certainly slower"),
        pytest.param((0.030, 0.005), (1.99, 0.03), 1001, False, id="certainly worse"),
        pytest.param((0.030, 0.005), (2.01, 0.03), 1001, True, id="faster at a price"),
    ],
)
def test_the_front_keeps_what_the_error_does_not_tell_apart(
    drop: tuple[float, float], speed: tuple[float, float], size: int, is_on_front: bool
) -> None:
    first = with_error("first", (0.01, 0.005), (2.0, 0.03), 1000)
    front = ParetoFront.of([first, with_error("other", drop, speed, size)], BASELINE, DEFAULT_OBJECTIVES)
    assert ("other" in digests(front)) is is_on_front and "first" in digests(front)


COMPRESSED = Recipe(pruning={"a": 0.5})


EXACT = BASELINE.model_copy(update={"measurement": measurement(0.0, 1.0, 1000, accuracy_drop=interval(0.0, 0.0))})


def halved(digest: str, seen: float, speed: float, held_out: float) -> Candidate:
    """A candidate with a drop that the search saw and another one, with an error of 0.002, on held-out data."""
    measured = measurement(seen, speed, 500, selection_drop=interval(held_out, 0.002))
    return candidate(digest, 0.0, 1.0).model_copy(update={"measurement": measured, "recipe": COMPRESSED})


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        pytest.param([("a", 0.002, 2.0, 0.004), ("b", 0.006, 3.0, 0.007)], "b", id="both keep it"),
        pytest.param([("a", 0.002, 2.0, 0.004), ("b", 0.001, 3.0, 0.02)], "a", id="lucky on what the search saw"),
        pytest.param([("a", 0.002, 2.0, 0.004), ("b", 0.006, 3.0, 0.009)], "a", id="the bound is too high"),
        pytest.param(
            [("a", 0.002, 2.0, 0.004), ("b", 0.005, 3.0, 0.02), ("c", 0.006, 4.0, 0.001)], "c", id="after one failure"
        ),
        pytest.param([("a", 0.005, 3.0, 0.02), ("b", 0.006, 4.0, 0.0078)], "base", id="a higher bar after one failure"),
        pytest.param(
            [("a", 0.001, 2.0, 0.02), ("b", 0.005, 3.0, 0.02), ("c", 0.006, 4.0, 0.001)], "base", id="after two"
        ),
        pytest.param(
            [("a", 0.03, 2.0, 0.02), ("c", 0.031, 2.1, 0.02), ("b", 0.015, 3.0, 0.002)], "b", id="no chance, no test"
        ),
        pytest.param(
            [("a", 0.017, 2.0, 0.02), ("c", 0.017, 2.1, 0.02), ("b", 0.009, 3.0, 0.002)],
            "b",
            id="hardly a chance, no test",
        ),
        pytest.param(
            [("a", 0.015, 2.0, 0.02), ("c", 0.016, 2.1, 0.02), ("b", -0.006, 3.0, 0.002)],
            "b",
            id="surely worse, no test",
        ),
        pytest.param(
            [("a", 0.005, 2.0, 0.004), ("b", 0.004, 3.0, 0.02), ("c", 0.004, 4.0, 0.02)], "a", id="the slow one first"
        ),
    ],
)
def test_the_choice_is_by_data_that_the_search_did_not_see(
    candidates: list[tuple[str, float, float, float]], chosen: str
) -> None:
    for order in (candidates, candidates[::-1]):
        choice = choose([EXACT, *(halved(*c) for c in order)], Wishes(max_drop=0.01))
        assert choice.candidate.digest == chosen and choice.meets_wishes


def test_hardly_a_search_chooses_what_breaks_the_floor() -> None:
    """Twenty candidates, from far too careful to far too bold; the search saw their drops with an error."""
    generator, error = np.random.default_rng(0), 0.003
    true = np.linspace(-0.01, 0.04, 20)
    n_broken = 0
    for _ in range(400):
        seen, held_out = generator.normal(true, error), generator.normal(true, error)
        candidates = [
            candidate(str(i), 0.0, 1.0).model_copy(
                update={
                    "measurement": measurement(s, 2 + t * 50, 500, selection_drop=interval(h, 1.645 * error)),
                    "recipe": COMPRESSED,
                }
            )
            for i, (s, t, h) in enumerate(zip(seen, true, held_out, strict=True))
        ]
        digest = choose([EXACT, *candidates], Wishes(max_drop=0.01)).candidate.digest
        n_broken += digest != "base" and true[int(digest)] > 0.01
    assert n_broken / 400 < 0.08


def test_a_wish_for_a_speedup_is_kept_or_named() -> None:
    pair = [EXACT, halved("a", 0.002, 2.0, 0.004)]
    assert choose(pair, Wishes(max_drop=0.01, target_speedup=1.5)).candidate.digest == "a"
    unmet = choose(pair, Wishes(max_drop=0.01, target_speedup=2.5))
    assert not unmet.meets_wishes and "its speed-up is 2.00, below target_speedup 2.5" in unmet.reason
