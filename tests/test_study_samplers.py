"""Every sampler searches the same study; planned searches explain themselves, resume, and share a study."""

import json
import multiprocessing
import os
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from autocompress import Study, create_study
from autocompress.errors import StudyError
from autocompress.record import StudyRecord
from autocompress.search.samplers import SAMPLERS
from tests.studies import study_of
from tests.tiny import tiny


def trials_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    (summary,) = optuna.get_all_study_summaries(storage)
    return optuna.load_study(study_name=summary.study_name, storage=storage).get_trials()


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_finds_new_recipes_after_the_anchors(tmp_path: Path, sampler: str) -> None:
    record = study_of(tiny(), tmp_path / "out", max_drop=0.5, sampler=sampler).optimize("8trials")
    labels = [c.label for c in record.candidates]
    assert labels[:5] == ["fp32", "int8", "int8-w7", "int8-prune25", "int8-prune50"] and labels[5:7] == ["", ""]
    assert len({c.digest for c in record.candidates}) == len(record.candidates)
    assert record.chosen and record.chosen.test
    best_anchor = max(c.measurement.speedup.value for c in record.candidates[:5] if c.measurement)
    chosen = record.candidate(record.chosen.digest).measurement
    assert chosen and chosen.speedup.value > 0.7 * best_anchor  # timed again at the end, in another session


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyRecord]:
    folder = tmp_path_factory.mktemp("planned") / "out"
    return folder, study_of(tiny(), folder, max_drop=0.5).optimize("7trials")


def test_a_planned_search_explains_its_choice(planned: tuple[Path, StudyRecord]) -> None:
    folder, record = planned
    assert record.explanation and record.chosen
    assert record.explanation.digest == record.chosen.digest and record.explanation.units
    assert {"damage table", "latency model"} <= set(record.seconds)
    assert "predicted" in (folder / "report.md").read_text()


@pytest.mark.slow
def test_the_damage_table_is_measured_once(planned: tuple[Path, StudyRecord], tmp_path: Path) -> None:
    """A second study of the same model and data reads it from the cache of the user."""
    files = {path: path.stat().st_mtime_ns for path in Path(os.environ["XDG_CACHE_HOME"]).rglob("damage-*.json")}
    again = study_of(tiny(), tmp_path / "out", max_drop=0.5).optimize("5trials")
    assert files and again.explanation
    assert all(path.stat().st_mtime_ns == changed for path, changed in files.items())


def test_an_unknown_sampler_is_refused_with_the_names(tmp_path: Path) -> None:
    with pytest.raises(
        StudyError, match="sampler must be one of bayesdp, spdy, tpe, nsga2, gp, random, greedy, but got 'best'"
    ):
        create_study(tiny(), out=tmp_path, sampler="best")


@pytest.mark.parametrize(
    ("wish", "kept"),
    [
        pytest.param({"max_latency_ms": 1e-6}, False, id="a latency that nothing reaches"),
        pytest.param({"target_speedup": 0.5}, True, id="a speed-up that all have"),
        pytest.param({"max_size_bytes": 10**9}, True, id="a size that all have"),
    ],
)
@pytest.mark.slow
def test_the_search_chooses_by_the_wishes(tmp_path: Path, wish: dict[str, float], kept: bool) -> None:
    record = study_of(tiny(), tmp_path / "out", max_drop=0.5, **wish).optimize("2trials")
    assert record.chosen and record.chosen.meets_wishes is kept
    name = next(iter(wish))
    assert kept or name in record.chosen.reason


def search_in(folder: Path) -> None:
    study: Study = study_of(tiny(), folder, max_drop=0.5, sampler="random")
    study.optimize("6trials")


@pytest.mark.slow
def test_two_processes_share_a_study(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=search_in, args=(tmp_path / "out",)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
        assert process.exitcode == 0
    record = StudyRecord.read(tmp_path / "out" / "candidates.json")
    digests = [c.digest for c in record.candidates]
    assert len(digests) == len(set(digests)) >= 11
    told = [t.user_attrs["digest"] for t in trials_of(tmp_path / "out") if "digest" in t.user_attrs]
    assert len(told) == len(set(told))
    manifest = json.loads((tmp_path / "out" / "chosen" / "manifest.json").read_text())
    assert manifest["chosen"]["digest"] in digests
