"""Chooses in a study while being killed at each of its steps in turn; a script without torch, so that it can fork."""

import itertools
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from autocompress.record import StudyRecord
from autocompress.search import folder as folder_module
from autocompress.search.chosen import Manifest
from autocompress.search.placing import open_folder, place, wishes_for
from tests.search.placed import study_at


def choose_and_die(path: Path, n_steps: int) -> bool:
    """Choose `b` in a process that kills itself before its `n_steps`-th step; whether it came to its end."""
    child = os.fork()
    if child == 0:
        steps = itertools.count(1)

        def count(event: str, arguments: Any) -> None:
            if next(steps) == n_steps:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        choose(path)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the choice failed"
    return os.WIFEXITED(status)


def choose(path: Path) -> None:
    folder, configuration = open_folder(path)
    with folder.locked():
        place(folder, configuration, wishes_for(folder, configuration, digest="b"))


def main(where: Path, can_exchange: bool) -> None:
    """Print how often the choice was killed, and what each kill left in `chosen/`."""
    if not can_exchange:
        folder_module.exchange = lambda a, b: False
    study_at(where / "first")
    path, seen = where / "study", []
    for n_steps in itertools.count(1):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(where / "first", path)
        is_done = choose_and_die(path, n_steps)
        StudyRecord.read(path / "candidates.json")
        if not can_exchange:
            open_folder(path)[0].restore_replaced()
        seen.append(Manifest.read(path / "chosen").candidate.digest)
        choose(path)
        assert Manifest.read(path / "chosen").candidate.digest == "b", "the next choice does not put it right"
        assert {p.name for p in path.iterdir() if "chosen" in p.name} == {"chosen"}, "something is left behind"
        if is_done:
            break
    print(len(seen), seen.count("a"), seen.count("b"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "exchange")
