"""Two folders that change places in one step."""

import sys
from pathlib import Path

import pytest

from autocompress.search.exchange import exchange


def filled(folder: Path) -> Path:
    folder.mkdir()
    (folder / "name").write_text(folder.name)
    return folder


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="no such system call")
def test_two_folders_change_places(tmp_path: Path) -> None:
    a, b = filled(tmp_path / "ä b"), filled(tmp_path / "c")
    assert exchange(a, b)
    assert ((a / "name").read_text(), (b / "name").read_text()) == ("c", "ä b")


@pytest.mark.parametrize("missing", ["a", "b"])
def test_where_one_is_missing_nothing_is_done(tmp_path: Path, missing: str) -> None:
    (there,) = (filled(tmp_path / name) for name in "ab" if name != missing)
    assert not exchange(tmp_path / "a", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == [there.name]


def test_a_system_without_such_a_call_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autocompress.search.exchange.ctypes.CDLL", lambda name: object())
    assert not exchange(filled(tmp_path / "a"), filled(tmp_path / "b"))
    assert (tmp_path / "a" / "name").read_text() == "a"
