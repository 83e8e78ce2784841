"""Whatever may go wrong in a search leaves a result or one sentence, and loses nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autocompress import Task
from autocompress.errors import AutocompressError, GraphError, MeasurementError, SearchSpaceError, TaskError
from autocompress.record import StudyRecord
from autocompress.search.chosen import Manifest
from autocompress.search.folder import UNFINISHED
from autocompress.search.progress import Progress
from tests import tiny as tasks
from tests.studies import fingerprints, study_of
from tests.tiny import FILE, tiny


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        pytest.param(
            tasks.only_fp32_works, "RuntimeError: no loss today", id="a loss that raises", marks=pytest.mark.slow
        ),
        pytest.param(tasks.killed_in_training, "its process died", id="a process that dies"),
        pytest.param(tasks.no_train, "train", id="no training data", marks=pytest.mark.slow),
    ],
)
def test_if_every_candidate_fails_the_fp32_model_is_the_result(
    tmp_path: Path, task: Callable[[], Task], reason: str
) -> None:
    record = study_of(task(), tmp_path / "out").optimize("2trials")
    assert [c.failure is None for c in record.candidates] == [True, False, False]
    assert all(reason in str(c.failure) for c in record.candidates[1:])
    assert record.chosen and record.chosen.digest == record.baseline.digest and record.chosen.meets_wishes
    assert Manifest.read(tmp_path / "out" / "chosen").onnx == ""
    assert any("2 candidates failed" in finding for finding in record.findings)
    assert not list((tmp_path / "out" / "candidates").glob(f"{UNFINISHED}*"))


@pytest.mark.parametrize(
    ("task", "error", "said"),
    [
        pytest.param(tasks.nan_score, MeasurementError, "the FP32 model cannot be measured: .*nan", id="NaN score"),
        pytest.param(tasks.no_validation, AutocompressError, "validation", id="no validation data"),
        pytest.param(tasks.not_pairs, TaskError, r"validation must be a pair \(inputs, targets\)", id="no targets"),
        pytest.param(tasks.nothing_to_compress, GraphError, "nothing to compress|no layer", id="nothing to compress"),
        pytest.param(tasks.wrong_shape, GraphError, "example_input|forward", id="wrong shape"),
    ],
)
def test_a_task_that_cannot_be_searched_is_refused(
    tmp_path: Path, task: Callable[[], Task], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        study_of(task(), tmp_path).optimize("1trial")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_task_that_was_repaired_goes_on_in_the_same_folder(tmp_path: Path) -> None:
    broken = replace(tasks.nan_score(), name="tiny")
    with pytest.raises(MeasurementError):
        study_of(broken, tmp_path).optimize("1trial")
    repaired = replace(broken, score=replace(tiny().score, name="nan"))  # type: ignore[type-var]
    assert len(study_of(repaired, tmp_path).optimize("1trial").candidates) == 2


@pytest.mark.parametrize(
    ("task", "space"),
    [
        pytest.param(tasks.shared_layers, "full", id="a shared layer, training mode, dicts, a score that falls"),
        pytest.param(tasks.loader_processes, "int8", id="data from other processes", marks=pytest.mark.slow),
        pytest.param(tasks.mlp, "full", id="no convolution", marks=pytest.mark.slow),
        pytest.param(tasks.one_class, "int8", id="one class", marks=pytest.mark.slow),
    ],
)
def test_unusual_tasks_are_searched(tmp_path: Path, task: Callable[[], Task], space: str) -> None:
    record = study_of(task(), tmp_path, space=space, max_drop=1.0).optimize("2trials")
    assert [c.failure for c in record.candidates] == [None] * 3
    assert Manifest.read(tmp_path / "chosen").chosen.test


def test_a_space_without_a_choice_for_the_model_is_said(tmp_path: Path) -> None:
    class OneGroup(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flat, self.head = torch.nn.Flatten(), torch.nn.Linear(64, tasks.N_CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.flat(x))

    with pytest.raises(SearchSpaceError, match="space pruning has nothing to try on this model"):
        study_of(replace(tiny(), model=OneGroup().eval()), tmp_path, space="pruning")


def test_a_time_budget_ends_a_search_that_would_go_on(tmp_path: Path) -> None:
    start = time.monotonic()
    record = study_of(tasks.hangs(), tmp_path).optimize("20s")
    assert time.monotonic() - start < 60
    assert [c.label for c in record.candidates] == ["fp32"] and record.chosen
    if "cut off by the budget" not in record.seconds:
        pytest.skip("this machine was too busy for a first candidate to begin within 20 s")


def test_ctrl_c_ends_a_search_with_its_result(tmp_path: Path) -> None:
    messages: list[str] = []

    def interrupt_in_the_second(progress: Progress) -> None:
        messages.append(progress.message)
        if "fine-tuning int8-w7" in progress.phase and not any("stopped" in message for message in messages):
            raise KeyboardInterrupt

    record = study_of(tiny(), tmp_path).optimize("4trials", interrupt_in_the_second)
    assert [c.label for c in record.candidates] == ["fp32", "int8"]
    assert any("stopped by Ctrl-C" in message for message in messages)
    assert Manifest.read(tmp_path / "chosen").chosen.test and (tmp_path / "report.md").is_file()


def search_command(out: Path, budget: str) -> list[str]:
    command = [sys.executable, "-m", "autocompress", "search", f"{FILE}:slow", "--space", "int8", "--out", str(out)]
    return [*command, "--budget", budget, "--finetune-steps", "10", "--latency-seconds", "0.3"]


def n_candidates(out: Path) -> int:
    path = out / "candidates.json"
    return len(json.loads(path.read_text())["candidates"]) if path.is_file() else 0


def default_signals() -> None:
    """A shell's background jobs, and what they start, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    "end",
    [signal.SIGKILL, *(pytest.param(end, marks=pytest.mark.slow) for end in (signal.SIGINT, signal.SIGTERM))],
    ids=str,
)
def test_a_command_that_is_ended_leaves_a_result_and_resumes(tmp_path: Path, end: signal.Signals) -> None:
    out, killed = tmp_path / "out", end == signal.SIGKILL
    command = search_command(out, "50trials")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=default_signals
    ) as process:
        while n_candidates(out) < 3 and process.poll() is None:
            time.sleep(0.1)
        # a terminal interrupts the whole group, a kill is for one process
        (os.killpg if end == signal.SIGINT else os.kill)(process.pid, end)
        process.communicate(timeout=120)  # which also ends only when no process holds the pipe any more
    assert process.returncode == (-end if killed else 0)
    before = fingerprints(StudyRecord.read(out / "candidates.json"))
    assert 3 <= len(before) <= 5
    assert (Manifest.read(out / "chosen").chosen.test is None) == killed
    if not killed:
        assert (out / "report.md").is_file()
        return
    done = subprocess.run(search_command(out, "1trial"), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    after = fingerprints(StudyRecord.read(out / "candidates.json"))
    assert len(after) == len(before) + 1 and {digest: after[digest] for digest in before} == before
    assert Manifest.read(out / "chosen").chosen.test
    assert not list((out / "candidates").glob(f"{UNFINISHED}*"))
