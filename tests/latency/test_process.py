"""The process in which models are timed."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autocompress.latency import LatencyProcess, LatencySettings, random_inputs, training
from autocompress.processes import WorkFailedError
from tests.latency.models import chain, saved

QUICK = LatencySettings(min_pairs=5, max_pairs=20, max_seconds=0.2, block_seconds=0.001)
INPUTS = random_inputs(chain(1))


@pytest.fixture(scope="module")
def process() -> Iterator[LatencyProcess]:
    with LatencyProcess() as started:
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    for n in (2, 8):
        saved(n, path)
    return path


def pid(_: None) -> int:
    return os.getpid()


def loaded(_: None) -> set[str]:
    return {"torch", "scipy", "pandas"} & set(sys.modules)


def crash(_: None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_ratio_is_that_of_the_models(process: LatencyProcess, folder: Path) -> None:
    found = process.compare(folder / "chain8.xml", folder / "chain2.xml", INPUTS, QUICK)
    assert 2 < found.speedup.value < 6
    assert found.latency_ms < found.baseline_ms
    assert found.latency_ms <= found.check.p99_ms


def test_several_models_are_compared_with_each_other(process: LatencyProcess, folder: Path) -> None:
    paths = [folder / "chain8.xml", folder / "chain2.xml"]
    found = process.compare_all(folder / "chain8.xml", paths, INPUTS, QUICK)
    slow, fast = (result.speedup.value for result in found.results)
    assert 0.5 < slow < 2 < fast
    assert found.between[0][1].value == pytest.approx(1 / found.between[1][0].value)
    assert found.between[0][1].value > 2


def test_it_is_another_process_that_loads_nothing_heavy(process: LatencyProcess) -> None:
    work = process._process
    assert work.call(pid) != os.getpid()
    assert work.call(pid) == work.call(pid)
    assert work.call(loaded) == set()


def test_a_crash_is_an_error_with_a_reason_and_the_next_call_works(process: LatencyProcess, folder: Path) -> None:
    with pytest.raises(WorkFailedError, match="the measuring process died"):
        process._process.call(crash)
    assert process.compare(folder / "chain2.xml", folder / "chain2.xml", INPUTS, QUICK).speedup.value > 0


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        pytest.param("missing.xml", None, "OpenVINO cannot read", id="missing"),
        pytest.param("broken.xml", "<net", "OpenVINO cannot read", id="damaged"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error(
    process: LatencyProcess, folder: Path, tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(WorkFailedError, match=message):
        process.compare(folder / "chain2.xml", tmp_path / name, INPUTS, QUICK)


def test_nothing_is_timed_while_a_training_takes_a_step(process: LatencyProcess, folder: Path) -> None:
    finished: list[float] = []

    def measure() -> None:
        process.compare(folder / "chain2.xml", folder / "chain2.xml", INPUTS, QUICK)
        finished.append(time.monotonic())

    thread = threading.Thread(target=measure)
    with training():
        thread.start()
        time.sleep(1.5)
        left = time.monotonic()
    thread.join()
    assert finished[0] > left
