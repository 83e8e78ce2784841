"""The end of a search: what one session of the finalists changes, and what is said about a model unlike torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autocompress.latency import JointLatency, LatencySettings, PairedLatency
from autocompress.measurement import LatencyCheck, Speedup
from autocompress.pareto import Candidate
from autocompress.processes import WorkFailedError
from autocompress.record import StudyRecord
from autocompress.search.ending import Ending
from autocompress.search.folder import StudyFolder
from autocompress.search.ledger import Ledger
from tests.examples import candidate, record
from tests.search.test_identity import configuration

CHECK = LatencyCheck(p90_ms=1.5, p99_ms=2.5, noise_floor=0.01, busy_share=0.0)


def speedup(value: float) -> Speedup:
    return Speedup(value=value, low=value * 0.99, high=value * 1.01, n_pairs=99)


class Worker:
    """Gives one answer to whatever it is asked, and notes it."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer, self.asked = answer, []

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self.asked.append((function.__name__, arguments))
        return self.answer()


def joint(*values: float) -> tuple[JointLatency, dict[str, float]]:
    results = tuple(PairedLatency(speedup(value), 3.0 / value, 3.0, CHECK) for value in values)
    return JointLatency(results, tuple(tuple(speedup(b / a) for b in values) for a in values)), {"latency": 1.5}


def failing(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def ledger_of(folder: Path, *candidates: Candidate) -> Ledger:
    known = record(*candidates)
    ledger = Ledger(StudyFolder(folder), configuration(max_drop=0.05), known.study)
    ledger.candidates = {c.digest: c for c in known.candidates}
    ledger.choose(ledger.best())
    return ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Candidate a is chosen, b is a little slower."""
    return ledger_of(tmp_path, candidate("a", 0.02, 3.0, 900), candidate("b", 0.01, 2.9, 900))


def ended(ledger: Ledger, answer: Callable[[], Any]) -> Worker:
    worker = Worker(answer)
    Ending(ledger, worker, lambda phase: None).time_finalists(2.0)  # type: ignore[arg-type]
    return worker


def test_the_choice_falls_by_the_session_of_all_finalists(ledger: Ledger, tmp_path: Path) -> None:
    assert ledger.chosen and ledger.chosen.digest == "a"
    worker = ended(ledger, lambda: joint(2.8, 3.1))
    assert ledger.chosen.digest == "b"
    written = StudyRecord.read(tmp_path / "candidates.json")
    assert written.finalists and written.finalists.digests == ("b", "a")
    assert written.candidate("b").measurement.speedup.value == 3.1  # type: ignore[union-attr]
    ((name, (folders, settings)),) = worker.asked
    assert name == "time_together" and [folder.name for folder in folders] == ["a", "b"]
    assert isinstance(settings, LatencySettings) and settings.max_seconds == 2.0


@pytest.mark.parametrize(
    ("error", "said"),
    [
        pytest.param(WorkFailedError("the measuring process died"), "the measuring process died", id="a crash"),
        pytest.param(KeyboardInterrupt(), "", id="Ctrl-C"),
    ],
)
def test_a_session_that_fails_changes_nothing(ledger: Ledger, error: BaseException, said: str) -> None:
    before = dict(ledger.candidates)
    ended(ledger, failing(error))
    assert ledger.candidates == before and ledger.finalists is None
    assert ledger.chosen and ledger.chosen.digest == "a"
    assert "".join(ledger.findings).endswith(said) and bool(ledger.findings) == bool(said)


def test_one_alone_is_not_timed_again(tmp_path: Path) -> None:
    assert ended(ledger_of(tmp_path, candidate("a", 0.02, 3.0, 900)), lambda: joint(3.0)).asked == []


@pytest.mark.parametrize(("agreement", "n_asked"), [(0.999, 0), (0.95, 1)], ids=["like torch", "unlike torch"])
def test_why_a_chosen_model_differs_from_torch_is_found_out(tmp_path: Path, agreement: float, n_asked: int) -> None:
    chosen = candidate("a", 0.02, 3.0, 900)
    assert chosen.measurement
    measured = chosen.measurement.model_copy(update={"agreement": agreement})
    ledger = ledger_of(tmp_path, chosen.model_copy(update={"measurement": measured}))
    worker = Worker(lambda: ["a: layer 3 saturates"])
    Ending(ledger, worker, lambda phase: None).explain_differences()  # type: ignore[arg-type]
    assert [name for name, _ in worker.asked] == ["parity_findings"] * n_asked
    assert ledger.findings == ["a: layer 3 saturates"] * n_asked


def test_a_reason_that_cannot_be_found_out_is_said(ledger: Ledger) -> None:
    worker = Worker(failing(WorkFailedError("no memory")))
    low = ledger.candidates["a"].measurement.model_copy(update={"agreement": 0.5})  # type: ignore[union-attr]
    ledger.candidates["a"] = ledger.candidates["a"].model_copy(update={"measurement": low})
    Ending(ledger, worker, lambda phase: None).explain_differences()  # type: ignore[arg-type]
    assert ledger.findings == ["why a differs from torch could not be found out: no memory"]
