"""A study as Optuna's own samplers should see it: every trial with all parameters, and without what misleads them."""

import math
from collections.abc import Collection, Container, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import NSGAIISampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from autocompress.search.planwise import History

LEARNT_FROM = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
CONSTRAINT = "constraints:"  # Optuna's prefix of the system attributes that hold constraints


class _View(InMemoryStorage):
    """Holds trials as they are given, without copies; what a sampler notes at a trial is dropped."""

    def __init__(self, trials: list[FrozenTrial]) -> None:
        super().__init__()
        self._seen = trials

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return [trial for trial in self._seen if states is None or trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        pass


def view_of(study: optuna.Study, history: History, population_size: int) -> optuna.Study:
    """A study of the trials of `history` from which a sampler of Optuna can learn.

    - All trials have all parameters with more than one choice, so that no parameter drops out of the intersection of
      their spaces, which is all that NSGA-II and the Gaussian process look at.
    - Trials with an infinite value are left out, and so are failed ones, and pruned ones without a constraint, which
      TPE would rank above infeasible ones.
    - All finished trials have the same constraints in the same order, as the Gaussian process takes for granted; one
      that lacks gets the worst value there is.
    - All complete trials belong to a generation of NSGA-II, anchors and enqueued ones too, `population_size` in each.

    Args:
        study: Where the trials are from.
        history: The trials and their plans.
        population_size: Of NSGA-II.
    """
    tried = [t for t in history.tried if t.trial.state in LEARNT_FROM and _is_sound(t.trial)]
    constraints = worst_constraints([t.trial for t in tried])
    distributions = {name: d for name, d in history.parameters.distributions.items() if not d.single()}
    trials: list[FrozenTrial] = []
    n_complete = 0
    for t in tried:
        attributes = _constraints(t.trial, constraints)
        if t.trial.state == TrialState.COMPLETE:
            attributes[NSGAIISampler._get_generation_key()] = n_complete // population_size
            n_complete += 1
        params = history.parameters.decode(t.plan)
        trials.append(_seen(t.trial, {name: params[name] for name in distributions}, distributions, attributes))
    view = _View(trials)
    view.create_new_study(study.directions, study_name=study.study_name)
    return optuna.Study(study_name=study.study_name, storage=view, sampler=optuna.samplers.RandomSampler())


def worst_constraints(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """The largest finite value of each constraint over `trials`, at least 0, by name in the order of the alphabet."""
    values: dict[str, list[float]] = {}
    for trial in trials:
        for name, value in trial.constraints.items():
            values.setdefault(name, [0.0]).append(value)
    return {name: max(filter(math.isfinite, values[name])) for name in sorted(values)}


def _is_sound(trial: FrozenTrial) -> bool:
    if trial.state == TrialState.PRUNED:
        return bool(trial.constraints)
    return trial.state == TrialState.RUNNING or is_finite(trial.values)


def is_finite(values: Collection[float] | None) -> bool:
    """Whether there are values and none is infinite or NaN."""
    return bool(values) and all(math.isfinite(value) for value in values or ())


def _constraints(trial: FrozenTrial, worst: Mapping[str, float]) -> dict[str, Any]:
    if trial.state == TrialState.RUNNING:
        return {}
    own = trial.constraints
    finite = {name: own.get(name, math.inf) for name in worst}
    return {CONSTRAINT + name: value if math.isfinite(value) else worst[name] for name, value in finite.items()}


def _seen(
    trial: FrozenTrial,
    params: dict[str, Any],
    distributions: dict[str, BaseDistribution],
    attributes: dict[str, Any],
) -> FrozenTrial:
    return FrozenTrial(
        number=trial.number,
        state=trial.state,
        value=None,
        values=trial.values if trial.state == TrialState.COMPLETE else None,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
        params=params,
        distributions=distributions,
        user_attrs={},
        system_attrs=attributes,
        intermediate_values={},
        trial_id=trial._trial_id,
    )
