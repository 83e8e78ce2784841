"""Trainings and timings keep out of each other's way, across processes."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from autocompress.errors import MeasurementError
from autocompress.latency import quiet, training
from autocompress.train import FinetuneSettings, Objective, finetune

TRAINING = """
import sys
from autocompress.latency import training
with training():
    print("in", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.fixture
def other() -> Iterator[subprocess.Popen[str]]:
    """Another process that is in a training."""
    with subprocess.Popen(
        [sys.executable, "-c", TRAINING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "in\n"
        yield process
        process.kill()


def test_a_timing_waits_for_a_training_in_another_process(other: subprocess.Popen[str]) -> None:
    with (
        pytest.raises(MeasurementError, match=r"a training on this machine went on for 0 s without a pause"),
        quiet(0.2),
    ):
        pass


def test_a_training_lets_a_timing_in_between_two_steps_and_waits_for_its_end() -> None:
    steps: list[float] = []
    is_over = threading.Event()

    def train() -> None:
        with training() as pause:
            while not is_over.is_set():
                time.sleep(0.01)
                steps.append(time.monotonic())
                pause()

    thread = threading.Thread(target=train)
    thread.start()
    while len(steps) < 3:
        time.sleep(0.01)
    with quiet(60):
        start = time.monotonic()
        time.sleep(0.2)
        end = time.monotonic()
    while steps[-1] < end:
        time.sleep(0.01)
    is_over.set()
    thread.join()
    assert not [step for step in steps if start < step < end]


def test_a_killed_training_leaves_the_room(other: subprocess.Popen[str]) -> None:
    other.kill()
    other.wait()
    with quiet(5.0):
        pass


def test_two_trainings_share_the_room() -> None:
    with training() as one, training() as another:
        one()
        another()


def test_fine_tuning_is_in_the_room_and_pauses_after_each_step() -> None:
    seen = []

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with pytest.raises(MeasurementError), quiet(0.0):
            pass
        seen.append(1)
        return nn.functional.mse_loss(outputs, targets)

    batches = [(torch.randn(4, 3), torch.randn(4, 2))]
    finetune(nn.Linear(3, 2), batches, Objective(loss), FinetuneSettings(2))
    assert len(seen) == 2
    with quiet(0.0):
        pass
