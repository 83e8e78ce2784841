"""The course of trainings as plain data: the traces and the layout that plotly.js draws."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from autocompress.measurement import CoursePoint
from autocompress.record import StudyRecord
from autocompress.report.training_svg import training_colours
from autocompress.report.trainings import ShownTraining, loss_words, rate_words, shown_trainings, spans_a_decade

MAX_POWERS = 5  # of ten, with all three marks each


def training_figure(record: StudyRecord) -> dict[str, Any] | None:
    """`data` and `layout` for `Plotly.newPlot`; None where no training has a course.

    Names of the user are escaped, since plotly reads a little HTML.
    """
    trainings = shown_trainings(record)
    if not trainings:
        return None
    traces = [_trace(shown, colour) for shown, colour in zip(trainings, training_colours(trainings), strict=True)]
    return {"data": traces, "layout": _layout([point.loss for shown in trainings for point in shown.training.course])}


def _trace(shown: ShownTraining, colour: str) -> dict[str, Any]:
    course, name = shown.training.course, escape(shown.name)
    inner = len(course) - 1
    end = ("circle", 6) if shown.training.stopped_at is None else ("x", 11)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [point.step for point in course],
        "y": [point.loss for point in course],
        "hovertext": [_hover(name, point) for point in course],
        "hoverinfo": "text",
        "line": {"color": colour, "width": 3 if shown.is_chosen else 1.5},
        "marker": {
            "color": colour,
            "symbol": ["circle"] * inner + [end[0]],
            "size": [6] * inner + [end[1]],
            "opacity": [0] * inner + [1],
            "line": {"width": 0},
        },
    }


def _hover(name: str, point: CoursePoint) -> str:
    rate = rate_words(point.learning_rate)
    lines = [f"<b>{name}</b>", f"step {point.step}", f"loss {loss_words(point.loss)}", f"rate {rate}" if rate else ""]
    return "<br>".join(line for line in lines if line)


def _layout(losses: Sequence[float]) -> dict[str, Any]:
    grid = {"gridcolor": "#eeeeee", "zeroline": False}
    scale = _logarithmic(losses) if spans_a_decade(losses) else {"type": "linear"}
    return {
        "template": None,
        "height": 340,
        "margin": {"l": 70, "r": 20, "t": 20, "b": 50},
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "bgcolor": "#ffffff"},
        "plot_bgcolor": "#ffffff",
        "legend": {"orientation": "v", "itemsizing": "constant"},
        "showlegend": True,
        "xaxis": {"title": {"text": "training step"}, "rangemode": "tozero"} | grid,
        "yaxis": {"title": {"text": "loss"}} | grid | scale,
    }


def _logarithmic(losses: Sequence[float]) -> dict[str, Any]:
    """An axis with marks at 1, 2 and 5 times powers of ten; plotly's own would leave out the power."""
    first, last = math.floor(math.log10(min(losses))), math.ceil(math.log10(max(losses)))
    digits = (1, 2, 5) if last - first < MAX_POWERS else (1,)
    powers = range(first, last + 1, 1 + (last - first) // MAX_POWERS)
    marks = [mark for power in powers for digit in digits if 0 < (mark := float(f"{digit}e{power}")) < math.inf]
    return {"type": "log", "tickmode": "array", "tickvals": marks, "ticktext": [f"{mark:g}" for mark in marks]}
