"""Pictures of the search benchmark: hypervolume over trials and over seconds, median and quartiles over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from autocompress.planning.problem import Floats
from autocompress.report.svg import write_svg
from examples.benchmarks.search.replay import PLANNERS, Run

# Okabe and Ito, "Color Universal Design", 2008: told apart with every common colour blindness.
COLOURS = {
    "bayesdp": "#009E73",
    "spdy": "#0072B2",
    "greedy": "#CC79A7",
    "tpe": "#D55E00",
    "nsga2": "#E69F00",
    "gp": "#56B4E9",
    "random": "#777777",
}
NOTE = "Line: median over seeds. Band: quartiles. The dotted line is the best front that is known."
N_TIMES = 400


def write_plot(runs: Mapping[str, Sequence[Run]], title: str, path: Path) -> None:
    """Write both panels as one SVG file; equal runs give equal bytes.

    Args:
        runs: By name of the sampler, one a seed, all of the same number of trials a sampler.
        title: Above the picture.
        path: Of the file.
    """
    write_svg(lambda: _figure(runs, title), path)


def _figure(runs: Mapping[str, Sequence[Run]], title: str) -> Figure:
    figure = Figure(figsize=(10, 4.6), dpi=72)
    left, right = figure.add_axes((0.07, 0.2, 0.38, 0.62)), figure.add_axes((0.5, 0.2, 0.38, 0.62))
    lowest = min(float(run.shares[0]) for some in runs.values() for run in some)
    for axes, label in ((left, "trials"), (right, "minutes, database included")):
        _dress(axes, label, lowest)
    for name, some in runs.items():
        shares = np.stack([run.shares for run in some])
        _draw(left, name, np.arange(1, shares.shape[1] + 1), shares)
        times, at_times = over_time(some)
        _draw(right, name, times / 60, at_times)
    for axes in (left, right):
        axes.set_xlim(left=0)
    right.set_yticklabels([])
    right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.text(0.07, 0.93, title, fontsize=12, fontweight="bold")
    figure.text(0.07, 0.87, "share of the best hypervolume", fontsize=9.5, color="#444444")
    figure.text(0.07, 0.03, NOTE, fontsize=8.5, color="#444444")
    return figure


def over_time(runs: Sequence[Run]) -> tuple[Floats, Floats]:
    """Shares over seconds: the moments at which every run has had its first trial and none has ended.

    Returns:
        Seconds, shape (n,), and shares, shape (runs, n).
    """
    times = np.linspace(max(run.seconds[0] for run in runs), min(run.seconds[-1] for run in runs), N_TIMES)
    places = [np.searchsorted(run.seconds, times, side="right") - 1 for run in runs]
    return times, np.stack([run.shares[place] for run, place in zip(runs, places, strict=True)])


def _draw(axes: Axes, name: str, x: Floats, shares: Floats) -> None:
    low, middle, high = np.quantile(shares, [0.25, 0.5, 0.75], axis=0)
    is_ours = name == "bayesdp"
    style = "-" if name in PLANNERS else (0, (4, 1.5))
    axes.fill_between(x, low, high, color=COLOURS[name], alpha=0.15, linewidth=0)
    axes.plot(x, middle, color=COLOURS[name], linestyle=style, linewidth=2.4 if is_ours else 1.3, label=name)


def _dress(axes: Axes, label: str, lowest: float) -> None:
    axes.axhline(1.0, color="#444444", linewidth=0.8, linestyle=":")
    axes.set_xlabel(label)
    axes.set_ylim(max(0.0, np.floor(10 * lowest) / 10), 1.02)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
