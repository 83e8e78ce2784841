"""The front as a page to explore: self-contained, opens offline, asks the network for nothing."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from autocompress.pareto import Candidate
from autocompress.record import StudyRecord, write_atomically
from autocompress.report.explanation import (
    FORECAST_NOTE,
    GROUP_COLOURS,
    UNIT_HEAD,
    UNIT_NOTE,
    grouped_seconds,
    is_for_the_chosen,
    rung_sentence,
    trust_sentences,
    unit_rows,
)
from autocompress.report.explanation_plotly import forecast_figure
from autocompress.report.front_plotly import figure
from autocompress.report.headline import floor_sentence, headline
from autocompress.report.pages import rendered
from autocompress.report.plot_points import PlotPoint, plot_points, with_zipped_sizes
from autocompress.report.training_plotly import training_figure
from autocompress.report.training_svg import TRAINING_NOTE
from autocompress.report.trainings import failure_sentence, training_line
from autocompress.report.wording import kilobytes, phases, points_interval, recipe_brief, recipe_lines, times, zipped

ZIPPED_SIZE = "zipped size, kB"
HEAD = (
    "name",
    "front",
    "rung",
    "speed-up",
    "latency, ms",
    "drop, points",
    "score",
    "size, kB",
    ZIPPED_SIZE,
    "MACs",
    "recipe",
)


def write_front_html(record: StudyRecord, path: Path) -> None:
    """Write the page; equal records give equal bytes.

    Raises:
        StudyError: The baseline was not measured, or the chosen candidate is not in the record.
    """
    write_atomically(path, rendered("front.html.j2", _content(record)))


def script_json(value: Any) -> Markup:
    r"""JSON that is safe inside a `script` element: no `<`, `>` or `&`, so nothing in it can end the element.

    >>> script_json("</script>")
    Markup('"\\u003c/script\\u003e"')
    """
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _content(record: StudyRecord) -> dict[str, Any]:
    result, place = headline(record)
    training = training_figure(record)
    return {
        "record": record,
        "result": result,
        "place": place,
        "floor": floor_sentence(record),
        "figure": script_json(figure(record)),
        "training": script_json(training) if training else None,
        "training_note": TRAINING_NOTE,
        "plotly_js": Markup(get_plotlyjs()),
        "head": HEAD if with_zipped_sizes(record) else [title for title in HEAD if title != ZIPPED_SIZE],
        "rows": _rows(record),
        "failed": [(c.name, c.rung, failure_sentence(c)) for c in record.candidates if c.failure is not None],
        "phases": phases(record.seconds) if record.seconds else [],
    } | _explanation(record)


def _explanation(record: StudyRecord) -> dict[str, Any]:
    """Names of the template that stand for nothing in a record without an explanation."""
    explanation, forecasts = record.explanation, forecast_figure(record)
    trust = explanation.trust if explanation else None
    return {
        "unit_head": UNIT_HEAD,
        "unit_note": UNIT_NOTE,
        "units": unit_rows(explanation) if explanation and is_for_the_chosen(record) else [],
        "forecasts": script_json(forecasts) if forecasts else None,
        "forecast_note": FORECAST_NOTE,
        "groups": [(g, GROUP_COLOURS[g.name]) for g in grouped_seconds(record.seconds)] if explanation else [],
        "rungs": rung_sentence(record),
        "trust": trust_sentences(trust, len(explanation.forecasts)) if explanation and trust else [],
    }


def _rows(record: StudyRecord) -> list[dict[str, Any]]:
    with_zipped = with_zipped_sizes(record)
    shown: Sequence[PlotPoint] = sorted(plot_points(record), key=lambda p: (not p.on_front, -p.speedup))
    return [
        {
            "cells": _cells(p, with_zipped),
            "brief": recipe_brief(p.candidate.recipe),
            "recipe": [*recipe_lines(p.candidate.recipe, record.study.n_layers), *_training(record, p.candidate)],
            "classes": _classes(p),
        }
        for p in shown
    ]


def _training(record: StudyRecord, candidate: Candidate) -> list[str]:
    return [f"trained {training_line(record, candidate.training)}"] if candidate.training else []


def _cells(point: PlotPoint, with_zipped: bool) -> list[str]:
    m = point.measurement
    return [
        point.candidate.name + (", chosen" if point.is_chosen else ""),
        "yes" if point.on_front else "no",
        point.candidate.rung,
        times(m.speedup),
        f"{m.latency_ms:.3f}",
        points_interval(m.accuracy_drop),
        f"{m.accuracy:.4f}",
        kilobytes(m.size_bytes),
        *([zipped(m.zipped_bytes)] if with_zipped else []),
        f"{m.macs:,}",
    ]


def _classes(point: PlotPoint) -> str:
    marks = {"front": point.on_front, "chosen": point.is_chosen}
    return " ".join(name for name, holds in marks.items() if holds)
