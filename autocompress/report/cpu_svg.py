"""What a processor rewards, as a picture: a bar a comparison with its interval, and the staircase of the channels."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MultipleLocator, NullFormatter

from autocompress.cpu_probe import CpuProbe, ProbeRow, Verdict, row_baseline
from autocompress.report.cpu_table import KIND_WORDS, QUESTIONS, compared, grouped
from autocompress.report.svg import write_svg
from autocompress.report.wording import shortened, threads_words

# Okabe and Ito, "Color Universal Design", 2008: told apart with every common colour blindness.
COLOURS: dict[Verdict, str] = {"faster": "#0072B2", "slower": "#D55E00", "same": "#999999", "unclear": "#DDDDDD"}
STAIRS: dict[str, str] = {"FP32": "#000000", "INT8": "#0072B2"}
MEANINGS: dict[Verdict, str] = {
    "faster": "faster",
    "slower": "slower",
    "same": "no difference that matters",
    "unclear": "noise: no verdict",
}
NOTE = "Latency of what it is compared with / latency of what is tried, on small nets; lines: 95 % interval."
WIDTH, ROW, HEADING, STAIR_HEIGHT, MARGIN = 10.0, 0.22, 0.3, 2.1, 0.95  # inches
LEFT = 4.75  # inches, for the words


def write_cpu_svg(probe: CpuProbe, path: Path) -> None:
    """Write the picture of a probe as an SVG file; equal probes give equal bytes."""
    write_svg(lambda: _figure(probe), path)


def _figure(probe: CpuProbe) -> Figure:
    rows = [row for row in grouped(probe.rows) if row.question != "channels"]
    stairs = probe.rows_of("channels")
    heights = _positions(rows)
    bars = (heights[-1] if heights else 0.0) + ROW
    below = STAIR_HEIGHT + 0.75 if stairs else 0.0
    height = bars + below + 2 * MARGIN
    figure = Figure(figsize=(WIDTH, height), dpi=72)
    axes = figure.add_axes(_box(LEFT, below + MARGIN, WIDTH - LEFT - 0.9, bars, height))
    _draw_bars(axes, rows, heights, bars)
    if stairs:
        _draw_stairs(figure.add_axes(_box(LEFT, MARGIN - 0.1, WIDTH - LEFT - 0.9, STAIR_HEIGHT, height)), stairs)
    _describe(figure, probe, rows, height)
    return figure


def _box(left: float, bottom: float, width: float, height: float, total: float) -> tuple[float, float, float, float]:
    """A rectangle in inches as fractions of the figure."""
    return left / WIDTH, bottom / total, width / WIDTH, height / total


def _positions(rows: Sequence[ProbeRow]) -> list[float]:
    """Distance of the middle of each row from the top, in inches; room for a heading before each new question."""
    found, y = [], 0.0
    for i in range(len(rows)):
        y += ROW + (HEADING if _is_first(rows, i) else 0.0)
        found.append(y - ROW / 2)
    return found


def _is_first(rows: Sequence[ProbeRow], i: int) -> bool:
    """Whether the row begins a question."""
    return i == 0 or rows[i - 1].question != rows[i].question


def _draw_bars(axes: Axes, rows: Sequence[ProbeRow], heights: Sequence[float], total: float) -> None:
    for i, (row, y) in enumerate(zip(rows, heights, strict=True)):
        if _is_first(rows, i):
            _beside(axes, QUESTIONS[row.question], y - ROW, fontweight="bold")
        ratio, colour = row.speedup, COLOURS[row.verdict]
        axes.barh(y, ratio.value - 1, left=1, height=0.7 * ROW, color=colour, zorder=2)
        axes.plot([ratio.low, ratio.high], [y, y], color="black", linewidth=1.1, zorder=3)
        end = max(ratio.high, 1.0)
        axes.annotate(
            f"{ratio.value:.2f}x", (end, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8.5
        )
        _beside(axes, shortened(f"{compared(row)}: {KIND_WORDS[row.kind]}, {row.shape}", 72), y)
    _limit(axes, rows, total)


def _beside(axes: Axes, words: str, y: float, fontweight: str = "normal") -> None:
    """Words to the left of the axes."""
    axes.annotate(
        words,
        (0, y),
        xycoords=axes.get_yaxis_transform(),
        xytext=(-6, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=8.5,
        fontweight=fontweight,
    )


def _limit(axes: Axes, rows: Sequence[ProbeRow], total: float) -> None:
    axes.set_xscale("log", base=2)
    low = min([0.8, *(row.speedup.low for row in rows)])
    high = max([1.25, *(row.speedup.high for row in rows)])
    axes.set_xlim(low / 1.08, high * 1.08)
    axes.set_ylim(total, 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.axvline(1.0, color="black", linewidth=0.9, zorder=1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("speed-up")
    axes.grid(axis="x", color="#000000", alpha=0.07)


def _draw_stairs(axes: Axes, rows: Sequence[ProbeRow]) -> None:
    """Latency by number of channels, relative to the most channels, with its interval."""
    for variant, colour in STAIRS.items():
        mine = [row for row in rows if row.variant == variant and row.n_channels]
        if mine:
            ends = [(row.n_channels or 0, 1 / row.speedup.value) for row in mine] + [(row_baseline(mine[0]), 1.0)]
            axes.plot(*zip(*sorted(ends), strict=True), marker="o", markersize=4, color=colour, label=variant)
            for row in mine:
                axes.plot([row.n_channels or 0] * 2, [1 / row.speedup.high, 1 / row.speedup.low], color=colour)
    axes.xaxis.set_major_locator(MultipleLocator(8))
    axes.set_xlabel(f"channels between 3x3 convolutions ({rows[0].shape} around them)")
    axes.set_ylabel(f"latency, 1 at {rows[0].baseline}", fontsize=9)
    axes.grid(color="#000000", alpha=0.07)
    axes.legend(frameon=False, fontsize=9, loc="upper left")


def _describe(figure: Figure, probe: CpuProbe, rows: Sequence[ProbeRow], height: float) -> None:
    threads = threads_words(probe.n_threads)
    saturation = "8-bit products saturate" if probe.int8_saturates else "8-bit products are exact"
    where = f"{shortened(probe.cpu, 60)}, OpenVINO {probe.openvino.split('-')[0]}, {threads}, {saturation}"
    figure.text(0.02, 1 - 0.3 / height, "What this CPU rewards", fontsize=12, fontweight="bold")
    figure.text(0.02, 1 - 0.54 / height, where, fontsize=10, color="#444444")
    figure.text(0.02, 0.15 / height, NOTE, fontsize=8.5, color="#444444")
    shown = {row.verdict for row in rows}
    handles = [Patch(color=COLOURS[verdict], label=MEANINGS[verdict]) for verdict in COLOURS if verdict in shown]
    if handles:
        figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(0.01, 1 - 0.6 / height),
            ncols=len(handles),
            frameon=False,
            fontsize=8.5,
        )
