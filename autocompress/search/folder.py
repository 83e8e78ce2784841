"""The folder of a study: names, who may work in it, and replacing folders as a whole.

Three kinds of locks, all of which end with the process that holds them:

- the use of the study (`.use`), shared by all that search (`joined`), or alone (`locked`);
- the mutex (`.lock`), for a moment, around whatever changes a file that all share;
- a claim on one candidate (`candidates/.claim-DIGEST`), held as long as it is worked on.
"""

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from autocompress.errors import StudyError
from autocompress.search.exchange import exchange
from autocompress.search.members import HeldFile, Member, Members, take

MODEL, WEIGHTS, RECIPE = "model.xml", "weights.safetensors", "recipe.yaml"  # in the folder of a candidate
UNFINISHED = ".work-"  # begins the name of a candidate's folder while it is under way
EXPORTED = ".onnx-"  # begins the name of a folder in which a choice is exported
CLAIM = ".claim-"
OLD = ".old"
_POLL_SECONDS = 0.2


class StudyFolder:
    """Paths inside a study's folder, and its locks.

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
        self.members = Members(path / ".members")
        self._thread_lock, self._depth = threading.RLock(), 0

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the study for this process alone.

        Raises:
            StudyError: Another process holds it or searches in it.
        """
        with self._used(fcntl.LOCK_EX):
            yield

    @contextmanager
    def joined(self) -> Iterator[Member]:
        """Search in the study, together with others that do.

        Raises:
            StudyError: Another process holds it alone.
        """
        with self._used(fcntl.LOCK_SH):
            with self.mutex():
                member = self.members.enter()
            try:
                yield member
            finally:
                self.members.leave(member)

    @contextmanager
    def _used(self, kind: int) -> Iterator[None]:
        with (self.path / ".use").open("w") as file:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except OSError:
                raise StudyError(f"study {self.path} is in use by another process; wait for it or stop it") from None
            yield

    @contextmanager
    def mutex(self) -> Iterator[None]:
        """Keep all other processes from files that are shared; waits for them, may be nested, and should be short."""
        with self._thread_lock:
            self._depth += 1
            try:
                with self._locked_once():
                    yield
            finally:
                self._depth -= 1

    @contextmanager
    def _locked_once(self) -> Iterator[None]:
        if self._depth > 1:
            yield
            return
        with (self.path / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def claim(self, digest: str, on_wait: Callable[[], None] | None = None) -> Iterator[bool]:
        """Keep other processes from working on the same candidate.

        What was free to claim may just have been finished by another process: claim first, then look whether the
        candidate is known (`Ledger.refresh`).

        Args:
            digest: Of the candidate; or another word, for work that only one process should do.
            on_wait: Where given, a claim of another process is waited for, and this is called meanwhile.

        Yields:
            Whether the claim is ours; it always is where it was waited for.
        """
        file = self._take_claim(digest)
        while file is None and on_wait is not None:
            on_wait()
            time.sleep(_POLL_SECONDS)
            file = self._take_claim(digest)
        try:
            yield file is not None
        finally:
            if file is not None:
                file.release()

    def _take_claim(self, digest: str) -> HeldFile | None:
        with self.mutex():
            return take(self.candidates / f"{CLAIM}{digest}")

    def finish(self, digest: str) -> None:
        """Put the folder in which a candidate was worked on in the place of its final one."""
        with self.mutex():
            replace_folder(self.candidates / f"{UNFINISHED}{digest}", self.candidates / digest)

    def remove_unfinished(self) -> None:
        """Remove what a kill left of candidates that were under way, unless their training can be gone on with.

        What living members work on is left alone.
        """
        with self.mutex():
            self.restore_replaced()
            for marked in [*self.candidates.glob(f"{UNFINISHED}*"), *self.candidates.glob(f"{CLAIM}*")]:
                self._remove_unclaimed(marked.name.removeprefix(UNFINISHED).removeprefix(CLAIM))
            if self.members.n_alive() <= 1:
                for exported in self.path.glob(f"{EXPORTED}*"):
                    shutil.rmtree(exported, ignore_errors=True)

    def restore_replaced(self) -> None:
        """Put right what a kill left of folders that were being replaced."""
        with self.mutex():
            for old in [*self.path.glob(_aside("*")), *self.candidates.glob(_aside("*"))]:
                restore_folder(old.with_name(old.name[1 : -len(OLD)]))

    def _remove_unclaimed(self, digest: str) -> None:
        from autocompress.train import CHECKPOINT  # here, since choosing needs no torch

        file = self._take_claim(digest)
        if file is None:
            return
        folder = self.candidates / f"{UNFINISHED}{digest}"
        if not (folder / CHECKPOINT).is_file():
            shutil.rmtree(folder, ignore_errors=True)
        file.release()


def check_writable(path: Path) -> None:
    """Make the folder `path` if it is missing, and try to write there.

    Raises:
        StudyError: It cannot be made or written, or is a file.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        probe.write_text("")
        probe.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise StudyError(f"output folder {path} cannot be written: {reason}; give another one") from None


def replace_folder(new: Path, target: Path) -> None:
    """Put the folder `new` in the place of `target`; files of the old one that are in use stay intact.

    A kill at any moment leaves the old or the new one in place. Where names cannot be exchanged in one step there is a
    moment between two renames without any, which `restore_folder` puts right.
    """
    old = target.with_name(_aside(target.name))
    shutil.rmtree(old, ignore_errors=True)
    if target.exists() and exchange(new, target):
        new.rename(old)
    else:
        if target.exists():
            target.rename(old)
        new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def restore_folder(target: Path) -> None:
    """Undo what a `replace_folder` left that was killed before the new folder was in its place, or right after."""
    old = target.with_name(_aside(target.name))
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.is_dir():
        old.rename(target)


def _aside(name: str) -> str:
    return f".{name}{OLD}"
