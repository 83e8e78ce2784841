"""The folder `chosen/`: whole, with digests, and refused where it was changed."""

import json
from pathlib import Path

import pytest

from autocompress.errors import StudyError
from autocompress.record import Chosen
from autocompress.search.chosen import Manifest, sha256, write_chosen
from tests.examples import candidate, record

FILES = ("model.xml", "model.bin", "weights.safetensors", "recipe.yaml")


def manifest() -> Manifest:
    return Manifest(
        candidate=candidate("a", 0.0, 2.0, 500),
        chosen=Chosen(digest="a", meets_wishes=True, reason="the fastest"),
        task={"name": "tiny"},
        task_reference=None,
        score="accuracy",
        max_drop=0.01,
        environment=record().environment,
        repeat=("autocompress verify chosen",),
    )


def filled(folder: Path, text: str = "first") -> Path:
    folder.mkdir(exist_ok=True)
    for name in FILES:
        (folder / name).write_text(f"{text} {name}")
    return folder


def export(path: Path) -> str:
    path.write_text("onnx")
    return ""


@pytest.fixture
def chosen(tmp_path: Path) -> Path:
    write_chosen(manifest(), filled(tmp_path / "source"), tmp_path / "chosen", export)
    return tmp_path / "chosen"


def test_the_folder_has_every_file_and_its_digest(chosen: Path) -> None:
    written = Manifest.read(chosen)
    assert set(written.sha256) == {*FILES, "model.onnx"}
    assert {path.name for path in chosen.iterdir()} == {*FILES, "model.onnx", "manifest.json"}
    assert all(written.sha256[name] == sha256(chosen / name) for name in written.sha256)


def test_a_new_choice_replaces_the_folder_and_leaves_nothing_else(chosen: Path) -> None:
    write_chosen(manifest(), filled(chosen.parent / "source", "second"), chosen)
    assert (chosen / "model.bin").read_text() == "second model.bin"
    assert not (chosen / "model.onnx").exists() and "not exported yet" in Manifest.read(chosen).onnx
    assert {path.name for path in chosen.parent.iterdir()} == {"source", "chosen"}


def test_a_choice_that_cannot_be_copied_leaves_the_old_one(chosen: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in chosen.iterdir()}
    with pytest.raises(OSError, match="model.xml"):
        write_chosen(manifest(), tmp_path / "empty", chosen)
    assert {path.name: path.read_bytes() for path in chosen.iterdir()} == before


def test_why_there_is_no_onnx_is_said(tmp_path: Path) -> None:
    written = write_chosen(
        manifest(), filled(tmp_path / "source"), tmp_path / "chosen", lambda path: "no such operator"
    )
    assert Manifest.read(tmp_path / "chosen") == written
    assert written.onnx == "no such operator" and "model.onnx" not in written.sha256


@pytest.mark.parametrize("name", [*FILES, "model.onnx"])
def test_a_changed_file_is_refused(chosen: Path, name: str) -> None:
    (chosen / name).write_text("changed")
    with pytest.raises(StudyError, match=f"{name} is not the file that the manifest describes; copy the folder again"):
        Manifest.read(chosen)


@pytest.mark.parametrize("name", [*FILES, "model.onnx"])
def test_a_missing_file_is_refused(chosen: Path, name: str) -> None:
    (chosen / name).unlink()
    with pytest.raises(StudyError, match=f"{name} is missing; copy the whole chosen/ folder"):
        Manifest.read(chosen)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(None, "cannot be read; give the chosen/ folder of a study", id="missing"),
        pytest.param(b"\xff\xfe", "cannot be read", id="binary"),
        pytest.param(b"{", "is not a manifest", id="half a file"),
        pytest.param(b"{}", "is not a manifest: candidate", id="empty"),
        pytest.param(b'{"sha256": {"../x": "0"}}', "is not a manifest", id="other content"),
    ],
)
def test_a_folder_without_a_manifest_is_refused(chosen: Path, content: bytes | None, said: str) -> None:
    path = chosen / "manifest.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StudyError, match=said):
        Manifest.read(chosen)


def test_the_manifest_is_plain_json(chosen: Path) -> None:
    content = json.loads((chosen / "manifest.json").read_text())
    assert content["candidate"]["measurement"]["speedup"] == {"value": 2.0, "low": 2.0, "high": 2.0, "n_pairs": 30}
