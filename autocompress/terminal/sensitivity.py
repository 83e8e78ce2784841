"""What single choices do to the accuracy: progress, tables, and the cells of the picture."""

import time
from types import TracebackType

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from autocompress.report.sensitivity_svg import HeatCell
from autocompress.report.wording import points
from autocompress.search.sensitivity import Cell, Sensitivity

_QUIET_SECONDS = 2.0  # work that is done sooner needs no bar


class SensitivityView:
    """A bar with the time that is left, on a terminal, once work takes longer than two seconds.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("measuring single choices", total=None)
        self._start = time.monotonic()

    def __enter__(self) -> "SensitivityView":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, n_done: int, n_total: int) -> None:
        """Show how many choices are done."""
        self._progress.update(self._task, completed=n_done, total=n_total)
        if time.monotonic() - self._start > _QUIET_SECONDS:
            self._progress.start()


def print_sensitivity(console: Console, found: Sensitivity) -> None:
    """A table of bits and one of filters, the most harmful layers first, then what could not be measured."""
    of_filters = found.filter_columns
    others = tuple(column for column in found.columns if column not in of_filters)
    for title, columns in (("what each layer loses", others), ("what each channel group loses", of_filters)):
        if columns:
            console.print(_table(f"{title}, in points; below: divergence", found, columns), highlight=False)
    console.print(
        "bold: the most harmful place of each choice; each number: only this one choice is made, nothing is trained",
        highlight=False,
    )
    failures = {cell.failure for cell in found.cells.values() if cell.failure}
    for reason in sorted(failures):
        console.print(f"· failed: {reason}", markup=False, highlight=False)
    if found.n_left:
        console.print(f"· {found.n_left} choices were not measured for lack of time; the same command goes on")


def _table(title: str, found: Sensitivity, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    table.add_column("layer", overflow="fold")
    worst = {column: found.worst(column) for column in columns}
    for column in columns:
        table.add_column(Text(column), justify="right")
    for row in found.by_harm(columns):
        table.add_row(Text(row), *(_words(found, row, column, worst[column] == row) for column in columns))
    return table


def _words(found: Sensitivity, row: str, column: str, is_worst: bool) -> Text:
    cell = found.cells.get((row, column))
    if cell is None:
        return Text("")
    if cell.damage is None:
        return Text("failed" if cell.failure else "…", style="dim")
    damage = cell.damage
    drop = f"{points(damage.drop)} ±{points(damage.drop_error)}"
    return Text.assemble((drop, "bold red" if is_worst else ""), (f"\n{damage.divergence:.2g}", "dim"))


def heat_cells(found: Sensitivity) -> dict[tuple[str, str], HeatCell]:
    """The cells of the picture, by row and column."""
    return {place: _heat(cell) for place, cell in found.cells.items()}


def _heat(cell: Cell) -> HeatCell:
    if cell.damage is None:
        return HeatCell(is_possible=not cell.failure)
    return HeatCell(cell.damage.drop, cell.damage.drop_error)
