"""The front as a page to explore: self-contained, opens offline, asks the network for nothing."""

import base64
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from autocompress.record import StudyRecord, write_atomically
from autocompress.report.explanation import (
    FORECAST_NOTE,
    GROUP_COLOURS,
    grouped_seconds,
    rung_sentence,
    trust_sentences,
)
from autocompress.report.headline import floor_sentence, headline
from autocompress.report.health import failure_groups
from autocompress.report.page_data import page_data
from autocompress.report.pages import rendered
from autocompress.report.story import (
    floor_cost_sentence,
    int8_sentence,
    search_sentence,
    time_sentence,
    undecided_sentences,
)
from autocompress.report.wording import phases, printable

_TEMPLATES = files("autocompress.report") / "templates"
SCRIPTS = (  # in the order in which they run
    "elements.js",
    "choice.js",
    "state.js",
    "axes.js",
    "front.js",
    "front_marks.js",
    "front_events.js",
    "strip.js",
    "panel.js",
    "decisions.js",
    "training.js",
    "table.js",
    "limits.js",
    "health.js",
    "main.js",
)
STYLES = ("front.css", "print.css")


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
    text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _content(record: StudyRecord) -> dict[str, Any]:
    result, place = headline(record)
    explanation = record.explanation
    trust = explanation.trust if explanation else None
    script, data = _joined(SCRIPTS), page_data(record)
    return {
        "record": record,
        "result": result,
        "place": place,
        "floor": floor_sentence(record),
        "story": _story(record),
        "failed": failure_groups(record),
        "trust": trust_sentences(trust, len(explanation.forecasts)) if explanation and trust else [],
        "forecasts": data["forecasts"] is not None,
        "forecast_note": FORECAST_NOTE,
        "has_sensitivity": bool(explanation and explanation.sensitivity),
        "phases": phases(record.seconds) if record.seconds else [],
        "groups": [(g, GROUP_COLOURS[g.name]) for g in grouped_seconds(record.seconds)],
        "rungs": rung_sentence(record),
        "environment": _environment(record),
        "data": script_json(data),
        "style": Markup(_joined(STYLES)),
        "script": Markup(script),
        "script_hash": Markup(_hash_of(script)),
    }


def _story(record: StudyRecord) -> list[tuple[str, str]]:
    """The story in numbers as titles and texts, without what a record does not tell."""
    parts = [
        ("Plain INT8", int8_sentence(record)),
        ("What can't be told apart", " ".join(undecided_sentences(record))),
        ("What the floor cost", floor_cost_sentence(record).removeprefix("What the floor cost: ")),
        ("Where the time went", " ".join(s for s in (time_sentence(record), search_sentence(record)) if s)),
    ]
    return [(title, text[0].upper() + text[1:]) for title, text in parts if text]


def _joined(names: tuple[str, ...]) -> str:
    return "\n".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in names)


def _hash_of(script: str) -> str:
    """By which the page's policy knows its one script, so that the browser runs no other."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _environment(record: StudyRecord) -> str:
    where, study = record.environment, record.study
    versions = ", ".join(f"{name} {version}" for name, version in sorted(where.versions.items()))
    saturates = "saturates" if where.int8_saturates else "does not saturate"
    return printable(
        f"{where.cpu}: {where.n_cores} cores usable, {', '.join(where.capabilities)}, 8-bit times 8-bit {saturates}. "
        f"{versions}. Search: space {study.space}, {study.n_parameters} parameters, sampler {study.sampler}, "
        f"seed {study.seed}. Made by autocompress."
    )
