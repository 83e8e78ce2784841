"""What single choices do to the accuracy, as a picture: a row a layer, a column a choice, the darker the worse."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from autocompress.report.svg import write_svg
from autocompress.report.wording import points, shortened

NOTE = "Points of the score that are lost if only this one choice is made and nothing is trained; ± standard error."
COLOURS = colormaps["YlOrBr"]  # in order of lightness, so that it is readable with every colour blindness
SMALLEST, LARGEST = 0.001, 0.5  # drops at the ends of the scale
NO_TIME, FAILED = "#FFFFFF", "#DDDDDD"
ROW, TOP, BOTTOM = 0.36, 1.6, 1.25  # inches: height of a row, and of what is above and below all of them
COLUMN, LEFT, RIGHT = 0.98, 2.9, 0.3  # inches
_DARK = 0.66  # of the scale, from which on words are white


@dataclass(frozen=True)
class HeatCell:
    """One choice in one layer.

    Attributes:
        drop: Accuracy drop in units of the score; None where it was not measured.
        drop_error: Its standard error.
        is_possible: Whether it can be done at all.
    """

    drop: float | None = None
    drop_error: float = 0.0
    is_possible: bool = True


def write_sensitivity_svg(
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[str, str], HeatCell],
    title: str,
    subtitle: str,
    path: Path,
) -> None:
    """Write the picture as an SVG file; equal cells give equal bytes.

    Args:
        rows: Names of layers, from the top, at least one.
        columns: Choices, from the left, at least one.
        cells: By row and column; those that are missing stay empty.
        title: What was measured.
        subtitle: Where, and how.
        path: The file; replaced in one step.
    """
    write_svg(lambda: _figure(rows, columns, cells, title, subtitle), path)


def _figure(
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[str, str], HeatCell],
    title: str,
    subtitle: str,
) -> Figure:
    inner_width, inner_height = COLUMN * len(columns), ROW * len(rows)
    width, height = max(LEFT + inner_width + RIGHT, 7.5), TOP + inner_height + BOTTOM
    figure = Figure(figsize=(width, height), dpi=72)
    axes = figure.add_axes((LEFT / width, BOTTOM / height, inner_width / width, inner_height / height))
    for (row, column), cell in cells.items():
        _draw(axes, rows.index(row), columns.index(column), cell)
    _describe(axes, rows, columns)
    _legend(figure, width, height)
    characters = int(12.5 * width)
    figure.text(0.15 / width, 1 - 0.32 / height, shortened(title, characters), fontsize=12, fontweight="bold")
    figure.text(0.15 / width, 1 - 0.56 / height, shortened(subtitle, characters), fontsize=10, color="#444444")
    figure.text(0.15 / width, 0.15 / height, NOTE, fontsize=8.5, color="#444444")
    return figure


def _scale(drop: float) -> float:
    """Place of a drop on the scale, 0 to 1, by its logarithm; a drop below the smallest is as good as none."""
    return float(LogNorm(SMALLEST, LARGEST)(min(max(drop, SMALLEST), LARGEST)))


def _draw(axes: Axes, row: int, column: int, cell: HeatCell) -> None:
    words, colour, ink = _look(cell)
    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, edgecolor="white", linewidth=1.5))
    axes.text(column, row, words, ha="center", va="center", fontsize=8, color=ink)


def _look(cell: HeatCell) -> tuple[str, str, str]:
    """Words of a cell, and the colours of its ground and of the words."""
    if not cell.is_possible:
        return "failed", FAILED, "#444444"
    if cell.drop is None:
        return "not measured", NO_TIME, "#444444"
    place = _scale(cell.drop)
    words = f"{points(cell.drop)} ±{points(cell.drop_error)}"
    return words, to_hex(COLOURS(place)), "white" if place > _DARK else "black"


def _describe(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [shortened(row, 38) for row in rows], fontsize=9)
    labels = ["\n".join(_two_lines(column)) for column in columns]
    axes.set_xticks(range(len(columns)), labels, fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _two_lines(column: str) -> list[str]:
    """`column` on at most two lines of at most 17 characters, broken at a blank near the middle."""
    blanks = [i for i, character in enumerate(column) if character == " "]
    if len(column) <= 9 or not blanks:
        return [shortened(column, 17)]
    middle = min(blanks, key=lambda i: abs(i - len(column) / 2))
    return [shortened(column[:middle], 17), shortened(column[middle + 1 :], 17)]


def _legend(figure: Figure, width: float, height: float) -> None:
    axes = figure.add_axes((LEFT / width, 0.72 / height, 3.2 / width, 0.16 / height))
    bar = figure.colorbar(ScalarMappable(LogNorm(SMALLEST, LARGEST), COLOURS), cax=axes, orientation="horizontal")
    ticks = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3]
    bar.set_ticks(ticks, labels=[f"{100 * tick:g}" for tick in ticks])
    bar.minorticks_off()
    bar.outline.set_visible(False)
    axes.tick_params(labelsize=8.5, length=2)
    axes.text(1.04, 0.5, "points lost", transform=axes.transAxes, va="center", fontsize=9)
