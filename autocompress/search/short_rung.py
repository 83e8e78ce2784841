"""The short rung: each trial of the study is a recipe, trained briefly and measured; a known recipe is told again."""

import math
from collections.abc import Callable, Mapping, Sequence

import optuna
from optuna.trial import TrialState

from autocompress.measurement import Interval
from autocompress.pareto import Candidate, objective_values
from autocompress.processes import OutOfTimeError
from autocompress.recipe import Recipe
from autocompress.search.clock import SearchClock
from autocompress.search.configuration import Configuration
from autocompress.search.context import Rung
from autocompress.search.engine import Engine
from autocompress.search.evaluator import Evaluator
from autocompress.search.folder import StudyFolder
from autocompress.search.ledger import Ledger
from autocompress.search.members import Member
from autocompress.search.samplers import DROP_ERROR
from autocompress.search.storage import ask, ask_again, open_study
from autocompress.space import BoundSpace

MAX_REPEATS = 100  # sampled recipes in a row that are known already; then the space counts as used up
_DROP = "accuracy_drop"  # attribute of a trial: value, low and high of its drop


class ShortRung:
    """Asks the study's sampler for recipes, anchors first, evaluates them, and tells it what came out.

    Args:
        folder: Of the study.
        member: This process.
        ledger: What was found so far.
        clock: Of the search.
        configuration: What was asked for, the number of training steps included.
        space: What may be tried.
        anchors: Recipes to try first, by label.
        engine: What planning samplers plan with; None where the space leaves nothing to decide.
        on_wait: Called while another process is waited for.
    """

    def __init__(
        self,
        folder: StudyFolder,
        member: Member,
        ledger: Ledger,
        clock: SearchClock,
        configuration: Configuration,
        space: BoundSpace,
        anchors: Mapping[str, Recipe],
        engine: Engine | None,
        on_wait: Callable[[], None],
    ) -> None:
        self._folder, self._member, self._ledger = folder, member, ledger
        self._clock, self._configuration, self._on_wait = clock, configuration, on_wait
        self._space, self._anchors, self._engine = space, anchors, engine
        self._labels = {recipe.digest(): label for label, recipe in anchors.items()}
        self._study = open_study(
            folder,
            member,
            objectives=configuration.objectives,
            sampler=engine.sampler(anchors) if engine else optuna.samplers.RandomSampler(configuration.seed),
            first=[space.encode(recipe) for recipe in anchors.values() if space.nearest(recipe) == recipe],
        )

    @property
    def drops(self) -> dict[str, Interval]:
        """Accuracy drops after the short training, by digest of the recipe."""
        return {
            trial.user_attrs["digest"]: Interval(value=value, low=low, high=high)
            for trial in self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            for value, low, high in [trial.user_attrs[_DROP]]
        }

    def run(
        self,
        evaluator: Evaluator,
        largest_drop: Callable[[Mapping[str, Interval]], float],
        reserve: bool = True,
        at_most: float = math.inf,
    ) -> int:
        """Evaluate recipes while the budget allows it.

        Args:
            evaluator: Does the work.
            largest_drop: Gives the drop up to which a candidate is sought, from the drops so far.
            reserve: Keep something back for longer trainings.
            at_most: New recipes, >= 1.

        Returns:
            New recipes that were evaluated; 0 where the budget or the space is used up.
        """
        rung = Rung("short", self._configuration.finetune_steps or 0)
        n_repeats, n_new = 0, 0
        while n_new < at_most and n_repeats < MAX_REPEATS:
            if not self._clock.allows_short(evaluator.n_done, rung.n_steps, reserve):
                break
            evaluator.n_total = evaluator.n_done + self._clock.n_left(evaluator.n_done, rung.n_steps)
            try:
                with self._folder.claim("proposal", self._on_wait):
                    self._plan(largest_drop)
                    trial = ask(self._study, self._folder, self._member)
                    recipe = self._space.suggest(trial.suggest_categorical)
            except OutOfTimeError:
                return n_new
            with self._folder.claim(recipe.digest()) as is_ours:
                known = self._known(recipe) if is_ours else None
                n_repeats = 0 if is_ours and known is None else n_repeats + 1
                if not is_ours:
                    self._study.tell(trial, state=TrialState.FAIL)
                    continue
                try:
                    candidate = known or evaluator.run(recipe, self._labels.get(recipe.digest(), ""), rung)
                except OutOfTimeError:
                    ask_again(self._study, trial.number, trial.params, trial.user_attrs)
                    return n_new
                self._tell(trial, candidate)
                n_new += known is None
        if n_repeats == MAX_REPEATS:
            self._ledger.findings.append("the sampler found nothing new: the last recipes were all known already")
        return n_new

    def _known(self, recipe: Recipe) -> Candidate | None:
        self._ledger.refresh()
        return self._ledger.candidates.get(recipe.digest())

    def _plan(self, largest_drop: Callable[[Mapping[str, Interval]], float]) -> None:
        """Have the engine ready when no anchor is left to be tried, and up to date."""
        engine = self._engine
        if engine is None or self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return
        if not engine.is_ready:
            engine.prepare(self._clock)
            self._ledger.add_seconds(engine.take_seconds())
            self._ledger.findings += engine.findings
            self._study.sampler = engine.sampler(self._anchors)
        self._ledger.refresh()
        engine.learn(self._ledger.candidates.values())
        engine.largest = largest_drop(self.drops)

    def _tell(self, trial: optuna.Trial, candidate: Candidate) -> None:
        trial.set_user_attr("digest", candidate.digest)
        if candidate.measurement is None:
            trial.set_user_attr("failure", candidate.failure)
            self._study.tell(trial, state=TrialState.FAIL)
            return
        drop = candidate.measurement.accuracy_drop
        trial.set_user_attr(_DROP, [drop.value, drop.low, drop.high])
        trial.set_user_attr(DROP_ERROR, drop.standard_error)
        trial.set_constraint("accuracy_drop", drop.high - self._configuration.max_drop)
        self._study.tell(trial, list(told_values(candidate, self._configuration.objectives)))


def told_values(candidate: Candidate, objectives: Sequence[str]) -> tuple[float, ...]:
    """`objective_values` as samplers are told them: the drop on those samples alone that a search may see."""
    m = candidate.measurement
    seen = m and m.model_copy(update={"selection_drop": None})
    return objective_values(candidate.model_copy(update={"measurement": seen}), objectives)
