"""One candidate after the other: trained, exported and measured in the worker process."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from autocompress.latency import LatencySettings
from autocompress.measurement import Measurement
from autocompress.pareto import Candidate
from autocompress.processes import OutOfTimeError, WorkFailedError
from autocompress.recipe import Recipe
from autocompress.search.clock import SearchClock
from autocompress.search.context import Rung
from autocompress.search.evaluate import export_candidate, measure_candidate
from autocompress.search.folder import UNFINISHED, StudyFolder
from autocompress.search.ledger import Ledger
from autocompress.search.training import Trained, train_candidate
from autocompress.search.worker import Worker
from autocompress.train import LOG


class Evaluator:
    """Evaluates recipes for one search.

    Args:
        folder: Of the study.
        worker: For the work.
        ledger: What was found so far; where candidates have their folders.
        clock: Of the search.
        seed: Of trainings.
        report: Told what is being done, and of each candidate that has finished.

    Attributes:
        training_log: Of the training under way, else None.
        n_steps: Steps that it is meant to take.
        n_done: Candidates finished by this search, failed ones included, the baseline not counted.
        n_total: Forecast of how many there will be.
    """

    def __init__(
        self,
        folder: StudyFolder,
        worker: Worker,
        ledger: Ledger,
        clock: SearchClock,
        seed: int,
        report: Callable[[str, Candidate | None], None],
    ) -> None:
        self._folder, self._worker, self._ledger, self._clock = folder, worker, ledger, clock
        self._seed, self._report = seed, report
        self.training_log: Path | None = None
        self.n_steps = self.n_done = self.n_total = 0
        self._phase = ""

    def run(
        self,
        recipe: Recipe,
        label: str,
        rung: Rung,
        *,
        seed: int | None = None,
        is_kept: Callable[[Measurement], bool] = lambda _: True,
    ) -> Candidate:
        """Evaluate a recipe as `evaluate` does, and keep what came out; a failed second training changes nothing."""
        candidate = self.evaluate(recipe, label, rung, seed=seed, is_kept=is_kept)
        is_known = recipe.digest() in self._ledger.candidates
        if not is_known or (candidate.measurement and is_kept(candidate.measurement)):
            self._ledger.keep(candidate)
        else:
            self._ledger.add_seconds(candidate.seconds)
        self._clock.learn(candidate)
        self.n_done += not recipe.is_identity
        self._report(self._phase, candidate)
        return candidate

    def evaluate(
        self,
        recipe: Recipe,
        label: str,
        rung: Rung,
        *,
        seed: int | None = None,
        is_kept: Callable[[Measurement], bool] = lambda _: True,
    ) -> Candidate:
        """Train, export and measure one candidate; its folder appears only when all have succeeded.

        A training that is cut off leaves its checkpoint, with which the next search goes on.

        Args:
            recipe: What to do.
            label: Name of an anchor, else empty.
            rung: How long to train.
            seed: Of the training, which then starts without the recipe's own earlier weights; the search's by default.
            is_kept: Whether files with this measurement take the place of those that are there.

        Raises:
            OutOfTimeError: The budget ended before it was done; never for the baseline.
        """
        final = self._ledger.source(recipe.digest())
        work = final if recipe.is_identity else final.with_name(f"{UNFINISHED}{final.name}")
        measurement, failure, trained = None, None, None
        seconds: dict[str, float] = {}
        start = time.monotonic()
        try:
            trained = self._train(recipe, work, rung, seed, label or final.name)
            seconds |= trained.seconds
            measurement = self._measure(recipe, work, label or final.name, seconds)
            if work != final and is_kept(measurement):
                self._folder.finish(final.name)
        except OutOfTimeError:
            self._ledger.add_seconds({"cut off by the budget": time.monotonic() - start})
            raise
        except WorkFailedError as error:
            failure = str(error)
        if work != final:
            shutil.rmtree(work, ignore_errors=True)
        return Candidate(
            digest=final.name,
            recipe=recipe,
            label=label,
            rung=rung.name,
            n_steps=(trained and trained.summary and trained.summary.stopped_at) or rung.n_steps,
            seed=self._seed if seed is None else seed,
            seconds=seconds,
            failure=failure,
            measurement=measurement,
            training=trained.summary if trained else None,
        )

    def _train(self, recipe: Recipe, folder: Path, rung: Rung, seed: int | None, name: str) -> Trained:
        """Train in the worker process, while its log is followed."""
        self._tell(f"fine-tuning {name} ({rung.n_steps} steps)" if rung.n_steps else f"preparing {name}")
        finished = [c.recipe for c in self._ledger.candidates.values() if c.measurement and c.n_steps]
        parents = finished if seed is None else [other for other in finished if other != recipe]
        self.training_log, self.n_steps = folder / LOG, rung.n_steps
        chosen_seed = self._seed if seed is None else seed
        try:
            return self._worker.call(
                train_candidate, recipe, folder, rung, chosen_seed, parents, deadline=self._deadline(recipe)
            )
        finally:
            self.training_log = None

    def _measure(self, recipe: Recipe, folder: Path, name: str, seconds: dict[str, float]) -> Measurement:
        """Export and measure; adds to `seconds`."""
        self._tell(f"measuring {name}")
        deadline = self._deadline(recipe)
        seconds |= self._worker.call(export_candidate, recipe, folder, deadline=deadline)
        measurement, spent = self._worker.call(
            measure_candidate, recipe, folder, "validation", LatencySettings(), deadline=deadline
        )
        seconds |= spent
        return measurement

    def _tell(self, phase: str) -> None:
        self._phase = phase
        self._report(phase, None)

    def _deadline(self, recipe: Recipe) -> float | None:
        return None if recipe.is_identity else self._clock.deadline
