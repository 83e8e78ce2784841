"""How the search went as a picture for documents: hypervolume over candidates and over their time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from autocompress.record import StudyRecord
from autocompress.report.health import HistoryPoint, hypervolume_history
from autocompress.report.svg import write_svg
from autocompress.report.wording import duration, shortened

COLOUR, FAILED_COLOUR, CHOSEN_COLOUR = "#0072B2", "#D55E00", "#009E73"
HEALTH_NOTE = (
    "Hypervolume of the front so far in percent of that of the final front; reference point: a drop of 5 points, the "
    "latency and size of FP32.\nTime: of the candidates alone, one after the other. A candidate that was trained again "
    "stands where it was first tried."
)


def write_health_svg(record: StudyRecord, path: Path) -> None:
    """Write the picture; equal records give equal bytes. No file where nothing but the baseline was tried.

    Raises:
        StudyError: The baseline was not measured.
    """
    history = hypervolume_history(record)
    if len(history) > 1:
        write_svg(lambda: _figure(record, history), path)


def _figure(record: StudyRecord, history: Sequence[HistoryPoint]) -> Figure:
    figure = Figure(figsize=(10, 3.8), dpi=72)
    left, right = figure.add_axes((0.075, 0.3, 0.4, 0.52)), figure.add_axes((0.565, 0.3, 0.4, 0.52))
    unit, seconds = ("minutes", 60.0) if history[-1].seconds >= 120 else ("seconds", 1.0)
    _draw(left, [float(i) for i in range(len(history))], record, history)
    _draw(right, [point.seconds / seconds for point in history], record, history)
    left.set_xlabel("candidates tried after the baseline")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_xlabel(f"{unit} spent on candidates")
    right.set_xlim(left=0)
    left.set_ylabel("hypervolume, % of the final one")
    left.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, frameon=False, fontsize=9)
    title = f"{shortened(record.study.task, 40)}: how the search went, {duration(history[-1].seconds)} of candidates"
    figure.text(0.075, 0.93, title, fontsize=12, fontweight="bold")
    figure.text(0.075, 0.03, HEALTH_NOTE, fontsize=8.5, color="#444444", linespacing=1.4)
    return figure


def _draw(axes: Axes, places: Sequence[float], record: StudyRecord, history: Sequence[HistoryPoint]) -> None:
    """The staircase, a cross for each failed candidate, and a ring around the chosen one."""
    shares = [100 * point.share for point in history]
    axes.plot(places, shares, drawstyle="steps-post", color=COLOUR, linewidth=1.6, marker=".", label="front so far")
    candidates = list(zip(places, shares, record.candidates, strict=True))
    failed = [(x, share) for x, share, candidate in candidates if candidate.measurement is None]
    if failed:
        axes.plot(*zip(*failed, strict=True), "x", color=FAILED_COLOUR, markersize=8, mew=2, label="failed", zorder=4)
    chosen = record.chosen.digest if record.chosen else None
    ring = [(x, share) for x, share, candidate in candidates if candidate.digest == chosen]
    if ring:
        style: dict[str, Any] = {"mfc": "none", "mec": CHOSEN_COLOUR, "mew": 2.0, "markersize": 12}
        axes.plot(*zip(*ring, strict=True), "o", label="the chosen one", zorder=5, **style)
    axes.set_ylim(-4, 106)
    axes.margins(x=0.03)
    axes.grid(color="#000000", alpha=0.07)
