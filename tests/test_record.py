"""The record of a study as a file."""

import json
import shutil
from pathlib import Path

import pytest

from autocompress.errors import StudyError
from autocompress.record import Chosen, StudyRecord, write_atomically
from autocompress.report import render
from tests.examples import candidate, measurement, record

FULL = record(
    candidate("abc1", 0.01, 2.0, 300, label="int8"),
    candidate("abd2"),
    chosen=Chosen(digest="abc1", meets_wishes=True, reason="the fastest", test=measurement(0.02, 2.0)),
    findings=("größer als gedacht",),
    seconds={"total": 12.5},
)


def test_a_record_survives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "candidates.json"
    FULL.write(path)
    assert StudyRecord.read(path) == FULL
    assert [p.name for p in tmp_path.iterdir()] == ["candidates.json"]


def test_writing_the_same_record_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        FULL.write(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "cannot be read; give the folder of a study", id="missing"),
        pytest.param(b"", "is not a record of a study", id="empty"),
        pytest.param(b'{"format": 1, "stu', "is not a record of a study", id="cut off"),
        pytest.param(b"[]", "is not a record of a study", id="a list"),
        pytest.param(b"\xff\xfe\x00", "cannot be read", id="binary"),
    ],
)
def test_a_damaged_file_is_an_error(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "candidates.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StudyError, match=message):
        StudyRecord.read(path)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        pytest.param({"format": 2}, "format", id="another format"),
        pytest.param({"surprise": 1}, "surprise", id="an unknown field"),
        pytest.param({"candidates": [{"digest": "x"}]}, "candidates.0", id="half a candidate"),
    ],
)
def test_a_record_of_another_kind_is_an_error(change: dict[str, object], where: str, tmp_path: Path) -> None:
    path = tmp_path / "candidates.json"
    path.write_text(json.dumps({**json.loads(FULL.model_dump_json()), **change}))
    with pytest.raises(StudyError, match=f"is not a record of a study: {where}"):
        StudyRecord.read(path)


def test_a_nan_cannot_enter_through_a_file(tmp_path: Path) -> None:
    path = tmp_path / "candidates.json"
    path.write_text(FULL.model_dump_json().replace('"latency_ms":1.0', '"latency_ms":NaN'))
    assert "NaN" in path.read_text()
    with pytest.raises(StudyError, match="latency_ms"):
        StudyRecord.read(path)


def test_a_candidate_is_found_by_the_start_of_its_digest() -> None:
    assert FULL.candidate("abc").digest == "abc1"
    for start, n in (("ab", 2), ("zz", 0)):
        with pytest.raises(StudyError, match=f"{n} candidates have a digest that starts with '{start}'"):
            FULL.candidate(start)


def test_the_baseline_is_the_candidate_to_which_nothing_was_done() -> None:
    assert FULL.baseline.digest == "000000000000"
    assert [c.digest for c in FULL.front().candidates] == ["abc1", "000000000000"]


def test_the_committed_report_is_made_again_from_its_record(tmp_path: Path) -> None:
    committed = Path(__file__).parents[1] / "reports" / "fashion"
    shutil.copy(committed / "candidates.json", tmp_path)
    render(tmp_path)
    assert (tmp_path / "report.md").read_text() == (committed / "report.md").read_text()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
