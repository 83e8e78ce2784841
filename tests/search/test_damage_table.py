"""From divergences and drops to damages: the line between them, what is missing, and order within a unit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.planning.problem import Problem, Unit
from autocompress.search.damage_table import (
    USUAL_SLOPE,
    damage_tables,
    drop_per_divergence,
    linked_damage,
    unsaturated,
)
from autocompress.search.expected_damage import KINDS
from autocompress.search.plan_space import PlanSpace
from tests.search.chains import Isolated
from tests.search.plan_nets import inspected

LARGEST = 0.9


def saturated(damage: float) -> float:
    return LARGEST * (1 - np.exp(-damage / LARGEST))


def on_a_line(slope: float, divergences: np.ndarray, noise: float = 0.0, seed: int = 0) -> list[Isolated]:
    rng = np.random.default_rng(seed)
    return [Isolated(x, saturated(slope * x) + noise * rng.normal(), max(noise, 1e-3)) for x in divergences]


def test_drops_unsaturate_as_the_problem_says() -> None:
    unit = Unit("u", ("a",), np.zeros((1, 1)))
    problem = Problem((unit,), ("4 bits",), np.ones(1), (), 1.0, 1.0, 0.01, LARGEST)
    drops = np.array([-0.01, 0.0, 0.001, 0.3, 0.8, 0.899, 2.0])
    assert [unsaturated(drop, LARGEST) for drop in drops] == pytest.approx(problem.damage_of(drops).tolist())


@pytest.mark.parametrize("slope", [0.1, 0.6, 3.0])
def test_the_slope_is_found(slope: float) -> None:
    entries = on_a_line(slope, np.geomspace(1e-4, 1.0, 30), noise=0.01)
    assert drop_per_divergence(entries, LARGEST) == pytest.approx(slope, rel=0.15)


def test_a_third_of_wild_entries_moves_the_slope_little() -> None:
    entries = on_a_line(0.6, np.geomspace(1e-3, 1.0, 20))
    wild = [Isolated(x, 0.89, 0.001) for x in np.geomspace(1e-3, 0.3, 7)]
    assert drop_per_divergence([*entries, *wild], LARGEST) == pytest.approx(0.6, rel=0.25)


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([], id="none"),
        pytest.param(on_a_line(3.0, np.array([0.1, 0.2, 0.3])), id="three"),
        pytest.param(on_a_line(3.0, np.full(9, 1e-5), noise=0.02), id="all lost in noise"),
        pytest.param([Isolated(0.0, 0.1)] * 9, id="no divergence"),
        pytest.param([Isolated(1e-320, 0.1)] * 9, id="hardly a divergence"),
        pytest.param([Isolated(0.5, -0.2, 0.3)] * 9, id="all better than the baseline"),
    ],
)
def test_entries_that_say_too_little_give_the_usual_slope(entries: list[Isolated]) -> None:
    assert drop_per_divergence(entries, LARGEST) == USUAL_SLOPE


def test_a_clear_drop_counts_and_one_lost_in_noise_does_not() -> None:
    assert linked_damage(Isolated(0.1, 0.3, 1e-4), 0.6, LARGEST) == pytest.approx(unsaturated(0.3, LARGEST), rel=0.01)
    assert linked_damage(Isolated(1e-3, 0.05, 0.03), 0.6, LARGEST) == pytest.approx(6e-4, rel=0.1)


def test_the_blend_is_the_mean_by_inverse_variances() -> None:
    line, error = 0.6 * 0.1, 0.02 / (1 - 0.1 / LARGEST)
    weights = 1 / np.array([0.35 * line, error]) ** 2
    wanted = (weights * [line, unsaturated(0.1, LARGEST)]).sum() / weights.sum()
    assert linked_damage(Isolated(0.1, 0.1, 0.02), 0.6, LARGEST) == pytest.approx(wanted)


finite = st.floats(-1.0, 20.0, allow_nan=False)


@given(st.builds(Isolated, st.floats(0, 50), finite, st.floats(0, 1)), st.floats(1e-3, 10))
def test_damages_are_never_negative_nor_beyond_five_times_the_largest_drop(entry: Isolated, slope: float) -> None:
    assert 0 <= linked_damage(entry, slope, LARGEST) <= 5 * LARGEST


def tables(space: PlanSpace, measured: dict[str, Isolated]) -> list[np.ndarray]:
    return damage_tables(space.units, measured, KINDS, LARGEST)


def entries(space: PlanSpace, damage: float, chosen: slice = slice(None)) -> dict[str, Isolated]:
    """Every choice of `chosen` as damaging as its noise to signal times `damage`, and measured without error."""
    options = [option for unit in space.units for option in unit.options[1:][chosen]]
    return {o.digest: Isolated(damage * o.energy / 0.6, saturated(damage * o.energy), 1e-4) for o in options}


def test_measured_choices_have_the_damage_that_was_measured() -> None:
    space = inspected("chain").plans("full")
    found = tables(space, entries(space, 0.4))
    for unit, table in zip(space.units, found, strict=True):
        assert table.sum(axis=1) == pytest.approx([0.4 * option.energy for option in unit.options], rel=0.05)


@pytest.mark.parametrize("chosen", [slice(0, 1), slice(-1, None)], ids=["only the gentlest", "only the last"])
def test_choices_that_are_missing_follow_those_of_the_unit(chosen: slice) -> None:
    space = inspected("chain").plans("full")
    found = tables(space, entries(space, 0.4, chosen))
    for unit, table in zip(space.units, found, strict=True):
        assert table.sum(axis=1) == pytest.approx([0.4 * option.energy for option in unit.options], rel=0.05)


def test_a_missing_choice_between_two_others_lies_between() -> None:
    space = inspected("chain").plans("mixed-precision")
    unit = space.units[0]
    eight, _, four = unit.options[1:]
    measured = {eight.digest: Isolated(1e-3, 6e-4, 1e-4), four.digest: Isolated(0.1, saturated(0.06), 1e-3)}
    damages = tables(space, measured)[0].sum(axis=1)
    assert damages[0] == 0
    assert damages[1] == pytest.approx(6e-4, rel=0.1)
    assert damages[1] < damages[2] < damages[3]
    assert damages[3] == pytest.approx(0.06, rel=0.1)


def test_a_unit_without_entries_follows_its_kinds_in_other_units() -> None:
    space = inspected("chain").plans("full")
    layers: dict[str, Isolated] = {}
    groups: dict[str, Isolated] = {}
    for unit in space.units[2:]:
        (groups if unit.groups else layers).update(
            {o.digest: Isolated(f * o.energy / 0.6, saturated(f * o.energy), 1e-5)
             for f in [0.2 if unit.groups else 5.0] for o in unit.options[1:]}
        )  # fmt: skip
    found = tables(space, layers | groups)
    expected = [[option.energy for option in unit.options] for unit in space.units[:2]]
    assert found[0].sum(axis=1) == pytest.approx([5.0 * e for e in expected[0]], rel=0.05)
    assert found[1].sum(axis=1) == pytest.approx([0.2 * e for e in expected[1]], rel=0.05)


def test_without_any_entry_there_are_damages_that_rise_with_aggressiveness() -> None:
    for name in ("full", "low-rank", "sparse"):
        space = inspected("residual").plans(name)
        for unit, table in zip(space.units, tables(space, {}), strict=True):
            totals = table.sum(axis=1)
            assert totals[0] == 0
            assert (totals[1:] > 0).all()
            assert (np.where(unit.is_gentler, totals[:, None] - totals[None], 0) <= 1e-15).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["full", "low-rank", "sparse"]))
def test_a_gentler_choice_never_does_more_whatever_was_measured(seed: int, name: str) -> None:
    space, rng = inspected("residual").plans(name), np.random.default_rng(seed)
    measured = {
        recipe.digest(): Isolated(10 ** rng.uniform(-6, 1), rng.uniform(-0.1, 1.0), rng.uniform(0, 0.1))
        for recipe in space.isolated
        if rng.random() < 0.5
    }
    for unit, table in zip(space.units, tables(space, measured), strict=True):
        totals = table.sum(axis=1)
        assert np.isfinite(table).all()
        assert (table >= 0).all()
        assert totals[0] == 0
        assert (np.where(unit.is_gentler, totals[:, None] - totals[None], 0) <= 1e-12).all()


def test_8_bits_may_do_more_than_7_because_products_saturate() -> None:
    space = inspected("chain").plans("int8")
    float_, eight, seven = space.units[0].options
    measured = {eight.digest: Isolated(0.2, 0.1, 1e-3), seven.digest: Isolated(1e-3, 0.0, 1e-3)}
    damages = tables(space, measured)[0].sum(axis=1)
    assert damages[1] > 10 * damages[2] > 0


def test_entries_that_are_not_finite_count_as_missing() -> None:
    space = inspected("chain").plans("int8")
    nan = {r.digest(): Isolated(float("nan"), float("inf"), 0.1) for r in space.isolated}
    assert all((a == b).all() for a, b in zip(tables(space, nan), tables(space, {}), strict=True))


def test_damage_of_a_choice_is_divided_among_its_kinds() -> None:
    space = inspected("chain").plans("low-rank")
    unit = space.units[0]
    index = next(i for i, o in enumerate(unit.options) if o.label == "8 bits, 50 % of the rank")
    table = tables(space, {unit.options[index].digest: Isolated(0.5, saturated(0.3), 1e-5)})[0][index]
    assert table.sum() == pytest.approx(0.3, rel=0.01)
    shares = dict(zip(KINDS, table / table.sum(), strict=True))
    assert shares["low rank"] == pytest.approx(0.25 / (0.25 + 2 * 8.77e-5))
    assert shares["8 bits"] == pytest.approx(1 - shares["low rank"])
    assert sum(share > 0 for share in shares.values()) == 2
