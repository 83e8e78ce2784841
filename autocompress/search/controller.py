"""The loop: baseline, anchors, sampled candidates, longer training of the best, confirmation."""

import shutil
import time
from pathlib import Path

import optuna
from optuna.trial import TrialState

from autocompress.errors import MeasurementError, StudyError
from autocompress.graph import ModelGraph
from autocompress.latency import LatencySettings
from autocompress.pareto import Candidate, Choice, Wishes, objective_values
from autocompress.processes import OutOfTimeError, WorkFailedError
from autocompress.recipe import Recipe
from autocompress.record import StudyInfo, StudyRecord, write_atomically
from autocompress.search import findings
from autocompress.search.budget import Budget
from autocompress.search.clock import SearchClock
from autocompress.search.context import EvaluationContext, Rung
from autocompress.search.ending import Ending
from autocompress.search.evaluate import (
    default_precision,
    export_candidate,
    measure_candidate,
)
from autocompress.search.folder import UNFINISHED, StudyFolder, replace_folder
from autocompress.search.identity import Configuration
from autocompress.search.interruption import Interruption
from autocompress.search.ledger import Ledger
from autocompress.search.progress import OnProgress, Progress
from autocompress.search.storage import ask_again, open_journal
from autocompress.search.training import RANGE_TEST_SECONDS, Trained, learning_rates, seconds_a_step, train_candidate
from autocompress.search.worker import Worker
from autocompress.space import BoundSpace, anchors
from autocompress.task import Task
from autocompress.train import LOG, Hardware, follow

RANGE_TEST_SHARE = 0.05  # of the budget, at most, for finding a learning rate
MAX_REPEATS = 100  # sampled recipes in a row that are known already; then the space counts as used up
LONG_MAX_EXTRA_DROP = 0.06  # a candidate further below the floor is not worth a longer training
LONG_MIN_GAIN = 1.15  # speed-up over the present choice that makes it worth one


class Controller:
    """Searches in one study folder; see `Study.optimize`.

    Args:
        folder: The study's folder, locked by the caller.
        configuration: What was asked for.
        info: The same, as reports show it.
        task: None where candidates are only chosen again.
        graph: What was found in the task's model.
        space: What may be tried; None where the space is no longer to be had.
        on_progress: Told of each step.
        hardware: On what to train.
    """

    def __init__(
        self,
        folder: StudyFolder,
        configuration: Configuration,
        info: StudyInfo,
        task: Task | None,
        graph: ModelGraph | None,
        space: BoundSpace | None,
        on_progress: OnProgress,
        hardware: Hardware | None = None,
    ) -> None:
        self._hardware = hardware or Hardware()
        self._folder, self._configuration = folder, configuration
        self._task, self._graph, self._space = task, graph, space
        self._on_progress = on_progress
        self._ledger = Ledger(folder, configuration, info)
        self._clock = SearchClock(Budget(n_trials=1))
        self._interruption = Interruption()
        self._n_done = self._n_total = 0
        self._phase = ""
        self._training_log: Path | None = None
        self._training_steps = 0

    def search(self, budget: Budget, start: float | None = None) -> StudyRecord:
        """Search until `budget`, which counts from `start` or from now, is used up.

        Raises:
            StudyError: The space is no longer to be had.
            MeasurementError: The baseline cannot be measured.
        """
        if self._task is None or self._graph is None or self._space is None:
            raise StudyError(f"the space of study {self._folder.path} cannot be had any more; begin a new study")
        self._clock = SearchClock(budget, start=start)
        self._folder.remove_unfinished()
        with self._interruption, self._worker(self._task, self._graph) as worker:
            try:
                self._prepare(worker, self._graph, self._space)
                self._short_rung(worker, self._space, self._graph)
                self._long_rung(worker)
                self._short_rung(worker, self._space, self._graph, reserve=False)
            except KeyboardInterrupt:
                self._report(
                    "stopping", message="stopped by Ctrl-C; confirming the result so far, Ctrl-C again skips that"
                )
            if self._ledger.candidates:
                self._ledger.choose(self._ledger.best())
                ending = Ending(self._ledger, worker, self._report)
                ending.time_finalists(self._clock.finalist_seconds)
                ending.confirm()
                ending.explain_differences()
                self._ledger.conclude(self._clock.elapsed)
        return self._ledger.record()

    def publish(self, choice: Choice, wishes: Wishes) -> None:
        """Put `choice` into `chosen/`; with the task at hand confirmed on the test split and as ONNX too."""
        self._ledger.wishes = wishes
        self._ledger.choose(choice)
        if self._task is None or self._graph is None:
            self._ledger.write_chosen()
        else:
            with self._worker(self._task, self._graph) as worker:
                Ending(self._ledger, worker, self._report).confirm()
        self._ledger.save()

    def _worker(self, task: Task, graph: ModelGraph) -> Worker:
        environment = self._configuration.environment
        context = EvaluationContext(
            task,
            graph,
            self._folder.candidates.resolve(),
            environment.n_cores,
            environment.inference_threads,
            self._hardware,
            self._configuration.max_drop,
        )
        return Worker(context, on_wait=self._wait)

    def _wait(self) -> None:
        self._interruption.check()
        self._report(self._phase)

    def _prepare(self, worker: Worker, graph: ModelGraph, space: BoundSpace) -> None:
        """Measure the baseline and what a training step costs; without a baseline there is no search."""
        digest = Recipe().digest()
        if digest not in self._ledger.candidates:
            candidate = self._evaluate(worker, Recipe(), "fp32", Rung("baseline", 0))
            if candidate.failure:
                raise MeasurementError(f"the FP32 model cannot be measured: {candidate.failure}")
            self._keep(candidate)
        for candidate in self._ledger.candidates.values():
            self._clock.learn(candidate)
        self._report("finding out what this CPU does")
        self._ledger.findings = [*findings.about_model(graph), *self._configuration.rewards]
        if found := worker.call(default_precision, LatencySettings()):
            self._ledger.findings.append(findings.about_default_precision(*found))
        if self._configuration.finetune_steps is None:
            if self._task and self._task.fit is None:
                self._report("finding a learning rate")
                worker.call(learning_rates, self._clock.share(RANGE_TEST_SHARE, RANGE_TEST_SECONDS))
            self._report("timing a training step")
            unpruned = [recipe for recipe in self._anchors(space, graph).values() if not recipe.pruning]
            slowest = max(unpruned, key=lambda recipe: len(recipe.layers))
            self._clock.step_seconds = worker.call(seconds_a_step, slowest)
            self._configuration = self._configuration.model_copy(update={"finetune_steps": self._clock.short_steps()})
            write_atomically(self._folder.configuration, self._configuration.model_dump_json(indent=1) + "\n")

    def _anchors(self, space: BoundSpace, graph: ModelGraph) -> dict[str, Recipe]:
        return anchors(space, graph, int8_saturates=self._configuration.environment.int8_saturates)

    def _short_rung(self, worker: Worker, space: BoundSpace, graph: ModelGraph, reserve: bool = True) -> None:
        """Ask the sampler, anchors first, evaluate, tell; a recipe that is known is told, not evaluated again."""
        c = self._configuration
        study = open_journal(self._folder.journal, objectives=c.objectives, sampler=c.sampler, seed=c.seed)
        labels = {recipe.digest(): label for label, recipe in self._anchors(space, graph).items()}
        if not study.get_trials(deepcopy=False):
            for recipe in self._anchors(space, graph).values():
                if space.nearest(recipe) == recipe:
                    study.enqueue_trial(space.encode(recipe))
        rung = Rung("short", c.finetune_steps or 0)
        n_repeats = 0
        while self._clock.allows_short(self._n_done, rung.n_steps, reserve) and n_repeats < MAX_REPEATS:
            self._n_total = self._n_done + self._clock.n_left(self._n_done, rung.n_steps)
            trial = study.ask()
            recipe = space.suggest(trial.suggest_categorical)
            candidate = self._ledger.candidates.get(recipe.digest())
            n_repeats = n_repeats + 1 if candidate else 0
            if candidate is None:
                try:
                    candidate = self._evaluate(worker, recipe, labels.get(recipe.digest(), ""), rung)
                except OutOfTimeError:
                    ask_again(study, trial.number, trial.params, trial.user_attrs)
                    return
                self._keep(candidate)
            self._tell(study, trial, candidate)
        if n_repeats == MAX_REPEATS:
            self._ledger.findings.append("the sampler found nothing new: the last recipes were all known already")

    def _tell(self, study: optuna.Study, trial: optuna.Trial, candidate: Candidate) -> None:
        trial.set_user_attr("digest", candidate.digest)
        if candidate.measurement is None:
            trial.set_user_attr("failure", candidate.failure)
            study.tell(trial, state=TrialState.FAIL)
            return
        trial.set_constraint("accuracy_drop", candidate.measurement.accuracy_drop.high - self._configuration.max_drop)
        study.tell(trial, list(objective_values(candidate, self._configuration.objectives)))

    def _long_rung(self, worker: Worker) -> None:
        """Train again, for longer, what is faster than the present choice and not far below the floor."""
        tried: set[str] = set()
        while candidate := self._promising(tried):
            n_steps = self._clock.long_steps(
                self._n_done, candidate.n_steps, candidate.seconds["finetune"] / candidate.n_steps
            )
            if n_steps == 0:
                return
            tried.add(candidate.digest)
            try:
                longer = self._evaluate(worker, candidate.recipe, candidate.label, Rung("long", n_steps))
            except OutOfTimeError:
                return
            if longer.measurement:
                self._keep(longer)
            else:
                self._n_done += 1

    def _promising(self, tried: set[str]) -> Candidate | None:
        """Of the candidates worth a longer training the one that lost least."""
        chosen = self._ledger.best().candidate.measurement
        least_speedup = LONG_MIN_GAIN * chosen.speedup.value if chosen else 0.0
        largest_drop = self._configuration.max_drop + LONG_MAX_EXTRA_DROP
        worth = [
            (c.measurement.accuracy_drop.value, c.digest)
            for c in self._ledger.candidates.values()
            if c.measurement
            and c.rung == "short"
            and c.n_steps
            and c.digest not in tried
            and c.measurement.speedup.value > least_speedup
            and c.measurement.accuracy_drop.value <= largest_drop
        ]
        return self._ledger.candidates[min(worth)[1]] if worth else None

    def _evaluate(self, worker: Worker, recipe: Recipe, label: str, rung: Rung) -> Candidate:
        """Train, export and measure one candidate; its folder appears only when all have succeeded.

        A training that is cut off leaves its checkpoint, with which the next search goes on.

        Raises:
            OutOfTimeError: The budget ended before it was done; never for the baseline.
        """
        final = self._ledger.source(recipe.digest())
        work = final if recipe.is_identity else final.with_name(f"{UNFINISHED}{final.name}")
        deadline = None if recipe.is_identity else self._clock.deadline
        seed = self._configuration.seed
        name = label or final.name
        measurement, failure, trained = None, None, None
        seconds: dict[str, float] = {}
        start = time.monotonic()
        try:
            self._report(f"fine-tuning {name} ({rung.n_steps} steps)" if rung.n_steps else f"preparing {name}")
            trained = self._train(worker, recipe, work, rung, seed, deadline)
            seconds |= trained.seconds
            self._report(f"measuring {name}")
            seconds |= worker.call(export_candidate, recipe, work, deadline=deadline)
            latency = LatencySettings()
            measurement, spent = worker.call(measure_candidate, recipe, work, "validation", latency, deadline=deadline)
            seconds |= spent
            if work != final:
                replace_folder(work, final)
        except OutOfTimeError:
            self._ledger.add_seconds({"cut off by the budget": time.monotonic() - start})
            raise
        except WorkFailedError as error:
            failure = str(error)
            shutil.rmtree(work, ignore_errors=True)
        return Candidate(
            digest=final.name,
            recipe=recipe,
            label=label,
            rung=rung.name,
            n_steps=(trained and trained.summary and trained.summary.stopped_at) or rung.n_steps,
            seed=seed,
            seconds=seconds,
            failure=failure,
            measurement=measurement,
            training=trained.summary if trained else None,
        )

    def _train(
        self, worker: Worker, recipe: Recipe, folder: Path, rung: Rung, seed: int, deadline: float | None
    ) -> Trained:
        """Train in the worker process, while its log is followed."""
        parents = [c.recipe for c in self._ledger.candidates.values() if c.measurement and c.n_steps]
        self._training_log, self._training_steps = folder / LOG, rung.n_steps
        try:
            return worker.call(train_candidate, recipe, folder, rung, seed, parents, deadline=deadline)
        finally:
            self._training_log = None

    def _keep(self, candidate: Candidate) -> None:
        self._ledger.keep(candidate)
        self._clock.learn(candidate)
        self._n_done += not candidate.recipe.is_identity
        self._report(self._phase, finished=candidate)

    def _report(self, phase: str, finished: Candidate | None = None, message: str = "") -> None:
        self._phase = phase
        chosen = self._ledger.chosen
        training = follow(self._training_log) if self._training_log else None
        self._on_progress(
            Progress(
                phase=phase,
                n_done=self._n_done,
                n_total=self._n_total,
                seconds_elapsed=self._clock.elapsed,
                seconds_left=self._clock.seconds_to_end(
                    max(0, self._n_total - self._n_done), self._configuration.finetune_steps or 0
                ),
                best=self._ledger.candidates.get(chosen.digest) if chosen else None,
                finished=finished,
                message=message,
                training=training,
                n_steps=self._training_steps,
            )
        )
