"""Predictions against what was measured as plain data: the traces and the layout that plotly.js draws."""

from collections.abc import Sequence
from html import escape
from typing import Any

from autocompress.record import StudyRecord
from autocompress.report.explanation import ShownForecast, drop_limits, latency_limits, shown_forecasts
from autocompress.report.explanation_svg import CHOSEN_COLOUR, COLOUR, LINE_COLOUR, TABLE_COLOUR

MARKERS: dict[str, dict[str, Any]] = {
    "table": {"symbol": "circle-open", "color": TABLE_COLOUR, "size": 9},
    "learned": {"symbol": "circle", "color": COLOUR, "size": 9, "line": {"color": "#ffffff", "width": 1}},
    "chosen": {"symbol": "circle-open", "color": CHOSEN_COLOUR, "size": 19, "line": {"width": 2.5}},
}


def forecast_figure(record: StudyRecord) -> dict[str, Any] | None:
    """`data` and `layout` for `Plotly.newPlot`; None where the record has no forecasts.

    Names of the user are escaped, since plotly reads a little HTML.
    """
    shown = shown_forecasts(record)
    if not shown:
        return None
    chosen = [f for f in shown if f.is_chosen]
    traces = [
        _trace("damage table alone", "table", shown, [(f.drop, f.table_drop) for f in shown]),
        _trace("prediction", "learned", shown, [(f.drop, f.learned_drop) for f in shown]),
        _trace("latency", "learned", shown, [(f.latency, f.predicted_latency) for f in shown], axis="2"),
        _trace("chosen", "chosen", chosen, [(f.drop, f.learned_drop) for f in chosen]),
        _trace("chosen", "chosen", chosen, [(f.latency, f.predicted_latency) for f in chosen], axis="2"),
    ]
    return {"data": [trace for trace in traces if trace["x"]], "layout": _layout(record)}


def _trace(
    name: str, kind: str, shown: Sequence[ShownForecast], pairs: Sequence[tuple[float, float]], axis: str = ""
) -> dict[str, Any]:
    hover = (
        {"hoverinfo": "skip"} if kind == "chosen" else {"hoverinfo": "text", "hovertext": [_hover(f) for f in shown]}
    )
    return hover | {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [x for x, _ in pairs],
        "y": [y for _, y in pairs],
        "xaxis": f"x{axis}",
        "yaxis": f"y{axis}",
        "showlegend": not axis,
        "marker": MARKERS[kind],
    }


def _hover(f: ShownForecast) -> str:
    lines = [
        f"<b>{escape(f.label)}</b>",
        f"drop {f.drop:.2f} points; predicted {f.table_drop:.2f}, with the other candidates {f.learned_drop:.2f}",
        f"latency {f.latency:.1f} % of the baseline's; predicted {f.predicted_latency:.1f} %",
    ]
    return "<br>".join(lines)


def _layout(record: StudyRecord) -> dict[str, Any]:
    drops, latencies = drop_limits(record), latency_limits(record)
    return {
        "template": None,
        "height": 420,
        "margin": {"l": 70, "r": 20, "t": 20, "b": 60},
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "bgcolor": "#ffffff"},
        "plot_bgcolor": "#ffffff",
        "legend": {"orientation": "h", "y": -0.2, "itemsizing": "constant"},
        "showlegend": True,
        "xaxis": _axis("measured drop, points", drops) | {"domain": [0, 0.44], "anchor": "y"},
        "yaxis": _axis("predicted drop, points", drops) | {"anchor": "x"},
        "xaxis2": _axis("measured latency, % of the baseline's", latencies) | {"domain": [0.56, 1], "anchor": "y2"},
        "yaxis2": _axis("predicted latency, % of the baseline's", latencies) | {"anchor": "x2"},
        "shapes": [_diagonal("", record, drops), _diagonal("2", record, latencies)],
        "annotations": _note_beyond(record, drops[1]),
    }


def _axis(title: str, limits: tuple[float, float]) -> dict[str, Any]:
    return {"title": {"text": title}, "range": list(limits), "gridcolor": "#eeeeee", "zeroline": False}


def _diagonal(axis: str, record: StudyRecord, limits: tuple[float, float]) -> dict[str, Any]:
    """Where predictions are right, as far as the axes go and on to the farthest point."""
    values = [value for f in shown_forecasts(record) for value in (f.drop, f.table_drop, f.learned_drop)]
    low, high = (min(limits[0], *values), max(limits[1], *values)) if not axis else limits
    line = {"color": LINE_COLOUR, "dash": "dash", "width": 1.5}
    ends = {"x0": low, "y0": low, "x1": high, "y1": high}
    return ends | {"type": "line", "xref": f"x{axis}", "yref": f"y{axis}", "line": line, "layer": "below"}


def _note_beyond(record: StudyRecord, edge: float) -> list[dict[str, Any]]:
    n_beyond = sum(max(f.drop, f.table_drop, f.learned_drop) > edge for f in shown_forecasts(record))
    if not n_beyond:
        return []
    place = {"xref": "x domain", "yref": "y domain", "x": 1, "y": 0, "xanchor": "right", "yanchor": "bottom"}
    return [place | {"text": f"△ beyond the edge: {n_beyond}; double-click to see all", "showarrow": False}]
