"""The course of one training: kept in memory, and in a file that another process can follow."""

import math
import os
import time
from collections.abc import Callable, Sequence
from io import FileIO
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from autocompress.measurement import CoursePoint

COLUMNS = ("step", "loss", "learning_rate", "distillation_loss", "compression_loss", "score", "seconds")
HEADER = (",".join(COLUMNS) + "\n").encode()
FLUSH_SECONDS = 0.25
TAIL_BYTES = 4096


class _Row(NamedTuple):
    step: int
    loss: float
    learning_rate: float
    distillation_loss: float | None
    compression_loss: float | None
    score: float | None
    seconds: float

    def line(self) -> str:
        """The row as a line of the file; every number reads back as it is."""
        return ",".join("" if value is None else repr(value) for value in self) + "\n"

    def point(self) -> CoursePoint | None:
        """The row as a point; None where its loss or its rate is not a finite number."""
        finite = math.isfinite(self.loss) and 0 <= self.learning_rate < math.inf
        if self.step < 1 or not finite:
            return None
        return CoursePoint(step=self.step, loss=self.loss, learning_rate=self.learning_rate)


class TrainingLog:
    """What a training tells of itself, step by step.

    The file has a header and one line a step, with the columns

    - `step`: Optimizer steps taken so far, from 1.
    - `loss`: The whole loss that was minimized, as it was: also `nan` or `inf`.
    - `learning_rate`: Of the weights at this step.
    - `distillation_loss`, `compression_loss`: Parts of the loss; empty where there is none.
    - `score`: An interim score, in units of the task's score; empty where it was not measured.
    - `seconds`: Wall-clock seconds that the training has taken; a continued file goes on from its last row.

    Lines are only ever appended whole, at most about four times a second. An existing file is continued: its rows are
    read back, and a last line that was cut off is dropped. A file of another layout is replaced. Where the file cannot
    be written, the log goes on in memory, and `problem` says why.

    Args:
        path: Of the file, by habit `training.csv`; folders are made. None keeps the log in memory only.
        n_steps: Steps that the training is meant to take, >= 0.

    Attributes:
        problem: Why the file is not written any more; empty while all is well.
    """

    def __init__(self, path: Path | None, n_steps: int) -> None:
        self.path, self.n_steps, self.problem = path, n_steps, ""
        self._rows: list[_Row] = []
        self._pending: list[_Row] = []
        self._file: FileIO | None = None
        self._flushed_at = -math.inf
        self._attempt(self._open)
        self._start = time.monotonic() - (self._rows[-1].seconds if self._rows else 0.0)

    def add(
        self,
        step: int,
        loss: float,
        learning_rate: float,
        *,
        distillation: float | None = None,
        compression: float | None = None,
        score: float | None = None,
    ) -> None:
        """Add a row. A step that the log has had already is taken again: the old rows from there on are dropped.

        Args:
            step: Optimizer steps taken so far, >= 1.
            loss: The whole loss, any number.
            learning_rate: Of the weights, >= 0.
            distillation: Part of the loss that comes from the teacher.
            compression: Part of the loss that compression methods add.
            score: Interim score, in units of the task's score.
        """
        if self._rows and step <= self._rows[-1].step:
            self.truncate(step - 1)
        now = time.monotonic()
        seconds = round(now - self._start, 3)
        parts = [None if part is None else float(part) for part in (distillation, compression, score)]
        row = _Row(int(step), float(loss), float(learning_rate), parts[0], parts[1], parts[2], seconds)
        self._rows.append(row)
        self._pending.append(row)
        if now - self._flushed_at >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write all rows that are not in the file yet."""
        self._flushed_at = time.monotonic()
        pending, self._pending = self._pending, []
        if pending:
            self._attempt(lambda: self._write("".join(row.line() for row in pending).encode()))

    def truncate(self, step: int) -> None:
        """Drop all rows after `step`, also from the file: the training goes on from there."""
        self.flush()
        self._rows = [row for row in self._rows if row.step <= step]
        self._attempt(lambda: self._cut(step))

    def course(self, n_points: int = 50) -> tuple[CoursePoint, ...]:
        """The training so far in few points.

        The steps that the training is meant to take are divided into at most `n_points` equal spans. Each span is one
        point: its last step and the rate there, with the mean of its losses. Rows whose loss or rate is not finite are
        left out. Points of spans that are over do not change any more.

        Args:
            n_points: At most that many, >= 1.

        Returns:
            Points by rising step; none before the first finite loss.
        """
        found = [point for row in self._rows if (point := row.point())]
        if not found:
            return ()
        width = math.ceil(max(self.n_steps, found[-1].step) / n_points)
        spans = groupby(found, key=lambda point: (point.step - 1) // width)
        return tuple(_mean(list(members)) for _, members in spans)

    def close(self) -> None:
        """Write what is left and close the file; the course can still be read."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _attempt(self, action: Callable[[], None]) -> None:
        """Do something to the file; after the first failure the file is left alone for good."""
        try:
            action()
        except OSError as error:
            self.problem = f"{self.path} cannot be written: {error.strerror or error}"
            if self._file is not None:
                self._file.close()
                self._file = None

    def _open(self) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = self.path.read_bytes() if self.path.is_file() else b""
        self._file = FileIO(self.path, "a")
        if content.startswith(HEADER):
            self._rows, length = _whole_rows(content)
            self._file.truncate(length)
        else:
            self._file.truncate(0)
            self._write(HEADER)

    def _write(self, content: bytes) -> None:
        while content and self._file is not None:
            content = content[self._file.write(content) :]

    def _cut(self, step: int) -> None:
        if self.path is not None and self._file is not None:
            self._file.truncate(_whole_rows(self.path.read_bytes(), up_to=step)[1])


def follow(path: Path) -> CoursePoint | None:
    """Where the training that writes the file at `path` is now; reads the end of the file only.

    Args:
        path: Of a `TrainingLog` of this or another process, which may be written to meanwhile.

    Returns:
        The last whole row with a finite loss, among those in the last 4 kB; None where there is none or no such file.
    """
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES)
            file.seek(start)
            lines = file.read(TAIL_BYTES).split(b"\n")
    except OSError:
        return None
    whole = lines[1 if start else 0 : -1]  # what is after the last line break, and before the first, may be half a row
    rows = (_parsed(line) for line in reversed(whole))
    return next((point for row in rows if row and (point := row.point())), None)


def _whole_rows(content: bytes, up_to: float = math.inf) -> tuple[list[_Row], int]:
    """The rows of a file until the first that is cut off, damaged or after the step `up_to`, and bytes until there."""
    rows, length = [], len(HEADER)
    for line in content[length:].splitlines(keepends=True):
        row = _parsed(line[:-1]) if line.endswith(b"\n") else None
        if row is None or row.step > up_to:
            break
        rows.append(row)
        length += len(line)
    return rows, length


def _parsed(line: bytes) -> _Row | None:
    cells = line.split(b",")
    if len(cells) != len(COLUMNS):
        return None
    try:
        parts = [float(cell) if cell else None for cell in cells[3:6]]
        return _Row(
            int(cells[0]), float(cells[1]), float(cells[2]), parts[0], parts[1], parts[2], seconds=float(cells[6])
        )
    except ValueError:
        return None


def _mean(points: Sequence[CoursePoint]) -> CoursePoint:
    """The last of `points` with the mean of their losses, which does not overflow."""
    losses = [point.loss for point in points]
    mean = 2 * math.fsum(loss / (2 * len(losses)) for loss in losses)
    return points[-1].model_copy(update={"loss": min(max(mean, min(losses)), max(losses))})
