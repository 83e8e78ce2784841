"""The front as a picture for documents: speed-up against accuracy drop, with the error of both."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from autocompress.record import StudyRecord
from autocompress.report.labels import Box, place_names
from autocompress.report.plot_points import KINDS, Kind, PlotPoint, lowest_drop_shown, plot_points, staircase
from autocompress.report.svg import write_svg
from autocompress.report.wording import kilobytes, points, shortened, threads_words

MARKERS: dict[Kind, str] = {"baseline": "D", "anchor": "s", "candidate": "o"}
# Okabe and Ito, "Color Universal Design", 2008: told apart with every common colour blindness.
COLOURS: dict[Kind, str] = {"baseline": "#000000", "anchor": "#D55E00", "candidate": "#0072B2"}
MEANINGS: dict[Kind, str] = {"baseline": "FP32 baseline", "anchor": "anchor", "candidate": "candidate"}
FLOOR_COLOUR = "#A0522D"
FAINT = 0.4
SMALLEST_AREA, BASELINE_AREA = 16.0, 220.0
NOTE = (
    "Up and to the right is better. Horizontal bars: 95 % interval of the speed-up. "
    "Vertical bars: 90 % interval of the drop.\n"
    "The area of a marker follows its size in bytes. Filled markers off the line are on the front for their size, "
    "or because the error allows no verdict."
)


def write_front_svg(record: StudyRecord, path: Path) -> None:
    """Write the front as an SVG file; equal records give equal bytes.

    Raises:
        StudyError: The baseline was not measured.
    """
    write_svg(lambda: _figure(record), path)


def _figure(record: StudyRecord) -> Figure:
    shown = plot_points(record)
    edge = lowest_drop_shown(shown, record.study.max_drop)
    figure = Figure(figsize=(10, 6), dpi=72)
    axes = figure.add_axes((0.075, 0.175, 0.70, 0.735))
    for point in shown:
        _draw(axes, point, _area(point, record), edge)
    line = staircase(record)
    axes.plot(*zip(*line, strict=True), drawstyle="steps-pre", color=COLOURS["candidate"], linewidth=1.2, zorder=2)
    _limit(axes, shown, edge, record.study.max_drop)
    floor = _draw_floor(axes, record.study.max_drop)
    _describe(figure, axes, record)
    _legend(axes, shown, record, edge)
    names = [(p.speedup, _height(p, edge), p.name) for p in shown if p.name]
    place_names(figure, axes, names, [floor, *_taken(axes, shown, line, record, edge)])
    return figure


def _height(point: PlotPoint, edge: float | None) -> float:
    return point.drop if edge is None else min(point.drop, edge)


def _area(point: PlotPoint, record: StudyRecord) -> float:
    baseline = record.baseline.measurement
    share = point.measurement.size_bytes / baseline.size_bytes if baseline else 1.0
    return max(SMALLEST_AREA, BASELINE_AREA * share)


def _draw(axes: Axes, point: PlotPoint, area: float, edge: float | None) -> None:
    y, colour = _height(point, edge), COLOURS[point.kind]
    strength = FAINT if point.is_faint else 1.0
    face = colour if point.on_front else "white"
    if y == point.drop:
        _draw_intervals(axes, point, colour, 0.6 * strength)
    marker = MARKERS[point.kind] if y == point.drop else "v"
    axes.scatter(
        [point.speedup], [y], s=area, marker=marker, facecolor=face, edgecolor=colour, alpha=strength, zorder=4
    )
    if point.is_chosen:
        ring = 2.2 * area + 120
        axes.scatter([point.speedup], [y], s=ring, marker="o", facecolor="none", edgecolor="#009E73", lw=2, zorder=5)


def _draw_intervals(axes: Axes, point: PlotPoint, colour: str, strength: float) -> None:
    speedup, drop = point.measurement.speedup, point.measurement.whole_drop
    style = {"color": colour, "alpha": strength, "linewidth": 1.0, "zorder": 3}
    axes.plot([speedup.low, speedup.high], [point.drop, point.drop], **style)  # type: ignore[arg-type]
    axes.plot([point.speedup, point.speedup], [100 * drop.low, 100 * drop.high], **style)  # type: ignore[arg-type]


def _limit(axes: Axes, shown: Sequence[PlotPoint], edge: float | None, max_drop: float) -> None:
    drops = [p.measurement.whole_drop for p in shown if edge is None or p.drop <= edge]
    best = min([0.0, *(100 * d.low for d in drops)])
    worst = max([110 * max_drop, *(100 * d.high for d in drops)]) if edge is None else edge
    speeds = [p.measurement.speedup for p in shown]
    slow, fast = min(s.low for s in speeds), max(s.high for s in speeds)
    x_margin, y_margin = 0.06 * max(fast - slow, 0.5), 0.08 * max(worst - best, 0.1)
    axes.set_xlim(slow - x_margin, fast + x_margin)
    axes.set_ylim(worst + y_margin, best - y_margin)


def _draw_floor(axes: Axes, max_drop: float) -> Box:
    axes.axhline(100 * max_drop, color=FLOOR_COLOUR, linestyle=(0, (5, 3)), linewidth=1.2, zorder=1)
    text = axes.annotate(
        f"floor: a drop of at most {points(max_drop)} points",
        (0.0, 100 * max_drop),
        xycoords=axes.get_yaxis_transform(),
        xytext=(4, -3),
        textcoords="offset points",
        va="top",
        fontsize=9,
        color=FLOOR_COLOUR,
    )
    return Box(*text.get_window_extent().extents)


def _describe(figure: Figure, axes: Axes, record: StudyRecord) -> None:
    study, where = record.study, record.environment
    baseline = record.baseline.measurement
    threads = threads_words(where.inference_threads)
    samples = f"{baseline.n_samples} validation samples" if baseline else "validation samples"
    title = f"{shortened(study.task, 40)}: speed and {shortened(study.score, 16)} after compression"
    figure.text(0.075, 0.962, title, fontsize=12, fontweight="bold")
    figure.text(0.075, 0.928, f"{shortened(where.cpu, 70)}, {threads}, {samples}", fontsize=10, color="#444444")
    axes.set_xlabel("speed-up over FP32, times")
    axes.set_ylabel(f"drop of {shortened(study.score, 24)}, points (higher up is better)")
    axes.grid(color="#000000", alpha=0.07)
    figure.text(0.075, 0.025, NOTE, fontsize=8.5, color="#444444", linespacing=1.4)


def _legend(axes: Axes, shown: Sequence[PlotPoint], record: StudyRecord, edge: float | None) -> None:
    handles = [
        _handle(MARKERS[kind], COLOURS[kind], filled, f"{MEANINGS[kind]}, {'on the front' if filled else 'dominated'}")
        for kind in KINDS
        for filled in (True, False)
        if any(p.kind == kind and p.on_front == filled for p in shown)
    ]
    handles.append(Line2D([], [], color=COLOURS["candidate"], linewidth=1.2, label="front of speed and drop"))
    if any(p.is_chosen for p in shown):
        handles.append(_handle("o", "#009E73", False, "chosen", size=13, width=2))
    if edge is not None:
        n_below = sum(p.drop > edge for p in shown)
        handles.append(_handle("v", "#555555", False, f"drop beyond the edge ({n_below})"))
    handles += _size_handles(shown, record)
    boxes: list[Artist] = list(handles)
    axes.legend(
        handles=boxes, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9, labelspacing=0.9
    )


def _size_handles(shown: Sequence[PlotPoint], record: StudyRecord) -> list[Line2D]:
    ends = sorted({p.measurement.size_bytes: _area(p, record) for p in shown}.items())
    chosen = [ends[0], ends[-1]] if len(ends) > 1 else ends
    return [_handle("o", "#777777", True, f"{kilobytes(size)} kB", size=area**0.5) for size, area in chosen]


def _handle(marker: str, colour: str, filled: bool, label: str, size: float = 7.0, width: float = 1.0) -> Line2D:
    face = colour if filled else "none"
    return Line2D([], [], marker=marker, linestyle="", color=colour, mfc=face, mew=width, markersize=size, label=label)


def _taken(
    axes: Axes,
    shown: Sequence[PlotPoint],
    line: Sequence[tuple[float, float]],
    record: StudyRecord,
    edge: float | None,
) -> list[Box]:
    boxes = []
    for p in shown:
        x, y = axes.transData.transform((p.speedup, _height(p, edge)))
        r = _area(p, record) ** 0.5 / 2 + (7 if p.is_chosen else 1)
        boxes.append(Box(x - r, y - r, x + r, y + r))
        if p.on_front and y == p.drop:
            m = p.measurement
            boxes.append(_between(axes, (m.speedup.low, p.drop), (m.speedup.high, p.drop)))
            boxes.append(_between(axes, (p.speedup, 100 * m.whole_drop.low), (p.speedup, 100 * m.whole_drop.high)))
    for (x0, y0), (x1, y1) in zip(line, line[1:], strict=False):
        boxes += [_between(axes, (x0, y0), (x0, y1)), _between(axes, (x0, y1), (x1, y1))]
    return boxes


def _between(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> Box:
    (x0, y0), (x1, y1) = axes.transData.transform([start, end])
    return Box(min(x0, x1) - 1, min(y0, y1) - 1, max(x0, x1) + 1, max(y0, y1) + 1)
