"""The course of trainings as a picture for documents: loss over steps."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from autocompress.record import StudyRecord
from autocompress.report.svg import write_svg
from autocompress.report.trainings import ShownTraining, shown_trainings, spans_a_decade
from autocompress.report.wording import shortened

# Okabe and Ito, "Color Universal Design", 2008: told apart with every common colour blindness.
CHOSEN_COLOUR = "#009E73"
COLOURS = ("#0072B2", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9")
TRAINING_NOTE = (
    "A point is the mean of the losses since the point before. A dot ends a training, a cross one that was given up."
)


def write_training_svg(record: StudyRecord, path: Path) -> None:
    """Write the courses as an SVG file; equal records give equal bytes. No file where no training has a course."""
    trainings = shown_trainings(record)
    if trainings:
        write_svg(lambda: _figure(record, trainings), path)


def training_colours(trainings: Sequence[ShownTraining]) -> list[str]:
    """The colour of each; that of the chosen candidate has its own in every picture."""
    others = cycle(COLOURS)
    return [CHOSEN_COLOUR if shown.is_chosen else next(others) for shown in trainings]


def _figure(record: StudyRecord, trainings: Sequence[ShownTraining]) -> Figure:
    figure = Figure(figsize=(10, 4), dpi=72)
    axes = figure.add_axes((0.1, 0.2, 0.58, 0.66))
    for shown, colour in zip(trainings, training_colours(trainings), strict=True):
        _draw(axes, shown, colour)
    _describe(figure, axes, record)
    if spans_a_decade(point.loss for shown in trainings for point in shown.training.course):
        _make_logarithmic(axes)
    return figure


def _draw(axes: Axes, shown: ShownTraining, colour: str) -> None:
    course = shown.training.course
    steps, losses = [point.step for point in course], [point.loss for point in course]
    width, height = (2.4, 5) if shown.is_chosen else (1.2, 4)
    axes.plot(steps, losses, color=colour, linewidth=width, zorder=height, label=shown.name)
    marker, size = ("o", 5) if shown.training.stopped_at is None else ("X", 10)
    axes.plot(steps[-1:], losses[-1:], marker=marker, markersize=size, color=colour, markeredgecolor="white", zorder=6)


def _describe(figure: Figure, axes: Axes, record: StudyRecord) -> None:
    title = f"{shortened(record.study.task, 40)}: the loss while training"
    figure.text(0.075, 0.92, title, fontsize=12, fontweight="bold")
    figure.text(0.075, 0.03, TRAINING_NOTE, fontsize=8.5, color="#444444")
    axes.set_xlabel("training step")
    axes.set_ylabel("loss")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#000000", alpha=0.07)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, fontsize=9, labelspacing=0.9)


def _make_logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
