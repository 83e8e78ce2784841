"""Why each unit is what it is: against plain Python on small problems made by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.errors import StudyError
from autocompress.explanation import Explanation
from autocompress.planning.correction import Correction, Observation
from autocompress.planning.problem import Cost, Problem, Unit
from autocompress.search.explain import explain

LARGEST = 0.8
BASELINE = {"baseline_ms": 10.0, "baseline_bytes": 1000.0}


def problem(*units, edges=(), largest_drop=LARGEST):
    """Units as (name, [(choice, damage, latency share, size share)]); edges as (two units, latency table)."""
    own = tuple(
        Unit(name, tuple(c[0] for c in choices), np.array([[c[1]] for c in choices], float)) for name, choices in units
    )
    columns = [[np.array([c[k] for c in choices], float) for k in (2, 3)] for _, choices in units]
    costs = [Cost((i,), latency, size) for i, (latency, size) in enumerate(columns)]
    costs += [Cost(pair, np.array(table, float), np.zeros(np.shape(table))) for pair, table in edges]
    return Problem(own, ("any",), np.array([1.0]), tuple(costs), 0.1, 0.2, 0.01, largest_drop)


FOUR = ("float", 0.0, 0.5, 0.4), ("8 bits", 0.01, 0.3, 0.2), ("4 bits", 0.05, 0.2, 0.1), ("2 bits", 0.2, 0.15, 0.05)
TWO = ("float", 0.0, 0.4, 0.4), ("8 bits", 0.002, 0.2, 0.1)
PAIR = problem(("stem", FOUR), ("head", TWO))


class Certain:
    """Knows the damages, and draws them with a spread that it is told: `scale` times what it expects."""

    def __init__(self, of, spread=0.0, observed=()):
        self._tables, self._spread, self._observed = [u.damage[:, 0] for u in of.units], spread, observed

    def tables(self):
        return self._tables

    def draw_tables(self, n, rng):
        scales = 1 + self._spread * np.linspace(-1, 1, n)[:, None]  # uniform
        return [scales * table for table in self._tables]

    def left_out(self):
        return np.array(self._observed, float)


def explained(of, plan, **changes):
    return explain(of, changes.pop("correction", Certain(of)), plan, **BASELINE, **changes)


def drop(damage):
    return LARGEST * (1 - math.exp(-damage / LARGEST))


def test_a_unit_tells_what_its_choice_costs_and_saves_against_the_gentlest():
    stem, head = explained(PAIR, (1, 1)).units
    assert (stem.unit, stem.chosen.choice, head.unit, head.chosen.choice) == ("stem", "8 bits", "head", "8 bits")
    assert stem.chosen.accuracy_drop.value == pytest.approx(drop(0.012) - drop(0.002))
    assert stem.chosen.latency_ms == pytest.approx(-2.0)
    assert stem.chosen.size_bytes == pytest.approx(-200.0)
    assert head.chosen.accuracy_drop.value == pytest.approx(drop(0.012) - drop(0.01))


def test_the_cheaper_choice_is_the_faster_one_that_adds_the_least_drop():
    cheaper = explained(PAIR, (1, 1)).units[0].cheaper
    assert cheaper.choice == "4 bits"
    assert cheaper.accuracy_drop.value == pytest.approx(drop(0.052) - drop(0.012))
    assert (cheaper.latency_ms, cheaper.size_bytes) == (pytest.approx(-1.0), pytest.approx(-100.0))


def test_the_gentler_choice_is_the_more_accurate_one_that_takes_the_least_time():
    gentler = explained(PAIR, (2, 1)).units[0].gentler
    assert gentler.choice == "8 bits"
    assert gentler.accuracy_drop.value == pytest.approx(drop(0.012) - drop(0.052))
    assert gentler.latency_ms == pytest.approx(1.0)


SIZES = ("float", 0.0, 0.5, 0.4), ("8 bits", 0.01, 0.3, 0.2), ("4 bits", 0.05, 0.3, 0.1), ("2 bits", 0.3, 0.31, 0.05)
ENDS = [  # id, choices of one unit, chosen, cheaper, gentler
    ("the gentlest", FOUR, 0, "8 bits", None),
    ("the fastest", FOUR, 3, None, "4 bits"),
    ("one choice only", FOUR[:1], 0, None, None),
    ("none is faster, one is smaller", SIZES, 1, "4 bits", "float"),
    ("the smallest of equal speed", SIZES, 2, None, "8 bits"),
    ("smaller but slower is not cheaper", (SIZES[2], SIZES[3]), 0, None, None),
    ("a faster one before a smaller one", (*FOUR[1:3], ("less", 0.011, 0.3, 0.1)), 0, "4 bits", None),
    ("a difference that nobody would see", (FOUR[0], ("same", 4e-5, 0.49995, 0.4)), 0, None, None),
    ("a drop that nobody would see", (FOUR[0], ("same", 4e-5, 0.4, 0.4)), 1, None, None),
]


@pytest.mark.parametrize(("choices", "chosen", "cheaper", "gentler"), [pytest.param(*r[1:], id=r[0]) for r in ENDS])
def test_alternatives_at_the_ends_of_a_unit(choices, chosen, cheaper, gentler):
    unit = explained(problem(("only", choices)), (chosen,)).units[0]
    assert (unit.cheaper and unit.cheaper.choice, unit.gentler and unit.gentler.choice) == (cheaper, gentler)


def test_of_equal_drops_the_choice_that_saves_more_time_is_named():
    only = problem(("only", (*FOUR[:2], ("8 bits, smaller", 0.01, 0.2, 0.2))))
    assert explained(only, (0,)).units[0].cheaper.choice == "8 bits, smaller"


def test_what_units_cost_together_counts():
    both = problem(("a", TWO), ("b", TWO), edges=[((0, 1), [[0.0, 0.05], [0.05, 0.0]])])
    gentler = explained(both, (1, 1)).units[0].gentler
    assert gentler.latency_ms == pytest.approx(10 * (0.2 + 0.05))


def test_the_error_is_the_middle_nine_tenths_of_the_draws():
    alone = problem(("only", FOUR))
    cheaper = explained(alone, (1,), correction=Certain(alone, spread=0.5)).units[0].cheaper
    ends = [drop(0.05 * scale) - drop(0.01 * scale) for scale in (0.55, 1.45)]
    assert [cheaper.accuracy_drop.low, cheaper.accuracy_drop.high] == pytest.approx(ends, rel=1e-3)


def test_the_error_of_what_was_chosen_is_not_turned_round():
    alone = problem(("only", FOUR))
    chosen = explained(alone, (2,), correction=Certain(alone, spread=0.5)).units[0].chosen.accuracy_drop
    assert [chosen.low, chosen.high] == pytest.approx([drop(0.05 * 0.55), drop(0.05 * 1.45)], rel=1e-3)


def test_doubts_about_other_units_don_t_widen_the_error_where_drops_do_not_saturate():
    wide = problem(("only", FOUR), ("other", (("bad", 0.3, 0.1, 0.1),)), largest_drop=1e6)

    class OtherUnsure(Certain):
        def draw_tables(self, n, rng):
            return [np.tile(self._tables[0], (n, 1)), rng.uniform(0.0, 0.6, (n, 1))]

    cheaper = explained(wide, (1, 0), correction=OtherUnsure(wide)).units[0].cheaper.accuracy_drop
    assert cheaper.high - cheaper.low < 1e-4
    assert cheaper.value == pytest.approx(0.04, rel=1e-4)


MEASURED = [
    ("aa", (0, 0), 0.0, 1.0, 1.0),
    ("bb", (1, 0), 0.02, 0.85, 0.8),
    ("cc", (1, 1), 0.015, 0.6, 0.5),
    ("dd", (3, 1), 0.25, 0.5, 0.35),
]


def test_forecasts_stand_beside_what_was_measured():
    result = explained(PAIR, (1, 1), correction=Certain(PAIR, observed=(0.1, 0.2, 0.3, 0.4)), measured=MEASURED)
    assert result.digest == "cc"
    last = result.forecasts[-1]
    assert (last.digest, last.drop, last.latency, last.size) == ("dd", 0.25, 0.5, 0.35)
    assert last.table_drop == pytest.approx(drop(0.202))
    assert (last.predicted_latency, last.predicted_size) == (pytest.approx(0.45), pytest.approx(0.35))
    assert [f.learned_drop for f in result.forecasts] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_trust_is_rank_correlation_and_mean_error():
    trust = explained(PAIR, (1, 1), correction=Certain(PAIR, observed=(1, 2, 3, 4)), measured=MEASURED).trust
    assert trust.table_drop.rank_correlation == pytest.approx(0.8)  # 1 - 6 * (1 + 1) / (4 * 15)
    assert trust.latency.rank_correlation == pytest.approx(1.0)
    assert trust.latency.mean_error == pytest.approx((0.0 + 0.05 + 0.0 + 0.05) / 4)
    assert trust.learned_drop.mean_error == pytest.approx((1 + 1.98 + 2.985 + 3.75) / 4)


@pytest.mark.parametrize(
    "measured",
    [
        pytest.param(MEASURED[:2], id="only two"),
        pytest.param([(d, p, 0.01, 1.0, 1.0) for d, p, *_ in MEASURED], id="all measured alike"),
        pytest.param([(d, (0, 0), *rest) for d, _, *rest in MEASURED], id="all predicted alike"),
    ],
)
def test_without_an_order_there_is_no_rank_correlation(measured):
    result = explained(PAIR, (1, 1), correction=Certain(PAIR, observed=[0.0] * len(measured)), measured=measured)
    assert result.trust.table_drop.rank_correlation is None
    assert math.isfinite(result.trust.table_drop.mean_error)


def test_without_measurements_there_is_nothing_to_trust():
    result = explained(PAIR, (1, 1))
    assert (result.digest, result.forecasts, result.trust) == ("", (), None)


def test_a_recipe_that_is_no_plan_still_has_its_forecasts():
    result = explained(PAIR, None, correction=Certain(PAIR, observed=[0.0] * 4), measured=MEASURED)
    assert (result.digest, result.units, len(result.forecasts)) == ("", (), 4)


def test_rungs_are_kept_in_their_order():
    counted = explained(PAIR, (0, 0), rungs={"predicted": 300, "untrained": 40, "short": 9}).rungs
    assert [(c.rung, c.n_reached) for c in counted] == [("predicted", 300), ("untrained", 40), ("short", 9)]


@pytest.mark.parametrize("plan", [(1,), (1, 2), (-1, 0), (1, 1, 0)], ids=str)
def test_a_plan_that_does_not_fit_is_refused(plan):
    with pytest.raises(StudyError, match=r"must have an index below \[4, 2\] for each unit"):
        explained(PAIR, plan)


def test_measurements_that_the_correction_did_not_see_are_refused():
    with pytest.raises(StudyError, match="must have observed the 4 measured plans, but it has 1"):
        explained(PAIR, (1, 1), correction=Certain(PAIR, observed=[0.0]), measured=MEASURED)


def test_it_works_with_the_real_correction_and_gives_the_same_twice():
    observed = [Observation(plan, drop, 0.002) for _, plan, drop, *_ in MEASURED]
    results = [explained(PAIR, (1, 1), correction=Correction(PAIR, observed), measured=MEASURED) for _ in range(2)]
    assert results[0] == results[1]
    assert Explanation.model_validate_json(results[0].model_dump_json()) == results[0]
    for change in (results[0].units[0].cheaper, results[0].units[0].chosen):
        assert change.accuracy_drop.low < change.accuracy_drop.value < change.accuracy_drop.high


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_change_is_the_difference_of_two_whole_predictions(data):
    share = st.floats(0, 0.3)
    units = [
        (f"u{i}", [(f"c{j}", *data.draw(st.tuples(share, share, share))) for j in range(data.draw(st.integers(1, 4)))])
        for i in range(data.draw(st.integers(1, 3)))
    ]
    whole = problem(*units)
    plan = tuple(data.draw(st.integers(0, len(choices) - 1)) for _, choices in units)
    predictor = Correction(whole, [])
    for i, unit in enumerate(explained(whole, plan, correction=predictor).units):
        for change in (unit.cheaper, unit.gentler):
            if change:
                other = (*plan[:i], whole.units[i].choices.index(change.choice), *plan[i + 1 :])
                before, after = predictor.drops(np.array([plan, other]))
                assert change.accuracy_drop.value == pytest.approx(after - before, abs=1e-12)
                before, after = whole.latencies(np.array([plan, other]))
                assert change.latency_ms == pytest.approx(10 * (after - before), abs=1e-12)


def test_two_hundred_units_are_explained_from_a_thousand_choices():
    many = problem(*((f"u{i}", [(f"c{j}", 0.001 * j, 0.01 / (1 + j), 0.01) for j in range(6)]) for i in range(200)))
    result = explained(many, tuple(i % 6 for i in range(200)), correction=Correction(many, []))
    assert [unit.chosen.choice for unit in result.units[:3]] == ["c0", "c1", "c2"]
    assert sum(unit.cheaper is None for unit in result.units) == sum(i % 6 == 5 for i in range(200))
