"""The incumbent: full compression, reverted unit by unit until the accuracy is back, then profitable single steps.

In the manner of NNCF's quantization with accuracy control (its documentation: quantize everything, rank the quantizers
by the effect of reverting them, revert until the drop is at most the largest allowed one) and of the ranked list of
AIMET's automatic mixed precision (phase 2), with our choices in place of one width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from autocompress.planning.problem import Floats, Plans, Problem
from autocompress.search.planwise import History, ParameterMap, Plan, PlanwiseSampler
from autocompress.search.trial_view import is_finite

GENTLEST = 0  # index of the gentlest choice of a unit
LEAST_GAIN = 1e-9  # share of the baseline that a step must save to be one


@dataclass(frozen=True)
class Outcome:
    """What became of a plan.

    Args:
        feasible: Whether it was measured and its drop is at most the largest allowed one.
        drop: Its accuracy drop; infinite where it failed or is not known yet.
    """

    feasible: bool
    drop: float


class GreedySampler(PlanwiseSampler):
    """Reverts the most compressed plan until the floor is met, then walks on from there.

    The walk is gone again from its start for every proposal, over what the trials tell; the first plan on its way that
    was not tried is the proposal. A plan that is still running counts as one that fails, so that others go past it.

    Args:
        parameters: How parameters and plans belong together.
        problem: Gives the damage table and what choices cost.
        seed: Only for what is proposed when the walk is at its end.
        start: The most compressed uniform plan, such as everything in INT8; by default the last choice of each unit.
        anchors: Plans to propose first.
    """

    def __init__(
        self,
        parameters: ParameterMap,
        problem: Callable[[], Problem],
        *,
        seed: int,
        start: Plan | None = None,
        anchors: Sequence[Plan] = (),
    ) -> None:
        super().__init__(parameters, seed=seed, anchors=anchors)
        self._problem, self._start = problem, start

    def propose(self, study: optuna.Study, trial: FrozenTrial, history: History) -> Plan | None:
        """The first plan of the walk that was not tried; where all were, the plan where it ended."""
        problem = self._problem()
        start = self._start or tuple(n - 1 for n in problem.n_choices)
        outcomes = {t.plan: outcome_of(t.trial, problem) for t in history.tried}
        plan = start
        for plan in Walk(problem, outcomes).plans(start):
            if plan not in outcomes:
                break
        return plan


class Walk:
    """The way of the search over plans, as far as their outcomes are known.

    Args:
        problem: The damage table and what choices cost.
        outcomes: Of the plans tried; any other counts as one that fails.
    """

    def __init__(self, problem: Problem, outcomes: Mapping[Plan, Outcome]) -> None:
        self._problem, self._outcomes = problem, outcomes
        share = problem.recovery
        self._damages = [unit.damage @ share for unit in problem.units]

    def plans(self, start: Plan) -> Iterator[Plan]:
        """Plans in the order in which they are tried; each must have its outcome before the next is asked for."""
        yield start
        current = start
        if not self._is_feasible(start):
            savings = self._savings(start)
            if len(savings) > 1 and len({*savings.values()}) == 1:
                singles = {unit: _with(start, unit, GENTLEST) for unit in savings}
                yield from singles.values()
                savings = {unit: -self._drop(plan) for unit, plan in singles.items()}
            for unit in sorted(savings, key=lambda unit: (-savings[unit], unit)):
                current = _with(current, unit, GENTLEST)
                yield current
                if self._is_feasible(current):
                    break
        yield from self._onward(current)

    def _savings(self, plan: Plan) -> dict[int, float]:
        """Damage that reverting a unit saves by the table, for each unit that can be reverted."""
        damages = enumerate(self._damages)
        return {u: float(table[plan[u]] - table[GENTLEST]) for u, table in damages if plan[u] != GENTLEST}

    def _onward(self, current: Plan) -> Iterator[Plan]:
        """Single steps from a plan, the most profitable by the table first, kept where they keep the accuracy.

        The last one is the plan that was kept last, once more.
        """
        gains = self._gains(current)
        saved = dict.fromkeys(range(len(current)), 0.0)
        for unit, choice in self._ranked(gains, current):
            if gains[unit][choice] <= saved[unit]:
                continue
            plan = _with(current, unit, choice)
            yield plan
            if self._is_feasible(plan):
                current, saved[unit] = plan, float(gains[unit][choice])
        yield current

    def _ranked(self, gains: Sequence[Floats], current: Plan) -> list[tuple[int, int]]:
        """Steps (unit, choice) by the share they save for the damage they do; those that do none come first."""
        ranked = []
        for unit, gain in enumerate(gains):
            harm = self._damages[unit] - self._damages[unit][current[unit]]
            for choice in np.flatnonzero(gain > LEAST_GAIN).tolist():
                profit = gain[choice] / harm[choice] if harm[choice] > 0 else np.inf
                ranked.append((-profit, -gain[choice], unit, choice))
        return [(unit, choice) for *_, unit, choice in sorted(ranked)]

    def _gains(self, current: Plan) -> list[Floats]:
        """Share of the baseline's latency and size that each single step saves; as far as they are objectives."""
        n_choices = self._problem.n_choices
        plans = np.array([_with(current, u, c) for u, n in enumerate(n_choices) for c in range(n)], np.int64)
        costs = self._costs(np.concatenate([np.array([current], np.int64), plans]))
        return np.split(costs[0] - costs[1:], np.cumsum(n_choices)[:-1])

    def _costs(self, plans: Plans) -> Floats:
        objectives = self._problem.objectives
        if "size_bytes" not in objectives:
            return self._problem.latencies(plans)
        sizes = self._problem.sizes(plans)
        return sizes + self._problem.latencies(plans) if "latency" in objectives else sizes

    def _is_feasible(self, plan: Plan) -> bool:
        return plan in self._outcomes and self._outcomes[plan].feasible

    def _drop(self, plan: Plan) -> float:
        return self._outcomes[plan].drop if plan in self._outcomes else np.inf


def outcome_of(trial: FrozenTrial, problem: Problem) -> Outcome:
    """What became of a trial: feasible if no constraint is violated, or without one, if its drop is small enough."""
    if trial.state != TrialState.COMPLETE or not is_finite(trial.values):
        return Outcome(feasible=False, drop=np.inf)
    drop = drop_of(trial, problem)
    violations = [*trial.constraints.values()] or [drop - problem.max_drop]
    return Outcome(feasible=max(violations) <= 0, drop=drop)


def drop_of(trial: FrozenTrial, problem: Problem) -> float:
    """Accuracy drop of a complete trial; where it is no objective, from how far its constraint is violated.

    NaN where neither tells it.
    """
    if "accuracy_drop" in problem.objectives:
        return float(trial.values[problem.objectives.index("accuracy_drop")])
    return trial.constraints.get("accuracy_drop", np.nan) + problem.max_drop


def _with(plan: Plan, unit: int, choice: int) -> Plan:
    return (*plan[:unit], choice, *plan[unit + 1 :])
