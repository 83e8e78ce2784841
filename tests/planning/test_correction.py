from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.errors import StudyError
from autocompress.planning.correction import (
    KIND_SPREAD,
    LEAST_MISFIT,
    LEAST_SHARE,
    LEVELS,
    TRUSTED,
    UNIT_SPREAD,
    Correction,
    Observation,
)
from autocompress.planning.problem import Cost, Problem, Unit

RECOVERY = np.array([0.6, 0.3])


def problem_of(damages, recovery=RECOVERY, largest_drop=0.9):
    """A problem without costs from one (choices, kinds) array a unit."""
    units = tuple(Unit(f"u{i}", tuple("abcdefgh"[: len(d)]), np.asarray(d, float)) for i, d in enumerate(damages))
    costs = tuple(Cost((i,), np.zeros(len(d)), np.zeros(len(d))) for i, d in enumerate(damages))
    return Problem(units, ("p", "q")[: len(recovery)], recovery, costs, 1.0, 1.0, 0.01, largest_drop)


def random_problem(seed, n_units=4):
    rng = np.random.default_rng(seed)
    damages = rng.lognormal(-4, 1, (n_units, 3, 2))
    damages[:, 0] = 0
    return problem_of(damages)


def random_observations(problem, n, seed, factor=0.5, error=0.0005):
    rng = np.random.default_rng(seed)
    plans = rng.integers(np.array(problem.n_choices), size=(n, len(problem.units)))
    drops = problem.drop_of(factor * problem.damages(plans).sum(axis=1)) + error * rng.standard_normal(n)
    return [Observation(tuple(p), float(d), error) for p, d in zip(plans.tolist(), drops, strict=True)]


def scaled(problem, correction):
    """The problem with the recoveries that a correction settled on."""
    return replace(problem, recovery=problem.recovery * correction.scale)


def reference_posterior(problem, observations, trust):
    """Mean and covariance of every parameter (kinds, units x kinds, entries) by normal equations in weight space."""
    rec, units = problem.recovery, problem.units
    n_kinds = len(rec)
    sizes = [len(u.choices) for u in units]
    typical = np.median([e for u in units for e in u.damage @ rec if e > 0])
    n = n_kinds + len(units) * n_kinds + sum(sizes)

    def row_of(unit, choice):
        row = np.zeros(n)
        for t in range(n_kinds):
            row[t] += units[unit].damage[choice, t]
            row[n_kinds + unit * n_kinds + t] += units[unit].damage[choice, t]
        row[n_kinds + len(units) * n_kinds + sum(sizes[:unit]) + choice] = 1
        return row

    entries = [(i, c) for i, size in enumerate(sizes) for c in range(size)]
    table = np.stack([row_of(*entry) for entry in entries])
    mean = np.concatenate([rec, np.zeros(n - n_kinds)])
    expected = np.array([units[i].damage[c] @ rec for i, c in entries])
    entry_variance = (trust.entry * expected) ** 2 + (trust.unknown * typical) ** 2
    unit_variance = np.tile((UNIT_SPREAD * rec) ** 2, len(units))
    variance = np.concatenate([(KIND_SPREAD * rec) ** 2, unit_variance, entry_variance]) + 1e-14
    rows = np.array([sum(row_of(i, c) for i, c in enumerate(o.plan)) for o in observations])
    drops = np.array([o.drop for o in observations])
    measured = problem.damage_of(drops)
    errors = np.array([o.drop_error for o in observations]) / (1 - np.clip(drops / problem.largest_drop, 0, 0.99))
    predicted = np.array([sum(units[i].damage[c] @ rec for i, c in enumerate(o.plan)) for o in observations])
    misfit = (trust.misfit * (np.maximum(measured, 0) + predicted) / 2) ** 2
    misfit = misfit + (LEAST_MISFIT * problem.largest_drop) ** 2
    noise = misfit + errors**2
    precision = rows.T @ (rows / noise[:, None]) + np.diag(1 / variance)
    covariance = np.linalg.inv(precision)
    posterior = mean + covariance @ (rows.T @ ((measured - rows @ mean) / noise))
    fitted = rows @ posterior
    denoised = measured - errors**2 / noise * (measured - fitted)
    return table @ posterior, table @ covariance @ table.T, table @ mean, denoised


def test_prior_expects_the_damage_times_the_recovery():
    problem = random_problem(0)
    tables = Correction(problem, []).tables()
    for unit, table in zip(problem.units, tables, strict=True):
        np.testing.assert_allclose(table, unit.damage @ RECOVERY)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 30))
def test_mean_table_solves_the_normal_equations(seed, n):
    problem = random_problem(seed)
    observations = random_observations(problem, n, seed + 1)
    correction = Correction(problem, observations)
    mean, _, prior, _ = reference_posterior(scaled(problem, correction), observations, correction.trust)
    np.testing.assert_allclose(
        np.concatenate(correction.tables()), np.maximum(mean, LEAST_SHARE * prior), rtol=1e-4, atol=1e-9
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 30))
def test_denoised_drops_solve_the_normal_equations(seed, n):
    problem = random_problem(seed)
    observations = random_observations(problem, n, seed + 1, error=0.002)
    correction = Correction(problem, observations)
    denoised = reference_posterior(scaled(problem, correction), observations, correction.trust)[3]
    expected = np.where(denoised < 0, denoised, problem.drop_of(denoised))
    np.testing.assert_allclose(correction.denoised(), expected, rtol=1e-4, atol=1e-8)


def test_draws_have_the_moments_of_the_posterior():
    problem = random_problem(3)
    observations = random_observations(problem, 5, 4)
    correction = Correction(problem, observations)
    mean, covariance, _, _ = reference_posterior(scaled(problem, correction), observations, correction.trust)
    draws = np.concatenate(correction.draw_tables(20000, np.random.default_rng(0)), axis=1)
    spread = np.sqrt(np.diag(covariance))
    likely_positive = (mean > 3 * spread) & (spread > 1e-6)  # where clipping changes nothing
    assert likely_positive.sum() >= 2
    np.testing.assert_allclose(draws.mean(axis=0)[likely_positive], mean[likely_positive], rtol=0.03)
    correlation = np.corrcoef(draws[:, likely_positive].T)
    kept = covariance[np.ix_(likely_positive, likely_positive)]
    scale = np.sqrt(np.diag(kept))
    np.testing.assert_allclose(draws.std(axis=0)[likely_positive], scale, rtol=0.05)
    np.testing.assert_allclose(correlation, kept / np.outer(scale, scale), atol=0.05)


def test_left_out_predicts_as_if_the_observation_were_missing():
    problem = random_problem(5)
    observations = random_observations(problem, 4, 6)
    found = Correction(problem, observations).left_out()
    for i, observation in enumerate(observations):
        rest = observations[:i] + observations[i + 1 :]
        mean = reference_posterior(problem, rest, TRUSTED)[0]
        offsets = np.arange(4) * 3
        damage = mean[offsets + np.array(observation.plan)].sum()
        expected = damage if damage < 0 else problem.drop_of(damage)
        assert found[i] == pytest.approx(expected, rel=1e-4)


def test_learns_that_training_repairs_one_kind_and_not_the_other():
    rng = np.random.default_rng(0)
    damages = np.zeros((20, 3, 2))
    damages[:, 1, 0], damages[:, 2, 1] = 0.004, 0.004
    problem = problem_of(damages, recovery=np.array([0.6, 0.6]))
    plans = rng.integers(3, size=(25, 20))
    drops = problem.drop_of(problem.damages(plans) @ np.array([0.1, 1.0]))
    observations = [Observation(tuple(p), float(d), 1e-4) for p, d in zip(plans.tolist(), drops, strict=True)]
    multipliers = Correction(problem, observations).multipliers().mean(axis=0)
    np.testing.assert_allclose(multipliers, [0.1, 1.0], atol=0.08)


def test_denoised_lies_between_measured_and_modelled():
    problem = random_problem(7)
    observations = random_observations(problem, 12, 8, error=0.003)
    correction = Correction(problem, observations)
    measured = np.array([o.drop for o in observations])
    modelled = correction.drops(np.array([o.plan for o in observations]))
    denoised = correction.denoised()
    low, high = np.minimum(measured, modelled), np.maximum(measured, modelled)
    assert ((denoised > low - 2e-4) & (denoised < high + 2e-4)).all()
    assert (np.abs(denoised - measured) > 1e-6).any()
    assert (np.abs(denoised - modelled) > 1e-6).any()


@pytest.mark.parametrize("learn", [True, False], ids=["learning", "not learning"])
@pytest.mark.parametrize("n", [0, 1, 2, 40], ids=lambda n: f"{n} observations")
def test_everything_is_finite_and_positive(learn, n):
    problem = random_problem(9)
    correction = Correction(problem, random_observations(problem, n, 1), learn)
    rng = np.random.default_rng(0)
    plans = rng.integers(3, size=(7, 4))
    draws = correction.drop_draws(plans, 5, rng)
    assert draws.shape == (5, 7)
    assert correction.drops(plans).shape == (7,)
    assert correction.denoised().shape == correction.left_out().shape == (n,)
    assert correction.multipliers().shape == (4, 2)
    assert all(t.shape == (6, 3) and (t >= 0).all() for t in correction.draw_tables(6, rng))
    for values in (draws, correction.drops(plans), correction.denoised(), correction.left_out()):
        assert np.isfinite(values).all()


def test_all_zero_damage_stays_zero_whatever_is_observed():
    problem = problem_of(np.zeros((3, 2, 2)))
    observations = [Observation((0, 1, 0), 0.3, 0.0), Observation((0, 1, 0), 0.3, 0.0)]
    correction = Correction(problem, observations)
    assert all((table == 0).all() for table in correction.tables())
    assert np.isfinite(correction.denoised()).all()


def test_without_learning_the_prior_stays():
    problem = random_problem(2)
    observations = random_observations(problem, 30, 3)
    correction = Correction(problem, observations, learn=False)
    for found, unit in zip(correction.tables(), problem.units, strict=True):
        np.testing.assert_allclose(found, unit.damage @ RECOVERY)
    np.testing.assert_array_equal(correction.denoised(), [o.drop for o in observations])
    spread = correction.draw_tables(200, np.random.default_rng(0))[1][:, 1]
    assert spread.std() > 0.3 * spread.mean()


def test_saturated_drops_teach_only_that_the_damage_is_large():
    problem = problem_of([[[0, 0], [0.5, 0]]] * 6)
    everything = Observation((1,) * 6, 0.9, 0.001)
    table = Correction(problem, [everything]).tables()[0]
    assert table[1] > 0.3
    assert np.isfinite(table).all()


def test_a_useless_table_is_trusted_less_than_a_right_one():
    problem = random_problem(0, n_units=12)
    right = Correction(problem, random_observations(problem, 60, 1, factor=0.45)).trust
    rng = np.random.default_rng(5)
    plans = rng.integers(3, size=(60, 12))
    other = rng.permutation(rng.lognormal(-4, 1.5, (12, 3)) * (np.arange(3) > 0))
    drops = np.take_along_axis(other[None], plans[:, :, None], axis=2)[:, :, 0].sum(axis=1)
    observations = [Observation(tuple(p), float(d), 0.001) for p, d in zip(plans.tolist(), drops, strict=True)]
    wrong = Correction(problem, observations).trust
    assert LEVELS.index(wrong) > LEVELS.index(right)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"drop": float("nan")}, "drop"),
        ({"drop": float("inf")}, "drop"),
        ({"drop_error": float("nan")}, "drop_error"),
        ({"drop_error": -0.1}, "drop_error"),
        ({"latency": float("inf")}, "latency"),
        ({"size": float("nan")}, "size"),
    ],
    ids=str,
)
def test_an_observation_refuses_what_is_not_a_number(changes, word):
    with pytest.raises(StudyError, match=word):
        Observation(**{"plan": (0,), "drop": 0.1, "drop_error": 0.0, **changes})


@pytest.mark.parametrize("plan", [(0, 0, 0), (0, 0, 0, 3), (0, -1, 0, 0)], ids=str)
def test_a_plan_of_another_problem_is_refused(plan):
    with pytest.raises(StudyError, match="4 units"):
        Correction(random_problem(0), [Observation(plan, 0.1, 0.0)])


@pytest.mark.parametrize("factor", [0.1, 1.0, 8.0, 30.0], ids=str)
def test_a_table_in_other_units_is_scaled(factor):
    problem = random_problem(seed=3)
    recovery = problem.recovery * factor
    rng = np.random.default_rng(1)
    plans = np.stack([rng.integers(n, size=12) for n in problem.n_choices], axis=1)
    drops = problem.drop_of(problem.damages(plans) @ recovery)
    observations = [Observation(tuple(p), float(d), 1e-4) for p, d in zip(plans.tolist(), drops, strict=True)]
    found = Correction(problem, observations)
    assert factor / 2 <= found.scale <= 2 * factor
    new = np.stack([rng.integers(n, size=30) for n in problem.n_choices], axis=1)
    truth = problem.drop_of(problem.damages(new) @ recovery)
    assert np.abs(found.drops(new) - truth).max() < 0.25 * truth.max() + 1e-6
    assert Correction(problem, observations, learn=False).scale == 1.0
