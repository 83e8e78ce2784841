"""The folder `chosen/`: a deployable model with the evidence for it, always whole."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from autocompress.errors import StudyError
from autocompress.measurement import Environment
from autocompress.pareto import Candidate
from autocompress.recipe import first_problem
from autocompress.record import Chosen
from autocompress.search.folder import MODEL, RECIPE, WEIGHTS, replace_folder

MANIFEST = "manifest.json"
ONNX = "model.onnx"
NOT_EXPORTED = "not exported yet: that follows when the choice is confirmed"
FILES = (MODEL, "model.bin", WEIGHTS, RECIPE)


class Manifest(BaseModel):
    """What `chosen/manifest.json` says.

    Attributes:
        candidate: The chosen candidate with its measurement on the validation split.
        chosen: Why it was chosen, and its measurement on the test split once that was confirmed.
        task: Identity of the task.
        task_reference: How the command line names the task, or None.
        score: Name of the score.
        max_drop: The accuracy floor, in units of the score.
        environment: Where it was measured.
        repeat: Commands that make and check this model again.
        sha256: Digest of each file in the folder.
        onnx: Why there is no `model.onnx`, else empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidate: Candidate
    chosen: Chosen
    task: dict[str, Any]
    task_reference: str | None
    score: str
    max_drop: float
    environment: Environment
    repeat: tuple[str, ...]
    sha256: dict[str, str] = {}
    onnx: str = ""

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """The manifest in `folder`.

        Raises:
            StudyError: It is missing or damaged, or a file differs from what it says.
        """
        path = folder / MANIFEST
        try:
            manifest = cls.model_validate_json(path.read_text())
        except (OSError, UnicodeDecodeError):
            raise StudyError(f"{path} cannot be read; give the chosen/ folder of a study") from None
        except ValidationError as error:
            raise StudyError(f"{path} is not a manifest: {first_problem(error)}") from None
        for name, digest in manifest.sha256.items():
            if not (folder / name).is_file():
                raise StudyError(f"{folder / name} is missing; copy the whole chosen/ folder")
            if sha256(folder / name) != digest:
                raise StudyError(f"{folder / name} is not the file that the manifest describes; copy the folder again")
        return manifest


def write_chosen(
    manifest: Manifest, source: Path, target: Path, export_onnx: Callable[[Path], str] | None = None
) -> Manifest:
    """Replace the folder `target` by the candidate in `source` with its manifest.

    Args:
        manifest: Without digests of files.
        source: The candidate's folder.
        target: The folder to replace.
        export_onnx: Writes the ONNX file to a path; returns why it could not, else an empty string.

    Returns:
        The manifest as written.
    """
    new = target.with_name(f".{target.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for name in FILES:
        shutil.copyfile(source / name, new / name)
    reason = export_onnx(new / ONNX) if export_onnx else NOT_EXPORTED
    digests = {path.name: sha256(path) for path in sorted(new.iterdir())}
    written = manifest.model_copy(update={"sha256": digests, "onnx": reason})
    (new / MANIFEST).write_text(json.dumps(written.model_dump(mode="json"), indent=1, sort_keys=True) + "\n")
    replace_folder(new, target)
    return written


def sha256(path: Path) -> str:
    """Digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
