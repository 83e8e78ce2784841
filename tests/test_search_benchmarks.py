"""The search benchmark: replays count what they should, and its statistics are those of the text books."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.pareto import hypervolume
from autocompress.planning.problem import Cost, Problem, Unit
from examples.benchmarks.search import statistics as stats
from examples.benchmarks.search.benches import SyntheticBench
from examples.benchmarks.search.plots import over_time, write_plot
from examples.benchmarks.search.replay import FactorMap, Run, run, share_of_box, shares_after_each
from examples.benchmarks.search.synthetic import Synthetic
from examples.benchmarks.search.table import TABLE, Table, load_table, problem_from_json
from examples.benchmarks.search.table_latency import relative_latency, structure_of, structures
from examples.benchmarks.search.table_problem import problem_to_json, reordered
from examples.benchmarks.search.targets import shares_at, table_targets

points = st.lists(st.tuples(*[st.floats(0, 1.3)] * 3), min_size=1, max_size=8)


def small_table() -> Table:
    """Two units of two bits, two of pruning: 16 plans whose drops on both halves are the same."""
    rng = np.random.default_rng(3)
    levels = rng.uniform(0.001, 0.02, (4, 2)).cumsum(axis=1) - 0.001
    units = tuple(Unit(f"unit {i}", ("none", "all"), level[:, None]) for i, level in enumerate(levels))
    costs = tuple(Cost((i,), np.array([0.25, 0.1]), np.array([0.24, 0.05 + 0.01 * i])) for i in range(4))
    problem = Problem(units, ("any",), np.ones(1), costs, 0.0, 0.04, 0.02, 0.9)
    plans = np.array(list(itertools.product(range(2), repeat=4)))
    lost = np.round(2000 * problem.damages(plans)[:, 0]).astype(np.int64)
    return Table(
        problem=problem,
        lost=np.stack([lost, lost], axis=1),
        gained=np.zeros((16, 2), np.int64),
        n_images=2000,
        latencies=problem.latencies(plans),
        sizes=problem.sizes(plans),
        seconds={"damage table": 30.0, "latency model": 60.0, "trial": 2.0},
    )


@given(points)
def test_the_share_of_the_box_is_the_hypervolume_in_units_of_the_reference(found: list[tuple[float, ...]]) -> None:
    reference = np.array([0.5, 1.0, 2.0])
    expected = hypervolume(found, tuple(reference)) / reference.prod()
    assert share_of_box(np.array(found), reference) == pytest.approx(expected, abs=1e-9)


@given(st.data())
def test_parameters_and_plans_are_the_same_thing(data: st.DataObject) -> None:
    factors = FactorMap(((4, 3), (5,), (2, 2, 2)))
    plan = tuple(data.draw(st.integers(0, n - 1)) for n in (12, 5, 8))
    params = factors.decode(plan)
    assert factors.encode(params) == plan
    assert list(params) == list(factors.distributions)
    assert params["unit 0 factor 1"] == plan[0] % 3  # the last parameter of a unit changes fastest


def test_a_plan_that_only_looks_good_counts_with_its_true_value() -> None:
    table = small_table()
    unlucky = replace(table, lost=np.stack([table.lost[:, 0], np.full(16, 2000)], axis=1))
    plan, measured = (1, 1, 0, 0), np.array([[0.001, 0.5, 0.5]])
    assert shares_after_each(table, [plan], measured)[0] > 0
    assert unlucky.exhaustive_hypervolume == 0 or shares_after_each(unlucky, [plan], measured)[0] == 0


def test_a_dominated_trial_changes_no_share() -> None:
    table = small_table()
    plans = [(1, 1, 0, 0), (1, 0, 0, 0)]
    measured = np.array([[0.01, 0.5, 0.5], [0.02, 0.6, 0.6]])
    first, second = shares_after_each(table, plans, measured)
    share = share_of_box(table.truth(np.array(plans[:1])), table.reference) / table.exhaustive_hypervolume
    assert first == second == share


def test_the_oracle_of_a_synthetic_network_has_as_many_plans_as_there_were_trials() -> None:
    bench = SyntheticBench(Synthetic(n_units=5, seed=1, oracle_trials=20))
    best = bench.best_hypervolumes(30)
    assert best.shape == (30,) and (np.diff(best) >= 0).all() and best[0] < best[19] == best[29]
    plans = np.random.default_rng(0).integers(36, size=(20, 5))
    assert share_of_box(bench.truth(plans), bench.reference) <= best[19]


@pytest.mark.parametrize("name", ["bayesdp", "random", "tpe"])
def test_a_search_over_all_plans_of_a_table_finds_its_whole_front(name: str) -> None:
    found = run(name, small_table(), 16, seed=1)
    assert len(set(found.plans)) == 16
    assert found.shares[-1] > 0.97  # latencies are measured with noise


def test_a_run_is_the_same_again_and_starts_with_the_anchors() -> None:
    table = small_table()
    first, again = (run("bayesdp", table, 6, seed=2) for _ in range(2))
    assert first.plans == again.plans and first.plans[:2] == table.anchors
    assert np.array_equal(first.shares, again.shares)


def test_plans_that_are_enqueued_come_first_instead_of_the_anchors() -> None:
    first = ((0, 1, 0, 1), (1, 0, 1, 0), (0, 0, 0, 1))
    assert run("nsga2", small_table(), 5, seed=0, first=first).plans[:3] == first


@pytest.mark.parametrize(
    ("name", "first", "charged"),
    [
        pytest.param("bayesdp", (), True, id="a planner pays for the database"),
        pytest.param("random", (), False, id="one that does not use it does not"),
        pytest.param("random", ((0, 1, 0, 1),), True, id="plans from a planner cost the database"),
    ],
)
def test_database_time_is_charged(name: str, first: tuple[tuple[int, ...], ...], charged: bool) -> None:
    seconds = run(name, small_table(), 3, seed=0, first=first).seconds
    assert (seconds[0] > 90) == charged and seconds[2] - seconds[0] >= 4.0


def test_the_error_of_a_drop_is_that_of_paired_differences() -> None:
    table = replace(small_table(), lost=np.full((16, 2), 100), gained=np.full((16, 2), 40))
    differences = np.repeat([1.0, -1.0, 0.0], [100, 40, 1860])
    assert table.drop_error((0, 0, 0, 0)) == pytest.approx(differences.std() / np.sqrt(2000))


def test_structures_are_what_latency_depends_on() -> None:
    found = set(structures((4, 4, 3), 2))
    assert found == {structure_of(plan, 2) for plan in itertools.product(range(4), range(4), range(3))}
    assert len(found) == 2 * 2 * 3


def test_a_relative_latency_is_a_ratio_of_times() -> None:
    now = [0.0]

    def taking(seconds: float) -> list:
        return [lambda: now.__setitem__(0, now[0] + seconds)] * 3

    assert relative_latency(taking(2.0), taking(0.5), clock=lambda: now[0]) == pytest.approx(0.25)


def test_a_problem_written_and_read_is_the_same_to_six_digits() -> None:
    problem = small_table().problem
    again, plans = problem_from_json(problem_to_json(problem)), np.array([[0, 1, 1, 0], [1, 1, 1, 1]])
    for quantity in ("damages", "latencies", "sizes"):
        assert getattr(again, quantity)(plans) == pytest.approx(getattr(problem, quantity)(plans), rel=1e-5)
    assert again.kinds == problem.kinds and again.max_drop == problem.max_drop


def test_units_in_another_order_cost_the_same() -> None:
    problem, order = small_table().problem, [2, 0, 3, 1]
    plans = np.array([[0, 1, 1, 0], [1, 0, 0, 0]])
    for quantity in ("damages", "latencies", "sizes"):
        expected = getattr(problem, quantity)(plans)
        assert np.allclose(getattr(reordered(problem, order), quantity)(plans[:, order]), expected)


def exact_signed_rank(differences: np.ndarray) -> float:
    """The definition: over all signs of the ranks, how often their positive sum is at least the one found."""
    ranks = np.abs(differences).argsort().argsort() + 1
    found = ranks[differences > 0].sum()
    every = itertools.product([0, 1], repeat=len(ranks))
    sums = [sum(r for r, s in zip(ranks, signs, strict=True) if s) for signs in every]
    return float(np.mean([s >= found for s in sums]))


@pytest.mark.parametrize("seed", range(4))
def test_the_signed_rank_test_is_the_exact_one(seed: int) -> None:
    differences = np.random.default_rng(seed).normal(0.5, 1, 9)
    assert stats.signed_rank(differences) == pytest.approx(exact_signed_rank(differences))


def test_equal_results_are_no_evidence() -> None:
    (found,) = stats.compare(np.ones(10), {"same": np.ones(10)})
    assert (found.p_value, found.effect, found.median, found.wins) == (1.0, 0.5, 0.0, 5.0)


def test_a_corrected_p_value_is_never_below_its_own_and_keeps_their_order() -> None:
    raw = [0.04, 0.001, 0.3, 0.04]
    corrected = stats.holm(raw)
    assert corrected == pytest.approx([0.12, 0.004, 0.3, 0.12])
    assert all(c >= p for c, p in zip(corrected, raw, strict=True))


def test_the_bootstrap_interval_holds_the_mean_and_shrinks_with_the_spread() -> None:
    rng = np.random.default_rng(0)
    wide, narrow = (stats.bootstrap(rng.normal(1, sd, 30)) for sd in (1.0, 0.1))
    assert wide[0] < 1 < wide[1] and narrow[1] - narrow[0] < 0.3 * (wide[1] - wide[0])


def fixed_run(name: str, seed: int, shares: list[float]) -> Run:
    n = len(shares)
    return Run(name, seed, np.array(shares), 10.0 * np.arange(1, n + 1) + seed, 0.1, ((0,),) * n)


def test_shares_over_time_are_the_last_ones_known_then() -> None:
    runs = [fixed_run("tpe", 0, [0.1, 0.2, 0.3]), fixed_run("tpe", 5, [0.4, 0.5, 0.6])]
    times, shares = over_time(runs)
    assert times[0] == 15 and times[-1] == 30
    assert shares[:, 0].tolist() == [0.1, 0.4] and shares[:, -1].tolist() == [0.3, 0.5]


def test_equal_runs_give_equal_pictures(tmp_path) -> None:
    runs = {"bayesdp": [fixed_run("bayesdp", s, [0.5, 0.9]) for s in range(3)]}
    for name in ("a.svg", "b.svg"):
        write_plot(runs, "Title", tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize(("last", "met"), [(0.85, True), (0.95, False)], ids=["others below", "others above"])
def test_ours_with_ten_trials_is_compared_with_others_with_sixty(last: float, met: bool) -> None:
    ours = [fixed_run("bayesdp", s, [0.5] * 9 + [0.92] * 51) for s in range(3)]
    runs = {"bayesdp": ours, "tpe": [fixed_run("tpe", s, [0.5] * 59 + [last]) for s in range(3)]}
    found = {t.wanted: t.met for t in table_targets(runs)}
    assert found["table: bayesdp with 10 trials at least tpe with 60"] is met
    assert found["table: bayesdp with 10 trials at least 0.9 of the best front"]
    assert not found["table: bayesdp with 30 trials at least 0.95 of the best front"]
    assert shares_at(ours, 5).tolist() == [0.5] * 3


@pytest.mark.skipif(not TABLE.is_file(), reason="the table is not made yet: python -m ...make_table pack")
def test_the_shipped_table_is_whole_and_small() -> None:
    table = load_table()
    assert TABLE.stat().st_size < 200_000 and len(table.sizes) >= 4000
    assert table.lost[0].tolist() == table.gained[0].tolist() == [0, 0]
    assert table.sizes[0] == 1 and table.latencies[0] == pytest.approx(1, abs=0.05)
    assert table.n_images >= 1500 and (table.latencies > 0).all() and table.database_seconds > 0
