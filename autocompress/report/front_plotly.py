"""The interactive picture as plain data: the traces and the layout that plotly.js draws."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from autocompress.record import StudyRecord
from autocompress.report.front_svg import COLOURS, FLOOR_COLOUR, MEANINGS
from autocompress.report.plot_points import KINDS, Kind, PlotPoint, lowest_drop_shown, plot_points, staircase
from autocompress.report.wording import kilobytes, points, points_interval, printable, recipe_lines, times

SYMBOLS: dict[Kind, str] = {"baseline": "diamond", "anchor": "square", "candidate": "circle"}
FAINT = 0.45
SMALLEST_DIAMETER, BASELINE_DIAMETER = 6.0, 20.0
EDGE_MARGIN = 1.08


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
        f"size {kilobytes(m.size_bytes)} kB",
        *recipe_lines(point.candidate.recipe, n_layers),
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
    strength = 1.0 if on_front else FAINT
    speedups = [p.measurement.speedup for p in members]
    drops = [p.measurement.accuracy_drop for p in members]
    bars = {"type": "data", "symmetric": False, "thickness": 1, "width": 0, "color": COLOURS[kind]}
    return {
        "type": "scatter",
        "mode": "markers+text" if kind != "candidate" else "markers",
        "name": f"{MEANINGS[kind]}, {'on the front' if on_front else 'dominated'}",
        "x": [p.speedup for p in members],
        "y": [p.drop for p in members],
        "text": [escape(p.name) for p in members],
        "textposition": "bottom right",
        "hovertext": [hover_text(p, record.study.n_layers) for p in members],
        "hoverinfo": "text",
        "opacity": strength,
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
        "mode": "markers+text",
        "name": "chosen",
        "x": [point.speedup],
        "y": [point.drop],
        "text": [escape(point.name) if point.kind == "candidate" else ""],
        "textposition": "top center",
        "hoverinfo": "skip",
        "marker": {"symbol": "circle-open", "size": 30, "color": "#009E73", "line": {"width": 2.5}},
    }


def _layout(record: StudyRecord, shown: Sequence[PlotPoint]) -> dict[str, Any]:
    study, max_drop = record.study, 100 * record.study.max_drop
    edge = lowest_drop_shown(shown, record.study.max_drop)
    best = min([0.0, *(100 * p.measurement.accuracy_drop.low for p in shown)])
    reach: dict[str, Any] = {"autorange": "reversed"}
    if edge is not None:
        reach = {"range": [EDGE_MARGIN * edge, best - 0.08 * (edge - best)]}
    grid = {"gridcolor": "#eeeeee", "zeroline": False}
    return {
        "template": None,
        "height": 560,
        "margin": {"l": 70, "r": 20, "t": 20, "b": 60},
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "bgcolor": "#ffffff"},
        "plot_bgcolor": "#ffffff",
        "legend": {"orientation": "h", "y": -0.16},
        "xaxis": {"title": {"text": "speed-up over FP32, times"}} | grid,
        "yaxis": {"title": {"text": f"drop of {escape(printable(study.score))}, points (higher up is better)"}}
        | grid
        | reach,
        "shapes": [
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": max_drop,
                "y1": max_drop,
                "line": {"color": FLOOR_COLOUR, "dash": "dash", "width": 1.5},
            }
        ],
        "annotations": [
            {
                "xref": "paper",
                "x": 0,
                "y": max_drop,
                "xanchor": "left",
                "yanchor": "top",
                "showarrow": False,
                "text": f"floor: a drop of at most {points(study.max_drop)} points",
                "font": {"color": FLOOR_COLOUR},
            }
        ],
    }
