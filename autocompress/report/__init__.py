"""Reports of a study, made from `candidates.json` alone: neither torch nor Optuna is needed to read or redraw one."""

from pathlib import Path

from autocompress.record import RECORD_FILE, StudyRecord
from autocompress.report.comparison_page import compare
from autocompress.report.explanation_svg import write_explanation_svg, write_seconds_svg
from autocompress.report.frame import frame
from autocompress.report.front_html import write_front_html
from autocompress.report.front_svg import write_front_svg
from autocompress.report.health_svg import write_health_svg
from autocompress.report.markdown import write_report_md
from autocompress.report.statistics_table import statistics_table
from autocompress.report.training_svg import write_training_svg

__all__ = [
    "compare",
    "frame",
    "render",
    "statistics_table",
    "write_explanation_svg",
    "write_front_html",
    "write_front_svg",
    "write_health_svg",
    "write_report",
    "write_report_md",
    "write_seconds_svg",
    "write_training_svg",
]


def write_report(record: StudyRecord, folder: Path) -> None:
    """Write the pictures, `front.html` and `report.md` into `folder`, each replaced in one step.

    Equal records give equal bytes. The document goes last, so that its pictures are there when it is: `front.svg`;
    `health.svg` where more than the baseline was tried; `training.svg` where the record tells of trainings,
    `explanation.svg` and `seconds.svg` where it explains the choice; records of older versions do neither.

    Raises:
        StudyError: The baseline was not measured, or the chosen candidate is not in the record.
    """
    write_front_svg(record, folder / "front.svg")
    write_health_svg(record, folder / "health.svg")
    write_training_svg(record, folder / "training.svg")
    write_explanation_svg(record, folder / "explanation.svg")
    write_seconds_svg(record, folder / "seconds.svg")
    write_front_html(record, folder / "front.html")
    write_report_md(record, folder / "report.md")


def render(folder: Path) -> None:
    """Make the report of a study folder again, from its `candidates.json` and nothing else.

    Raises:
        StudyError: The file is missing or damaged, or as `write_report`.
    """
    write_report(StudyRecord.read(folder / RECORD_FILE), folder)
