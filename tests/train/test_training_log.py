"""The course of a training: in memory, in its file, and seen from another process."""

import csv
import errno
import math
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.measurement import CoursePoint
from autocompress.train import training_log
from autocompress.train.training_log import COLUMNS, TrainingLog, follow

Losses = st.lists(st.floats(allow_subnormal=False), min_size=1, max_size=80)
Open = Callable[..., TrainingLog]
WORST = 1.7e308


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "candidates" / "1a2b3c" / "training.csv"


@pytest.fixture(name="opened")
def _opened(path: Path) -> Iterator[Open]:
    logs = []

    def build(n_losses: int = 0, n_steps: int = 150, where: Path | None = path) -> TrainingLog:
        logs.append(TrainingLog(where, n_steps))
        for step in range(1, n_losses + 1):
            logs[-1].add(step, 1.0 / step, 0.1)
        return logs[-1]

    yield build
    for log in logs:
        log.close()


@pytest.fixture(name="clock")
def _clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(training_log.time, "monotonic", lambda: now[0])
    return now


def rows_in(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def steps_in(path: Path) -> list[int]:
    return [int(row["step"]) for row in rows_in(path)]


def test_a_row_has_a_cell_for_each_number_and_an_empty_one_where_there_is_none(
    opened: Open, path: Path, clock: list[float]
) -> None:
    log = opened()
    clock[0] += 2.5
    log.add(1, 0.5, 3e-3, distillation=0.25, compression=0.125, score=0.9)
    log.add(2, 1 / 3, 2e-3)
    log.close()
    full = ["1", "0.5", "0.003", "0.25", "0.125", "0.9", "2.5"]
    bare = ["2", "0.3333333333333333", "0.002", "", "", "", "2.5"]
    assert [list(row.values()) for row in rows_in(path)] == [full, bare]
    assert tuple(rows_in(path)[0]) == COLUMNS


def test_rows_reach_the_file_at_most_about_four_times_a_second(opened: Open, path: Path, clock: list[float]) -> None:
    log, sizes = opened(), set()
    for step in range(1, 101):
        clock[0] += 0.02
        log.add(step, 1.0, 0.1)
        sizes.add(path.stat().st_size)
    assert 6 <= len(sizes) <= 9  # in 2 seconds
    log.flush()
    assert steps_in(path) == list(range(1, 101))


def test_the_file_only_ever_grows_by_whole_lines(opened: Open, path: Path, clock: list[float]) -> None:
    log, before = opened(), b""
    for step in range(1, 60):
        clock[0] += 0.1
        log.add(step, math.pi * step, 0.1)
        now = path.read_bytes()
        assert now.startswith(before) and now.endswith(b"\n")
        before = now


def test_a_continued_training_has_the_rows_and_the_course_of_an_unbroken_one(opened: Open, tmp_path: Path) -> None:
    unbroken = opened(100, where=tmp_path / "unbroken.csv")
    opened(60).close()
    continued = opened()
    for step in range(61, 101):
        continued.add(step, 1.0 / step, 0.1)
    assert continued.course() == unbroken.course()


def test_seconds_go_on_where_the_file_ended(opened: Open, path: Path, clock: list[float]) -> None:
    first = opened()
    clock[0] += 7.0
    first.add(1, 1.0, 0.1)
    first.close()
    clock[0] += 1000.0
    second = opened()
    clock[0] += 2.0
    second.add(2, 1.0, 0.1)
    second.close()
    assert [float(row["seconds"]) for row in rows_in(path)] == [7.0, 9.0]


@pytest.mark.parametrize(
    ("rest", "kept"),
    [
        pytest.param(b"3,0.3", [1, 2], id="cut in a row"),
        pytest.param(b"3,0.3,0.1,,,,1.5", [1, 2], id="cut before the line break"),
        pytest.param(b"3,0.3,0.1,,,,1.5\n", [1, 2, 3], id="whole"),
        pytest.param(b"\xff\x00nonsense\n4,0.3,0.1,,,,1.5\n", [1, 2], id="damaged, then whole"),
    ],
)
def test_a_file_is_continued_after_its_last_whole_row(opened: Open, path: Path, rest: bytes, kept: list[int]) -> None:
    opened(2).close()
    path.write_bytes(path.read_bytes() + rest)
    log = opened()
    assert [point.step for point in log.course(1000)] == kept
    log.add(9, 0.1, 0.1)
    log.close()
    assert steps_in(path) == [*kept, 9]


def test_a_file_of_another_layout_is_replaced(opened: Open, path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("step,loss\n1,0.5\n")
    opened(2).close()
    assert steps_in(path) == [1, 2]


@pytest.mark.parametrize("step", [0, 1, 17, 40, 99])
def test_a_rollback_drops_later_rows_everywhere_and_goes_on_from_there(opened: Open, path: Path, step: int) -> None:
    log = opened(40)
    log.truncate(step)
    kept = list(range(1, min(step, 40) + 1))
    assert [point.step for point in log.course(1000)] == kept
    assert steps_in(path) == kept
    log.add(step + 1, 0.1, 0.1)
    log.close()
    assert steps_in(path) == [*kept, step + 1]


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        pytest.param(1, [], id="a training that starts over in an old file"),
        pytest.param(25, list(range(1, 25)), id="one that goes back"),
        pytest.param(40, list(range(1, 40)), id="the last step again"),
    ],
)
def test_a_step_that_is_taken_again_replaces_what_came_after(
    opened: Open, path: Path, step: int, kept: list[int]
) -> None:
    opened(40).close()
    log = opened()
    log.add(step, 7.0, 0.1)
    log.add(step + 1, 7.0, 0.1)
    log.close()
    assert steps_in(path) == [point.step for point in log.course(1000)] == [*kept, step, step + 1]
    assert log.course(1000)[len(kept)].loss == 7.0


def course_by_hand(losses: list[float], n_steps: int, n_points: int) -> list[tuple[int, float]]:
    """Last step and exact mean loss of each span, by the definition."""
    width = math.ceil(max(n_steps, max(i + 1 for i, x in enumerate(losses) if math.isfinite(x))) / n_points)
    spans: dict[int, list[tuple[int, float]]] = {}
    for step, loss in enumerate(losses, start=1):
        if math.isfinite(loss):
            spans.setdefault((step - 1) // width, []).append((step, loss))
    return [(span[-1][0], float(sum(Fraction(loss) for _, loss in span) / len(span))) for span in spans.values()]


@given(losses=Losses, n_steps=st.integers(0, 200), n_points=st.integers(1, 60))
def test_the_course_is_few_points_of_mean_losses_and_never_an_infinite_one(
    losses: list[float], n_steps: int, n_points: int
) -> None:
    log = TrainingLog(None, n_steps)
    for step, loss in enumerate(losses, start=1):
        log.add(step, loss, 0.5)
    course = log.course(n_points)
    assert len(course) <= n_points
    assert [CoursePoint.model_validate(point.model_dump()) for point in course] == list(course)
    if any(map(math.isfinite, losses)):
        expected = course_by_hand(losses, n_steps, n_points)
        largest = max(abs(x) for x in losses if math.isfinite(x))
        assert [point.step for point in course] == [step for step, _ in expected]
        assert all(abs(p.loss - loss) <= 1e-12 * largest for p, (_, loss) in zip(course, expected, strict=True))


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param([WORST] * 3, id="whose sum is too large"),
        pytest.param([1.7976931348623157e308] * 7, id="of the largest float"),
        pytest.param([WORST, -WORST, WORST], id="of both signs"),
    ],
)
def test_a_mean_of_huge_losses_is_finite(losses: list[float]) -> None:
    log = TrainingLog(None, 100)
    for step, loss in enumerate(losses, start=1):
        log.add(step, loss, 0.1)
    (point,) = log.course(1)
    assert math.isfinite(point.loss) and min(losses) <= point.loss <= max(losses)


def test_points_of_the_course_do_not_move_while_the_training_goes_on(opened: Open) -> None:
    log = opened(60)
    early = log.course()
    assert [point.step for point in early] == list(range(3, 61, 3))
    for step in range(61, 151):
        log.add(step, 1.0, 0.1)
    assert log.course()[:20] == early
    assert len(log.course()) == 50


def test_losses_that_are_not_finite_stand_in_the_file_but_not_in_the_course(opened: Open, path: Path) -> None:
    log = opened()
    for step, loss in enumerate([0.5, math.nan, math.inf], start=1):
        log.add(step, loss, 0.1)
    log.close()
    assert [row["loss"] for row in rows_in(path)] == ["0.5", "nan", "inf"]
    assert log.course() == (CoursePoint(step=1, loss=0.5, learning_rate=0.1),)


def test_a_training_without_a_row_has_no_course(opened: Open, path: Path) -> None:
    assert opened().course() == ()
    assert path.read_text() == ",".join(COLUMNS) + "\n"
    assert follow(path) is None


def _a_folder(path: Path) -> None:
    path.mkdir(parents=True)


def _a_file_as_parent(path: Path) -> None:
    path.parent.parent.mkdir()
    path.parent.write_text("in the way")


@pytest.mark.parametrize("spoil", [_a_folder, _a_file_as_parent])
def test_a_path_that_cannot_be_written_does_not_end_a_training(
    opened: Open, path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(path)
    log = opened(10)
    log.truncate(5)
    log.close()
    assert [point.step for point in log.course()] == [3, 5]
    assert log.problem.startswith(f"{path} cannot be written: ")
    assert follow(path) is None


class FullDisk(FileIO):
    """A file on a disk that has room for the header and 30 bytes."""

    def write(self, content: Any) -> int:
        room = len(training_log.HEADER) + 30 - os.fstat(self.fileno()).st_size
        if room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(content[:room])


def test_a_disk_that_is_full_does_not_end_a_training(opened: Open, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_log, "FileIO", FullDisk)
    log = opened(5)
    log.close()
    assert len(log.course(1000)) == 5
    assert log.problem == f"{path} cannot be written: No space left on device"
    assert [point.step for point in opened().course(1000)] == steps_in(path)[:1] == [1]


def test_a_log_without_a_path_has_no_problem(opened: Open) -> None:
    log = opened(4, where=None)
    log.close()
    assert (len(log.course(1000)), log.problem) == (4, "")


def test_following_gives_the_last_row_of_a_long_file(opened: Open, path: Path) -> None:
    log = opened(2000)
    log.flush()
    assert path.stat().st_size > 10 * training_log.TAIL_BYTES
    assert follow(path) == CoursePoint(step=2000, loss=1 / 2000, learning_rate=0.1)


def test_following_reads_no_more_than_the_end(opened: Open, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(2000).close()
    monkeypatch.setattr(training_log, "TAIL_BYTES", 100)
    with path.open("r+b") as file:
        file.write(b"\xff" * (path.stat().st_size - 100))
    assert follow(path) == CoursePoint(step=2000, loss=1 / 2000, learning_rate=0.1)


@pytest.mark.parametrize(
    ("rest", "step"),
    [
        pytest.param(b"4,0.3", 3, id="half a row"),
        pytest.param(b"4,0.3,0.1,,,,1.5", 3, id="a row without its line break"),
        pytest.param(b"4,0.3,0.1,,,,1.5\n", 4, id="a whole row"),
        pytest.param(b"4,nan,0.1,,,,1.5\n", 3, id="a loss that is not finite"),
        pytest.param(b"4,0.3,inf,,,,1.5\n", 3, id="a rate that is not finite"),
        pytest.param(b"\x00\xff\n", 3, id="damage"),
    ],
)
def test_following_takes_the_last_whole_row_with_a_finite_loss(
    opened: Open, path: Path, rest: bytes, step: int
) -> None:
    opened(3).close()
    path.write_bytes(path.read_bytes() + rest)
    point = follow(path)
    assert point is not None and point.step == step


def test_following_does_not_take_the_end_of_a_step_for_a_step(opened: Open, path: Path) -> None:
    log = opened()
    log.add(123456, 0.5, 0.1)
    log.flush()
    first = len(path.read_bytes()) - len(b"3456,0.5,0.1,,,,0.0\n")
    path.write_bytes(path.read_bytes() + b"x" * (training_log.TAIL_BYTES - (path.stat().st_size - first) - 1) + b"\n")
    assert path.read_bytes()[-training_log.TAIL_BYTES :].startswith(b"3456,0.5")
    assert follow(path) is None


def test_another_process_sees_rows_while_the_log_is_open(opened: Open, path: Path) -> None:
    log = opened(1)
    log.flush()
    reader = os.open(path, os.O_RDONLY)
    try:
        assert os.read(reader, 10_000).decode().splitlines()[1].startswith("1,1.0,0.1")
    finally:
        os.close(reader)
