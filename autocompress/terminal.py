"""What the command line shows: the live view of a search, tables and summaries."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autocompress.graph import ModelGraph
from autocompress.latency import PairedLatency
from autocompress.measurement import CoursePoint, Environment, Measurement, Speedup
from autocompress.pareto import Candidate, Choice
from autocompress.record import StudyRecord
from autocompress.report.trainings import failure_sentence, incidents, loss_words, rate_words, spans_a_decade
from autocompress.report.wording import kilobytes, points_interval, recipe_brief, times, zipped
from autocompress.search import Progress
from autocompress.search.single import Claim
from autocompress.space import BoundSpace

SPARKS = 24
BARS = "▁▂▃▄▅▆▇█"


class SearchView:
    """A live view of a search on a terminal, plain lines elsewhere.

    Args:
        console: Where to draw.
        budget: As the user wrote it.
    """

    def __init__(self, console: Console, budget: str) -> None:
        self._console, self._budget = console, budget
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._start = time.monotonic()
        self._training = TrainingLine()

    def __enter__(self) -> "SearchView":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def update(self, progress: Progress) -> None:
        """Show the present state; a finished candidate also stays as a line."""
        if progress.message:
            self._console.print(progress.message, markup=False)
        if progress.finished:
            clock = _clock(time.monotonic() - self._start)
            self._console.print(Text(f"{clock}  {candidate_line(progress.finished)}"), soft_wrap=True)
        if self._live:
            self._live.update(self._render(progress))

    def _render(self, progress: Progress) -> Group:
        elapsed, left = progress.seconds_elapsed, progress.seconds_left
        self._training.update(progress)
        training = self._training.text(progress)
        bar = ProgressBar(total=max(elapsed + left, 1e-9), completed=elapsed, width=40)
        of = f" of about {progress.n_total}" if progress.n_total else ""
        remaining = f"about {_clock(left)} left, budget {self._budget}"
        best = "nothing yet" if progress.best is None else candidate_line(progress.best)
        return Group(
            Text(progress.phase, style="bold"),
            *([training] if training else []),
            Text(f"{progress.n_done}{of} candidates, {remaining}"),
            Text(f"best so far: {best}"),
            bar,  # last, since it does not end its line
        )


class TrainingLine:
    """The line of the live view about the training under way: step, loss, rate, and the losses seen so far."""

    def __init__(self) -> None:
        self._training = ("", 0)
        self._course: list[CoursePoint] = []

    def update(self, progress: Progress) -> None:
        """Remember where the training is; another training starts over, and one that was rolled back goes on."""
        training, point = (progress.phase, progress.n_steps), progress.training
        if training != self._training:
            self._training, self._course = training, []
        if point is not None:
            self._course = [*(past for past in self._course if past.step < point.step), point]

    def text(self, progress: Progress) -> Text | None:
        """Such as `step 60 of 150 · loss 0.412 · rate 3.1e-03`, then a sparkline; None while nothing is trained."""
        point = progress.training
        if point is None:
            return None
        of = f" of {progress.n_steps}" if progress.n_steps else ""
        rate = rate_words(point.learning_rate)
        parts = [f"step {point.step}{of}", f"loss {loss_words(point.loss)}", *([f"rate {rate}"] if rate else [])]
        return Text(f"{' · '.join(parts)}  {sparkline(self._course, progress.n_steps)}", no_wrap=True, overflow="crop")


def sparkline(course: Sequence[CoursePoint], n_steps: int) -> str:
    """Losses as a row of bars that grows to `SPARKS` of them at the end of the training.

    Each bar is the mean loss of its share of the steps, the highest loss being the highest bar; where losses span more
    than a decade, their logarithms are shown. A share without a loss looks like the one before, or blank at the start.

    Args:
        course: Points by rising step.
        n_steps: Steps of the whole training; 0 where that is not known.

    >>> points = [CoursePoint(step=step, loss=loss, learning_rate=0) for step, loss in ((1, 3), (7, 2), (12, 1))]
    >>> sparkline(points, n_steps=24)
    '██████▅▅▅▅▅▁'
    """
    n_all = max([n_steps, *(point.step for point in course)])
    shares: dict[int, list[float]] = {}
    for point in course:
        shares.setdefault(math.ceil(point.step * SPARKS / n_all) - 1, []).append(point.loss)
    losses = {column: fmean(found) for column, found in shares.items()}
    bars = dict(zip(losses, _bars(list(losses.values())), strict=True))
    line = " "
    for column in range(max(bars, default=-1) + 1):
        line += bars.get(column, line[-1])
    return line[1:]


def _bars(losses: Sequence[float]) -> list[str]:
    heights = [math.log(loss) for loss in losses] if spans_a_decade(losses) else list(losses)
    low = min(heights, default=0.0)
    step = (max(heights, default=0.0) - low) / (len(BARS) - 1) or 1.0
    return [BARS[round((height - low) / step)] for height in heights]


def candidate_line(candidate: Candidate) -> str:
    """A candidate in one line: name and recipe, speed-up, drop and size, or why it failed."""
    what = candidate.name if candidate.label else f"{candidate.digest}, {recipe_brief(candidate.recipe)}"
    what += ", trained longer" if candidate.rung == "long" else ""
    m = candidate.measurement
    if m is None:
        return f"{what}: failed: {failure_sentence(candidate)}"
    what = ", ".join([what, *(incidents(candidate.training) if candidate.training else [])])
    drop = points_interval(m.accuracy_drop)
    size = f"{kilobytes(m.size_bytes)} kB" + (f" ({zipped(m.zipped_bytes)} zipped)" if m.zipped_bytes else "")
    return f"{what}: {times(m.speedup)} faster, drop {drop} points, {size}"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def print_summary(console: Console, record: StudyRecord, folder: Path) -> None:
    """The choice, what should be known about it, and where everything is."""
    chosen = record.chosen
    if chosen is None:
        return
    candidate = record.candidate(chosen.digest)
    m = chosen.test or candidate.measurement
    where = "test" if chosen.test else "validation"
    if m:
        console.print(f"\n[bold]chosen: {candidate.name}[/bold]", highlight=False)
        print_measurement(console, m, where, folder / "chosen")
    if candidate.recipe.is_identity:
        console.print("the FP32 model is chosen: no compressed model that was tried keeps the floor and is faster")
    elif not chosen.meets_wishes:
        console.print(f"the floor is not met: {chosen.reason}", markup=False)
    for finding in record.findings:
        console.print(f"· {finding}", markup=False, highlight=False)
    console.print(f"report: {folder / 'report.md'}, {folder / 'front.html'}", markup=False)


def print_measurement(console: Console, m: Measurement, split: str, folder: Path) -> None:
    """What a deployed model does, a line a number."""
    table = Table.grid(padding=(0, 2))
    table.add_row("speed-up over FP32", f"{times(m.speedup)}, {m.speedup.n_pairs} pairs, 95 % interval")
    table.add_row("latency", f"{m.latency_ms:.3f} ms, median of one inference at one thread")
    table.add_row(
        f"score on {split}", f"{m.accuracy:.4f} deployed, {m.torch_accuracy:.4f} in torch, {m.n_samples} samples"
    )
    table.add_row("accuracy drop", f"{points_interval(m.accuracy_drop)} points, 90 % interval")
    table.add_row("torch and deployed agree on", f"{m.agreement:.2%} of the samples")
    table.add_row("size", f"{m.size_bytes} bytes (model.xml and model.bin)")
    if m.zipped_bytes is not None:
        table.add_row("zipped size", f"{m.zipped_bytes} bytes (both in a zip archive)")
    table.add_row("files", str(folder))
    console.print(table, highlight=False)


def print_graph(console: Console, graph: ModelGraph, bound: BoundSpace, environment: Environment) -> None:
    """Layers, channel groups, the size of the space, and the processor."""
    layers = Table(title=f"{len(graph.layers)} layers, {graph.macs:,} MACs, {graph.n_parameters:,} parameters")
    layers.add_column("layer", overflow="fold")
    for column in ("kind", "weight", "output"):
        layers.add_column(column, no_wrap=True)
    layers.add_column("MACs", justify="right", no_wrap=True)
    layers.add_column("share", justify="right", no_wrap=True)
    for layer in graph.layers:
        share = f"{layer.macs / max(1, graph.macs):.1%}"
        shapes = ("x".join(map(str, layer.weight_shape)), "x".join(map(str, layer.output_shape)))
        layers.add_row(Text(layer.name), layer.kind, *shapes, f"{layer.macs:,}", share)
    groups = Table(title="channel groups: filters that go together")
    for column in ("group", "layers", "filters"):
        groups.add_column(column, overflow="fold")
    for group in graph.groups:
        groups.add_row(Text(group.name), Text(", ".join(group.layers)), str(group.n_channels))
    console.print(layers, groups, highlight=False)
    alone = [("layer", layer.name, "stays float", layer.reason) for layer in graph.layers if layer.reason]
    alone += [("channel group", group.name, "is not pruned", group.reason) for group in graph.groups if group.reason]
    for what, name, fate, reason in alone:
        console.print(f"{what} {name} {fate}: {reason}", markup=False, highlight=False)
    print_environment(console, environment)
    console.print(f"search space: {len(bound.parameters)} parameters, {bound.n_recipes:.2e} recipes", highlight=False)


def print_environment(console: Console, environment: Environment) -> None:
    """The processor and what 8-bit arithmetic does on it."""
    saturation = "saturates: prefer 7-bit weights" if environment.int8_saturates else "is exact"
    console.print(
        f"CPU: {environment.cpu}, {environment.n_cores} cores; OpenVINO {environment.versions['openvino']} runs "
        f"{', '.join(environment.capabilities)}; 8-bit arithmetic {saturation}",
        markup=False,
        highlight=False,
    )


def print_choice(console: Console, choice: Choice, folder: Path) -> None:
    """What was chosen and why."""
    console.print(candidate_line(choice.candidate), markup=False, highlight=False)
    console.print(f"{choice.reason}; written to {folder}", markup=False, highlight=False)


def print_comparison(
    console: Console, result: PairedLatency, sizes: tuple[int, int], zipped_sizes: tuple[int, int]
) -> None:
    """Two models side by side, with a verdict that respects the interval.

    Args:
        console: Where to print.
        result: Their paired latencies.
        sizes: Bytes of the files of the model and of the baseline.
        zipped_sizes: Bytes of both in a zip archive.
    """
    s = result.speedup
    if s.low > 1:
        verdict = f"{times(s)} faster"
    elif s.high < 1:
        slower = Speedup(value=1 / s.value, low=1 / s.high, high=1 / s.low, n_pairs=s.n_pairs)
        verdict = f"{times(slower)} slower"
    else:
        verdict = f"no difference beyond noise: {times(s)}"
    console.print(f"{verdict} ({s.n_pairs} pairs, 95 % interval, one thread)", highlight=False, markup=False)
    console.print(f"latency {result.latency_ms:.3f} ms against {result.baseline_ms:.3f} ms", highlight=False)
    for word, (own, other) in (("size", sizes), ("zipped size", zipped_sizes)):
        console.print(f"{word} {own} bytes against {other} bytes", highlight=False)


def print_claims(console: Console, claims: list[Claim]) -> None:
    """Each claim of a manifest beside what was measured here."""
    table = Table()
    for column in ("claim", "manifest", "here", "holds"):
        table.add_column(column)
    for claim in claims:
        table.add_row(claim.what, Text(claim.claimed), Text(claim.here), "yes" if claim.holds else "NO")
    console.print(table, highlight=False)


def print_spaces(console: Console, spaces: Mapping[str, Any]) -> None:
    """Names and descriptions of the built-in spaces."""
    table = Table("space", "what may be tried")
    for name, description in spaces.items():
        table.add_row(name, Text(str(description)))
    console.print(table, highlight=False)
