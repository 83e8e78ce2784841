"""The worker process: what goes wrong in it is a reason, never the end of the search."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autocompress.graph import inspect_model
from autocompress.processes import OutOfTimeError, WorkFailedError
from autocompress.search.context import EvaluationContext
from autocompress.search.worker import Worker
from tests.search import work
from tests.tiny import tiny


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> EvaluationContext:
    task = tiny()
    graph = inspect_model(task.model, task.example_input)
    return EvaluationContext(task, graph, tmp_path_factory.mktemp("candidates"), n_cores=1)


@pytest.fixture(scope="module")
def worker(context: EvaluationContext) -> Iterator[Worker]:
    with Worker(context) as worker:
        yield worker


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def test_work_runs_in_another_process_with_the_context(worker: Worker) -> None:
    assert worker.call(work.add, 2, 3) == 5
    assert worker.call(work.process) not in (os.getpid(), None)
    assert worker.call(work.n_cores) == 1


def test_one_process_does_all_the_work(worker: Worker) -> None:
    assert worker.call(work.process) == worker.call(work.process)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        pytest.param(work.fail, "^ValueError: first line$", id="an error of the user's code"),
        pytest.param(work.refuse, "^the score is nan$", id="an error of ours"),
        pytest.param(work.crash, "its process died", id="killed"),
        pytest.param(work.leave, "its process died", id="left"),
        pytest.param(work.candidate_with_a_dying_timer, "the measuring process died", id="its measuring process died"),
    ],
)
def test_failed_work_has_a_reason_and_the_next_goes_on(worker: Worker, function: object, reason: str) -> None:
    with pytest.raises(WorkFailedError, match=reason):
        worker.call(function)  # type: ignore[arg-type]
    assert worker.call(work.add, 1, 1) == 2


def test_work_is_killed_at_its_deadline(worker: Worker, tmp_path: Path) -> None:
    worker.call(work.add, 1, 1)
    start = time.monotonic()
    with pytest.raises(OutOfTimeError, match="the budget was used up"):
        worker.call(work.sleep, 60.0, tmp_path / "pid", deadline=start + 1.0)
    assert time.monotonic() - start < 30
    assert not is_alive(int((tmp_path / "pid").read_text()))
    assert worker.call(work.add, 1, 1) == 2


def test_who_waits_is_told_again_and_again(context: EvaluationContext, tmp_path: Path) -> None:
    calls: list[float] = []
    with Worker(context, on_wait=lambda: calls.append(time.monotonic())) as worker:
        worker.call(work.sleep, 1.2, tmp_path / "pid")
    assert len(calls) >= 3


def test_ctrl_c_while_waiting_stops_the_work_but_not_the_worker(context: EvaluationContext, tmp_path: Path) -> None:
    def interrupt() -> None:
        if (tmp_path / "pid").is_file() and not is_interrupted:
            is_interrupted.append(True)
            raise KeyboardInterrupt

    is_interrupted: list[bool] = []
    with Worker(context, on_wait=interrupt) as worker:
        with pytest.raises(KeyboardInterrupt):
            worker.call(work.sleep, 600.0, tmp_path / "pid")
        assert not is_alive(int((tmp_path / "pid").read_text()))
        assert worker.call(work.add, 1, 1) == 2


def test_the_process_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from autocompress.graph import inspect_model\n"
        "from autocompress.search.context import EvaluationContext; from autocompress.search.worker import Worker\n"
        "from tests.search import work; from tests.tiny import tiny\n"
        "task = tiny(); graph = inspect_model(task.model, task.example_input)\n"
        "Worker(EvaluationContext(task, graph, Path('.'), 1)).call(work.sleep, 600.0, Path(sys.argv[1]))\n"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "pid")], cwd=root) as parent:
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
            assert parent.poll() is None
            time.sleep(0.1)
        parent.kill()
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not is_alive(pid):
            return
        time.sleep(0.1)
    raise AssertionError("the worker process outlives its parent")


def test_what_a_search_does_not_need_is_not_imported() -> None:
    """Each of these takes about a second, in the main process and in the one for candidates."""
    code = "import sys, autocompress.study; print(*sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert "autocompress.search.worker" in done.stdout.split()
    assert not {"onnxscript", "scipy.stats", "sklearn"} & set(done.stdout.split())
