"""The picture of the times of layers."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from autocompress.report import layer_svg
from autocompress.report.layer_svg import LayerBar, write_layer_svg

BARS = [LayerBar("stem", 0.5, 0.2, 0.3), LayerBar("head", 0.1, -0.1, 0.05), LayerBar("everything else", 0.0, 0.0, 0.0)]


def figure(bars: list[LayerBar]) -> Figure:
    return layer_svg._figure(bars, "tiny: where the time goes", "a CPU, one thread")


def lengths(drawn: Figure) -> dict[str, list[float]]:
    """Lengths of the bars from the first layer to the last, by what the legend says of them."""
    axes = drawn.axes[0]
    return {
        str(group.get_label()): [bar.get_width() for bar in group if isinstance(bar, Rectangle)]
        for group in axes.containers
    }


def test_bars_are_what_is_left_of_each_layer() -> None:
    drawn = lengths(figure(BARS))
    assert drawn["FP32"] == [0.5, 0.1, 0.0]
    assert drawn["INT8"] == pytest.approx([0.3, 0.2, 0.0])
    assert drawn["half of the filters"] == pytest.approx([0.2, 0.05, 0.0])


@pytest.mark.parametrize(
    ("bars", "kinds"),
    [
        pytest.param([LayerBar("a", 1.0)], {"FP32"}, id="only times"),
        pytest.param([LayerBar("a", 1.0, 0.5)], {"FP32", "INT8"}, id="no filters to remove"),
        pytest.param([LayerBar("a", 1.0, None, 0.5)], {"FP32", "half of the filters"}, id="nothing to quantize"),
    ],
)
def test_what_was_not_measured_is_not_drawn(bars: list[LayerBar], kinds: set[str]) -> None:
    assert set(lengths(figure(bars))) == kinds


def test_more_saved_than_there_was_is_a_bar_of_no_length() -> None:
    assert lengths(figure([LayerBar("a", 0.1, 0.2)]))["INT8"] == [0.0]


def test_the_first_layer_is_on_top_and_every_bar_inside() -> None:
    axes = figure(BARS).axes[0]
    bottom, top = axes.get_ylim()
    assert bottom > top
    assert [label.get_text() for label in axes.get_yticklabels()] == ["stem", "head", "everything else"]
    assert axes.get_xlim()[1] > 0.5


def test_bars_of_one_layer_do_not_overlap_each_other_or_the_next_layer() -> None:
    axes = figure(BARS).axes[0]
    spans = sorted((bar.get_y(), bar.get_y() + bar.get_height()) for group in axes.containers for bar in group)
    assert all(end <= start + 1e-9 for (_, end), (start, _) in zip(spans, spans[1:], strict=False))


def test_a_hundred_layers_have_as_much_room_each_as_three() -> None:
    rows = [figure(bars) for bars in (BARS, [LayerBar(f"layer{i}", 1.0) for i in range(100)])]
    heights = [f.get_figheight() * f.axes[0].get_position().height / len(f.axes[0].get_yticks()) for f in rows]
    assert heights[0] == pytest.approx(heights[1])


def test_equal_bars_give_equal_bytes_of_valid_svg(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        write_layer_svg(BARS, "tiny & more <layers>", "a CPU", tmp_path / name)
    first = (tmp_path / "a.svg").read_bytes()
    assert first == (tmp_path / "b.svg").read_bytes()
    assert ElementTree.fromstring(first).tag.endswith("svg")
