"""Samplers that propose whole plans: what the trials of a study tell of plans, and the part that all samplers share.

Optuna's trials hold parameters, some of which are asked only after certain answers; two trials that differ in their
parameters may mean one plan. Here every trial is read as its plan, and no plan is proposed twice.
"""

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

PLAN = "autocompress:plan"  # system attribute of a trial: the plan that it was given, before its parameters are asked
FIXED = "fixed_params"  # Optuna's system attribute of an enqueued trial
N_CLAIMS = 5  # proposals before a plan that another process took at the same moment is accepted
N_NEIGHBOURS = 20_000  # parameter values tried around a plan that is taken before the space counts as used up

Plan = tuple[int, ...]


class ParameterMap(Protocol):
    """How parameters of trials and plans belong together."""

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """What a trial may be asked for, by name, in the order of asking."""

    def encode(self, params: Mapping[str, Any]) -> Plan:
        """The plan that parameters mean, one index for each unit; parameters without effect change nothing."""

    def decode(self, plan: Plan) -> dict[str, Any]:
        """Values of all parameters that mean a plan."""


@dataclass(frozen=True)
class Tried:
    """A trial and its plan."""

    trial: FrozenTrial
    plan: Plan


@dataclass(frozen=True)
class History:
    """What is known before a trial gets its plan.

    Args:
        parameters: How parameters and plans belong together.
        tried: The other trials whose plan is known, in the order of their numbers: finished, running or enqueued.
        fixed: Parameters that the trial was enqueued with.
    """

    parameters: ParameterMap
    tried: tuple[Tried, ...]
    fixed: Mapping[str, Any]

    @cached_property
    def taken(self) -> frozenset[Plan]:
        """Plans that are not to be proposed again."""
        return frozenset(t.plan for t in self.tried)

    def settle(self, params: Mapping[str, Any]) -> Plan:
        """The plan of `params` with the fixed parameters in place of theirs."""
        return self.parameters.encode({**params, **self.fixed})

    def free_neighbour(self, params: Mapping[str, Any], rng: np.random.Generator) -> Plan | None:
        """The plan nearest to `params` that is not taken, by the number of parameters that differ; chance breaks ties.

        Returns:
            None where every plan is taken, or none is found among `N_NEIGHBOURS`.
        """
        distributions = {n: d for n, d in self.parameters.distributions.items() if n not in self.fixed}
        plans = (self.settle(near) for near in neighbours(params, distributions, rng))
        return next((plan for plan in itertools.islice(plans, N_NEIGHBOURS) if plan not in self.taken), None)


class PlanReader:
    """Reads the plans of trials, each finished trial once.

    Args:
        parameters: How parameters and plans belong together.
    """

    def __init__(self, parameters: ParameterMap) -> None:
        self._parameters = parameters
        self._known: dict[tuple[int, TrialState], Plan | None] = {}

    def history(self, study: optuna.Study, trial: FrozenTrial) -> History:
        """What the trials of `study` other than `trial` tell."""
        read = (
            (other, self._plan(other)) for other in study.get_trials(deepcopy=False) if other.number != trial.number
        )
        tried = tuple(Tried(other, plan) for other, plan in read if plan is not None)
        distributions = self._parameters.distributions
        fixed = {
            name: value
            for name, value in trial.system_attrs.get(FIXED, {}).items()
            if name in distributions and holds(distributions[name], value)
        }
        return History(self._parameters, tried, fixed)

    def _plan(self, trial: FrozenTrial) -> Plan | None:
        if trial.state == TrialState.RUNNING:
            return self._read(trial)
        key = (trial._trial_id, trial.state)
        if key not in self._known:
            self._known[key] = self._read(trial)
        return self._known[key]

    def _read(self, trial: FrozenTrial) -> Plan | None:
        if trial.state == TrialState.RUNNING and PLAN in trial.system_attrs:
            return tuple(trial.system_attrs[PLAN])
        params = {**trial.system_attrs.get(FIXED, {}), **trial.params}
        return plan_of(self._parameters, params, asked=trial.state == TrialState.COMPLETE)


class PlanwiseSampler(BaseSampler):
    """What all samplers have in common: anchors first, whole plans, none twice, nothing kept between trials.

    A proposal depends on the seed, the number of the trial and the other trials of the study, so that a resumed study
    proposes what an unbroken one would. Where every plan is taken, parameters are drawn at random.

    Args:
        parameters: How parameters and plans belong together.
        seed: Of all chance, >= 0.
        anchors: Plans to propose first, in this order.
    """

    def __init__(self, parameters: ParameterMap, *, seed: int, anchors: Sequence[Plan] = ()) -> None:
        self._parameters, self._seed = parameters, seed
        self._anchors = tuple(tuple(plan) for plan in anchors)
        self._reader = PlanReader(parameters)

    @abstractmethod
    def propose(self, study: optuna.Study, trial: FrozenTrial, history: History) -> Plan | None:
        """A plan for `trial`; it may be taken, then its nearest free neighbour is used. None where none is left."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters, since a plan decides on all of them."""
        return dict(self._parameters.distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values of all parameters; none where every plan is taken.

        The plan is noted in the study before it is returned, and given up if another process noted the same one.
        """
        plan = self._claimed_plan(study, trial)
        return {} if plan is None else self._parameters.decode(plan)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value; only where every plan is taken, or for a parameter that no plan knows."""
        place = [ord(letter) for letter in param_name]
        sampler = RandomSampler(seed=seed_of(self._seed, trial.number, *place))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _claimed_plan(self, study: optuna.Study, trial: FrozenTrial) -> Plan | None:
        plan = None
        for _ in range(N_CLAIMS):
            plan = self._free_plan(study, trial)
            if plan is None:
                break
            study._storage.set_trial_system_attr(trial._trial_id, PLAN, list(plan))
            if plan not in self._reader.history(study, trial).taken:
                break
        return plan

    def _free_plan(self, study: optuna.Study, trial: FrozenTrial) -> Plan | None:
        history = self._reader.history(study, trial)
        plan = None if history.fixed else next((a for a in self._anchors if a not in history.taken), None)
        plan = plan or self.propose(study, trial, history)
        if plan is None:
            return None
        params = self._parameters.decode(plan)
        settled = history.settle(params)
        if settled not in history.taken:
            return settled
        return history.free_neighbour(params, np.random.default_rng([self._seed, trial.number]))


def plan_of(parameters: ParameterMap, params: Mapping[str, Any], *, asked: bool = False) -> Plan | None:
    """The plan that `params` mean, though some parameters lack.

    Args:
        parameters: How parameters and plans belong together.
        params: Values by name; names that are no parameters are ignored.
        asked: Whether all that makes a difference was asked for, as in a complete trial.

    Returns:
        None where a parameter that lacks would make a difference, or a value is not one of the choices.
    """
    distributions = parameters.distributions
    known = {name: value for name, value in params.items() if name in distributions}
    if not all(holds(distributions[name], value) for name, value in known.items()):
        return None
    lacking = {name: values_of(d) for name, d in distributions.items() if name not in known}
    filled = {name: values[0] for name, values in lacking.items()} | known
    plan = parameters.encode(filled)
    others = () if asked else ((name, value) for name, values in lacking.items() for value in values[1:])
    return plan if all(parameters.encode(filled | {name: value}) == plan for name, value in others) else None


def holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether `value` is one that `distribution` can give."""
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except ValueError:
        return False


def values_of(distribution: BaseDistribution) -> tuple[Any, ...]:
    """The values of a distribution of choices or integers; of one of floats its two ends.

    >>> values_of(IntDistribution(1, 5, step=2)), values_of(CategoricalDistribution((8, 32)))
    ((1, 3, 5), (8, 32))
    """
    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return tuple(range(distribution.low, distribution.high + 1, distribution.step))
    return (distribution.low, distribution.high)  # type: ignore[attr-defined]


def neighbours(
    params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution], rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Everything that differs from `params` in one of the parameters, then in two, and so on, in random order."""
    names = [name for name in distributions if len(values_of(distributions[name])) > 1]
    names = [names[i] for i in rng.permutation(len(names))]
    others = {name: [v for v in values_of(distributions[name]) if v != params[name]] for name in names}
    others = {name: [values[i] for i in rng.permutation(len(values))] for name, values in others.items()}
    for n_changes in range(1, len(names) + 1):
        for changed in itertools.combinations(names, n_changes):
            for values in itertools.product(*(others[name] for name in changed)):
                yield {**params, **dict(zip(changed, values, strict=True))}


def seed_of(*parts: int) -> int:
    """A seed that differs wherever one of `parts`, each >= 0, does."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
