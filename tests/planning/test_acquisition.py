"""Free boxes, gains and greedy subsets against the project's own hypervolume and against chance."""

import itertools
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.errors import StudyError
from autocompress.pareto import dominates, hypervolume
from autocompress.planning.acquisition import boxes, gains, pareto, spread_subset
from autocompress.planning.problem import Floats

END = 5.0  # the reference in every objective; coordinates go beyond it


@st.composite
def fronts(draw: st.DrawFn, most: int = 7) -> Floats:
    """Points on a coarse grid, so that ties, duplicates and points at or beyond the reference are common."""
    k = draw(st.integers(1, 3))
    point = st.tuples(*[st.integers(0, 6).map(float)] * k)
    return np.array(draw(st.lists(point, max_size=most)), np.float64).reshape(-1, k)


def reference_of(points: Floats) -> tuple[float, ...]:
    return (END,) * points.shape[1]


@given(fronts(12))
def test_members_are_those_that_no_other_dominates(points: Floats) -> None:
    rows = [tuple(p) for p in points.tolist()]
    free = [not any(dominates(other, p) for other in rows) and p not in rows[:i] for i, p in enumerate(rows)]
    assert pareto(points).tolist() == free


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_point_that_is_not_finite_is_no_member(bad: float) -> None:
    assert pareto(np.array([[0.0, bad], [1.0, 1.0], [bad, bad]])).tolist() == [False, True, False]


@settings(deadline=None)
@given(fronts(), st.integers(0, 2**32))
def test_a_gain_is_the_difference_of_two_hypervolumes(front: Floats, seed: int) -> None:
    rng = np.random.default_rng(seed)
    new = np.concatenate([front, rng.integers(-1, 7, (4, front.shape[1])) + rng.choice([0.0, 0.5])])
    reference = reference_of(front)
    before = hypervolume(front.tolist(), reference)
    expected = [hypervolume([*front.tolist(), point], reference) - before for point in new.tolist()]
    np.testing.assert_allclose(gains(new, *boxes(front, reference)), expected, atol=1e-9)


@settings(deadline=None)
@given(fronts())
def test_boxes_are_disjoint_and_hold_just_what_is_not_dominated(front: Floats) -> None:
    k = front.shape[1]
    lower, upper = boxes(front, reference_of(front))
    centers = np.array(list(itertools.product(np.arange(-0.5, 7.0), repeat=k)))
    holding = ((lower <= centers[:, None]) & (centers[:, None] < upper)).all(axis=-1).sum(axis=1)
    dominated = (front <= centers[:, None]).all(axis=-1).any(axis=1)
    np.testing.assert_array_equal(holding, (centers < END).all(axis=1) & ~dominated)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_boxes_of_a_random_front_hold_each_free_point_once(k: int) -> None:
    rng = np.random.default_rng(k)
    front, points = rng.random((60, k)), rng.random((4000, k)) * 1.1
    lower, upper = boxes(front, np.ones(k))
    holding = ((lower <= points[:, None]) & (points[:, None] < upper)).all(axis=-1).sum(axis=1)
    free = (points < 1).all(axis=1) & ~(front <= points[:, None]).all(axis=-1).any(axis=1)
    np.testing.assert_array_equal(holding, free)


def test_three_objectives_need_at_most_two_boxes_a_point_and_one() -> None:
    front = np.random.default_rng(0).normal(size=(100, 3))
    front = -np.abs(front) / np.linalg.norm(front, axis=1, keepdims=True)
    assert pareto(front).all()
    assert len(boxes(front, np.zeros(3))[0]) <= 201


@pytest.mark.parametrize("k", [1, 2, 3])
def test_an_empty_front_leaves_everything_free(k: int) -> None:
    lower, upper = boxes(np.empty((0, k)), (2.0,) * k)
    assert gains(np.full((1, k), 0.5), lower, upper).tolist() == [1.5**k]


def test_a_point_at_the_reference_takes_nothing_away() -> None:
    lower, upper = boxes(np.array([[0.0, 2.0], [3.0, 0.0], [np.nan, 0.0]]), (2.0, 2.0))
    assert gains(np.array([[1.0, 1.0]]), lower, upper).tolist() == [1.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_point_that_is_not_finite_gains_nothing(bad: float) -> None:
    lower, upper = boxes(np.array([[1.0, 1.0]]), (2.0, 2.0))
    assert gains(np.array([[0.0, bad], [bad, bad]]), lower, upper).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("shape", [(0, 3), (3,), (4, 5, 3)], ids=str)
def test_gains_keep_the_shape_of_their_points(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    points, free = rng.random(shape), boxes(rng.random((5, 3)), np.ones(3))
    found = gains(points, *free)
    assert found.shape == shape[:-1]
    one_by_one = [float(gains(point, *free)) for point in points.reshape(-1, 3)]
    np.testing.assert_array_equal(found.ravel(), one_by_one)


def test_more_points_than_are_held_at_once_gain_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    points, free = rng.random((50, 3)), boxes(rng.random((20, 3)), np.ones(3))
    expected = gains(points, *free)
    monkeypatch.setattr("autocompress.planning.acquisition._PRODUCTS_AT_ONCE", 64)
    np.testing.assert_array_equal(gains(points, *free), expected)


def expected_improvement(best: float, mean: float, deviation: float) -> float:
    """Of one Gaussian below `best` (Jones et al. 1998, eq. 15)."""
    normal, z = NormalDist(), (best - mean) / deviation
    return (best - mean) * normal.cdf(z) + deviation * normal.pdf(z)


@pytest.mark.parametrize("means", [(0.6,), (0.6, 0.9), (0.6, 0.9, 0.3)], ids=["k = 1", "k = 2", "k = 3"])
def test_the_mean_gain_over_draws_is_the_product_of_improvements_where_the_front_is_empty(
    means: tuple[float, ...],
) -> None:
    drawn = np.random.default_rng(0).normal(means, 0.2, (20_000, len(means)))
    found = gains(drawn, *boxes(np.empty((0, len(means))), (1.0,) * len(means)))
    expected = np.prod([expected_improvement(1.0, mean, 0.2) for mean in means])
    assert abs(found.mean() - expected) < 4 * found.std() / np.sqrt(len(found))


@pytest.mark.parametrize("k", [2, 3])
def test_the_mean_gain_over_draws_is_the_volume_times_the_chance_that_a_draw_dominates(k: int) -> None:
    rng = np.random.default_rng(k)
    front, mean = rng.random((4, k)), np.full(k, 0.4)
    estimate = gains(rng.normal(mean, 0.1, (4000, k)), *boxes(front, np.ones(k)))
    points = rng.uniform(-0.2, 1.0, (40_000, k))  # hardly any draw lies lower
    free = ~(front <= points[:, None]).all(axis=-1).any(axis=1)
    chance = np.prod([[NormalDist(0.4, 0.1).cdf(x) for x in row] for row in points], axis=1)
    truth = 1.2**k * free * chance
    error = np.hypot(estimate.std() / np.sqrt(len(estimate)), truth.std() / np.sqrt(len(truth)))
    assert abs(estimate.mean() - truth.mean()) < 4 * error


def greedy_by_definition(points: list[list[float]], n: int, reference: tuple[float, ...]) -> list[int]:
    taken: list[int] = []
    for _ in range(n):
        known = hypervolume([points[i] for i in taken], reference)
        added = [hypervolume([*(points[i] for i in taken), p], reference) - known for p in points]
        if not added or max(added) <= 1e-9:
            break
        taken.append(next(i for i, gain in enumerate(added) if gain >= max(added) - 1e-9))
    return taken


@settings(deadline=None)
@given(fronts(), st.integers(0, 4))
def test_a_subset_takes_what_adds_most_each_time(points: Floats, n: int) -> None:
    found = spread_subset(points, n, reference_of(points))
    assert found.tolist() == greedy_by_definition(points.tolist(), n, reference_of(points))


def test_a_subset_reaches_its_promised_share_of_the_best_one() -> None:
    points = np.random.default_rng(3).random((12, 3))
    best = max(hypervolume(points[list(s)].tolist(), (1, 1, 1)) for s in itertools.combinations(range(12), 3))
    found = hypervolume(points[spread_subset(points, 3, (1, 1, 1))].tolist(), (1, 1, 1))
    assert (1 - np.exp(-1)) * best <= found <= best + 1e-12


def test_a_subset_adds_to_a_front_that_is_there() -> None:
    points = np.array([[0.0, 0.0], [0.5, 1.0], [1.0, 0.5]])
    assert spread_subset(points[1:], 2, (2.0, 2.0), front=points[:1]).tolist() == []
    assert spread_subset(points, 3, (2.0, 2.0), front=points[1:]).tolist() == [0]


WRONG = {
    "four objectives": (np.zeros((1, 4)), (1.0,) * 4),
    "no objective": (np.zeros((0, 0)), ()),
    "another number of objectives": (np.zeros((3, 2)), (1.0, 1.0, 1.0)),
}


@pytest.mark.parametrize(("points", "reference"), WRONG.values(), ids=WRONG)
def test_points_that_do_not_fit_the_reference_are_refused(points: Floats, reference: tuple[float, ...]) -> None:
    with pytest.raises(StudyError, match="1 to 3 objectives"):
        boxes(points, reference)
