"""Predictions against what was measured, and where the time went, as pictures for documents."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from autocompress.record import StudyRecord
from autocompress.report.explanation import (
    FORECAST_NOTE,
    GROUP_COLOURS,
    GroupSeconds,
    ShownForecast,
    drop_limits,
    grouped_seconds,
    latency_limits,
    shown_forecasts,
)
from autocompress.report.svg import write_svg
from autocompress.report.wording import shortened

COLOUR, TABLE_COLOUR, CHOSEN_COLOUR, LINE_COLOUR = "#0072B2", "#777777", "#009E73", "#A0522D"
INSIDE, PINNED = "o", "^"
NOTE_WIDTH = 120
NAMED_SHARE = 0.07  # of all seconds, from which on a part of the bar has room for its share


def write_explanation_svg(record: StudyRecord, path: Path) -> None:
    """Write predicted against measured drop and latency as an SVG file; equal records give equal bytes.

    No file where the record has no forecasts.
    """
    if shown_forecasts(record):
        write_svg(lambda: _forecast_figure(record), path)


def write_seconds_svg(record: StudyRecord, path: Path) -> None:
    """Write the seconds by group of phases as one bar; no file where the record explains nothing or has no seconds."""
    groups = grouped_seconds(record.seconds)
    if record.explanation and groups:
        write_svg(lambda: _seconds_figure(groups), path)


def _forecast_figure(record: StudyRecord) -> Figure:
    shown = shown_forecasts(record)
    figure = Figure(figsize=(10, 5.3), dpi=72)
    drops, latencies = figure.add_axes((0.075, 0.205, 0.4, 0.6)), figure.add_axes((0.575, 0.205, 0.4, 0.6))
    _draw_drops(drops, shown, drop_limits(record))
    _draw_latencies(latencies, shown, latency_limits(record))
    title = f"{shortened(record.study.task, 40)}: predicted against measured"
    figure.text(0.075, 0.94, title, fontsize=12, fontweight="bold")
    figure.text(0.075, 0.03, fill(FORECAST_NOTE, NOTE_WIDTH), fontsize=8.5, color="#444444", linespacing=1.4)
    _legend(drops, shown, drop_limits(record)[1])
    return figure


def _draw_drops(axes: Axes, shown: Sequence[ShownForecast], limits: tuple[float, float]) -> None:
    _scatter(axes, [(f.drop, f.table_drop) for f in shown], limits, is_open=True)
    _scatter(axes, [(f.drop, f.learned_drop) for f in shown], limits)
    _ring(axes, [(f.drop, f.learned_drop) for f in shown if f.is_chosen], limits)
    _describe(axes, limits, "drop, points")


def _draw_latencies(axes: Axes, shown: Sequence[ShownForecast], limits: tuple[float, float]) -> None:
    _scatter(axes, [(f.latency, f.predicted_latency) for f in shown], limits)
    _ring(axes, [(f.latency, f.predicted_latency) for f in shown if f.is_chosen], limits)
    _describe(axes, limits, "latency, % of the baseline's")


def _scatter(
    axes: Axes, pairs: Sequence[tuple[float, float]], limits: tuple[float, float], is_open: bool = False
) -> None:
    """Points inside the limits as dots, the others pinned to the edge as triangles."""
    face, edge, order = ("none", TABLE_COLOUR, 3) if is_open else (COLOUR, "white", 4)
    for marker in (INSIDE, PINNED):
        places = [_pinned(x, y, limits) for x, y in pairs if (max(x, y) <= limits[1]) == (marker == INSIDE)]
        if places:
            x, y = zip(*places, strict=True)
            axes.scatter(x, y, s=38, marker=marker, facecolor=face, edgecolor=edge, zorder=order)


def _pinned(x: float, y: float, limits: tuple[float, float]) -> tuple[float, float]:
    low, high = limits
    return min(max(x, low), high), min(max(y, low), high)


def _ring(axes: Axes, at: Sequence[tuple[float, float]], limits: tuple[float, float]) -> None:
    for pair in at:
        x, y = _pinned(*pair, limits)
        axes.scatter([x], [y], s=190, facecolor="none", edgecolor=CHOSEN_COLOUR, linewidth=2, label="chosen", zorder=5)


def _describe(axes: Axes, limits: tuple[float, float], quantity: str) -> None:
    margin = 0.03 * (limits[1] - limits[0])
    ends = (limits[0] - margin, limits[1] + margin)
    axes.plot(ends, ends, color=LINE_COLOUR, linewidth=1.2, linestyle=(0, (5, 3)), zorder=1)
    axes.set_xlim(ends)
    axes.set_ylim(ends)
    axes.set_xlabel(f"measured {quantity}")
    axes.set_ylabel(f"predicted {quantity}")
    axes.grid(color="#000000", alpha=0.07)
    axes.set_axisbelow(True)


def _legend(axes: Axes, shown: Sequence[ShownForecast], edge: float) -> None:
    """One for both panels, in a line above them."""
    handles = [
        _handle(INSIDE, TABLE_COLOUR, "damage table alone"),
        _handle(INSIDE, COLOUR, "prediction", is_open=False),
    ]
    n_beyond = sum(max(f.drop, predicted) > edge for f in shown for predicted in (f.table_drop, f.learned_drop))
    if n_beyond:
        handles.append(_handle(PINNED, TABLE_COLOUR, f"beyond the edge ({n_beyond})"))
    if any(f.is_chosen for f in shown):
        handles.append(_handle(INSIDE, CHOSEN_COLOUR, "chosen", size=13, width=2))
    boxes: list[Artist] = list(handles)
    axes.legend(
        handles=boxes, loc="lower left", bbox_to_anchor=(-0.03, 1.02), ncols=len(boxes), frameon=False, fontsize=9
    )


def _handle(
    marker: str, colour: str, label: str, *, is_open: bool = True, size: float = 7.0, width: float = 1.0
) -> Line2D:
    face = "none" if is_open else colour
    return Line2D([], [], marker=marker, linestyle="", color=colour, mfc=face, mew=width, markersize=size, label=label)


def _seconds_figure(groups: Sequence[GroupSeconds]) -> Figure:
    figure = Figure(figsize=(10, 1.35), dpi=72)
    axes = figure.add_axes((0.02, 0.42, 0.96, 0.36))
    start = 0.0
    for group in groups:
        label = f"{group.name}, {group.seconds:,.0f} s"
        axes.barh([0], [group.share], left=start, height=0.8, color=GROUP_COLOURS[group.name], label=label)
        if group.share >= NAMED_SHARE:
            middle = start + group.share / 2
            axes.text(middle, 0, f"{100 * group.share:.0f} %", ha="center", va="center", fontsize=9, color=ink(group))
        start += group.share
    axes.set_xlim(0, 1)
    axes.set_axis_off()
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, -0.05), ncols=len(groups), frameon=False, fontsize=9)
    return figure


def ink(group: GroupSeconds) -> str:
    """White or black, whatever reads better on the colour of the group (WCAG 2.2, relative luminance)."""
    red, green, blue = (int(GROUP_COLOURS[group.name][i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"
