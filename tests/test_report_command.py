"""`autocompress report` with one study and with several."""

from pathlib import Path

import pytest

from tests.commands import Command
from tests.examples import record

COMPARISON = ["comparison.html", "comparison.md", "comparison.svg"]


@pytest.fixture(name="studies")
def _studies(tmp_path: Path) -> list[Path]:
    """The folders of two studies."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        record().write(folder / "candidates.json")
    return folders


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_one_study_gets_its_report_into_its_folder(command: Command, studies: list[Path]) -> None:
    done = command("report", studies[0])
    assert (done.code, done.error) == (0, "")
    assert done.out == f"wrote {studies[0]}/report.md, its pictures, and {studies[0]}/front.html\n"
    assert names_in(studies[0]) == ["candidates.json", "front.html", "front.svg", "report.md"]


def test_several_studies_are_compared_in_the_folder_that_is_asked_for(
    command: Command, studies: list[Path], tmp_path: Path
) -> None:
    done = command("report", *studies, "--out", tmp_path / "side")
    assert (done.code, done.error) == (0, "")
    assert sorted(done.out.removeprefix("wrote ").strip().split(", ")) == [f"{tmp_path}/side/{n}" for n in COMPARISON]
    assert names_in(tmp_path / "side") == COMPARISON
    assert names_in(studies[0]) == ["candidates.json"]


def test_without_a_folder_a_comparison_goes_into_the_current_one(
    command: Command, studies: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command("report", "one", "two")
    assert done.out == "wrote comparison.svg, comparison.md, comparison.html\n"
    assert names_in(tmp_path) == COMPARISON


BAD = [  # id, command line after `report`, what the error says
    ("a second folder without a study", "ONE MISSING", "missing/candidates.json cannot be read; give the folder of a"),
    ("the same study twice", "ONE ONE", "one is given twice; give each study once"),
    ("an output for one study", "ONE --out OUT", "--out is for the comparison of several studies; the report of"),
    (
        "an output that is a file",
        "ONE TWO --out FILE",
        "output folder FILE cannot be written: File exists; give another",
    ),
    ("a file for a folder", "FILE TWO", "file/candidates.json cannot be read; give the folder of a study"),
]


@pytest.mark.parametrize(("line", "says"), [pytest.param(*row[1:], id=row[0]) for row in BAD])
def test_bad_input_is_one_sentence(command: Command, studies: list[Path], tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "file").write_text("")
    known = {name: str(tmp_path / name.lower()) for name in ("ONE", "TWO", "MISSING", "OUT", "FILE")}
    done = command("report", *(known.get(word, word) for word in line.split()))
    for name, path in known.items():
        says = says.replace(name, path) if name in says.split() else says
    assert done.code == 2 and done.out == ""
    assert says in done.error and done.error.startswith("autocompress: ") and done.error.count("\n") == 1
    assert names_in(studies[0]) == names_in(studies[1]) == ["candidates.json"]
