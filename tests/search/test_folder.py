"""Study folders: who may write, and replacing a folder as a whole."""

import fcntl
from contextlib import ExitStack
from pathlib import Path

import pytest

from autocompress.errors import StudyError
from autocompress.search.folder import StudyFolder, check_writable, replace_folder
from autocompress.train import CHECKPOINT


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


def test_a_study_that_one_holds_alone_cannot_be_joined(tmp_path: Path) -> None:
    refused = pytest.raises(StudyError, match="in use by another process")
    with StudyFolder(tmp_path).locked(), refused, StudyFolder(tmp_path).joined():
        pass


def test_a_study_in_which_others_search_cannot_be_held_alone(tmp_path: Path) -> None:
    with ExitStack() as others:
        for _ in range(2):
            others.enter_context(StudyFolder(tmp_path).joined())
        with pytest.raises(StudyError, match="in use by another process"), StudyFolder(tmp_path).locked():
            pass
    with StudyFolder(tmp_path).locked():
        pass


def test_the_mutex_may_be_nested_and_ends_with_the_outermost_block(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    with (tmp_path / ".lock").open("w") as other:
        with folder.mutex():
            with folder.mutex():
                pass
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_mutex_is_given_up_after_an_error(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    with pytest.raises(ZeroDivisionError), folder.mutex():
        _ = 1 / 0
    with StudyFolder(tmp_path).mutex():
        pass


def test_unfinished_work_goes_unless_its_training_can_be_gone_on_with(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    for name in (".work-a", ".work-b", "c"):
        (folder.candidates / name).mkdir()
    (folder.candidates / ".work-b" / CHECKPOINT).write_text("")
    (folder.candidates / ".claim-a").write_text("")
    (tmp_path / ".onnx-x").mkdir()
    folder.remove_unfinished()
    assert sorted(p.name for p in folder.candidates.iterdir()) == [".work-b", "c"]
    assert not (tmp_path / ".onnx-x").exists()


def test_a_replacement_that_was_cut_short_is_put_right(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    for old in (tmp_path / ".chosen.old", folder.candidates / ".a.old", folder.candidates / ".b.old"):
        old.mkdir()
        (old / "file").write_text("old")
    (folder.candidates / "b").mkdir()  # its old one was not yet removed
    folder.remove_unfinished()
    assert (folder.chosen / "file").read_text() == "old"
    assert (folder.candidates / "a" / "file").read_text() == "old"
    assert sorted(p.name for p in folder.candidates.iterdir()) == ["a", "b"] and not list(
        (folder.candidates / "b").iterdir()
    )


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
