"""The end of a search: finalists timed together, the choice confirmed on the test split, `chosen/` written whole."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from autocompress.latency import FINALIST
from autocompress.measure.parity import ENOUGH_AGREEMENT
from autocompress.processes import WorkFailedError
from autocompress.recipe import Recipe
from autocompress.search.evaluate import export_onnx, measure_candidate, time_together
from autocompress.search.finalists import choose_finalists
from autocompress.search.ledger import Ledger
from autocompress.search.saturation import parity_findings
from autocompress.search.worker import Worker


class Ending:
    """Ends a search.

    Args:
        ledger: What was found.
        worker: For the work.
        report: Told what is being done.
    """

    def __init__(self, ledger: Ledger, worker: Worker, report: Callable[[str], None]) -> None:
        self._ledger, self._worker, self._report = ledger, worker, report

    def time_finalists(self, max_seconds: float) -> None:
        """Time the best candidates together, and choose with that; an interrupted or failed session changes nothing.

        Args:
            max_seconds: No round begins later than this.
        """
        record, wishes = self._ledger.record(), self._ledger.wishes
        if record.chosen is None:
            return
        chosen = record.candidate(record.chosen.digest)
        n_compared = sum(c.measurement is not None and not c.recipe.is_identity for c in record.candidates)
        candidates = choose_finalists(record.front(), chosen, wishes, max(1, n_compared))
        if not candidates:
            return
        self._report(f"timing the {len(candidates)} finalists together")
        settings = replace(FINALIST, min_pairs=30, max_seconds=max_seconds)
        folders = [self._ledger.source(c.digest) for c in candidates]
        try:
            timed, seconds = self._worker.call(time_together, folders, settings)
        except WorkFailedError as error:
            self._ledger.findings.append(f"the finalists could not be timed together: {error}")
        except KeyboardInterrupt:
            return
        else:
            self._ledger.add_seconds(seconds)
            self._ledger.keep_finalists(candidates, timed)

    def confirm(self) -> None:
        """Measure the choice on the test split with more latency pairs, then write `chosen/` whole."""
        chosen = self._ledger.chosen
        if chosen is None:
            return
        recipe, source = self._ledger.candidates[chosen.digest].recipe, self._ledger.source(chosen.digest)
        try:
            self._report("confirming the choice on the test split")
            test, seconds = self._worker.call(measure_candidate, recipe, source, "test", FINALIST)
            self._ledger.chosen = chosen.model_copy(update={"test": test})
            self._ledger.add_seconds(seconds)
            self._report("exporting the choice to ONNX")
            self._ledger.write_chosen(lambda path: self._export_onnx(recipe, source, path))
        except WorkFailedError as error:
            self._ledger.findings.append(f"the choice could not be confirmed on the test split: {error}")
            self._ledger.write_chosen()
        except KeyboardInterrupt:
            self._ledger.write_chosen()

    def explain_differences(self) -> None:
        """Find out why the chosen model differs from torch, where it does; after it is safe in `chosen/`."""
        chosen = self._ledger.chosen
        if chosen is None:
            return
        candidate, source = self._ledger.candidates[chosen.digest], self._ledger.source(chosen.digest)
        measured = chosen.test or candidate.measurement
        if measured is None or measured.agreement >= ENOUGH_AGREEMENT:
            return
        self._report("finding out why the chosen model differs from torch")
        try:
            self._ledger.findings += self._worker.call(parity_findings, candidate.recipe, source, candidate.name)
        except WorkFailedError as error:
            self._ledger.findings.append(f"why {candidate.name} differs from torch could not be found out: {error}")
        except KeyboardInterrupt:
            return

    def _export_onnx(self, recipe: Recipe, source: Path, path: Path) -> str:
        start = time.monotonic()
        try:
            self._worker.call(export_onnx, recipe, source, path.resolve())
        except WorkFailedError as error:
            return str(error)
        finally:
            self._ledger.add_seconds({"export": time.monotonic() - start})
        return ""
