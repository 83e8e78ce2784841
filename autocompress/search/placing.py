"""Putting a choice into `chosen/` at once, from what is on disk: needs neither the task nor torch."""

import shutil
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from autocompress.errors import StudyError
from autocompress.pareto import Candidate, Choice, Wishes
from autocompress.record import StudyRecord
from autocompress.search.chosen import FILES, NOT_EXPORTED, ONNX, Manifest
from autocompress.search.configuration import Configuration
from autocompress.search.folder import StudyFolder
from autocompress.search.ledger import Ledger


def open_folder(path: Path) -> tuple[StudyFolder, Configuration]:
    """The study in the folder `path`, and what was asked of it.

    Raises:
        StudyError: There is no study, or its files are damaged.
    """
    if not (path / "study.json").is_file():
        raise StudyError(f"{path} holds no study: study.json is missing; give the folder of an autocompress search")
    folder = StudyFolder(path)
    return folder, Configuration.read(folder.configuration)


def read_record(folder: StudyFolder) -> StudyRecord:
    """All that was found so far.

    Raises:
        StudyError: Nothing was measured yet, or `candidates.json` is damaged.
    """
    if not folder.record.is_file():
        raise StudyError(f"study {folder.path} has no results yet; run autocompress search")
    return StudyRecord.read(folder.record)


def wishes_for(
    folder: StudyFolder,
    configuration: Configuration,
    *,
    max_drop: float | None = None,
    max_latency_ms: float | None = None,
    max_size_bytes: int | None = None,
    target_speedup: float | None = None,
    digest: str | None = None,
) -> Wishes:
    """What is wished of a new choice; arguments as those of `Study.choose`.

    Raises:
        StudyError: A value is out of range, bounds are given with a digest, or it does not name one candidate.
    """
    if digest is not None:
        if any(bound is not None for bound in (max_drop, max_latency_ms, max_size_bytes, target_speedup)):
            raise StudyError("a digest names one candidate, whatever its numbers are; give either a digest or bounds")
        digest = read_record(folder).candidate(digest).digest
    floor = configuration.max_drop if max_drop is None else max_drop
    return Wishes(floor, max_latency_ms, max_size_bytes, target_speedup, digest)


def place(folder: StudyFolder, configuration: Configuration, wishes: Wishes) -> Choice:
    """Choose among the candidates found, and put the choice into `chosen/` and the record.

    Where that candidate is chosen already, its measurement on the test split and its ONNX file stay.

    Args:
        folder: Of the study, locked by the caller.
        configuration: Of the study.
        wishes: What the choice must keep, or which candidate it is.

    Raises:
        StudyError: Nothing was measured yet, the named candidate was not, or the files of the choice are gone.
    """
    start = time.monotonic()
    folder.restore_replaced()
    ledger = Ledger(folder, configuration, read_record(folder).study)
    ledger.wishes = wishes
    choice = ledger.best()
    _check_files(ledger.source(choice.candidate.digest), choice.candidate)
    known = _manifest_of(folder.chosen, choice.candidate)
    ledger.forget_numbers()
    ledger.choose(choice, known.chosen.test if known else None)
    if known and known.onnx != NOT_EXPORTED:
        ledger.write_chosen(partial(_copied, folder.chosen, known))
    else:
        ledger.write_chosen()
    ledger.conclude(time.monotonic() - start)
    return choice


def _check_files(source: Path, candidate: Candidate) -> None:
    missing = next((name for name in FILES if not (source / name).is_file()), None)
    if missing:
        raise StudyError(
            f"candidate {candidate.name} cannot be chosen: {source / missing} is missing; choose another one, or make "
            f"it again with autocompress compress --steps {candidate.n_steps} --seed {candidate.seed} and its recipe"
        )


def _manifest_of(chosen: Path, candidate: Candidate) -> Manifest | None:
    """The manifest in `chosen/`, if that is whole and of this candidate as it is now."""
    with suppress(StudyError):
        manifest = Manifest.read(chosen)
        return manifest if manifest.candidate == candidate else None
    return None


def _copied(chosen: Path, manifest: Manifest, target: Path) -> str:
    """Copy the ONNX file of `chosen/` to `target`, where there is one; why there is none, else empty."""
    if ONNX in manifest.sha256:
        shutil.copyfile(chosen / ONNX, target)
    return manifest.onnx
