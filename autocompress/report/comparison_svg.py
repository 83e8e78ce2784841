"""Several studies in one picture: their fronts over each other, and how each hypervolume grew."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from autocompress.report.compared import NamedStudy
from autocompress.report.explanation import grouped_seconds
from autocompress.report.front_svg import FLOOR_COLOUR
from autocompress.report.health import hypervolume_history
from autocompress.report.labels import Box, place_names
from autocompress.report.plot_points import PlotPoint, lowest_drop_shown, plot_points, staircase_points
from autocompress.report.svg import svg_text
from autocompress.report.wording import points, points_interval, printable, shortened, times

# Okabe and Ito, "Color Universal Design", 2008; markers and dashes have other periods, so no two of 35 are alike.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))
FLOOR_STYLE: dict[str, Any] = {"color": FLOOR_COLOUR, "linestyle": (0, (8, 4)), "linewidth": 1.0}
MAX_NAME = 34
MARK = 5.0  # half of the width of a mark, pixels
PREPARATION = ("damage table", "latency model")  # groups of phases that come before the first candidate
COMPARISON_NOTE = (
    "Fronts: candidates that no other of the same study dominates in speed-up and drop; up and to the right is better. "
    "Rings: the choices, with their\nintervals (95 % of the speed-up, 90 % of the drop), all on validation samples. "
    "Hypervolume: share of the box between no drop, no time, no size and\na drop of 5 points, the latency and size of "
    "FP32. Time: damage table and latency model first, then the candidates one after the other."
)


@dataclass(frozen=True)
class _Drawn:
    """One study as both panels show it.

    Attributes:
        study: Which one.
        place: Of the study among all, from 0 on.
        points: All its measured candidates.
        line: Those that no other dominates in speed-up and drop, slowest first.
        chosen: The choice, where there is one.
        history: Seconds since the search began, and hypervolume, after each candidate.
    """

    study: NamedStudy
    place: int
    points: Sequence[PlotPoint]
    line: Sequence[PlotPoint]
    chosen: PlotPoint | None
    history: Sequence[tuple[float, float]]

    @property
    def colour(self) -> str:
        return COLOURS[self.place % len(COLOURS)]

    @property
    def marker(self) -> str:
        return MARKERS[self.place % len(MARKERS)]

    @property
    def dashes(self) -> Any:
        return DASHES[self.place % len(DASHES)]

    @property
    def edge(self) -> float:
        """The largest drop that a picture of this study alone shows, points."""
        floor = self.study.record.study.max_drop
        edge = lowest_drop_shown(self.points, floor)
        return max([100 * floor, *(p.drop for p in self.points)]) if edge is None else edge

    def title(self, point: PlotPoint) -> str:
        """The numbers of one point."""
        m, name = point.measurement, printable(point.candidate.name)
        return f"{self.study.letter}, {name}: {times(m.speedup)}, a drop of {points_interval(m.whole_drop)} points"


def comparison_svg(studies: Sequence[NamedStudy]) -> str:
    """The picture as the text of an SVG file; equal studies give equal text. Each point has its numbers as a title.

    Browsers show such a title when the pointer rests on the point.
    """
    drawn = [_drawn(study, place) for place, study in enumerate(studies)]
    text = svg_text(lambda: _figure(drawn))
    for d in drawn:
        for j, point in enumerate(d.line):
            group = f'<g id="{_group(d, j)}">'
            text = text.replace(group, f"{group}\n<title>{escape(d.title(point))}</title>")
    return text


def listed_tasks(studies: Sequence[NamedStudy]) -> str:
    """The tasks of the studies, each once; plain text."""
    return ", ".join(dict.fromkeys(printable(study.record.study.task) for study in studies))


def _drawn(study: NamedStudy, place: int) -> _Drawn:
    record, shown = study.record, plot_points(study.record)
    before = sum(group.seconds for group in grouped_seconds(record.seconds) if group.name in PREPARATION)
    history = [(before + point.seconds, point.volume) for point in hypervolume_history(record)]
    chosen = next((p for p in shown if p.is_chosen), None)
    return _Drawn(study, place, shown, staircase_points(shown), chosen, history)


def _group(drawn: _Drawn, point: int) -> str:
    """Name of the group of one point in the file."""
    return f"point-{drawn.place}-{point}"


def _figure(drawn: Sequence[_Drawn]) -> Figure:
    height = max(9.6, 2.4 + 0.26 * len(drawn))
    figure = Figure(figsize=(10, height), dpi=72)
    fronts, volumes = figure.add_axes((0.075, 0.46, 0.64, 0.47)), figure.add_axes((0.075, 0.14, 0.64, 0.24))
    _draw_fronts(figure, fronts, drawn)
    _draw_volumes(figure, volumes, drawn)
    title = f"{shortened(listed_tasks([d.study for d in drawn]), 60)}: fronts of {len(drawn)} studies"
    figure.text(0.075, 1 - 0.35 / height, title, fontsize=12, fontweight="bold")
    figure.text(0.075, 0.17 / height, COMPARISON_NOTE, fontsize=8.5, color="#444444", linespacing=1.4)
    return figure


def _draw_fronts(figure: Figure, axes: Axes, drawn: Sequence[_Drawn]) -> None:
    edge = max(d.edge for d in drawn)
    for d in drawn:
        _draw_front(axes, d)
    floors = sorted({d.study.record.study.max_drop for d in drawn})
    for floor in floors:
        axes.axhline(100 * floor, zorder=1, **FLOOR_STYLE)
    _limit(axes, drawn, edge)
    axes.set_xlabel("speed-up over FP32, times")
    axes.set_ylabel("drop of the score, points (higher up is better)")
    axes.grid(color="#000000", alpha=0.07)
    _legend(axes, drawn, floors, sum(p.drop > edge for d in drawn for p in d.line))
    named = [(d.chosen or d.line[-1], d.study.letter) for d in drawn]
    marks = [_mark(axes, p.speedup, p.drop) for d in drawn for p in d.line if p.drop <= edge]
    place_names(figure, axes, [(p.speedup, min(p.drop, edge), letter) for p, letter in named], marks)


def _draw_front(axes: Axes, d: _Drawn) -> None:
    """The staircase, a mark at each of its points, and a ring with both intervals at the choice."""
    stairs: dict[str, Any] = {
        "drawstyle": "steps-pre",
        "color": d.colour,
        "linestyle": d.dashes,
        "linewidth": 1.4,
        "zorder": 2,
    }
    axes.plot([p.speedup for p in d.line], [p.drop for p in d.line], **stairs)
    for j, p in enumerate(d.line):
        (mark,) = axes.plot([p.speedup], [p.drop], d.marker, color=d.colour, markersize=6, mec="white", zorder=4)
        mark.set_gid(_group(d, j))
    if d.chosen is None:
        return
    p, speedup, drop = d.chosen, d.chosen.measurement.speedup, d.chosen.measurement.whole_drop
    axes.plot([speedup.low, speedup.high], [p.drop] * 2, color=d.colour, linewidth=1.0, zorder=3)
    axes.plot([p.speedup] * 2, [100 * drop.low, 100 * drop.high], color=d.colour, linewidth=1.0, zorder=3)
    axes.plot([p.speedup], [p.drop], "o", mfc="none", mec=d.colour, mew=1.8, markersize=15, zorder=5)


def _limit(axes: Axes, drawn: Sequence[_Drawn], edge: float) -> None:
    shown = [p for d in drawn for p in d.line if p.drop <= edge]
    chosen = [d.chosen.measurement for d in drawn if d.chosen]
    speeds = [p.speedup for p in shown] + [end for m in chosen for end in (m.speedup.low, m.speedup.high)]
    best = min([0.0, *(p.drop for p in shown), *(100 * m.whole_drop.low for m in chosen)])
    x_margin, y_margin = 0.05 * max(max(speeds) - min(speeds), 0.5), 0.06 * max(edge - best, 0.1)
    axes.set_xlim(min(speeds) - x_margin, max(speeds) + x_margin)
    axes.set_ylim(edge + y_margin, best - y_margin)


def _legend(axes: Axes, drawn: Sequence[_Drawn], floors: Sequence[float], n_beyond: int) -> None:
    handles: list[Artist] = [
        Line2D([], [], color=d.colour, marker=d.marker, linestyle=d.dashes, linewidth=1.4, label=_legend_name(d))
        for d in drawn
    ]
    words = ", ".join(points(floor) for floor in floors)
    handles.append(Line2D([], [], label=f"floor: {words} points", **FLOOR_STYLE))
    if n_beyond:
        handles.append(Line2D([], [], linestyle="", label=f"{n_beyond} beyond the lower edge"))
    style: dict[str, Any] = {"frameon": False, "fontsize": 9, "handlelength": 3.4}
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.01), **style)


def _legend_name(d: _Drawn) -> str:
    return shortened(d.study.title, MAX_NAME)


def _draw_volumes(figure: Figure, axes: Axes, drawn: Sequence[_Drawn]) -> None:
    """How each hypervolume grew, with the letter of the study at the end."""
    unit, seconds = ("minutes", 60.0) if max(d.history[-1][0] for d in drawn) >= 120 else ("seconds", 1.0)
    ends = []
    for d in drawn:
        x, y = [spent / seconds for spent, _ in d.history], [volume for _, volume in d.history]
        steps: dict[str, Any] = {"drawstyle": "steps-post", "color": d.colour, "linestyle": d.dashes, "linewidth": 1.4}
        axes.plot(x, y, marker=d.marker, markersize=4, **steps)
        ends.append((x[-1], y[-1], d.study.letter))
    axes.margins(0.06)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"{unit} of search")
    axes.set_ylabel("hypervolume of the front so far")
    axes.grid(color="#000000", alpha=0.07)
    lines = [[_mark(axes, spent / seconds, volume) for spent, volume in d.history] for d in drawn]
    between = [Box(a.left, a.bottom, b.right, a.top) for line in lines for a, b in pairwise(line)]
    place_names(figure, axes, ends, [*(mark for line in lines for mark in line), *between])


def _mark(axes: Axes, x: float, y: float) -> Box:
    """The room that one mark takes on the canvas."""
    across, up = axes.transData.transform((x, y))
    return Box(across - MARK, up - MARK, across + MARK, up + MARK)
