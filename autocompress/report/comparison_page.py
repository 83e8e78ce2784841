"""A comparison of studies as a page and as a document, both beside their picture; neither asks the network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from autocompress.errors import StudyError
from autocompress.record import write_atomically
from autocompress.report.compared import NamedStudy, read_studies
from autocompress.report.comparison import (
    CHOICE_HEAD,
    CHOICE_NOTE,
    FRONT_HEAD,
    STUDY_HEAD,
    choice_rows,
    fastest_sentence,
    front_rows,
    study_rows,
)
from autocompress.report.comparison_svg import comparison_svg, listed_tasks
from autocompress.report.fairness import unfair_sentences
from autocompress.report.markdown import escape, escaped_rows, markdown_table
from autocompress.report.pages import rendered
from autocompress.report.story import reached_sentence

PICTURE, DOCUMENT, PAGE = "comparison.svg", "comparison.md", "comparison.html"
UNFAIR_TITLE = "What does not compare"
STUDY_SIDES, CHOICE_SIDES = "lllrllrlrlr", "llrrrlrrl"


def compare(folders: Sequence[Path], out: Path) -> tuple[Path, ...]:
    """Write a comparison of the studies in `folders` into the folder `out`, which is made if it is missing.

    Each file is replaced in one step; equal records give equal bytes.

    Returns:
        The files: `comparison.svg`, `comparison.md` and `comparison.html`.

    Raises:
        StudyError: As `read_studies`, or `out` cannot be written.
    """
    studies = read_studies(folders)
    picture = comparison_svg(studies)
    texts = {PICTURE: picture, DOCUMENT: _document(studies), PAGE: _page(studies, picture)}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_atomically(out / name, text)
    except OSError as error:
        reason = error.strerror or error
        raise StudyError(f"output folder {out} cannot be written: {reason}; give another one with --out") from None
    return tuple(out / name for name in texts)


def _title(studies: Sequence[NamedStudy]) -> str:
    return f"{len(studies)} studies of {listed_tasks(studies)}"


def _document(studies: Sequence[NamedStudy]) -> str:
    reached = [f"- **{escape(s.title)}** – {escape(reached_sentence(s.record))}" for s in studies]
    unfair = [f"- {escape(sentence)}" for sentence in unfair_sentences(studies)]
    parts = [
        f"# {escape(_title(studies))}",
        "\n".join(reached),
        escape(fastest_sentence(studies)),
        f"## {UNFAIR_TITLE}\n\n" + "\n".join(unfair) if unfair else "",
        f"![fronts and hypervolumes]({PICTURE})",
        f"## Choices\n\n{markdown_table(CHOICE_HEAD, escaped_rows(choice_rows(studies)), CHOICE_SIDES)}",
        CHOICE_NOTE,
        f"## Studies\n\n{markdown_table(STUDY_HEAD, escaped_rows(study_rows(studies)), STUDY_SIDES)}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _page(studies: Sequence[NamedStudy], picture: str) -> str:
    content: dict[str, Any] = {
        "title": _title(studies),
        "reached": [(s.title, reached_sentence(s.record)) for s in studies],
        "fastest": fastest_sentence(studies),
        "unfair_title": UNFAIR_TITLE,
        "unfair": unfair_sentences(studies),
        "picture": Markup(picture[picture.index("<svg") :]),
        "note": CHOICE_NOTE,
        "tables": [
            ("Choices", "choices", CHOICE_HEAD, choice_rows(studies), CHOICE_SIDES),
            ("Studies", "studies", STUDY_HEAD, study_rows(studies), STUDY_SIDES),
            ("Fronts", "fronts", FRONT_HEAD, front_rows(studies), "llrrrr"),
        ],
    }
    return rendered("comparison.html.j2", content)
