"""The planner against brute force."""

import gc
import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.errors import StudyError
from autocompress.planning import factor_graph
from autocompress.planning.planner import cheapest
from autocompress.planning.problem import Cost, Floats, Plans, Problem, Unit

DESCEND = 0  # most entries: no table of two units fits, so the planner descends unit by unit
ANY = 10**6  # most entries: all tables fit


def problem_of(n_choices: list[int], costs: list[Cost]) -> Problem:
    units = tuple(Unit(f"u{i}", tuple(map(str, range(n))), np.zeros((n, 1))) for i, n in enumerate(n_choices))
    return Problem(units, ("damage",), np.ones(1), tuple(costs), 0.0, 0.0, 0.01, 0.9)


def total(problem: Problem, tables: list[Floats], weights: tuple[float, float], plan: tuple[int, ...]) -> float:
    """The definition, term by term."""
    damage = sum(float(table[choice]) for table, choice in zip(tables, plan, strict=True))
    for cost in problem.costs:
        at = tuple(plan[unit] for unit in cost.units)
        damage += weights[0] * float(cost.latency[at]) + weights[1] * float(cost.size[at])
    return damage


def all_plans(problem: Problem) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(n) for n in problem.n_choices)))


def totals_by_row(problem: Problem, tables: list[Floats], weights: Floats, plans: Plans) -> list[float]:
    return [
        total(problem, [t[row] for t in tables], (weights[0, row], weights[1, row]), tuple(plan))
        for row, plan in enumerate(plans)
    ]


def assert_cheapest(problem: Problem, tables: list[Floats], weights: Floats) -> None:
    plans = cheapest(problem, tables, *weights)
    for row, found in enumerate(totals_by_row(problem, tables, weights, plans)):
        of_row = [table[row] for table in tables]
        least = min(total(problem, of_row, (weights[0, row], weights[1, row]), plan) for plan in all_plans(problem))
        assert found == pytest.approx(least, abs=1e-9)


def random_tables(rng: np.random.Generator, problem: Problem, n: int, largest: int = 4) -> tuple[list[Floats], Floats]:
    tables = [rng.integers(0, largest, (n, m)).astype(float) for m in problem.n_choices]
    return tables, rng.integers(0, 3, (2, n)).astype(float)


def random_cost(rng: np.random.Generator, n_choices: list[int], units: tuple[int, ...]) -> Cost:
    shape = tuple(n_choices[unit] for unit in units)
    return Cost(units, rng.integers(-1, 3, shape).astype(float), rng.integers(0, 3, shape).astype(float))


def random_problem(rng: np.random.Generator, n_choices: list[int], scopes: list[tuple[int, ...]]) -> Problem:
    return problem_of(n_choices, [random_cost(rng, n_choices, units) for units in scopes])


GRAPHS = {
    "one unit without costs": ([3], []),
    "one unit with one choice": ([1], [(0,)]),
    "units without costs": ([3, 2], []),
    "only costs of single units": ([3, 2], [(0,), (1,), (1,)]),
    "a chain": ([3, 3, 3, 3], [(0, 1), (1, 2), (2, 3)]),
    "a chain written backwards": ([3, 2, 4, 3], [(3, 2), (2, 1), (1, 0)]),
    "a ring": ([3, 3, 3, 3], [(0, 1), (1, 2), (2, 3), (3, 0)]),
    "a star": ([4, 2, 2, 2, 2], [(0, 1), (2, 0), (0, 3), (4, 0)]),
    "everything with everything": ([3, 3, 3, 3], [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]),
    "the same pair twice, in both directions": ([3, 4], [(0, 1), (1, 0), (0, 1)]),
    "costs of three": ([2, 3, 4, 2], [(2, 0, 1), (1, 3, 2), (3,)]),
    "a cost of four": ([2, 3, 2, 2], [(3, 1, 0, 2)]),
    "two islands and a lonely unit": ([3, 2, 3, 2, 4], [(0, 3), (4, 2)]),
    "a choice of one amid a chain": ([3, 1, 3], [(0, 1), (1, 2)]),
    "layers between channel groups": ([3, 2, 3, 2, 3], [(1, 0, 2), (3, 2, 4), (1, 3), (0,), (4,)]),
}


@pytest.mark.parametrize(("n_choices", "scopes"), GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("seed", range(5))
def test_no_plan_is_cheaper(n_choices: list[int], scopes: list[tuple[int, ...]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, n_choices, scopes)
    assert_cheapest(problem, *random_tables(rng, problem, 4))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    n_choices = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    some_units = st.lists(st.integers(0, len(n_choices) - 1), min_size=1, max_size=3, unique=True).map(tuple)
    scopes = draw(st.lists(some_units, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return random_problem(rng, n_choices, scopes)


@settings(max_examples=60, deadline=None)
@given(problems(), st.integers(0, 2**32))
def test_no_plan_is_cheaper_in_any_small_problem(problem: Problem, seed: int) -> None:
    assert_cheapest(problem, *random_tables(np.random.default_rng(seed), problem, 2, largest=3))


@settings(max_examples=60, deadline=None)
@given(problems(), st.integers(0, 2**32), st.integers(0, 200))
def test_the_descent_ends_where_no_change_of_one_unit_helps(problem: Problem, seed: int, most_entries: int) -> None:
    tables, weights = random_tables(np.random.default_rng(seed), problem, 2)
    plans = cheapest(problem, tables, *weights, most_entries=most_entries)
    for row, plan in enumerate(plans.tolist()):
        of_row, prices = [table[row] for table in tables], (weights[0, row], weights[1, row])
        for unit, n in enumerate(problem.n_choices):
            changed = [(*plan[:unit], choice, *plan[unit + 1 :]) for choice in range(n)]
            found = total(problem, of_row, prices, tuple(plan))
            assert found <= min(total(problem, of_row, prices, p) for p in changed) + 1e-9


def test_the_descent_is_exact_where_units_share_no_cost() -> None:
    rng = np.random.default_rng(0)
    problem = random_problem(rng, [4, 3, 5], [(0,), (1,), (2,)])
    tables, weights = random_tables(rng, problem, 10)
    plans = cheapest(problem, tables, *weights, most_entries=DESCEND)
    exact = cheapest(problem, tables, *weights)
    assert totals_by_row(problem, tables, weights, plans) == totals_by_row(problem, tables, weights, exact)


@pytest.mark.parametrize("most_entries", [ANY, DESCEND], ids=["exact", "descent"])
def test_a_row_does_not_depend_on_the_other_rows(most_entries: int) -> None:
    rng = np.random.default_rng(1)
    problem = random_problem(rng, [4, 3, 4, 3], GRAPHS["a ring"][1])
    tables, weights = [rng.random((7, n)) for n in problem.n_choices], rng.random((2, 7))
    together = cheapest(problem, tables, *weights, most_entries=most_entries)
    rows = [[row] for row in range(7)]
    alone = [cheapest(problem, [t[r] for t in tables], *weights[:, r], most_entries=most_entries) for r in rows]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_a_batch_larger_than_what_is_done_at_once_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autocompress.planning.planner._NUMBERS_AT_ONCE", 100)
    rng = np.random.default_rng(2)
    problem = random_problem(rng, [3, 3, 3, 3], GRAPHS["a chain"][1])
    assert_cheapest(problem, *random_tables(rng, problem, 25))


def test_ties_always_give_the_same_plan() -> None:
    problem = problem_of([3, 3, 2], [Cost((0, 1), np.zeros((3, 3)), np.ones((3, 3)))])
    tables = [np.zeros((2, n)) for n in problem.n_choices]
    found = [cheapest(replace(problem), tables, np.ones(2), np.ones(2)).tolist() for _ in range(3)]
    assert found[0] == found[1] == found[2]


def test_without_prices_each_unit_takes_its_least_damage() -> None:
    rng = np.random.default_rng(3)
    problem = random_problem(rng, [4, 5, 3], [(0, 1), (1, 2), (0,)])
    tables = [rng.random((6, n)) for n in problem.n_choices]
    plans = cheapest(problem, tables, np.zeros(6), np.zeros(6))
    np.testing.assert_array_equal(plans, np.column_stack([table.argmin(axis=1) for table in tables]))


@pytest.mark.parametrize("priced", [0, 1], ids=["latency", "size"])
def test_a_price_of_latency_or_size_alone_is_minimized(priced: int) -> None:
    rng = np.random.default_rng(4)
    problem = random_problem(rng, [3, 3, 3], [(0, 1), (1, 2), (0, 2)])
    tables, _ = random_tables(rng, problem, 5)
    weights = np.zeros((2, 5))
    weights[priced] = 2.0
    assert_cheapest(problem, tables, weights)


def test_the_same_problem_is_planned_with_one_price_after_the_other() -> None:
    rng = np.random.default_rng(5)
    problem = random_problem(rng, [3, 3, 3], [(0, 1), (1, 2)])
    tables, _ = random_tables(rng, problem, 1)
    for prices in ([[1.0], [0.0]], [[0.0], [1.0]], [[1.0], [1.0]], [[0.0], [0.0]]):
        assert_cheapest(problem, tables, np.array(prices))


@pytest.mark.parametrize("most_entries", [ANY, DESCEND], ids=["exact", "descent"])
def test_a_choice_of_infinite_damage_is_not_taken(most_entries: int) -> None:
    switch = np.array([[0.0, 9.0], [9.0, 0.0]])
    problem = problem_of([2, 2], [Cost((0, 1), switch, switch)])
    tables = [np.array([[np.inf, 5.0]]), np.array([[0.0, 0.0]])]
    assert cheapest(problem, tables, np.ones(1), np.ones(1), most_entries=most_entries).tolist() == [[1, 1]]


def test_an_empty_batch_gives_no_plans() -> None:
    problem = problem_of([2, 2], [Cost((0, 1), np.eye(2), np.eye(2))])
    assert cheapest(problem, [np.zeros((0, 2))] * 2, np.zeros(0), np.zeros(0)).shape == (0, 2)


BAD_INPUT = {
    "a table too few": ([np.zeros((1, 2))], np.ones(1), "one table"),
    "a choice too many": ([np.zeros((1, 2)), np.zeros((1, 3))], np.ones(1), "one table"),
    "another batch": ([np.zeros((2, 2)), np.zeros((2, 2))], np.ones(1), "one table"),
    "a damage that is not a number": ([np.zeros((1, 2)), np.full((1, 2), np.nan)], np.ones(1), "must be numbers"),
    "an infinite weight": ([np.zeros((1, 2)), np.zeros((1, 2))], np.full(1, np.inf), "weights finite"),
}


@pytest.mark.parametrize(("tables", "weights", "law"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_input_that_does_not_fit_is_refused(tables: list[Floats], weights: Floats, law: str) -> None:
    with pytest.raises(StudyError, match=law):
        cheapest(problem_of([2, 2], []), tables, weights, weights)


def dense_problem(rng: np.random.Generator) -> Problem:
    """Eight units, each pair with a cost: tables of up to 3 ** 8 entries."""
    return random_problem(rng, [3] * 8, list(itertools.combinations(range(8), 2)))


def test_each_unit_of_a_dense_problem_is_in_a_block_and_no_table_is_too_large() -> None:
    graph = factor_graph.graph_of(dense_problem(np.random.default_rng(0)), (True, True), 800)
    assert len(graph.blocks) > 1
    assert {unit for block in graph.blocks for unit in block.order} == set(range(8))
    assert max(max(block.n_entries) for block in graph.blocks) <= 800 / 8


def test_a_descent_goes_on_until_no_change_of_one_unit_helps_in_a_dense_problem() -> None:
    rng = np.random.default_rng(11)
    problem = dense_problem(rng)
    tables, weights = random_tables(rng, problem, 20)
    plans = cheapest(problem, tables, *weights, most_entries=DESCEND)
    found = totals_by_row(problem, tables, weights, plans)
    for unit, choice in itertools.product(range(8), range(3)):
        changed = plans.copy()
        changed[:, unit] = choice
        assert (np.array(found) <= np.array(totals_by_row(problem, tables, weights, changed)) + 1e-9).all()


def test_a_descent_keeps_the_best_of_its_starts() -> None:
    together = np.array([[0.0, 9.0], [9.0, -5.0]])  # from the first choices, no change of one unit alone helps
    problem = problem_of([2, 2], [Cost((0, 1), together, 0 * together)])
    plans = cheapest(problem, [np.zeros((1, 2))] * 2, np.ones(1), np.ones(1), most_entries=DESCEND)
    assert plans.tolist() == [[1, 1]]


def test_no_block_of_a_dense_problem_can_be_planned_better() -> None:
    rng = np.random.default_rng(9)
    problem = dense_problem(rng)
    tables, weights = random_tables(rng, problem, 1)
    [plan] = cheapest(problem, tables, *weights, most_entries=800).tolist()
    of_row, prices = [table[0] for table in tables], (weights[0, 0], weights[1, 0])
    for block in factor_graph.graph_of(problem, (True, True), 800).blocks:
        for choices in itertools.product(range(3), repeat=len(block.order)):
            changed = dict(zip(range(8), plan, strict=True)) | dict(zip(block.order, choices, strict=True))
            assert total(problem, of_row, prices, tuple(plan)) <= total(
                problem, of_row, prices, tuple(changed.values())
            )


def test_a_descent_by_blocks_plans_a_loose_chain_beside_a_dense_part_exactly() -> None:
    rng = np.random.default_rng(10)
    dense, chain = list(itertools.combinations(range(8), 2)), [(i, i + 1) for i in range(8, 27)]
    problem = random_problem(rng, [3] * 28, [*dense, *chain])
    tables, weights = [rng.random((5, 3)) * 5 for _ in range(28)], np.ones((2, 5))
    plans = cheapest(problem, tables, *weights, most_entries=4000)
    assert len(factor_graph.graph_of(problem, (True, True), 4000).blocks) > 1
    alone = problem_of([3] * 20, [replace(c, units=tuple(u - 8 for u in c.units)) for c in problem.costs[len(dense) :]])
    exact = cheapest(alone, tables[8:], *weights)
    np.testing.assert_array_equal(plans[:, 8:], exact)


def viterbi(tables: list[Floats], pairs: list[Floats]) -> float:
    """Least sum along a chain, unit by unit."""
    best = tables[0]
    for table, pair in zip(tables[1:], pairs, strict=True):
        best = np.array([min(best[a] + pair[a, b] for a in range(len(best))) + table[b] for b in range(len(table))])
    return float(best.min())


def test_a_chain_of_200_units_is_exact() -> None:
    rng = np.random.default_rng(6)
    pairs = [rng.random((6, 6)) for _ in range(199)]
    problem = problem_of([6] * 200, [Cost((i, i + 1), pair, 2 * pair) for i, pair in enumerate(pairs)])
    tables = [rng.random((1, 6)) for _ in range(200)]
    plan = cheapest(problem, tables, np.array([0.5]), np.array([0.25]))
    found = totals_by_row(problem, tables, np.array([[0.5], [0.25]]), plan)
    assert found == pytest.approx([viterbi([t[0] for t in tables], pairs)])


def test_36_choices_that_a_neighbour_sees_as_two_are_two_classes() -> None:
    is_float = np.arange(36) % 3 == 0
    switch = (is_float[:, None] != is_float).astype(float)
    problem = problem_of([36] * 5, [Cost((i, i + 1), switch, 0 * switch) for i in range(4)])
    graph = factor_graph.graph_of(problem, (True, True), ANY)
    assert max(graph.blocks[0].n_entries) == 4
    assert [classes.max() for classes in graph.class_of] == [1] * 5


def test_an_axis_that_makes_no_difference_does_not_tie_units() -> None:
    flat = np.repeat(np.arange(3.0)[:, None], 4, axis=1)
    problem = problem_of([3, 4, 2], [Cost((0, 1), flat, flat), Cost((1, 2), np.ones((4, 2)), np.zeros((4, 2)))])
    graph = factor_graph.graph_of(problem, (True, True), ANY)
    assert graph.factors == ()
    rng = np.random.default_rng(7)
    assert_cheapest(problem, *random_tables(rng, problem, 6))


def test_what_has_no_price_does_not_tie_units() -> None:
    problem = problem_of([2, 2], [Cost((0, 1), np.zeros((2, 2)), np.eye(2))])
    assert len(factor_graph.graph_of(problem, (True, True), ANY).factors) == 1
    assert factor_graph.graph_of(problem, (True, False), ANY).factors == ()


def test_a_chain_is_eliminated_from_its_ends() -> None:
    rng = np.random.default_rng(8)
    problem = random_problem(rng, [5] * 9, [(i, i + 1) for i in range(8)])
    assert max(factor_graph.graph_of(problem, (True, True), ANY).blocks[0].n_entries) <= 25


def test_a_problem_that_is_gone_leaves_nothing_behind() -> None:
    before = len(factor_graph._KEPT)
    problem = problem_of([2, 2], [Cost((0, 1), np.eye(2), np.eye(2))])
    cheapest(problem, [np.zeros((1, 2))] * 2, np.ones(1), np.ones(1))
    assert len(factor_graph._KEPT) == before + 1
    del problem
    gc.collect()
    assert len(factor_graph._KEPT) == before
