"""Where the time of a model goes, as a picture: a bar a layer, and what INT8 or half of the filters would leave."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autocompress.report.svg import write_svg
from autocompress.report.wording import shortened

# Okabe and Ito, "Color Universal Design", 2008: told apart with every common colour blindness.
COLOURS = {"FP32": "#999999", "INT8": "#0072B2", "half of the filters": "#E69F00"}
NOTE = "The bars of INT8 and of half of the filters show what is left of each layer. Neither model was trained."
ROW, TOP, BOTTOM = 0.42, 1.05, 0.95  # inches: height of a layer, and of what is above and below all of them
WIDTH, LEFT, RIGHT = 10.0, 0.26, 0.96
BAR = 0.26  # of a row


@dataclass(frozen=True)
class LayerBar:
    """One layer.

    Attributes:
        name: Dotted name.
        latency_ms: In FP32, >= 0.
        int8_saves_ms: How much less on integers; None where it was not measured.
        half_saves_ms: How much less with half of the filters; None where it was not measured.
    """

    name: str
    latency_ms: float
    int8_saves_ms: float | None = None
    half_saves_ms: float | None = None


def write_layer_svg(bars: Sequence[LayerBar], title: str, subtitle: str, path: Path) -> None:
    """Write the bars, the first layer on top, as an SVG file; equal bars give equal bytes.

    Args:
        bars: At least one.
        title: What was measured.
        subtitle: Where.
        path: The file; replaced in one step.
    """
    write_svg(lambda: _figure(bars, title, subtitle), path)


def _figure(bars: Sequence[LayerBar], title: str, subtitle: str) -> Figure:
    height = TOP + ROW * len(bars) + BOTTOM
    figure = Figure(figsize=(WIDTH, height), dpi=72)
    axes = figure.add_axes((LEFT, BOTTOM / height, RIGHT - LEFT, ROW * len(bars) / height))
    series = _series(bars)
    for place, (name, left_over) in enumerate(series.items()):
        _draw(axes, [left_over(bar) for bar in bars], place - (len(series) - 1) / 2, name)
    _describe(axes, bars)
    figure.text(0.02, 1 - 0.32 / height, shortened(title, 90), fontsize=12, fontweight="bold")
    figure.text(0.02, 1 - 0.56 / height, shortened(subtitle, 110), fontsize=10, color="#444444")
    figure.text(0.02, 0.15 / height, NOTE, fontsize=8.5, color="#444444")
    return figure


def _series(bars: Sequence[LayerBar]) -> dict[str, Callable[[LayerBar], float]]:
    """What is left of a layer's time, by what was done; only what was measured."""
    series: dict[str, Callable[[LayerBar], float]] = {"FP32": lambda bar: bar.latency_ms}
    if any(bar.int8_saves_ms is not None for bar in bars):
        series["INT8"] = lambda bar: max(0.0, bar.latency_ms - (bar.int8_saves_ms or 0.0))
    if any(bar.half_saves_ms is not None for bar in bars):
        series["half of the filters"] = lambda bar: max(0.0, bar.latency_ms - (bar.half_saves_ms or 0.0))
    return series


def _draw(axes: Axes, lengths: Sequence[float], offset: float, name: str) -> None:
    places = [row + BAR * offset for row in range(len(lengths))]
    axes.barh(places, lengths, height=BAR * 0.92, color=COLOURS[name], label=name, zorder=2)


def _describe(axes: Axes, bars: Sequence[LayerBar]) -> None:
    axes.set_yticks(range(len(bars)), [shortened(bar.name, 30) for bar in bars], fontsize=9)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(0, 1.04 * max(_longest(bar) for bar in bars) or 1.0)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("milliseconds of one inference")
    axes.grid(axis="x", color="#000000", alpha=0.1)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(COLOURS), frameon=False, fontsize=9)


def _longest(bar: LayerBar) -> float:
    return max(bar.latency_ms, *(bar.latency_ms - (saved or 0.0) for saved in (bar.int8_saves_ms, bar.half_saves_ms)))
