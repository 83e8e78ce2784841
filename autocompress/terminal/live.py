"""The live view of a search on a terminal, and its plain lines elsewhere."""

import math
import time
from collections.abc import Sequence
from statistics import fmean
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from autocompress.measurement import CoursePoint
from autocompress.report.trainings import loss_words, rate_words, spans_a_decade
from autocompress.search.progress import Progress
from autocompress.terminal.results import candidate_line

SPARKS = 24
BARS = "▁▂▃▄▅▆▇█"


class LiveView:
    """A part of the terminal that is drawn anew several times a second while it is entered; nothing elsewhere.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._training = TrainingLine()

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()


class SearchView(LiveView):
    """A live view of a search on a terminal, plain lines elsewhere.

    Args:
        console: Where to draw.
        budget: As the user wrote it.
    """

    def __init__(self, console: Console, budget: str) -> None:
        super().__init__(console)
        self._budget = budget
        self._start = time.monotonic()

    def update(self, progress: Progress) -> None:
        """Show the present state; a finished candidate also stays as a line."""
        if progress.message:
            self._console.print(progress.message, markup=False)
        if progress.finished:
            passed = clock(time.monotonic() - self._start)
            self._console.print(Text(f"{passed}  {candidate_line(progress.finished)}"), soft_wrap=True)
        if self._live:
            self._live.update(self._render(progress))

    def _render(self, progress: Progress) -> Group:
        elapsed, left = progress.seconds_elapsed, progress.seconds_left
        self._training.update(progress)
        training = self._training.text(progress)
        bar = ProgressBar(total=max(elapsed + left, 1e-9), completed=elapsed, width=40)
        of = f" of about {progress.n_total}" if progress.n_total else ""
        remaining = f"about {clock(left)} left, budget {self._budget}"
        best = "nothing yet" if progress.best is None else candidate_line(progress.best)
        return Group(
            Text(progress.phase, style="bold"),
            *([training] if training else []),
            Text(f"{progress.n_done}{of} candidates, {remaining}"),
            Text(f"best so far: {best}"),
            bar,  # last, since it does not end its line
        )


class TrainingLine:
    """The line of the live view about the training under way: step, loss, rate, and the losses seen so far."""

    def __init__(self) -> None:
        self._training = ("", 0)
        self._course: list[CoursePoint] = []

    def update(self, progress: Progress) -> None:
        """Remember where the training is; another training starts over, and one that was rolled back goes on."""
        training, point = (progress.phase, progress.n_steps), progress.training
        if training != self._training:
            self._training, self._course = training, []
        if point is not None:
            self._course = [*(past for past in self._course if past.step < point.step), point]

    def text(self, progress: Progress) -> Text | None:
        """Such as `step 60 of 150 · loss 0.412 · rate 3.1e-03`, then a sparkline; None while nothing is trained."""
        point = progress.training
        if point is None:
            return None
        of = f" of {progress.n_steps}" if progress.n_steps else ""
        rate = rate_words(point.learning_rate)
        parts = [f"step {point.step}{of}", f"loss {loss_words(point.loss)}", *([f"rate {rate}"] if rate else [])]
        return Text(f"{' · '.join(parts)}  {sparkline(self._course, progress.n_steps)}", no_wrap=True, overflow="crop")


def sparkline(course: Sequence[CoursePoint], n_steps: int) -> str:
    """Losses as a row of bars that grows to `SPARKS` of them at the end of the training.

    Each bar is the mean loss of its share of the steps, the highest loss being the highest bar; where losses span more
    than a decade, their logarithms are shown. A share without a loss looks like the one before, or blank at the start.

    Args:
        course: Points by rising step.
        n_steps: Steps of the whole training; 0 where that is not known.

    >>> points = [CoursePoint(step=step, loss=loss, learning_rate=0) for step, loss in ((1, 3), (7, 2), (12, 1))]
    >>> sparkline(points, n_steps=24)
    '██████▅▅▅▅▅▁'
    """
    n_all = max([n_steps, *(point.step for point in course)])
    shares: dict[int, list[float]] = {}
    for point in course:
        shares.setdefault(math.ceil(point.step * SPARKS / n_all) - 1, []).append(point.loss)
    losses = {column: fmean(found) for column, found in shares.items()}
    bars = dict(zip(losses, _bars(list(losses.values())), strict=True))
    line = " "
    for column in range(max(bars, default=-1) + 1):
        line += bars.get(column, line[-1])
    return line[1:]


def _bars(losses: Sequence[float]) -> list[str]:
    heights = [math.log(loss) for loss in losses] if spans_a_decade(losses) else list(losses)
    low = min(heights, default=0.0)
    step = (max(heights, default=0.0) - low) / (len(BARS) - 1) or 1.0
    return [BARS[round((height - low) / step)] for height in heights]


def clock(seconds: float) -> str:
    """Minutes and seconds, such as `1:05`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
