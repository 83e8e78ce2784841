"""Optuna's storage in the study folder: a journal that survives kills and is shared by several processes."""

import fcntl
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import TrialState

from autocompress.errors import StudyError
from autocompress.search.folder import StudyFolder
from autocompress.search.members import Member

STUDY_NAME = "autocompress"

AGAIN = "asked again"  # attribute of a trial that takes the place of one that was cut off
MEMBER = "member"  # attribute of a trial: the name of the process that works on it
_STALE_SECONDS = 3  # after which the link of a killed process is removed; Optuna waits 30
_BLOCK = 1 << 16


class JournalLock(JournalFileSymlinkLock):
    """Lock around each append to a journal: a kill in the middle of one hurts neither the file nor other processes.

    The flock on `PATH.use` ends with its process. The link that Optuna's own lock makes is held too, so that other
    programs, such as optuna-dashboard, may write as well. A line that a killed process left half-written is cut before
    the next is appended, since both together would be unreadable for good.

    Args:
        path: The journal.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()  # a relative link points nowhere, and Optuna would wait for it for ever
        super().__init__(str(self._path), grace_period=_STALE_SECONDS)
        self._file: IO[bytes] | None = None

    def acquire(self) -> bool:
        """Wait for the lock, then cut what is half-written; always true."""
        file = self._path.with_name(f".{self._path.name}.use").open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            super().acquire()
            _cut_half_written(self._path)
        except BaseException:
            file.close()
            raise
        self._file = file
        return True

    def release(self) -> None:
        """Give up the lock."""
        try:
            super().release()
        finally:
            if self._file is not None:
                self._file.close()
                self._file = None


def repair_journal(path: Path) -> None:
    """Cut a last line that a kill left half-written; other processes may append meanwhile."""
    if path.is_file():
        lock = JournalLock(path)
        lock.acquire()
        lock.release()


def _cut_half_written(path: Path) -> None:
    if not path.is_file():
        return
    with path.open("rb+") as file:
        end = _end_of_whole_lines(file)
        if end < file.seek(0, os.SEEK_END):
            file.truncate(end)
            os.fsync(file.fileno())


def _end_of_whole_lines(file: IO[bytes]) -> int:
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _BLOCK)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def open_study(
    folder: StudyFolder,
    member: Member,
    *,
    objectives: Sequence[str],
    sampler: optuna.samplers.BaseSampler,
    first: Sequence[Mapping[str, Any]] = (),
) -> optuna.Study:
    """The Optuna study in `folder`, made if there is none; trials of members that have died come again.

    Args:
        folder: Of the study.
        member: This process; see `StudyFolder.joined`.
        objectives: What is minimized.
        sampler: Of the study.
        first: Parameters to be tried first; put in the queue of a study that has no trials yet.

    Raises:
        StudyError: The journal is damaged.
    """
    with folder.mutex():
        study = open_journal(folder.journal, objectives)
        end_stale(study, folder.members.is_alive)
        trials = study.get_trials(deepcopy=False)
        if not trials:
            for params in first:
                study.enqueue_trial(dict(params))
    study.sampler = sampler
    return study


def ask(study: optuna.Study, folder: StudyFolder, member: Member) -> optuna.Trial:
    """A new trial that is marked as this member's.

    Under the mutex, so that nobody who opens the study meanwhile takes it for one that a kill left behind.

    Args:
        study: From `open_study`.
        folder: Of the study.
        member: This process.
    """
    with folder.mutex():
        trial = study.ask()
        trial.set_user_attr(MEMBER, member.name)
    return trial


def open_journal(path: Path, objectives: Sequence[str]) -> optuna.Study:
    """The Optuna study in the journal at `path`, made if there is none.

    Raises:
        StudyError: The journal is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = path.absolute()
    repair_journal(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            storage = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalLock(path)))
            study = optuna.create_study(
                storage=storage,
                study_name=STUDY_NAME,
                directions=["minimize"] * len(objectives),
                load_if_exists=True,
            )
            if study.metric_names != list(objectives):
                study.set_metric_names(list(objectives))
    except Exception as error:  # replaying a damaged journal may raise anything
        raise StudyError(
            f"{path} is damaged: {type(error).__name__}: {error}; remove it to go on with the candidates found so far"
        ) from None
    return study


def end_stale(study: optuna.Study, is_alive: Callable[[str], bool]) -> None:
    """Ask again for what members that have died were working on."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not is_alive(trial.user_attrs.get(MEMBER, "")):
            ask_again(study, trial.number, trial.params, trial.user_attrs)


def ask_again(study: optuna.Study, number: int, params: dict[str, Any], user_attrs: dict[str, Any]) -> None:
    """End a trial that was cut off, and let its recipe be asked for again; once, since it may be what kills us.

    Args:
        study: Its study.
        number: Of the trial.
        params: Its parameters; none where it was cut off before it had any.
        user_attrs: Its attributes.
    """
    study.tell(number, state=TrialState.FAIL)
    if params and AGAIN not in user_attrs:
        study.enqueue_trial(params, user_attrs={AGAIN: True})
