"""How a study shows itself in a notebook: what was reached, the front as a picture, and a table."""

from html import escape

from autocompress.notebook import Shown, front_html
from autocompress.record import StudyRecord
from autocompress.report.headline import floor_sentence, headline
from autocompress.report.plot_points import plot_points


def record_html(record: StudyRecord) -> str:
    """The headline, all measured candidates as a picture, and those on the front as a table, fastest first.

    Raises:
        StudyError: The baseline was not measured.
    """
    points = sorted(plot_points(record), key=lambda point: -point.speedup)
    shown = [Shown(p.candidate.name, p.measurement, p.kind, p.candidate.rung, p.on_front, p.is_chosen) for p in points]
    lines = [record.study.task, *headline(record), floor_sentence(record)]
    first, *others = (escape(line) for line in lines)
    words = "".join(f"<p>{line}</p>" for line in others)
    return f"<div><p><b>{first}</b></p>{words}{front_html(shown, record.study.max_drop)}</div>"
