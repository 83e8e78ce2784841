"""All samplers by name: the project's own, which plans, and what it is compared with."""

import math
import warnings
from collections.abc import Callable, Sequence

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from autocompress.errors import StudyError
from autocompress.planning.correction import Observation
from autocompress.planning.problem import OBJECTIVES, Floats, Plans, Problem
from autocompress.planning.proposer import FASTEST, Proposer
from autocompress.search.greedy import GreedySampler, drop_of
from autocompress.search.planwise import History, ParameterMap, Plan, PlanwiseSampler, seed_of, values_of
from autocompress.search.trial_view import is_finite, view_of

SAMPLERS = ("bayesdp", "spdy", "tpe", "nsga2", "gp", "random", "greedy")
DROP_ERROR = "drop_error"  # user attribute of a trial: standard error of its accuracy drop
N_STARTUP_TRIALS = 5  # the anchors, which come first, are the start-up
POPULATION_SIZE = 10  # of NSGA-II, small since there are at most a few hundred trials
N_DRAWS = {"random": 20, "nsga2": 20, "tpe": 3, "gp": 1}  # until a plan is new; few where a draw is slow

Screen = Callable[[Plans], Floats]


class PlanSampler(PlanwiseSampler):
    """The project's own sampler: plans from a damage table that the trials correct (`planning.proposer`).

    Args:
        parameters: How parameters and plans belong together.
        problem: Gives what is planned; asked once a proposal.
        seed: Of all chance, >= 0.
        anchors: Plans to propose first, in this order.
        learn: False draws random coefficients of the table instead of learning them, as SPDY does.
        scales: What a trial's accuracy drop, latency and size are divided by to become shares of the baseline's, > 0.
        screen: Measures a short list of plans without training; see `Proposer.propose`.
        fastest: Share of proposals that seek the fastest plan that keeps the accuracy; see `Proposer`.
    """

    def __init__(
        self,
        parameters: ParameterMap,
        problem: Callable[[], Problem],
        *,
        seed: int,
        anchors: Sequence[Plan] = (),
        learn: bool = True,
        scales: tuple[float, float, float] = (1.0, 1.0, 1.0),
        screen: Screen | None = None,
        fastest: float = FASTEST,
    ) -> None:
        super().__init__(parameters, seed=seed, anchors=anchors)
        self._problem, self._learn, self._screen, self._fastest = problem, learn, screen, fastest
        self._scales = dict(zip(OBJECTIVES, scales, strict=True))

    def propose(self, study: optuna.Study, trial: FrozenTrial, history: History) -> Plan | None:
        """What the proposer makes of the trials; None where every plan is taken."""
        problem = self._problem()
        proposer = Proposer(problem, anchors=self._anchors, learn=self._learn, seed=self._seed, fastest=self._fastest)
        observations = observations_of(history, problem, self._scales)
        return proposer.propose(observations, history.taken, trial.number, screen=self._screen)


def observations_of(history: History, problem: Problem, scales: dict[str, float]) -> list[Observation]:
    """What complete trials with finite values tell, one observation a plan: the last one's.

    Args:
        history: The trials; their values are in the order of the problem's objectives.
        problem: What is planned.
        scales: What the value of an objective is divided by, by name.
    """
    complete = (t for t in history.tried if t.trial.state == TrialState.COMPLETE and is_finite(t.trial.values))
    found = {t.plan: _observation(t.trial, t.plan, problem, scales) for t in complete}
    return [observation for observation in found.values() if observation is not None]


def _observation(trial: FrozenTrial, plan: Plan, problem: Problem, scales: dict[str, float]) -> Observation | None:
    drop = drop_of(trial, problem) / scales["accuracy_drop"]
    if not math.isfinite(drop):
        return None
    values = {name: value / scales[name] for name, value in zip(problem.objectives, trial.values, strict=True)}
    error = trial.user_attrs.get(DROP_ERROR, 0.0)
    return Observation(
        plan=plan,
        drop=drop,
        drop_error=error if math.isfinite(error) and error >= 0 else 0.0,
        latency=values.get("latency"),
        size=values.get("size_bytes"),
    )


class OptunaSampler(PlanwiseSampler):
    """A sampler of Optuna's, made anew for each trial and shown whole plans only (`trial_view`).

    Args:
        parameters: How parameters and plans belong together.
        make: Gives the sampler for a seed.
        seed: Of all chance, >= 0; the sampler's own depends on it and on the number of the trial.
        anchors: Plans to propose first, in this order.
        n_draws: How often the sampler is asked for a plan that is not taken; then the last one's nearest free
            neighbour is proposed.
        population_size: Of NSGA-II; of no effect on others.
    """

    def __init__(
        self,
        parameters: ParameterMap,
        make: Callable[[int], BaseSampler],
        *,
        seed: int,
        anchors: Sequence[Plan] = (),
        n_draws: int = 1,
        population_size: int = POPULATION_SIZE,
    ) -> None:
        super().__init__(parameters, seed=seed, anchors=anchors)
        self._make, self._n_draws, self._population_size = make, n_draws, population_size

    def propose(self, study: optuna.Study, trial: FrozenTrial, history: History) -> Plan | None:
        """What the sampler draws; the last draw where all its plans are taken."""
        sampler = self._make(seed_of(self._seed, trial.number))
        view = view_of(study, history, self._population_size)
        plan = None
        for _ in range(self._n_draws):
            plan = history.settle(self._draw(sampler, view, trial))
            if plan not in history.taken:
                break
        return plan

    def _draw(self, sampler: BaseSampler, view: optuna.Study, trial: FrozenTrial) -> dict[str, object]:
        """Values of all parameters: those of the sampler's relative space, the others one by one."""
        params = sampler.sample_relative(view, trial, sampler.infer_relative_search_space(view, trial))
        distributions = self._parameters.distributions
        return {
            name: params[name] if name in params else _independent(sampler, view, trial, name, distribution)
            for name, distribution in distributions.items()
        }


def _independent(
    sampler: BaseSampler, view: optuna.Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
) -> object:
    if distribution.single():
        return values_of(distribution)[0]
    return sampler.sample_independent(view, trial, name, distribution)


def make_sampler(
    name: str,
    parameters: ParameterMap,
    problem: Callable[[], Problem],
    *,
    seed: int,
    anchors: Sequence[Plan] = (),
    scales: tuple[float, float, float] = (1.0, 1.0, 1.0),
    screen: Screen | None = None,
    start: Plan | None = None,
    fastest: float = FASTEST,
) -> PlanwiseSampler:
    """The sampler of a name.

    Args:
        name: One of `SAMPLERS`.
        parameters: How parameters and plans belong together.
        problem: Gives what is planned; of no use to `tpe`, `nsga2`, `gp` and `random`.
        seed: Of all chance, >= 0.
        anchors: Plans that it proposes first, in this order; leave out those that are enqueued.
        scales: Of the trials' values; see `PlanSampler`.
        screen: Only for `bayesdp` and `spdy`; see `PlanSampler`.
        start: Only for `greedy`; see `GreedySampler`.
        fastest: Only for `bayesdp` and `spdy`; see `PlanSampler`.

    Raises:
        StudyError: There is no sampler of that name.
    """
    if name in ("bayesdp", "spdy"):
        return PlanSampler(
            parameters,
            problem,
            seed=seed,
            anchors=anchors,
            learn=name == "bayesdp",
            scales=scales,
            screen=screen,
            fastest=fastest,
        )
    if name == "greedy":
        return GreedySampler(parameters, problem, seed=seed, anchors=anchors, start=start)
    if name not in _OPTUNA:
        raise StudyError(f"the sampler must be one of {', '.join(SAMPLERS)}, but got {name!r}")
    return OptunaSampler(parameters, _OPTUNA[name], seed=seed, anchors=anchors, n_draws=N_DRAWS[name])


def _tpe(seed: int) -> BaseSampler:
    return TPESampler(seed=seed, n_startup_trials=N_STARTUP_TRIALS)


def _nsga2(seed: int) -> BaseSampler:
    return NSGAIISampler(seed=seed, population_size=POPULATION_SIZE)


def _gaussian_process(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return GPSampler(seed=seed, n_startup_trials=N_STARTUP_TRIALS, warn_independent_sampling=False)


def _random(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


_OPTUNA: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": _tpe,
    "nsga2": _nsga2,
    "gp": _gaussian_process,
    "random": _random,
}
