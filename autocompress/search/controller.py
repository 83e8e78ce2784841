"""The loop: baseline, anchors, planned candidates, longer training of the best, confirmation."""

import math
from collections.abc import Callable, Mapping

from autocompress.errors import MeasurementError, SearchSpaceError
from autocompress.explanation import Explanation
from autocompress.graph import ModelGraph
from autocompress.latency import LatencySettings
from autocompress.measurement import Interval, Measurement
from autocompress.pareto import Candidate
from autocompress.recipe import Recipe
from autocompress.record import StudyInfo, StudyRecord, write_atomically
from autocompress.search import findings
from autocompress.search.budget import Budget
from autocompress.search.clock import SearchClock
from autocompress.search.configuration import Configuration
from autocompress.search.context import Rung
from autocompress.search.ending import Ending
from autocompress.search.engine import Engine
from autocompress.search.evaluate import default_precision
from autocompress.search.evaluator import Evaluator
from autocompress.search.folder import StudyFolder
from autocompress.search.interruption import Interruption
from autocompress.search.ledger import Ledger
from autocompress.search.long_rung import LongRung
from autocompress.search.members import Member
from autocompress.search.progress import OnProgress, Progress
from autocompress.search.short_rung import ShortRung
from autocompress.search.training import RANGE_TEST_SECONDS, learning_rates, seconds_a_step
from autocompress.search.worker import Worker, study_worker
from autocompress.space import BoundSpace, anchors
from autocompress.task import Task
from autocompress.train import Hardware, follow

RANGE_TEST_SHARE = 0.05  # of the budget, at most, for finding a learning rate


class Controller:
    """Searches in one study folder; see `Study.optimize`.

    Args:
        folder: The study's folder.
        configuration: What was asked for.
        info: The same, as reports show it.
        task: Model, data and score.
        graph: What was found in its model.
        space: What may be tried.
        on_progress: Told of each step.
        hardware: On what to train.
    """

    def __init__(
        self,
        folder: StudyFolder,
        configuration: Configuration,
        info: StudyInfo,
        task: Task,
        graph: ModelGraph,
        space: BoundSpace,
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
        self._evaluator: Evaluator | None = None
        self._n_total = 0
        self._phase = ""

    def search(self, budget: Budget, start: float | None = None) -> StudyRecord:
        """Search until `budget`, which counts from `start` or from now, is used up.

        Raises:
            StudyError: The study is in use by a process that chooses in it.
            MeasurementError: The baseline cannot be measured.
        """
        self._clock = SearchClock(budget, start=start)
        with (
            self._folder.joined() as member,
            self._interruption,
            study_worker(
                self._folder,
                self._configuration,
                self._task,
                self._graph,
                self._hardware,
                self._wait,
                self._configuration.max_drop,
            ) as worker,
        ):
            self._folder.remove_unfinished()
            self._evaluator = Evaluator(
                self._folder, worker, self._ledger, self._clock, self._configuration.seed, self._report
            )
            engine, drops = None, {}
            try:
                self._prepare(worker, self._evaluator, self._graph, self._space)
                engine = self._engine(worker, self._graph, self._space)
                short = self._short_rung(member, engine, self._graph, self._space)
                self._rungs(short, self._evaluator, engine)
                drops = short.drops
            except KeyboardInterrupt:
                self._report(
                    "stopping", message="stopped by Ctrl-C; confirming the result so far, Ctrl-C again skips that"
                )
            if self._ledger.candidates:
                self._end(worker, engine, drops)
        return self._ledger.record()

    def _rungs(self, short: ShortRung, evaluator: Evaluator, engine: Engine | None) -> None:
        """Short trainings and longer ones of the best."""
        long = LongRung(
            self._folder, self._ledger, self._clock, self._configuration.max_drop, self._baseline().accuracy
        )
        n_steps = self._configuration.finetune_steps or 0
        planning = engine.planning_seconds(self._clock) if engine and not engine.is_ready else 0.0
        self._report(self._phase, message=self._clock.plan(n_steps, planning))
        take_turns(
            lambda reserve, at_most: short.run(evaluator, long.largest_short_drop, reserve=reserve, at_most=at_most),
            lambda: long.run(evaluator, short.drops),
        )

    def _end(self, worker: Worker, engine: Engine | None, drops: Mapping[str, Interval]) -> None:
        """Time the finalists, choose, confirm and explain."""
        self._ledger.refresh()
        self._ledger.choose(self._ledger.best())
        ending = Ending(self._ledger, worker, self._report)
        ending.time_finalists(self._clock.finalist_seconds)
        ending.confirm()
        ending.explain_differences()
        if engine and self._ledger.chosen:
            candidates = list(self._ledger.candidates.values())
            found = engine.explanation(candidates, self._ledger.chosen.digest, drops)
            self._ledger.explanation = newest(found, self._ledger.explanation, self._ledger.chosen.digest)
            self._ledger.add_seconds(engine.take_seconds())
        self._ledger.conclude(self._clock.elapsed)

    def _wait(self) -> None:
        self._interruption.check()
        self._report(self._phase)

    def _baseline(self) -> Measurement:
        """Of the FP32 model, which is measured first of all."""
        measurement = self._ledger.candidates[Recipe().digest()].measurement
        if measurement is None:
            raise MeasurementError("the FP32 model was not measured; run autocompress search again")
        return measurement

    def _prepare(self, worker: Worker, evaluator: Evaluator, graph: ModelGraph, space: BoundSpace) -> None:
        """Measure the baseline and what a training step costs; without a baseline there is no search."""
        digest = Recipe().digest()
        with self._folder.claim(digest, self._wait):
            self._ledger.refresh()
            if digest not in self._ledger.candidates:
                candidate = evaluator.evaluate(Recipe(), "fp32", Rung("baseline", 0))
                if candidate.failure:
                    raise MeasurementError(f"the FP32 model cannot be measured: {candidate.failure}")
                self._ledger.keep(candidate)
                self._report(self._phase, finished=candidate)
        for candidate in self._ledger.candidates.values():
            self._clock.learn(candidate)
        self._report("finding out what this CPU does")
        self._ledger.findings = [*findings.about_model(graph), *self._configuration.rewards]
        if found := worker.call(default_precision, LatencySettings()):
            self._ledger.findings.append(findings.about_default_precision(*found))
        with self._folder.claim("training-steps", self._wait):
            self._configuration = Configuration.read(self._folder.configuration)
            if self._configuration.finetune_steps is None:
                self._find_steps(worker, graph, space)

    def _find_steps(self, worker: Worker, graph: ModelGraph, space: BoundSpace) -> None:
        """Find how long to train a candidate; written down for searches to come."""
        if self._task.fit is None:
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

    def _engine(self, worker: Worker, graph: ModelGraph, space: BoundSpace) -> Engine | None:
        """None where the space leaves nothing to decide."""
        try:
            return Engine(space, graph, self._configuration, self._baseline(), worker, self._report)
        except SearchSpaceError:
            return None

    def _short_rung(self, member: Member, engine: Engine | None, graph: ModelGraph, space: BoundSpace) -> ShortRung:
        return ShortRung(
            self._folder,
            member,
            self._ledger,
            self._clock,
            self._configuration,
            space,
            self._anchors(space, graph),
            engine,
            self._wait,
        )

    def _report(self, phase: str, finished: Candidate | None = None, message: str = "") -> None:
        self._phase = phase
        chosen, evaluator = self._ledger.chosen, self._evaluator
        log = evaluator.training_log if evaluator else None
        n_done, n_total = (evaluator.n_done, evaluator.n_total) if evaluator else (0, 0)
        self._on_progress(
            Progress(
                phase=phase,
                n_done=n_done,
                n_total=n_total,
                seconds_elapsed=self._clock.elapsed,
                seconds_left=self._clock.seconds_to_end(
                    max(0, n_total - n_done), self._configuration.finetune_steps or 0
                ),
                best=self._ledger.candidates.get(chosen.digest) if chosen else None,
                finished=finished,
                message=message,
                training=follow(log) if log else None,
                n_steps=evaluator.n_steps if evaluator else 0,
            )
        )


def take_turns(short: Callable[[bool, float], int], long: Callable[[], None]) -> None:
    """Short trainings, then longer ones of the best; in what budget is left one short one and longer ones in turn.

    Args:
        short: Tries new recipes: with something kept back for longer trainings or not, and how many at most; gives how
            many there were.
        long: Trains longer what is worth it.
    """
    short(True, math.inf)
    long()
    while short(False, 1):
        long()


def newest(found: Explanation | None, known: Explanation | None, chosen: str) -> Explanation | None:
    """What is explained now or, where a search had no time to plan, what an earlier one explained of the same choice.

    Args:
        found: By this search.
        known: From the record.
        chosen: Digest of the choice.
    """
    return found or (known if known and known.digest == chosen else None)
