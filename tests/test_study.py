"""Whole searches on a tiny task: the folder that they leave, resuming it and choosing from it."""

import math
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import optuna
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from autocompress import Study, Task, load_study
from autocompress.errors import StudyError
from autocompress.record import StudyRecord
from autocompress.report import render
from autocompress.search.chosen import Manifest
from autocompress.search.context import CACHE
from autocompress.search.progress import Progress
from tests.studies import fingerprints, study_of
from tests.tiny import images, tiny

REPORT = ("report.md", "health.svg", "front.svg", "training.svg", "front.html")
DEPLOYED = ("model.xml", "model.bin", "model.onnx", "weights.safetensors", "recipe.yaml")
N_TRIALS = 4


@dataclass
class Finished:
    folder: Path
    study: Study
    record: StudyRecord
    events: list[Progress]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("study") / "out"
    study = study_of(tiny(), folder, max_drop=0.5)
    events: list[Progress] = []
    return Finished(folder, study, study.optimize(f"{N_TRIALS}trials", events.append), events)


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished study that a test may change."""
    subprocess.run(["cp", "-r", str(finished.folder), str(tmp_path / "copied")], check=True)
    return tmp_path / "copied"


def test_the_folder_holds_what_it_should(finished: Finished) -> None:
    names = {path.name for path in finished.folder.iterdir() if not path.name.startswith(".")}
    assert names == {"study.json", "journal.log", "candidates.json", "candidates", "chosen", *REPORT}
    measured = {c.digest for c in finished.record.candidates if c.measurement}
    assert {path.name for path in (finished.folder / "candidates").iterdir()} == measured | {CACHE}


def test_the_anchors_come_first(finished: Finished) -> None:
    assert [c.label for c in finished.record.candidates] == ["fp32", "int8", "int8-w7", "int8-prune25", "int8-prune50"]
    assert not any(c.failure for c in finished.record.candidates)


def test_a_candidate_says_where_its_time_went(finished: Finished) -> None:
    for candidate in finished.record.candidates[1:]:
        assert {"compress", "calibrate", "finetune", "export", "evaluation", "latency"} <= set(candidate.seconds)
    seconds = dict(finished.record.seconds)
    assert seconds.pop("total") == pytest.approx(sum(seconds.values()))


def test_filters_are_really_removed(finished: Finished) -> None:
    by_label = {c.label: c.measurement for c in finished.record.candidates}
    fp32, pruned = by_label["fp32"], by_label["int8-prune50"]
    assert fp32 and pruned and pruned.macs < 0.7 * fp32.macs and pruned.size_bytes < fp32.size_bytes


def test_the_chosen_folder_is_whole(finished: Finished) -> None:
    manifest = Manifest.read(finished.folder / "chosen")
    assert set(manifest.sha256) == set(DEPLOYED) and manifest.onnx == ""
    assert manifest.chosen == finished.record.chosen
    assert manifest.chosen.test and manifest.chosen.test.n_samples == 150
    assert finished.record.candidate(manifest.chosen.digest) == manifest.candidate


def outputs_of_xml(folder: Path, x: np.ndarray) -> np.ndarray:
    compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.concatenate([compiled(image[None])[0] for image in x])


def test_the_accuracy_is_that_of_openvino_alone(finished: Finished) -> None:
    x, y = (tensor.numpy() for tensor in images(150, 3))
    outputs = outputs_of_xml(finished.folder / "chosen", x)
    test = finished.record.chosen and finished.record.chosen.test
    assert test and float((outputs.argmax(1) == y).mean()) == pytest.approx(test.accuracy)


def test_onnx_scores_as_the_xml(finished: Finished) -> None:
    x, y = (tensor.numpy() for tensor in images(600, 4))
    session = onnxruntime.InferenceSession(
        finished.folder / "chosen" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    scored = [
        float((outputs.argmax(1) == y).mean())
        for outputs in (
            np.concatenate([session.run(None, {name: image[None]})[0] for image in x]),
            outputs_of_xml(finished.folder / "chosen", x),
        )
    ]
    assert scored[0] == pytest.approx(scored[1], abs=0.002) and scored[0] > 0.6


def test_the_report_can_be_made_again_from_the_data_alone(finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "candidates.json").write_bytes((finished.folder / "candidates.json").read_bytes())
    render(tmp_path)
    for name in REPORT:
        assert (tmp_path / name).read_bytes() == (finished.folder / name).read_bytes(), name


@pytest.mark.slow
def test_a_search_without_any_drop_leaves_the_callers_model_alone(tmp_path: Path) -> None:
    task = replace(tiny(), model=tiny().model.train())
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    record = study_of(task, tmp_path, max_drop=0.0).optimize("1trial")
    assert record.chosen and record.chosen.meets_wishes
    after = task.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert all(module.training for module in task.model.modules())


def test_front_frame_and_record_agree(finished: Finished) -> None:
    loaded = load_study(finished.folder)
    assert loaded.record == finished.record == finished.study.record
    assert list(loaded.frame()["digest"]) == [c.digest for c in finished.record.candidates]
    assert {c.digest for c in loaded.front.candidates} <= {c.digest for c in loaded.candidates}


def test_who_watches_sees_each_candidate_and_the_best(finished: Finished) -> None:
    seen = [e.finished for e in finished.events if e.finished]
    assert [(c.digest, c.seconds) for c in seen] == [(c.digest, c.seconds) for c in finished.record.candidates]
    assert finished.events[-1].n_done == N_TRIALS and finished.events[-1].best
    assert any("fine-tuning int8" in e.phase for e in finished.events)


def test_the_finalists_were_timed_together(finished: Finished) -> None:
    assert finished.record.chosen
    if finished.record.finalists is None:  # on a CPU that runs at most one compressed model faster than FP32
        compressed = [c for c in finished.record.front().candidates if not c.recipe.is_identity]
        assert len(compressed) < 2
        return
    digests = finished.record.finalists.digests
    is_fp32 = finished.record.chosen.digest == finished.record.baseline.digest  # INT8 is not faster on every CPU
    assert is_fp32 or finished.record.chosen.digest in digests
    assert len(finished.record.finalists.pairs) == math.comb(len(digests), 2)
    speeds = [finished.record.candidate(digest).measurement.speedup.value for digest in digests]  # type: ignore[union-attr]
    assert speeds == sorted(speeds, reverse=True)
    assert any("timing the" in e.phase for e in finished.events)


def test_plain_optuna_opens_the_journal(finished: Finished) -> None:
    storage = JournalStorage(JournalFileBackend(str(finished.folder / "journal.log")))
    (summary,) = optuna.get_all_study_summaries(storage)
    trials = optuna.load_study(study_name=summary.study_name, storage=storage).get_trials()
    assert [t.user_attrs["digest"] for t in trials] == [c.digest for c in finished.record.candidates]


def test_the_same_study_resumes_and_repeats_nothing(copied: Path, finished: Finished) -> None:
    record = study_of(tiny(), copied, max_drop=0.5).optimize("2trials")
    assert len(record.candidates) == len(finished.record.candidates) + 2
    before, after = fingerprints(finished.record), fingerprints(record)
    assert {digest: after[digest] for digest in before} == before
    assert record.seconds["total"] > finished.record.seconds["total"]


@pytest.mark.parametrize(
    ("task", "changes", "said"),
    [
        pytest.param(tiny, {"max_drop": 0.1}, "max_drop was 0.5, is now 0.1", id="floor"),
        pytest.param(tiny, {"space": "int8"}, "space was 'full', is now 'int8'", id="space"),
        pytest.param(lambda: tiny(seed=1), {}, "task.weights was", id="weights"),
        pytest.param(tiny, {"finetune_steps": 4}, "finetune_steps was 3, is now 4", id="steps"),
    ],
)
def test_another_study_in_the_folder_is_refused(
    finished: Finished, task: Callable[[], Task], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(StudyError, match=f"belongs to another study: .*{said}"):
        study_of(task(), finished.folder, **{"max_drop": 0.5, **changes})


def test_choosing_again_puts_another_candidate_into_chosen(copied: Path, finished: Finished) -> None:
    before = {name: (copied / "chosen" / name).read_bytes() for name in ("model.bin",)}
    smallest = min((c for c in finished.record.candidates if c.measurement), key=lambda c: c.measurement.size_bytes)  # type: ignore[union-attr]
    assert smallest.measurement
    choice = load_study(copied, tiny()).choose(max_drop=1.0, max_size_bytes=smallest.measurement.size_bytes)
    assert choice.meets_wishes and choice.candidate == smallest
    manifest = Manifest.read(copied / "chosen")
    assert manifest.candidate == smallest and manifest.chosen.test and "model.onnx" in manifest.sha256
    assert smallest.digest == finished.record.chosen.digest or before != {  # type: ignore[union-attr]
        name: (copied / "chosen" / name).read_bytes() for name in before
    }
    assert smallest.digest in (copied / "report.md").read_text()


def test_choosing_without_the_task_says_that_nothing_was_confirmed(copied: Path, finished: Finished) -> None:
    chosen = finished.record.chosen and finished.record.chosen.digest
    load_study(copied).choose(digest=next(c.digest for c in finished.record.candidates if c.digest != chosen))
    manifest = Manifest.read(copied / "chosen")
    assert manifest.chosen.test is None and "not exported yet" in manifest.onnx


def test_a_study_without_its_task_cannot_search(finished: Finished) -> None:
    with pytest.raises(StudyError, match=r"without its task; use load_study\(out, task\)"):
        load_study(finished.folder).optimize("1trial")


def test_a_study_is_loaded_only_with_its_own_task(finished: Finished) -> None:
    with pytest.raises(StudyError, match="belongs to another study: task.weights"):
        load_study(finished.folder, tiny(seed=1))


def test_two_commands_do_not_share_a_folder(finished: Finished) -> None:
    with finished.study.folder.locked(), pytest.raises(StudyError, match="in use by another process"):
        load_study(finished.folder).choose(max_drop=1.0)
