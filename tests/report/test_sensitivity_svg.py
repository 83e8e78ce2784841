"""The picture of what single choices cost."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from autocompress.report import sensitivity_svg
from autocompress.report.sensitivity_svg import HeatCell, write_sensitivity_svg

ROWS, COLUMNS = (
    ("stem", "a.layer.with.a.long.name.that.goes.on.and.on", "head"),
    ("8 bits", "4 bits", "50 % of filters"),
)
CELLS = {
    ("stem", "8 bits"): HeatCell(-0.0001, 0.002),
    ("stem", "4 bits"): HeatCell(0.031, 0.004),
    ("stem", "50 % of filters"): HeatCell(0.4, 0.02),
    ("head", "8 bits"): HeatCell(),
    ("head", "4 bits"): HeatCell(is_possible=False),
}


def figure() -> Figure:
    return sensitivity_svg._figure(ROWS, COLUMNS, CELLS, "tiny", "space full")


def test_each_cell_says_its_drop_with_its_error() -> None:
    words = {text.get_text() for text in figure().axes[0].texts}
    assert words == {"-0.01 ±0.20", "3.10 ±0.40", "40.00 ±2.00", "not measured", "failed"}


def test_the_first_row_is_on_top() -> None:
    bottom, top = figure().axes[0].get_ylim()
    assert bottom > top


@pytest.mark.parametrize(
    ("gentle", "harmful"),
    [
        pytest.param(0.002, 0.02, id="a larger drop"),
        pytest.param(0.001, 0.0012, id="near the lower end"),
        pytest.param(-1.0, 0.01, id="a gain"),
    ],
)
def test_worse_is_darker(gentle: float, harmful: float) -> None:
    first, second = (sum(sensitivity_svg.COLOURS(sensitivity_svg._scale(drop))[:3]) for drop in (gentle, harmful))
    assert first > second


@pytest.mark.parametrize("drop", [-5.0, 0.0, 7.0])
def test_drops_off_the_scale_have_the_colour_of_its_ends(drop: float) -> None:
    assert sensitivity_svg._scale(drop) == (1.0 if drop > 1 else 0.0)


def test_a_hundred_rows_have_as_much_room_each_as_three() -> None:
    many = tuple(f"layer{i}" for i in range(100))
    drawn = [figure(), sensitivity_svg._figure(many, COLUMNS, {}, "tiny", "")]
    heights = [f.get_figheight() * f.axes[0].get_position().height / len(f.axes[0].get_yticks()) for f in drawn]
    assert heights[0] == pytest.approx(heights[1])


def test_equal_cells_give_equal_bytes_of_valid_svg(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        write_sensitivity_svg(ROWS, COLUMNS, CELLS, "tiny & more <layers>", "space full", tmp_path / name)
    first = (tmp_path / "a.svg").read_bytes()
    assert first == (tmp_path / "b.svg").read_bytes()
    assert ElementTree.fromstring(first).tag.endswith("svg")
