"""The folder of a study: names, the lock, and replacing folders as a whole."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autocompress.errors import StudyError
from autocompress.train import CHECKPOINT

UNFINISHED = ".work-"  # begins the name of a candidate's folder while it is under way


class StudyFolder:
    """Paths inside a study's folder.

    Args:
        path: The folder; made if it is missing.

    Raises:
        StudyError: It cannot be made or written, or is a file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.configuration = path / "study.json"
        self.journal = path / "journal.log"
        self.record = path / "candidates.json"
        self.candidates = path / "candidates"
        self.chosen = path / "chosen"
        check_writable(path)
        self.candidates.mkdir(exist_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the study for this process.

        Raises:
            StudyError: Another process holds it.
        """
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StudyError(f"study {self.path} is in use by another process; wait for it or stop it") from None
            yield

    def remove_unfinished(self) -> None:
        """Remove what a kill left of candidates that were under way, unless their training can be gone on with."""
        for folder in self.candidates.glob(f"{UNFINISHED}*"):
            if not (folder / CHECKPOINT).is_file():
                shutil.rmtree(folder, ignore_errors=True)


def check_writable(path: Path) -> None:
    """Make the folder `path` if it is missing, and try to write there.

    Raises:
        StudyError: It cannot be made or written, or is a file.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise StudyError(f"output folder {path} cannot be written: {reason}; give another one") from None


def replace_folder(new: Path, target: Path) -> None:
    """Put the folder `new` in the place of `target`; files of the old one that are in use stay intact."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)
