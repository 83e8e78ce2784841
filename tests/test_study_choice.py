"""Choosing from a finished study for real: by digest, confirmed, trained longer, interrupted."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.nn.functional import cross_entropy

from autocompress import Study, Task, load_study
from autocompress.errors import StudyError
from autocompress.pareto import Candidate
from autocompress.search.chosen import ONNX, Manifest
from autocompress.search.long_rung import LONG
from autocompress.search.progress import Progress
from autocompress.train import CHECKPOINT
from tests.studies import study_of
from tests.tiny import only_fp32_works, slow, tiny

N_LONG = 40


@pytest.fixture(scope="module", autouse=True)
def short_long_rung() -> Any:
    """A long training that takes a moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autocompress.search.clock.LONG_STEPS", N_LONG)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "out"
    study_of(tiny(), folder, max_drop=0.5, space="int8", finetune_steps=2).optimize("2trials")
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def int8_of(study: Study) -> Candidate:
    return next(c for c in study.candidates if c.label == "int8")


def _upside_down(outputs: Tensor, targets: Tensor) -> Tensor:
    return -cross_entropy(outputs, targets)


def harmful() -> Task:
    """Its loss makes a model worse with each step."""
    return replace(tiny(), loss=_upside_down)


def test_a_digest_is_chosen_confirmed_and_exported(copied: Path) -> None:
    study = load_study(copied, tiny())
    digest = int8_of(study).digest
    choice = study.choose(digest=digest[:5])
    manifest = Manifest.read(copied / "chosen")
    assert choice.candidate.digest == manifest.candidate.digest == digest
    assert manifest.chosen.test and ONNX in manifest.sha256 and study.record.chosen == manifest.chosen
    assert digest in (copied / "report.md").read_text()


def test_what_is_confirmed_already_is_not_measured_again(copied: Path) -> None:
    study, phases = load_study(copied, tiny()), list[str]()
    digest = Manifest.read(copied / "chosen").candidate.digest
    before = study.record.chosen
    study.choose(digest=digest, on_progress=lambda progress: phases.append(progress.phase))
    after = study.record.chosen
    assert phases == [] and before and after and after.test == before.test


def test_a_full_finetuning_is_kept_where_it_is_better(copied: Path) -> None:
    study, told = load_study(copied, tiny()), list[Progress]()
    before = int8_of(study)
    choice = study.choose(digest=before.digest, full_finetune=True, on_progress=told.append)
    after = study.record.candidate(before.digest)
    assert choice.candidate == after == Manifest.read(copied / "chosen").candidate
    assert before.measurement and after.measurement
    (sentence,) = [s for s in study.record.findings if f"{before.name} was trained for {N_LONG} more steps" in s]
    is_better = after.measurement.accuracy_drop.value < before.measurement.accuracy_drop.value
    assert ("the new model was kept" in sentence) == is_better
    assert (after.rung, after.n_steps) == ((LONG, N_LONG) if is_better else (before.rung, before.n_steps))
    assert any(p.training and p.n_steps == N_LONG and p.seconds_left > 0 for p in told)
    assert f"for {N_LONG} steps takes about" in "".join(p.message for p in told)
    assert study.record.chosen and study.record.chosen.test and sentence in (copied / "report.md").read_text()


@pytest.mark.parametrize(
    ("task", "said"),
    [
        pytest.param(harmful, "the model from before was kept", id="a worse model"),
        pytest.param(
            only_fp32_works,
            "which failed: RuntimeError: no loss today; it stays as it was",
            id="a failure",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_full_finetuning_that_does_no_good_changes_no_model(
    copied: Path, task: Callable[[], Task], said: str
) -> None:
    study = load_study(copied, task())
    before = int8_of(study)
    weights = (copied / "candidates" / before.digest / "weights.safetensors").read_bytes()
    choice = study.choose(digest=before.digest, full_finetune=True)
    assert choice.candidate == before == study.record.candidate(before.digest)
    assert any(said in sentence for sentence in study.record.findings)
    manifest = Manifest.read(copied / "chosen")
    assert manifest.candidate == before and manifest.chosen.test and ONNX in manifest.sha256
    assert (copied / "chosen" / "weights.safetensors").read_bytes() == weights


@pytest.mark.slow
def test_ctrl_c_in_a_full_finetuning_keeps_the_choice_and_the_training_goes_on_next_time(copied: Path) -> None:
    study, messages = load_study(copied, slow()), list[str]()
    before = int8_of(study)

    def stop(progress: Progress) -> None:
        messages.append(progress.message)
        if progress.training and progress.training.step >= 8 and "stopped" not in "".join(messages):
            raise KeyboardInterrupt

    study.choose(digest=before.digest, full_finetune=True, on_progress=stop)
    assert "the same command goes on with its training" in "".join(messages)
    manifest = Manifest.read(copied / "chosen")
    assert manifest.candidate == before == study.record.candidate(before.digest) and manifest.chosen.test
    assert (copied / "candidates" / f".work-{before.digest}" / CHECKPOINT).is_file()

    steps = list[int]()
    load_study(copied, tiny()).choose(
        digest=before.digest,
        full_finetune=True,
        on_progress=lambda p: steps.append(p.training.step) if p.training else None,
    )
    assert not (copied / "candidates" / f".work-{before.digest}").exists()
    assert any("40 more steps" in sentence for sentence in study.record.findings)


def test_ctrl_c_in_the_confirmation_keeps_the_choice(copied: Path) -> None:
    study = load_study(copied, tiny())
    chosen = Manifest.read(copied / "chosen").candidate.digest
    digest = next(c.digest for c in study.candidates if c.digest != chosen)

    def stop(progress: Progress) -> None:
        if "confirming" in progress.phase:
            raise KeyboardInterrupt

    study.choose(digest=digest, on_progress=stop)
    manifest = Manifest.read(copied / "chosen")
    assert manifest.candidate.digest == digest and manifest.chosen.test is None
    assert study.record.chosen == manifest.chosen and digest in (copied / "report.md").read_text()


@pytest.mark.parametrize("label", ["fp32", "int8"])
def test_what_cannot_be_trained_longer_is_said(copied: Path, label: str) -> None:
    study, messages = load_study(copied, tiny()), list[str]()
    candidate = next(c for c in study.candidates if c.label == label)
    if label == "int8":
        longer = candidate.model_copy(update={"rung": LONG, "n_steps": N_LONG})
        others = tuple(longer if c == candidate else c for c in study.candidates)
        study.record.model_copy(update={"candidates": others}).write(copied / "candidates.json")
    study.choose(
        digest=candidate.digest, full_finetune=True, on_progress=lambda progress: messages.append(progress.message)
    )
    said = "the FP32 model is chosen: there is nothing to train" if label == "fp32" else "40 steps already: it stays"
    assert said in "".join(messages)


def test_a_full_finetuning_needs_the_task(copied: Path) -> None:
    with pytest.raises(StudyError, match=r"without its task; use load_study\(out, task\) for a full fine-tuning"):
        load_study(copied).choose(full_finetune=True)


def test_a_study_shows_itself_in_a_notebook(copied: Path) -> None:
    study = load_study(copied)
    chosen = study.record.candidate(study.record.chosen.digest)  # type: ignore[union-attr]
    assert f"{chosen.name} (chosen)" in study._repr_html_() and "<svg" in study.front._repr_html_()
    (copied / "candidates.json").unlink()
    assert "has no results yet; run autocompress search" in study._repr_html_()
