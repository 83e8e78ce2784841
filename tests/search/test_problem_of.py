"""A whole planning problem from a space and what was measured, and which choices no plan can want."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.planning.problem import Cost, Problem, Unit
from autocompress.search.plan_costs import plan_tables
from autocompress.search.problem_of import problem_of, undominated
from tests.search.chains import Isolated, latency_model, size_model
from tests.search.plan_nets import inspected

LIMITS = {"max_drop": 0.01, "largest_drop": 0.9}
NETS = ("tiny", "residual", "concat", "encoder")


def problem(net: str = "residual", space: str = "full", **more) -> Problem:
    found = inspected(net)
    return problem_of(found.plans(space), {}, latency_model(found.architecture), size_model(found.architecture),
                      **LIMITS | more)  # fmt: skip


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", ["full", "int8", "low-rank", "pruning"])
def test_a_problem_predicts_plans_as_the_models_predict_recipes(net: str, name: str) -> None:
    found = inspected(net)
    space, latency, size = found.plans(name), latency_model(found.architecture), size_model(found.architecture)
    made = problem_of(space, {}, latency, size, **LIMITS)
    rng = np.random.default_rng(1)
    plans = np.stack([rng.integers(0, n, 20) for n in space.n_choices], axis=1)
    recipes = [space.recipe(plan) for plan in plans.tolist()]
    assert np.maximum(made.latencies(plans), 0.003) == pytest.approx([latency.predict(r) for r in recipes])
    baseline = size.xml_bytes + size.bin_bytes
    assert made.sizes(plans) * baseline == pytest.approx([size.predict(r) for r in recipes], abs=0.6)
    assert made.damages(plans).shape == (20, len(made.kinds))


def test_the_fp32_plan_costs_what_the_baseline_costs_and_does_no_damage() -> None:
    made = problem()
    fp32 = np.zeros((1, len(made.units)), np.int64)
    assert made.sizes(fp32) == pytest.approx([1.0])
    assert (made.damages(fp32) == 0).all()


def test_kinds_are_those_of_the_space() -> None:
    assert problem().kinds == ("8 bits", "7 bits", "4 bits", "pruning")
    assert problem(space="pruning").kinds == ("pruning",)
    assert problem(space="sparse").kinds == ("8 bits", "7 bits", "sparsity")


def test_short_training_leaves_more_than_a_full_one() -> None:
    full, short, none = (problem(training_steps=n).recovery for n in (float("inf"), 30, 0))
    assert (full < short).all()
    assert (short < none).all()
    assert (none == 1).all()


def test_objectives_and_labels_are_taken_over() -> None:
    made = problem(objectives=("accuracy_drop", "latency"))
    assert made.objectives == ("accuracy_drop", "latency")
    assert [unit.name for unit in made.units][:2] == ["stem.0", "filters of stem.0"]
    assert made.units[0].choices == ("float", "8 bits", "7 bits", "4 bits")


def test_tables_made_before_give_the_same_problem() -> None:
    found = inspected("concat")
    space, latency, size = found.plans("full"), latency_model(found.architecture), size_model(found.architecture)
    damage = {r.digest(): Isolated(0.1 * i, 0.05 * i) for i, r in enumerate(space.isolated[:9])}
    made = [problem_of(space, damage, latency, size, **LIMITS, tables=t) for t in (None, plan_tables(space, size))]
    for a, b in zip(made[0].costs, made[1].costs, strict=True):
        assert (a.units, a.latency.tolist(), a.size.tolist()) == (b.units, b.latency.tolist(), b.size.tolist())
    assert all((a.damage == b.damage).all() for a, b in zip(made[0].units, made[1].units, strict=True))


def dominated_by_definition(made: Problem) -> list[set[int]]:
    """Choices for which another is at least as good beside every choice of the others; of equal ones all but the first.

    For problems of two units, by listing all plans.
    """
    found = []
    for unit in range(2):
        other = 1 - unit
        bad = set()
        for a, b in itertools.permutations(range(made.n_choices[unit]), 2):
            plans = {
                c: np.array([[c, o] if unit == 0 else [o, c] for o in range(made.n_choices[other])]) for c in (a, b)
            }
            damage = made.units[unit].damage
            pairs = [(damage[a], damage[b])]
            pairs += [(made.latencies(plans[a]), made.latencies(plans[b]))] * ("latency" in made.objectives)
            pairs += [(made.sizes(plans[a]), made.sizes(plans[b]))] * ("size_bytes" in made.objectives)
            no_worse = all((x <= y + 1e-12).all() for x, y in pairs)
            is_equal = no_worse and all((x >= y - 1e-12).all() for x, y in pairs)
            if no_worse and (not is_equal or a < b):
                bad.add(b)
        found.append(bad)
    return found


small = st.integers(0, 2).map(float)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from([("latency", "size_bytes"), ("latency",), ("size_bytes",)]))
def test_what_is_left_out_is_dominated_by_definition(data: st.DataObject, costs: tuple[str, ...]) -> None:
    def table(*shape: int) -> np.ndarray:
        return np.array(data.draw(st.lists(small, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))).reshape(
            shape
        )

    shape = 3, 4
    units = tuple(Unit(f"u{n}", tuple("abcd"[:n]), table(n, 2)) for n in shape)
    made = Problem(units, ("4 bits", "pruning"), np.ones(2), (Cost((0, 1), table(*shape), table(*shape)),), 0.0, 0.0,
                   0.01, 0.9, ("accuracy_drop", *costs))  # fmt: skip
    kept = undominated(made)
    assert [set(range(n)) - set(k) for n, k in zip(shape, kept, strict=True)] == dominated_by_definition(made)


def test_zeros_are_left_out_since_they_make_nothing_smaller_or_faster() -> None:
    space = inspected("chain").plans("sparse")
    kept = undominated(problem("chain", "sparse"))
    labels = [[unit.options[i].label for i in of_unit] for unit, of_unit in zip(space.units, kept, strict=True)]
    assert labels == [["float", "8 bits", "7 bits"]] * 5


def test_narrow_weights_stay_where_size_is_an_objective() -> None:
    made = problem("chain", "mixed-precision", objectives=("accuracy_drop", "size_bytes"))
    assert undominated(made) == [[0, 1, 2, 3]] * 5


def test_a_thinned_space_gives_the_problem_without_those_choices() -> None:
    found = inspected("residual")
    space, latency, size = found.plans("low-rank"), latency_model(found.architecture), size_model(found.architecture)
    whole = problem_of(space, {}, latency, size, **LIMITS)
    kept = undominated(whole)
    small = problem_of(space.thinned(kept), {}, latency, size, **LIMITS)
    assert small.n_choices == tuple(map(len, kept))
    assert small.n_plans < whole.n_plans
    plan = np.array([[len(of_unit) - 1 for of_unit in kept]])
    same = np.array([[of_unit[-1] for of_unit in kept]])
    assert small.latencies(plan) == pytest.approx(whole.latencies(same))
    assert small.sizes(plan) == pytest.approx(whole.sizes(same))
    assert small.damages(plan) == pytest.approx(whole.damages(same))
    assert undominated(small) == [list(range(n)) for n in small.n_choices]


def test_a_unit_with_one_choice_left_is_still_a_unit() -> None:
    found = inspected("tiny")
    space, latency, size = found.plans("int8"), latency_model(found.architecture), size_model(found.architecture)
    made = problem_of(space.thinned([[1], [0, 1], [2]]), {}, latency, size, **LIMITS)
    assert made.n_choices == (1, 2, 1)
