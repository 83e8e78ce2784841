"""The loop: baseline, anchors, sampled candidates, longer training of the best, confirmation."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.trial import TrialState

from autocompress.errors import MeasurementError, StudyError
from autocompress.graph import ModelGraph
from autocompress.measure import LatencySettings
from autocompress.pareto import Candidate, Choice, Wishes, choose, objective_values
from autocompress.recipe import Recipe
from autocompress.record import Chosen, StudyInfo, StudyRecord, write_atomically
from autocompress.search import findings
from autocompress.search.budget import Budget
from autocompress.search.chosen import Manifest, write_chosen
from autocompress.search.clock import SearchClock
from autocompress.search.evaluate import (
    EvaluationContext,
    Rung,
    default_precision,
    export_onnx,
    measure_candidate,
    seconds_a_step,
    train_candidate,
)
from autocompress.search.folder import StudyFolder, replace_folder
from autocompress.search.identity import Configuration
from autocompress.search.progress import OnProgress, Progress
from autocompress.search.storage import open_journal
from autocompress.search.worker import OutOfTimeError, Worker, WorkFailedError
from autocompress.space import BoundSpace, anchors
from autocompress.task import Task

CONFIRMATION = LatencySettings(min_pairs=100, max_pairs=600, max_seconds=6.0, half_width=0.004)
MAX_REPEATS = 100  # sampled recipes in a row that are known already; then the space counts as used up
LONG_MAX_EXTRA_DROP = 0.03  # a candidate further below the floor is not worth a longer training
LONG_MIN_GAIN = 1.03  # speed-up over the present choice that makes it worth one


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
    ) -> None:
        self._folder, self._configuration, self._info = folder, configuration, info
        self._task, self._graph, self._space = task, graph, space
        self._on_progress = on_progress
        known = StudyRecord.read(folder.record) if folder.record.is_file() else None
        self._candidates = {c.digest: c for c in known.candidates} if known else {}
        self._seconds = dict(known.seconds) if known else {}
        self._chosen = known.chosen if known else None
        self._findings: list[str] = list(known.findings) if known else []
        self._wishes = Wishes(configuration.max_drop)
        self._clock = SearchClock(Budget(n_trials=1))
        self._n_done = self._n_total = 0
        self._phase = ""

    def record(self) -> StudyRecord:
        """All that was found so far."""
        return StudyRecord(
            study=self._info,
            environment=self._configuration.environment,
            candidates=tuple(self._candidates.values()),
            chosen=self._chosen,
            findings=tuple(dict.fromkeys(self._findings)),
            seconds=self._seconds,
        )

    def search(self, budget: Budget) -> StudyRecord:
        """Search until `budget` is used up.

        Raises:
            StudyError: The baseline cannot be measured, or the space is not to be had.
        """
        if self._task is None or self._graph is None or self._space is None:
            raise StudyError(f"the space of study {self._folder.path} cannot be had any more; begin a new study")
        self._clock = SearchClock(budget)
        before = dict(self._seconds)
        with self._worker(self._task, self._graph) as worker:
            try:
                self._prepare(worker, self._graph)
                self._short_rung(worker, self._space, self._graph)
                self._long_rung(worker)
            except KeyboardInterrupt:
                self._report("stopping", message="stopped by Ctrl-C; keeping the result so far")
            self._finish(worker, before)
        return self.record()

    def publish(self, choice: Choice, wishes: Wishes) -> None:
        """Put `choice` into `chosen/`; with the task at hand confirmed on the test split and as ONNX too."""
        self._wishes = wishes
        self._chosen = _chosen(choice)
        if self._task is None or self._graph is None:
            self._write_chosen(None)
        else:
            with self._worker(self._task, self._graph) as worker:
                self._confirm(worker)
        self.record().write(self._folder.record)

    def _worker(self, task: Task, graph: ModelGraph) -> Worker:
        n_cores = self._configuration.environment.n_cores
        context = EvaluationContext(task, graph, self._folder.candidates.resolve(), min(n_cores, os.cpu_count() or 1))
        return Worker(context, on_wait=lambda: self._report(self._phase))

    def _prepare(self, worker: Worker, graph: ModelGraph) -> None:
        """Measure the baseline and what a training step costs; without a baseline there is no search."""
        baseline = Recipe()
        if baseline.digest() not in self._candidates:
            candidate = self._evaluate(worker, baseline, "fp32", Rung("baseline", 0))
            if candidate.failure:
                raise MeasurementError(f"the FP32 model cannot be measured: {candidate.failure}")
            self._keep(candidate)
        self._clock.learn(self._candidates[baseline.digest()])
        self._report("finding out about this CPU")
        found = worker.call(default_precision)
        self._findings = findings.about_model(graph)
        if found:
            self._findings.append(findings.about_default_precision(*found))
        if self._configuration.finetune_steps is None:
            self._report("timing a training step")
            recipe = anchors(self._space, graph)["fp32"] if self._space is None else self._heaviest(graph)
            self._clock.step_seconds = worker.call(seconds_a_step, recipe)
            self._set_steps(self._clock.short_steps())

    def _heaviest(self, graph: ModelGraph) -> Recipe:
        """The anchor that quantizes most and prunes nothing; its training step is the slowest."""
        assert self._space is not None  # noqa: S101  # search() has checked
        unpruned = [recipe for recipe in anchors(self._space, graph).values() if not recipe.pruning]
        return max(unpruned, key=lambda recipe: len(recipe.layers))

    def _set_steps(self, n_steps: int) -> None:
        self._configuration = self._configuration.model_copy(update={"finetune_steps": n_steps})
        write_atomically(self._folder.configuration, self._configuration.model_dump_json(indent=1) + "\n")

    def _short_rung(self, worker: Worker, space: BoundSpace, graph: ModelGraph) -> None:
        study = self._open_study()
        labels = {recipe.digest(): label for label, recipe in anchors(space, graph).items()}
        if not study.get_trials(deepcopy=False):
            for recipe in anchors(space, graph).values():
                if space.nearest(recipe) == recipe:
                    study.enqueue_trial(space.encode(recipe))
        n_steps = self._configuration.finetune_steps or 0
        rung = Rung("short", n_steps)
        n_new = n_repeats = 0
        while self._clock.allows_short(n_new, n_steps) and n_repeats < MAX_REPEATS:
            self._n_total = self._n_done + self._forecast_candidates(n_steps)
            trial = study.ask()
            recipe = space.suggest(trial.suggest_categorical)
            known = self._candidates.get(recipe.digest())
            n_repeats = n_repeats + 1 if known else 0
            n_new += known is None or (recipe.digest() in labels and known.rung == "baseline")
            try:
                candidate = known or self._evaluate(worker, recipe, labels.get(recipe.digest(), ""), rung)
            except (OutOfTimeError, KeyboardInterrupt) as error:
                study.tell(trial.number, state=TrialState.FAIL)
                if isinstance(error, KeyboardInterrupt):
                    raise
                return
            if known is None:
                self._keep(candidate)
            self._tell(study, trial, candidate)
        if n_repeats == MAX_REPEATS:
            self._findings.append("the search space is used up: every recipe that was sampled last is known already")

    def _open_study(self) -> optuna.Study:
        c = self._configuration
        return open_journal(self._folder.journal, objectives=c.objectives, sampler=c.sampler, seed=c.seed)

    def _tell(self, study: optuna.Study, trial: optuna.Trial, candidate: Candidate) -> None:
        trial.set_user_attr("digest", candidate.digest)
        if candidate.measurement is None:
            trial.set_user_attr("failure", candidate.failure)
            study.tell(trial, state=TrialState.FAIL)
            return
        trial.set_constraint("accuracy_drop", candidate.measurement.accuracy_drop.high - self._configuration.max_drop)
        study.tell(trial, list(objective_values(candidate, self._configuration.objectives)))

    def _forecast_candidates(self, n_steps: int) -> int:
        left = self._clock.seconds_left()
        return 0 if left == float("inf") else max(1, int(left / self._clock.forecast(n_steps)))

    def _long_rung(self, worker: Worker) -> None:
        """Train again, for longer, what is faster than the present choice and not far below the floor."""
        n_short = self._configuration.finetune_steps or 0
        tried: set[str] = set()
        while n_steps := self._clock.long_steps(n_short):
            recipe = self._promising(tried)
            if recipe is None:
                return
            tried.add(recipe.digest())
            label = self._candidates[recipe.digest()].label
            try:
                candidate = self._evaluate(worker, recipe, label, Rung("long", n_steps))
            except OutOfTimeError:
                return
            if candidate.measurement:
                self._keep(candidate)

    def _promising(self, tried: set[str]) -> Recipe | None:
        chosen = choose(self._candidates.values(), self._wishes).candidate.measurement
        assert chosen is not None  # noqa: S101  # choose() takes only measured candidates
        open_ones = [
            (c.measurement.accuracy_drop.value, c.digest)
            for c in self._candidates.values()
            if c.measurement
            and c.rung == "short"
            and c.digest not in tried
            and c.measurement.speedup.value > LONG_MIN_GAIN * chosen.speedup.value
            and c.measurement.accuracy_drop.value <= self._configuration.max_drop + LONG_MAX_EXTRA_DROP
        ]
        return self._candidates[min(open_ones)[1]].recipe if open_ones else None

    def _evaluate(self, worker: Worker, recipe: Recipe, label: str, rung: Rung) -> Candidate:
        """Train and measure one candidate; its folder appears only when both have succeeded.

        Raises:
            OutOfTimeError: The budget ended before it was done.
        """
        digest, seed, deadline = recipe.digest(), self._configuration.seed, self._clock.deadline
        work = self._folder.candidates.resolve() / f".work-{digest}"
        shutil.rmtree(work, ignore_errors=True)
        if recipe.is_identity:
            work, deadline = self._folder.candidates.resolve() / digest, None
        name = label or digest
        seconds: dict[str, float] = {}
        measurement, failure = None, None
        try:
            self._report(f"fine-tuning {name} ({rung.n_steps} steps)" if rung.n_steps else f"preparing {name}")
            seconds = worker.call(train_candidate, recipe, work, rung, seed, deadline=deadline)
            self._report(f"measuring {name}")
            arguments = (recipe, work, "validation", LatencySettings())
            measurement, measuring = worker.call(measure_candidate, *arguments, deadline=deadline)
            seconds = {key: seconds.get(key, 0.0) + measuring.get(key, 0.0) for key in seconds | measuring}
            if work.name != digest:
                replace_folder(work, work.with_name(digest))
        except OutOfTimeError:
            raise
        except WorkFailedError as error:
            failure = str(error)
        finally:
            if work.name != digest:
                shutil.rmtree(work, ignore_errors=True)
        return Candidate(
            digest=digest,
            recipe=recipe,
            label=label,
            rung=rung.name,
            n_steps=rung.n_steps,
            seed=seed,
            seconds=seconds,
            failure=failure,
            measurement=measurement,
        )

    def _keep(self, candidate: Candidate) -> None:
        """Record a finished candidate and bring `chosen/` up to date."""
        self._candidates[candidate.digest] = candidate
        self._clock.learn(candidate)
        self._n_done += 1
        for phase, seconds in candidate.seconds.items():
            self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds
        if candidate.measurement:
            choice = choose(self._candidates.values(), self._wishes)
            if self._chosen is None or choice.candidate.digest in (candidate.digest, *self._changed(choice)):
                self._chosen = _chosen(choice)
                self._write_chosen(None)
        self.record().write(self._folder.record)
        self._report(self._phase, finished=candidate)

    def _changed(self, choice: Choice) -> tuple[str, ...]:
        changed = self._chosen is None or self._chosen.digest != choice.candidate.digest
        return (choice.candidate.digest,) if changed else ()

    def _finish(self, worker: Worker, seconds_before: dict[str, float]) -> None:
        """Confirm the choice on the test split, export it, and account for the time."""
        if not self._candidates:
            return
        self._chosen = _chosen(choose(self._candidates.values(), self._wishes))
        try:
            self._confirm(worker)
        except KeyboardInterrupt:
            self._write_chosen(None)
        about = findings.about_candidates(self._candidates.values(), self._configuration.environment)
        self._findings += about
        test = self._chosen.test
        if test and test.accuracy_drop.value > self._configuration.max_drop:
            drop = f"{test.accuracy_drop.value:.4f}"
            self._findings.append(f"on the test split the drop is {drop}, above the floor of {self._configuration.max_drop:g}")
        elapsed = self._clock.elapsed + seconds_before.get("total", 0.0)
        self._seconds["other"] = 0.0
        self._seconds["total"] = elapsed
        accounted = sum(s for phase, s in self._seconds.items() if phase != "total")
        self._seconds["other"] = max(0.0, elapsed - accounted)
        self.record().write(self._folder.record)

    def _confirm(self, worker: Worker) -> None:
        """Measure the choice on the test split with more latency pairs, then write `chosen/` whole."""
        assert self._chosen is not None  # noqa: S101  # the callers have chosen
        candidate = self._candidates[self._chosen.digest]
        source = self._folder.candidates.resolve() / candidate.digest
        try:
            self._report("confirming the choice on the test split")
            test, seconds = worker.call(measure_candidate, candidate.recipe, source, "test", CONFIRMATION)
            self._chosen = self._chosen.model_copy(update={"test": test})
            for phase, value in seconds.items():
                self._seconds[phase] = self._seconds.get(phase, 0.0) + value
        except WorkFailedError as error:
            self._findings.append(f"the choice could not be confirmed on the test split: {error}")
        self._report("exporting the choice")
        self._write_chosen(lambda path: self._export_onnx(worker, candidate.recipe, source, path))

    def _export_onnx(self, worker: Worker, recipe: Recipe, source: Path, path: Path) -> str:
        start = time.monotonic()
        try:
            worker.call(export_onnx, recipe, source, path.resolve())
        except WorkFailedError as error:
            return str(error)
        finally:
            self._seconds["export"] = self._seconds.get("export", 0.0) + time.monotonic() - start
        return ""

    def _write_chosen(self, export: Callable[[Path], str] | None) -> None:
        assert self._chosen is not None  # noqa: S101  # the callers have chosen
        c = self._configuration
        candidate = self._candidates[self._chosen.digest]
        manifest = Manifest(
            candidate=candidate,
            chosen=self._chosen,
            task=c.task,
            task_reference=c.task_reference,
            score=self._info.score,
            max_drop=c.max_drop if self._wishes.max_drop is None else self._wishes.max_drop,
            environment=c.environment,
            repeat=_repeat(c, candidate),
        )
        write_chosen(manifest, self._folder.candidates / candidate.digest, self._folder.chosen, export)

    def _report(self, phase: str, finished: Candidate | None = None, message: str = "") -> None:
        self._phase = phase
        best = self._candidates.get(self._chosen.digest) if self._chosen else None
        left = self._clock.seconds_left()
        self._on_progress(
            Progress(
                phase=phase,
                n_done=self._n_done,
                n_total=self._n_total,
                seconds_elapsed=self._clock.elapsed,
                seconds_left=0.0 if left == float("inf") else max(0.0, left + self._clock.finish_seconds),
                best=best,
                finished=finished,
                message=message,
            )
        )


def _chosen(choice: Choice) -> Chosen:
    return Chosen(digest=choice.candidate.digest, meets_wishes=choice.meets_wishes, reason=choice.reason)


def _repeat(configuration: Configuration, candidate: Candidate) -> tuple[str, ...]:
    """Commands that make the chosen model again from its recipe, and that check its claims."""
    task = configuration.task_reference or "FILE.py:FUNCTION"
    steps = f"--steps {candidate.n_steps} --seed {candidate.seed}"
    return (
        f"autocompress compress {task} --recipe chosen/recipe.yaml {steps} --out again",
        "autocompress verify chosen",
    )
