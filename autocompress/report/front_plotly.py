"""The interactive picture as plain data: the traces and the layout that plotly.js draws."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from autocompress.record import StudyRecord
from autocompress.report.front_svg import COLOURS, FLOOR_COLOUR, MEANINGS
from autocompress.report.plot_points import KINDS, Kind, PlotPoint, lowest_drop_shown, plot_points, staircase
from autocompress.report.trainings import incidents
from autocompress.report.wording import (
    kilobytes,
    points,
    points_interval,
    printable,
    recipe_lines,
    shortened,
    times,
    zipped,
)

SYMBOLS: dict[Kind, str] = {"baseline": "diamond", "anchor": "square", "candidate": "circle"}
FAINT = 0.45
SMALLEST_DIAMETER, BASELINE_DIAMETER = 6.0, 20.0


def figure(record: StudyRecord) -> dict[str, Any]:
    """`data` and `layout` for `Plotly.newPlot`; names of the user are escaped, since plotly reads a little HTML.

    Raises:
        StudyError: The baseline was not measured.
    """
    shown = plot_points(record)
    traces = [_line(record)]
    for on_front in (False, True):
        for kind in KINDS:
            members = [p for p in shown if p.kind == kind and p.on_front == on_front]
            if members:
                traces.append(_trace(members, kind, on_front, record))
    traces += [_ring(p) for p in shown if p.is_chosen]
    return {"data": traces, "layout": _layout(record, shown)}


def hover_text(point: PlotPoint, n_layers: int) -> str:
    """What hovering over a point shows, in plotly's HTML."""
    m = point.measurement
    lines = [
        f"speed-up {times(m.speedup)} ({m.speedup.n_pairs} pairs)",
        f"latency {m.latency_ms:.3f} ms",
        f"drop {points_interval(m.accuracy_drop)} points",
        f"score {m.accuracy:.4f} (torch {m.torch_accuracy:.4f})",
        f"size {kilobytes(m.size_bytes)} kB" + (f", zipped {zipped(m.zipped_bytes)} kB" if m.zipped_bytes else ""),
        *recipe_lines(point.candidate.recipe, n_layers),
        *(incidents(point.candidate.training) if point.candidate.training else []),
    ]
    name = escape(printable(point.candidate.name))
    return "<br>".join([f"<b>{name}</b>", *(escape(line) for line in lines)])


def _line(record: StudyRecord) -> dict[str, Any]:
    x, y = zip(*staircase(record), strict=True)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "front of speed and drop",
        "x": list(x),
        "y": list(y),
        "line": {"shape": "vh", "color": COLOURS["candidate"], "width": 1.5},
        "hoverinfo": "skip",
    }


def _trace(members: Sequence[PlotPoint], kind: Kind, on_front: bool, record: StudyRecord) -> dict[str, Any]:
    speedups = [p.measurement.speedup for p in members]
    drops = [p.measurement.accuracy_drop for p in members]
    bars = {"type": "data", "symmetric": False, "thickness": 1, "width": 0, "color": COLOURS[kind]}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"{MEANINGS[kind]}, {'on the front' if on_front else 'dominated'}",
        "x": [p.speedup for p in members],
        "y": [p.drop for p in members],
        "hovertext": [hover_text(p, record.study.n_layers) for p in members],
        "hoverinfo": "text",
        "opacity": FAINT if kind == "candidate" and not on_front else 1.0,
        "error_x": bars | _ends([s.value for s in speedups], [s.low for s in speedups], [s.high for s in speedups]),
        "error_y": bars
        | _ends([100 * d.value for d in drops], [100 * d.low for d in drops], [100 * d.high for d in drops]),
        "marker": {
            "symbol": SYMBOLS[kind] + ("" if on_front else "-open"),
            "color": COLOURS[kind],
            "size": [_diameter(p, record) for p in members],
            "opacity": 1,
        },
    }


def _ends(values: Sequence[float], lows: Sequence[float], highs: Sequence[float]) -> dict[str, list[float]]:
    return {
        "array": [max(0.0, high - value) for value, high in zip(values, highs, strict=True)],
        "arrayminus": [max(0.0, value - low) for value, low in zip(values, lows, strict=True)],
    }


def _diameter(point: PlotPoint, record: StudyRecord) -> float:
    baseline = record.baseline.measurement
    share = point.measurement.size_bytes / baseline.size_bytes if baseline else 1.0
    return max(SMALLEST_DIAMETER, BASELINE_DIAMETER * math.sqrt(share))


def _ring(point: PlotPoint) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "chosen",
        "x": [point.speedup],
        "y": [point.drop],
        "hoverinfo": "skip",
        "marker": {"symbol": "circle-open", "size": 30, "color": "#009E73", "line": {"width": 2.5}},
    }


def _layout(record: StudyRecord, shown: Sequence[PlotPoint]) -> dict[str, Any]:
    edge = lowest_drop_shown(shown, record.study.max_drop)
    best = min([0.0, *(100 * p.measurement.accuracy_drop.low for p in shown)])
    reach: dict[str, Any] = {"autorange": "reversed"}
    if edge is not None:
        reach = {"range": [edge, best - 0.08 * (edge - best)]}
    grid = {"gridcolor": "#eeeeee", "zeroline": False}
    score = escape(shortened(record.study.score, 24))
    return {
        "template": None,
        "height": 560,
        "margin": {"l": 70, "r": 20, "t": 30, "b": 60},
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "bgcolor": "#ffffff"},
        "plot_bgcolor": "#ffffff",
        "legend": {"orientation": "h", "y": -0.16, "itemsizing": "constant"},
        "xaxis": {"title": {"text": "speed-up over FP32, times"}} | grid,
        "yaxis": {"title": {"text": f"drop of {score}, points (higher up is better)"}} | grid | reach,
        "shapes": [_floor_line(record)],
        "annotations": [_floor_name(record), *_names(shown, edge), *_note_beyond(shown, edge)],
    }


def _floor_line(record: StudyRecord) -> dict[str, Any]:
    y = 100 * record.study.max_drop
    line = {"color": FLOOR_COLOUR, "dash": "dash", "width": 1.5}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": line}


def _floor_name(record: StudyRecord) -> dict[str, Any]:
    return {
        "xref": "paper",
        "x": 0,
        "xshift": 4,
        "y": 100 * record.study.max_drop,
        "xanchor": "left",
        "yanchor": "top",
        "showarrow": False,
        "text": f"floor: a drop of at most {points(record.study.max_drop)} points",
        "font": {"color": FLOOR_COLOUR},
    }


def _names(shown: Sequence[PlotPoint], edge: float | None) -> list[dict[str, Any]]:
    """The chosen one is named above its point; the others below and to the left, where few points lie, in steps."""
    named = [p for p in shown if p.name and (edge is None or p.drop <= edge)]
    steps = {p.candidate.digest: i % 3 for i, p in enumerate(p for p in named if not p.is_chosen)}
    return [_name(p, steps.get(p.candidate.digest)) for p in named]


def _name(point: PlotPoint, step: int | None) -> dict[str, Any]:
    shift = {"ax": 30, "ay": -40} if step is None else {"ax": -28, "ay": 30 + 18 * step}
    return shift | {
        "x": point.speedup,
        "y": point.drop,
        "text": escape(point.name),
        "showarrow": True,
        "arrowhead": 0,
        "arrowwidth": 1,
        "arrowcolor": "#777777",
        "standoff": 8,
        "bgcolor": "rgba(255,255,255,0.8)",
    }


def _note_beyond(shown: Sequence[PlotPoint], edge: float | None) -> list[dict[str, Any]]:
    n_beyond = 0 if edge is None else sum(p.drop > edge for p in shown)
    if not n_beyond:
        return []
    place = {"xref": "paper", "yref": "paper", "x": 1, "y": 0, "xanchor": "right", "yanchor": "bottom"}
    return [place | {"text": f"▽ larger drops: {n_beyond}; double-click to see all", "showarrow": False}]
