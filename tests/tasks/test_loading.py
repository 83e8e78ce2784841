"""Finding a task by how a person names it."""

import os
import subprocess
import sys
from pathlib import Path

import cloudpickle
import pytest

from autocompress.errors import TaskError
from autocompress.tasks.loading import find_task, load_task

SOURCE = """
import helper
import torch
from autocompress import Score, Task
from tests.tiny import tiny

def mine():
    return tiny(seed=helper.SEED)

def quarter(outputs, targets):
    return 0.25

def mine_alone():
    batches = [(torch.zeros(1, 2), torch.zeros(1, 2))]
    return Task(model=torch.nn.Linear(2, 2), example_input=torch.zeros(1, 2), train=batches, validation=batches,
                test=batches, loss=torch.nn.functional.mse_loss, score=Score(quarter))

SEED = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a task of a user's own that imports a file beside it."""
    (tmp_path / "my_task.py").write_text(SOURCE)
    (tmp_path / "helper.py").write_text("SEED = 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("helper", "my_task"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.parametrize("reference", ["my_task.py:mine", "my_task:mine", "./my_task.py:mine"])
def test_a_task_of_a_users_own_is_found(folder: Path, reference: str) -> None:
    assert load_task(reference).name == "tiny"


def test_a_task_from_a_file_reaches_another_process(folder: Path) -> None:
    pickled = cloudpickle.dumps(load_task("my_task.py:mine_alone"))
    (folder / "task.pickle").write_bytes(pickled)
    code = "import pickle; print(pickle.load(open('task.pickle', 'rb')).score([1], [1]))"
    elsewhere = {**os.environ, "PYTHONPATH": ""}
    (folder / "my_task.py").unlink()
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=elsewhere, capture_output=True, text=True)
    assert done.stdout == "0.25\n", done.stderr


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        pytest.param("", "is unknown", id="nothing"),
        pytest.param("fashion:", "is unknown", id="no function"),
        pytest.param(":task", "is unknown", id="no module"),
        pytest.param("my_task.py:missing", "has no function 'missing'; known are ", id="no such function"),
        pytest.param("my_task.py:SEED", "has no function 'SEED'", id="not a function"),
        pytest.param("my_task:min", "did you mean 'mine'?", id="misspelt"),
        pytest.param(".:task", "fails while it is made", id="a folder"),
        pytest.param("a b:task", "No module named 'a b'", id="blanks"),
    ],
)
def test_a_reference_that_leads_nowhere_is_said(folder: Path, reference: str, said: str) -> None:
    with pytest.raises(TaskError) as caught:
        load_task(reference)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_built_in_task_goes_before_a_file_of_that_name(folder: Path) -> None:
    (folder / "fashion").write_text("")
    assert load_task("fashion").name == "fashion"


@pytest.mark.parametrize("place", ["study/chosen", "chosen", "."])
@pytest.mark.parametrize("reference", ["my_task.py:mine", "somewhere/else/my_task.py:mine"])
def test_the_task_of_a_manifest_is_found_beside_or_above_its_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, place: str, reference: str
) -> None:
    (folder / place).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert find_task(reference, folder / place).name == "tiny"


def test_a_task_of_a_manifest_that_is_nowhere_near_is_an_error(folder: Path) -> None:
    far = folder / "a" / "b" / "c"
    far.mkdir(parents=True)
    os.chdir(far)
    with pytest.raises(
        TaskError, match="the task my_task.py:mine of the manifest is not found from here; give it with"
    ):
        find_task("my_task.py:mine", far)


def test_a_built_in_task_of_a_manifest_is_found_anywhere(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="task 'nowhere' is unknown"):
        find_task("nowhere", tmp_path)
    assert find_task("fashion", tmp_path).name == "fashion"
