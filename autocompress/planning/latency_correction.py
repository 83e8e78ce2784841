"""What trials teach about the latency model: a Bayesian linear correction, so that costs stay sums over few units."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from autocompress.planning.correction import Observation
from autocompress.planning.problem import Cost, Floats, Plans, Problem, sum_of

OVERALL_SPREAD = 0.05  # standard deviation of one factor for the whole latency, around 1
TOGETHER_SPREAD = 0.3  # of one factor for what several units cost together, such as changes of precision
UNIT_SPREAD, ENTRY_SPREAD = 0.04, 0.07  # of a unit's factor; of one choice of it, as a share of its latency
NOISE = 0.012  # of a measured latency around the corrected model, as a share of it
KEPT = 0.3  # of that variance: the plan's own, which the model lacks; the rest is error of measurement


def correct_latency(problem: Problem, observations: Sequence[Observation]) -> tuple[Problem, Floats]:
    """The problem with its costs at their posterior mean, and what the observed plans really take.

    The latency of a plan is ``sum of costs * (1 + g) + h * sum of costs of several units + sum_u (d_u own[u, c] +
    e_{u,c})`` with normal priors around 0; `own` is a unit's latency averaged over the choices of the others. So the
    correction is one more cost for each unit and a factor for the others (Rasmussen & Williams 2006, section 2.1).

    Args:
        problem: What is planned.
        observations: Trials so far; those without a latency teach nothing.

    Returns:
        The corrected problem, and latencies of shape (observations,) in shares of the baseline's: between the
        measured ones and the model's, or the model's where none was measured.
    """
    plans = np.array([o.plan for o in observations], np.int64).reshape(-1, len(problem.units))
    known = np.array([o.latency is not None for o in observations], np.bool_)
    if not known.any():
        return problem, problem.latencies(plans)
    measured = np.array([o.latency for o in observations if o.latency is not None])
    corrected, solved = _fit(problem, plans[known], measured)
    latencies = corrected.latencies(plans)
    latencies[known] = measured - (1 - KEPT) * (NOISE * measured) ** 2 * solved
    return corrected, latencies


def own_latencies(problem: Problem) -> list[Floats]:
    """Latency of each choice of each unit, averaged over the choices of the others: one (choices,) a unit."""
    own = [np.zeros(n) for n in problem.n_choices]
    for cost in problem.costs:
        for axis, unit in enumerate(cost.units):
            others = tuple(i for i in range(len(cost.units)) if i != axis)
            own[unit] = own[unit] + cost.latency.mean(axis=others) / len(cost.units)
    return own


def _fit(problem: Problem, plans: Plans, measured: Floats) -> tuple[Problem, Floats]:
    own = own_latencies(problem)
    predicted, together = problem.latencies(plans), _together(problem, plans)
    parts = np.stack([table[plans[:, i]] for i, table in enumerate(own)])
    kernel = OVERALL_SPREAD**2 * np.outer(predicted, predicted) + TOGETHER_SPREAD**2 * np.outer(together, together)
    kernel += UNIT_SPREAD**2 * parts.T @ parts
    for unit, part in enumerate(parts):
        same = plans[:, unit][:, None] == plans[:, unit]
        kernel += ENTRY_SPREAD**2 * np.where(same, part**2, 0.0)
    solved: Floats = cho_solve(cho_factor(kernel + np.diag((NOISE * measured) ** 2 + 1e-12)), measured - predicted)
    overall = 1 + OVERALL_SPREAD**2 * float(predicted @ solved)
    factor = overall + TOGETHER_SPREAD**2 * float(together @ solved)
    costs = [replace(c, latency=c.latency * (overall if len(c.units) == 1 else factor)) for c in problem.costs]
    costs += [_own_correction(i, table, plans[:, i], solved) for i, table in enumerate(own)]
    return replace(problem, costs=tuple(costs), latency=problem.latency * overall), solved


def _own_correction(unit: int, own: Floats, chosen: Plans, solved: Floats) -> Cost:
    """One unit's share of the correction, with the deviation of the unit and those of its choices."""
    table = UNIT_SPREAD**2 * own * (own[chosen] @ solved)
    table += ENTRY_SPREAD**2 * own**2 * np.bincount(chosen, weights=solved, minlength=len(own))
    return Cost((unit,), table, np.zeros(len(own)))


def _together(problem: Problem, plans: Plans) -> Floats:
    """What several units cost together, shape (n,)."""
    several = [c for c in problem.costs if len(c.units) > 1]
    return sum_of([c.latency[tuple(plans[:, unit] for unit in c.units)] for c in several], len(plans))
