"""Study folders: who may write, and replacing a folder as a whole."""

import subprocess
import sys
from pathlib import Path

import pytest

from autocompress.errors import StudyError
from autocompress.search.folder import StudyFolder, check_writable, replace_folder


@pytest.mark.parametrize(
    "where",
    [
        pytest.param("file", id="a file"),
        pytest.param("file/below", id="below a file"),
        pytest.param("/proc/nowhere", id="a file system that cannot be written"),
        pytest.param("x" * 300, id="a name too long"),
    ],
)
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(StudyError, match="cannot be written: .*; give another one"):
        check_writable(tmp_path / where)
    assert (tmp_path / "file").read_text() == "kept"


def test_trying_leaves_nothing_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_one_process_at_a_time_holds_a_study(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from autocompress.search.folder import StudyFolder\n"
        "with StudyFolder(Path(sys.argv[1])).locked():\n    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdin and other.stdout.readline() == "held\n"
        with pytest.raises(StudyError, match="in use by another process"), StudyFolder(tmp_path).locked():
            pass
        other.kill()
    with StudyFolder(tmp_path).locked():
        pass  # a killed process holds nothing


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    new, target = tmp_path / "new", tmp_path / "target"
    for folder, name in ((new, "fresh"), (target, "stale")):
        folder.mkdir()
        (folder / name).write_text(name)
    replace_folder(new, target)
    assert [file.name for file in target.iterdir()] == ["fresh"]
    assert [folder.name for folder in tmp_path.iterdir()] == ["target"]


def test_an_open_file_of_the_old_folder_stays_readable(tmp_path: Path) -> None:
    new, target = tmp_path / "new", tmp_path / "target"
    for folder, text in ((new, "fresh"), (target, "stale")):
        folder.mkdir()
        (folder / "model.bin").write_text(text)
    with (target / "model.bin").open() as file:
        replace_folder(new, target)
        assert file.read() == "stale"
    assert (target / "model.bin").read_text() == "fresh"
