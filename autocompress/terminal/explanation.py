"""Why the chosen model is what it is, in a short table at the end of a search."""

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from autocompress.explanation import Change, Explanation, UnitExplanation
from autocompress.record import StudyRecord
from autocompress.report.explanation import (
    grouped_seconds,
    is_for_the_chosen,
    rung_sentence,
    saved_words,
    trust_sentences,
)
from autocompress.report.wording import points, printable

MAX_UNITS = 12
LONG_NAME = 24  # characters; names up to here stay on one line on a narrow terminal
WORDS = ("unit", "chosen", "costs", "saves", "next choice", "would cost", "would save")
CHOICES = (1, 4)  # the columns that may take several lines


def print_explanation(console: Console, record: StudyRecord) -> None:
    """The units that cost the most accuracy, how far predictions held, and where the time went.

    Nothing for a record without an explanation.
    """
    explanation = record.explanation
    if explanation is None:
        return
    if is_for_the_chosen(record):
        console.print(_table(explanation), highlight=False)
    lines = trust_sentences(explanation.trust, len(explanation.forecasts))[:2] if explanation.trust else []
    for line in [*lines, rung_sentence(record), _time_sentence(record)]:
        console.print(line, markup=False, highlight=False)


def _table(explanation: Explanation) -> Table:
    kept = _kept(explanation.units)
    n_left_out = len(explanation.units) - len(kept)
    more = f"the {len(kept)} that cost the most; {n_left_out} more are in the report; " if n_left_out else ""
    title = f"why each unit is what it is ({more}in points, all predicted)"
    table = Table(title=title, box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    short_names = all(len(unit.unit) <= LONG_NAME for unit in kept)
    for i, word in enumerate(WORDS):
        keeps_line = i not in CHOICES and (i > 0 or short_names)
        side: JustifyMethod = "left" if i == 0 or i in CHOICES else "right"
        table.add_column(word, justify=side, overflow="fold", no_wrap=keeps_line)
    for unit in kept:
        table.add_row(*(Text(printable(cell)) for cell in _row(unit)))
    return table


def _kept(units: tuple[UnitExplanation, ...]) -> list[UnitExplanation]:
    """The units whose choice costs the most accuracy, in the order of the model."""
    order = sorted(range(len(units)), key=lambda i: (-units[i].chosen.accuracy_drop.value, i))
    return [units[i] for i in sorted(order[:MAX_UNITS])]


def _row(unit: UnitExplanation) -> list[str]:
    own = [unit.unit, unit.chosen.choice, *_numbers(unit.chosen)]
    return [*own, *([unit.cheaper.choice, *_numbers(unit.cheaper)] if unit.cheaper else ["", "", ""])]


def _numbers(change: Change) -> list[str]:
    drop = change.accuracy_drop
    half_width = max(drop.high - drop.value, drop.value - drop.low)
    saved = saved_words(-change.latency_ms, 0.0) or saved_words(0.0, -change.size_bytes)
    return [f"{points(drop.value)} ±{points(half_width)}", saved]


def _time_sentence(record: StudyRecord) -> str:
    groups = sorted(grouped_seconds(record.seconds), key=lambda group: -group.seconds)
    return "time: " + ", ".join(f"{group.name} {100 * group.share:.0f} %" for group in groups)
