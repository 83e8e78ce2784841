"""What follows a choice once the task is at hand: a longer training where it is wished, the test split, ONNX."""

import time
from dataclasses import replace

from autocompress.graph import ModelGraph
from autocompress.measurement import CoursePoint, Measurement
from autocompress.pareto import Candidate, Choice, Wishes, choose
from autocompress.search.budget import Budget
from autocompress.search.chosen import NOT_EXPORTED, Manifest
from autocompress.search.clock import SearchClock, full_steps
from autocompress.search.configuration import Configuration
from autocompress.search.context import Rung
from autocompress.search.ending import Ending
from autocompress.search.evaluator import Evaluator
from autocompress.search.folder import StudyFolder
from autocompress.search.interruption import Interruption
from autocompress.search.ledger import Ledger
from autocompress.search.long_rung import LONG
from autocompress.search.placing import read_record
from autocompress.search.progress import OnProgress, Progress
from autocompress.search.worker import Worker, study_worker
from autocompress.task import Task
from autocompress.train import Hardware, follow


class Confirmation:
    """Finishes a choice that `place` has put into `chosen/`; until it is done, what is there stays.

    Args:
        folder: Of the study, locked by the caller.
        configuration: Of the study.
        task: That the study is about.
        graph: What was found in its model.
        on_progress: Told of each step.
        hardware: On what to train.
    """

    def __init__(
        self,
        folder: StudyFolder,
        configuration: Configuration,
        task: Task,
        graph: ModelGraph,
        on_progress: OnProgress,
        hardware: Hardware,
    ) -> None:
        self._folder, self._configuration = folder, configuration
        self._task, self._graph, self._hardware = task, graph, hardware
        self._on_progress = on_progress
        self._ledger = Ledger(folder, configuration, read_record(folder).study)
        self._clock = SearchClock(Budget(n_trials=1))
        self._interruption = Interruption()
        self._evaluator: Evaluator | None = None
        self._training_start = 0.0
        self._phase = ""

    def run(self, choice: Choice, wishes: Wishes, full_finetune: bool = False) -> Choice:
        """Train the choice for longer if `full_finetune`, confirm it on the test split and export it to ONNX.

        Ctrl-C ends first the training, then the confirmation; what is in `chosen/` stays whole.

        Args:
            choice: As `place` returned it.
            wishes: By which it was made.
            full_finetune: Whether to train it as long as a long rung with time enough does; the better of the model
                before and after stays.

        Returns:
            The choice with its measurement as it is now.
        """
        ledger, digest = self._ledger, choice.candidate.digest
        ledger.wishes = replace(wishes, digest=digest)
        ledger.forget_numbers()
        with (
            self._interruption,
            study_worker(
                self._folder, self._configuration, self._task, self._graph, self._hardware, self._wait, None
            ) as worker,
        ):
            self._folder.remove_unfinished()
            if full_finetune and self._trains(worker, choice.candidate):
                choice = self._made_again(wishes)
                ledger.choose(choice)
            if not self._is_confirmed():
                Ending(ledger, worker, self._tell).confirm()
        ledger.conclude(self._clock.elapsed)
        return choice

    def _made_again(self, wishes: Wishes) -> Choice:
        """The same choice with its new numbers, which may keep other bounds than before."""
        by_wishes, named = choose(self._ledger.candidates.values(), wishes), self._ledger.best()
        return by_wishes if by_wishes.candidate.digest == named.candidate.digest else named

    def _is_confirmed(self) -> bool:
        chosen = self._ledger.chosen
        return bool(chosen and chosen.test) and Manifest.read(self._folder.chosen).onnx != NOT_EXPORTED

    def _trains(self, worker: Worker, candidate: Candidate) -> bool:
        """Train `candidate` for longer; whether that made it better."""
        n_steps, before = full_steps(self._configuration.finetune_steps or 0), candidate.measurement
        reason = _nothing_to_train(candidate, n_steps)
        if reason or before is None:
            self._tell(self._phase, message=reason)
            return False
        self._learn(candidate)
        self._tell(
            self._phase,
            message=f"training {candidate.name} for {n_steps} steps takes about {self._clock.forecast(n_steps):.0f} s; "
            "Ctrl-C ends it and keeps the choice as it is",
        )
        try:
            after = self._trained(worker, candidate, n_steps, before)
        except KeyboardInterrupt:
            stopped = "stopped by Ctrl-C: the choice stays as it is, and the same command goes on with its training; "
            self._tell(self._phase, message=f"{stopped}Ctrl-C again skips the confirmation, too")
            return False
        finally:
            self._evaluator = None
        sentence = _outcome(candidate, n_steps, before, after)
        self._ledger.findings.append(sentence)
        self._tell(self._phase, message=sentence)
        return after.measurement is not None and _is_better(after.measurement, before)

    def _trained(self, worker: Worker, candidate: Candidate, n_steps: int, before: Measurement) -> Candidate:
        self._evaluator = Evaluator(
            self._folder,
            worker,
            self._ledger,
            self._clock,
            self._configuration.seed,
            lambda phase, _: self._tell(phase),
        )
        self._training_start = time.monotonic()
        return self._evaluator.run(
            candidate.recipe, candidate.label, Rung(LONG, n_steps), is_kept=lambda after: _is_better(after, before)
        )

    def _learn(self, candidate: Candidate) -> None:
        """What steps and measuring took for this candidate, which says more than all others."""
        for known in [*self._ledger.candidates.values(), candidate]:
            self._clock.learn(known)
        if candidate.n_steps:
            self._clock.step_seconds = candidate.seconds.get("finetune", 0.0) / candidate.n_steps

    def _wait(self) -> None:
        self._interruption.check()
        self._tell(self._phase)

    def _tell(self, phase: str, message: str = "") -> None:
        self._phase = phase
        log = self._evaluator.training_log if self._evaluator else None
        n_steps = self._evaluator.n_steps if self._evaluator and log else 0
        training = follow(log) if log else None
        self._on_progress(
            Progress(
                phase=phase,
                seconds_elapsed=self._clock.elapsed,
                seconds_left=self._seconds_left(training, n_steps),
                message=message,
                training=training,
                n_steps=n_steps,
            )
        )

    def _seconds_left(self, training: CoursePoint | None, n_steps: int) -> float:
        """Forecast: what is left of the training at the pace so far, measuring, and the confirmation."""
        left = self._clock.finish_seconds
        if n_steps:
            n_done = training.step if training else 0
            pace = (time.monotonic() - self._training_start) / n_done if n_done else self._clock.step_seconds
            left += (n_steps - n_done) * pace + self._clock.measuring_seconds
        return left


def _is_better(after: Measurement, before: Measurement) -> bool:
    """By the drop on those samples by which candidates are proposed, so that the others can still decide."""
    return after.accuracy_drop.value < before.accuracy_drop.value


def _nothing_to_train(candidate: Candidate, n_steps: int) -> str:
    """Why a longer training would change nothing, else empty."""
    if candidate.recipe.is_identity:
        return "the FP32 model is chosen: there is nothing to train"
    if candidate.rung == LONG and candidate.n_steps >= n_steps:
        return f"{candidate.name} has been trained for {candidate.n_steps} steps already: it stays as it is"
    return ""


def _outcome(candidate: Candidate, n_steps: int, before: Measurement, after: Candidate) -> str:
    """What came of the training, in one sentence."""
    what = f"{candidate.name} was trained for {n_steps} more steps after the search"
    if after.measurement is None:
        return f"{what}, which failed: {after.failure}; it stays as it was"
    drops = [100 * m.accuracy_drop.value for m in (before, after.measurement)]
    kept = "the new model was kept" if _is_better(after.measurement, before) else "the model from before was kept"
    return f"{what}: a drop of {drops[0]:.2f} points before, {drops[1]:.2f} after; {kept}"
