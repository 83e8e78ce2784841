from dataclasses import replace

import numpy as np
import pytest

from autocompress.errors import StudyError
from autocompress.planning.correction import Correction, Observation
from autocompress.planning.problem import OBJECTIVES, Cost, Problem, Unit
from autocompress.planning.proposer import SHORT_LIST, Proposer, rank_correlation
from autocompress.planning.ranking import Ranking
from examples.benchmarks.search.synthetic import CHOICES, DROP_ERROR, Synthetic, hypervolume


def small_problem(n_units=6, n_choices=4, seed=0, **changes):
    rng = np.random.default_rng(seed)
    steps = np.arange(n_choices)[:, None]
    units = tuple(
        Unit(f"u{i}", tuple("abcdefgh"[:n_choices]), steps**2 * rng.lognormal(-6, 0.5, (1, 1))) for i in range(n_units)
    )
    share = 0.8 / n_units / max(1, n_choices - 1)
    costs = tuple(
        Cost((i,), share * (n_choices - 1 - steps[:, 0]) * 1.0, 0.9 / n_units * 0.6 ** steps[:, 0])
        for i in range(n_units)
    )
    problem = Problem(units, ("all",), np.array([0.6]), costs, 0.2, 0.1, 0.01, 0.9)
    return replace(problem, **changes)


def observe(problem, plan, factor=0.6):
    plans = np.array([plan])
    drop = problem.drop_of(factor * problem.damages(plans).sum(axis=1))[0]
    return Observation(tuple(plan), float(drop), 0.0005)


def search(problem, n, factor=0.6, **options):
    proposer, observations = Proposer(problem, **options), []
    for number in range(n):
        plan = proposer.propose(observations, {o.plan for o in observations}, number)
        if plan is None:
            break
        observations.append(observe(problem, plan, factor))
    return observations


def share_of(net, n_trials, seed):
    rng = np.random.default_rng(seed)
    anchors = [(CHOICES.index(choice),) * net.n_units for choice in ((32, 0, 0), (8, 0, 0), (8, 0, 0.25))]
    proposer, observations = Proposer(net.problem, anchors=anchors, seed=seed), []
    for number in range(n_trials):
        plan = proposer.propose(observations, {o.plan for o in observations}, number)
        drop, latency, size = net.evaluate(plan, rng)
        observations.append(Observation(plan, drop, DROP_ERROR, latency, size))
    return net.share(np.array([o.plan for o in observations]))


def test_anchors_come_first_and_in_order():
    anchors = [(0,) * 6, (3,) * 6, (1,) * 6]
    assert [o.plan for o in search(small_problem(), 3, anchors=anchors)] == anchors


def test_an_anchor_that_is_taken_is_left_out():
    proposer = Proposer(small_problem(), anchors=[(0,) * 6, (1,) * 6])
    assert proposer.propose([], {(0,) * 6}, 0) == (1,) * 6


def test_an_anchor_of_another_problem_is_refused():
    with pytest.raises(StudyError, match="6 units"):
        Proposer(small_problem(), anchors=[(0, 0)])


def test_no_plan_is_proposed_twice():
    plans = [o.plan for o in search(small_problem(), 30)]
    assert len(set(plans)) == 30


def test_the_same_arguments_give_the_same_plan():
    problem = small_problem()
    observations = search(problem, 14)
    taken = [o.plan for o in observations] + [(3, 2, 1, 0, 1, 2), (0, 1, 2, 3, 2, 1)]
    first = Proposer(problem, seed=4).propose(observations, set(taken), 16)
    again = Proposer(problem, seed=4)
    again.propose(observations[:3], set(taken[:3]), 3)
    assert again.propose(observations, list(reversed(taken)), 16) == first


def test_the_seed_and_the_number_matter():
    problem = small_problem(n_units=12)
    observations = search(problem, 14)
    taken = {o.plan for o in observations}
    plans = {Proposer(problem, seed=s).propose(observations, taken, n) for s in range(3) for n in range(14, 18)}
    assert len(plans) > 3


@pytest.mark.parametrize(
    ("n_units", "n_choices"), [(1, 1), (1, 2), (1, 4), (3, 1), (2, 2)], ids=["1x1", "1x2", "1x4", "3x1", "2x2"]
)
def test_a_small_space_is_tried_completely_and_then_ends(n_units, n_choices):
    plans = [o.plan for o in search(small_problem(n_units, n_choices), 50)]
    assert len(plans) == len(set(plans)) == n_choices**n_units


def test_a_large_space_ends_when_every_plan_is_taken():
    problem = small_problem(n_units=10, n_choices=2)
    taken = {tuple(map(int, f"{i:010b}")) for i in range(1024)}
    assert Proposer(problem).propose([], taken, 0) is None
    assert Proposer(problem).propose([], taken - {(1, 0) * 5}, 0) == (1, 0) * 5


@pytest.mark.parametrize(
    "objectives",
    [*((name,) for name in OBJECTIVES), OBJECTIVES[:2], OBJECTIVES[1:], OBJECTIVES[::2], OBJECTIVES],
    ids=" ".join,
)
def test_any_objectives_can_be_searched(objectives):
    problem = small_problem(objectives=objectives)
    observations = search(problem, 16, anchors=[(0,) * 6])
    plans = np.array([o.plan for o in observations])
    drops = np.array([o.drop for o in observations])
    assert len({o.plan for o in observations}) == 16
    if "latency" in objectives:
        assert problem.latencies(plans)[drops <= 0.01].min() < 0.9


@pytest.mark.parametrize("factor", [20.0, 0.01], ids=["far too hard", "far too gentle"])
def test_seeds_follow_what_the_first_ones_showed(factor):
    problem = small_problem(n_units=20)
    observations = search(problem, 10, factor, anchors=[(0,) * 20])
    drops = np.array([o.drop for o in observations[4:]])
    assert (drops < 0.06).any()
    assert np.median(problem.latencies(np.array([o.plan for o in observations[4:]]))) < 1.0
    if factor < 1:
        assert problem.latencies(np.array([o.plan for o in observations])).min() < 0.4


@pytest.mark.parametrize("drop", [0.5, 0.9, 0.0, -0.01], ids=str)
def test_it_goes_on_when_all_observations_are_alike(drop):
    problem = small_problem()
    plans = np.random.default_rng(0).integers(4, size=(20, 6)).tolist()
    observations = [Observation(tuple(plan), drop, 0.0) for plan in plans]
    found = Proposer(problem).propose(observations, {tuple(p) for p in plans}, 20)
    assert found not in {tuple(p) for p in plans}


def test_running_plans_repel_the_next():
    problem = small_problem(n_units=12)
    observations = search(problem, 12)
    taken = {o.plan for o in observations}
    proposer, plans = Proposer(problem), []
    for number in range(12, 16):
        plans.append(proposer.propose(observations, taken | set(plans), number))
    assert len(set(plans)) == 4


def test_a_screen_sees_a_short_list_and_changes_the_choice():
    problem = small_problem(n_units=12)
    observations = search(problem, 14)
    taken, shown = {o.plan for o in observations}, []

    def screen(plans):
        shown.append(plans)
        damage = np.full(len(plans), np.inf)
        damage[-1] = 1e-4
        return damage

    found = Proposer(problem).propose(observations, taken, 14, screen)
    assert len(shown) == 1
    assert 2 <= len(shown[0]) <= SHORT_LIST
    assert found == tuple(shown[0][-1])


def test_promise_is_the_mean_gain_over_draws():
    problem = small_problem()
    observations = search(problem, 10)
    correction = Correction(problem, observations)
    ranking = Ranking(problem, correction, observations, np.empty((0, 6), np.int64), np.random.default_rng(0))
    plans = np.array([(2, 0, 2, 0, 2, 0), (0, 1, 3, 0, 0, 3)])
    drops = np.array([[0.004, 0.01], [0.02, 0.2]])
    front = ranking.values / np.array([0.05, 1, 1])
    gained = np.zeros((2, 2))
    for draw in range(2):
        for i, plan in enumerate(plans):
            point = [drops[draw, i], problem.latencies(plan[None])[0], problem.sizes(plan[None])[0]]
            scaled = np.array(point) / np.array([0.05, 1, 1])
            gained[draw, i] = sampled_gain(scaled, front)
    np.testing.assert_allclose(ranking.promise(plans, drops) / 0.05, gained.mean(axis=0), rtol=0.05, atol=3e-4)


def sampled_gain(point, front, n=200_000):
    """Share of the unit box that `point` alone dominates, by uniform samples."""
    samples = np.random.default_rng(0).random((n, 3))
    mine = (point < samples).all(axis=1)
    return np.mean([not (front < sample).all(axis=1).any() for sample in samples[mine]] or [0]) * mine.mean()


def test_profit_is_the_chance_to_keep_the_accuracy_times_the_gain_in_speed():
    problem = small_problem()
    observations = [observe(problem, (0,) * 6), observe(problem, (1, 0, 0, 0, 0, 0))]
    ranking = Ranking(
        problem, Correction(problem, observations), observations, np.empty((0, 6), np.int64), np.random.default_rng(0)
    )
    plans = np.array([(2, 2, 0, 0, 0, 0)])
    best, cost = problem.latencies(np.array([(1, 0, 0, 0, 0, 0)]))[0], problem.latencies(plans)[0]
    profit = ranking.profit(plans, np.array([[0.005], [0.0099], [0.011], [0.3]]))
    assert profit[0] == pytest.approx(0.5 * np.log(best / cost))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3], [3, 5, 9], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 1, 1], [3, 2, 1], 0.0),
        ([1, 2, 2, 3], [1, 2, 3, 4], 0.9486833),
    ],
    ids=["same order", "opposite order", "constant", "ties"],
)
def test_rank_correlation(a, b, expected):
    assert rank_correlation(np.array(a, float), np.array(b, float)) == pytest.approx(expected)


def test_hypervolume_of_the_synthetic_family_matches_samples():
    rng = np.random.default_rng(1)
    points = rng.random((40, 3)) * np.array([0.06, 1.1, 1.1])
    samples = rng.random((20_000, 3)) * np.array([0.05, 1, 1])
    dominated = np.mean([(points < sample).all(axis=1).any() for sample in samples])
    assert hypervolume(points) == pytest.approx(dominated, abs=0.012)


def test_the_same_synthetic_network_comes_back_and_differs_from_its_table():
    one, two = Synthetic(n_units=5, seed=1), Synthetic(n_units=5, seed=1)
    plans = np.random.default_rng(0).integers(len(CHOICES), size=(20, 5))
    np.testing.assert_array_equal(one.truth(plans), two.truth(plans))
    believed = one.problem.drop_of(one.problem.damages(plans) @ one.problem.recovery)
    assert not np.allclose(believed, one.truth(plans)[:, 0], rtol=0.05)


def test_no_random_plan_beats_the_oracle():
    net = Synthetic(n_units=4, seed=0)
    plans = np.random.default_rng(0).integers(len(CHOICES), size=(20_000, 4))
    assert net.share(plans) <= 1.0


def test_finds_most_of_the_oracle_front_in_thirty_trials():
    assert share_of(Synthetic(n_units=8, seed=0), 30, seed=0) > 0.9


def test_a_useless_table_is_not_worse_than_random_plans():
    net = Synthetic(n_units=8, seed=0, permuted=True)
    random = np.random.default_rng(0).integers(len(CHOICES), size=(30, 8))
    assert share_of(net, 30, seed=0) >= net.share(random)
