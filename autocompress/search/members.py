"""Processes that search in one study at the same time: who they are, and what each of them is working on.

Whether a process lives is told by the lock (flock) that it holds on a file of its own: the kernel drops the lock when
the process ends, however that happens, and nobody waits for a time-out.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from uuid import uuid4


@dataclass(frozen=True)
class Member:
    """A process that searches in a study.

    Attributes:
        name: Its own, the name of its file; trials carry it.
        index: The smallest number >= 0 that no other living member had when this one came; 0 where one searches alone.
    """

    name: str
    index: int


class HeldFile:
    """A file that this process has locked; `take` makes one."""

    def __init__(self, path: Path, file: IO[str]) -> None:
        self._path, self._file = path, file

    def write(self, text: str) -> None:
        """Write `text` into it at once."""
        self._file.write(text)
        self._file.flush()

    def release(self) -> None:
        """Remove the file and give up its lock; a file that is gone already is no error."""
        self._path.unlink(missing_ok=True)
        self._file.close()


def take(path: Path) -> HeldFile | None:
    """Lock the file at `path`, made if it is missing.

    Returns:
        None where another process, or another call in this one, holds it.
    """
    while True:
        file = path.open("a+", encoding="utf-8")
        if not _locks(file):
            file.close()
            return None
        if _is_file_at(file, path):
            file.truncate(0)
            return HeldFile(path, file)
        file.close()  # its holder removed it between our opening and our locking


def is_held(path: Path) -> bool:
    """Whether somebody holds the file at `path`; a missing file is held by nobody."""
    try:
        with path.open(encoding="utf-8") as file:
            return not _locks(file)
    except FileNotFoundError:
        return False


def _locks(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_file_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


class Members:
    """The files of all members, in one folder; call everything but `leave` while the study's mutex is held.

    Args:
        path: The folder; made at the first `enter`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: dict[str, HeldFile] = {}

    def enter(self) -> Member:
        """Become a member; files of those that have died are removed."""
        self._path.mkdir(exist_ok=True)
        taken = {index for _, index in self._living()}
        index = next(i for i in range(len(taken) + 1) if i not in taken)
        file = None
        while file is None:
            name = uuid4().hex
            file = take(self._path / name)
        file.write(json.dumps({"index": index, "process": os.getpid()}) + "\n")
        self._held[name] = file
        return Member(name, index)

    def leave(self, member: Member) -> None:
        """Be a member no more."""
        self._held.pop(member.name).release()

    def is_alive(self, name: str) -> bool:
        """Whether the member with this name still searches, be it this process or another."""
        return bool(name) and is_held(self._path / name)

    def n_alive(self) -> int:
        """How many search now, this process among them."""
        return len(list(self._living()))

    def _living(self) -> Iterator[tuple[str, int]]:
        for path in sorted(self._path.glob("*")):
            if is_held(path):
                yield path.name, _index_in(path)
            else:
                path.unlink(missing_ok=True)


def _index_in(path: Path) -> int:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return int(content["index"])
