"""What the command line shows, on a terminal and elsewhere."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from autocompress import terminal
from autocompress.graph import Layer, ModelGraph
from autocompress.latency import FINALIST, PairedLatency
from autocompress.measurement import CoursePoint, Environment, LatencyCheck, Speedup, TrainingSummary
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.search.layer_costs import LayerCost, LayerCosts
from autocompress.search.progress import Progress
from autocompress.space import load_space
from tests.examples import candidate, measurement

GOOD = candidate("1a2b3c", 0.004, 2.5, 500_000, label="int8")
ZIPPED = GOOD.model_copy(
    update={"measurement": measurement(0.004, 2.5, 500_000, zipped_bytes=320_000)},
)
STOPPED = {"training": TrainingSummary(n_steps=150, stopped_at=60, n_rollbacks=1)}
SAMPLED = candidate("4d5e6f", 0.02, 4.0, 300_000, recipe=Recipe(layers={"a": LayerRecipe(weight_bits=4)}))


def at_step(step: int, loss: float = 1.0, phase: str = "fine-tuning int8", n_steps: int = 48) -> Progress:
    return Progress(phase, training=CoursePoint(step=step, loss=loss, learning_rate=0.0031), n_steps=n_steps)


def line_after(*told: Progress) -> str:
    """What the view shows of the training after it was told all of these."""
    line = terminal.TrainingLine()
    for progress in told:
        line.update(progress)
    return str(line.text(told[-1]))


def console(is_terminal: bool) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=is_terminal, width=100, color_system=None), file


def test_a_terminal_shows_phase_count_forecast_and_the_best() -> None:
    target, file = console(is_terminal=True)
    with terminal.SearchView(target, "10m") as view:
        view.update(Progress("fine-tuning int8", n_done=3, n_total=12, seconds_elapsed=60, seconds_left=125, best=GOOD))
    for text in (
        "fine-tuning int8",
        "3 of about 12 candidates, about 2:05 left, budget 10m",
        "best so far: int8 (1a2b3c)",
    ):
        assert text in file.getvalue()


def test_elsewhere_only_finished_candidates_and_messages_are_lines() -> None:
    target, file = console(is_terminal=False)
    with terminal.SearchView(target, "10m") as view:
        view.update(Progress("fine-tuning int8"))
        view.update(Progress("measuring int8", finished=GOOD))
        view.update(Progress("stopping", message="stopped by Ctrl-C"))
    first, second = file.getvalue().splitlines()
    assert first.startswith("0:00  int8 (1a2b3c): 2.50x [2.50, 2.50] faster, drop 0.40 [-0.60, 1.40] points, 500.0 kB")
    assert second == "stopped by Ctrl-C"


def test_a_terminal_shows_where_the_training_is() -> None:
    target, file = console(is_terminal=True)
    with terminal.SearchView(target, "10m") as view:
        view.update(at_step(24, loss=1.8))
        view.update(at_step(26, loss=0.4116))
    assert "step 26 of 48 · loss 0.412 · rate 3.1e-03             █▁" in file.getvalue()


def test_a_terminal_shows_no_line_while_nothing_is_trained() -> None:
    target, file = console(is_terminal=True)
    with terminal.SearchView(target, "10m") as view:
        view.update(Progress("measuring int8", n_steps=48))
    assert "step" not in file.getvalue() and "None" not in file.getvalue()


def test_a_training_is_no_line_elsewhere() -> None:
    target, file = console(is_terminal=False)
    with terminal.SearchView(target, "10m") as view:
        view.update(at_step(20))
    assert not file.getvalue()


@pytest.mark.parametrize(
    ("told", "line"),
    [
        pytest.param([at_step(2, 3.0), at_step(4, 1.0)], "  █▁", id="the losses of one training"),
        pytest.param([at_step(2, 3.0), at_step(4, 2.0), at_step(2, 1.0)], "  ▁", id="what was rolled back is dropped"),
        pytest.param([at_step(2, 3.0), at_step(2, 1.0)], "  ▁", id="a step is shown once"),
        pytest.param([at_step(2, 3.0), at_step(4, 1.0, "fine-tuning int4")], "   ▁", id="another candidate"),
        pytest.param([at_step(2, 3.0), at_step(4, 1.0, n_steps=96)], "  ▁", id="a longer training"),
        pytest.param(
            [at_step(2, 3.0), Progress("fine-tuning int8", n_steps=48), at_step(4, 1.0)], "  █▁", id="a silent moment"
        ),
    ],
)
def test_the_line_remembers_the_losses_of_the_training_under_way(told: list[Progress], line: str) -> None:
    assert line_after(*told).partition("3.1e-03")[2] == line


def test_a_training_of_unknown_length_and_rate_says_what_is_known() -> None:
    point = CoursePoint(step=12, loss=0.5, learning_rate=0.0)
    assert line_after(Progress("training", training=point)).startswith("step 12 · loss 0.500  ")


@pytest.mark.parametrize(
    ("losses", "bars"),
    [
        pytest.param([8, 7, 6, 5, 4, 3, 2, 1], "█▇▆▅▄▃▂▁", id="evenly falling"),
        pytest.param([128, 64, 32, 16, 8, 4, 2, 1], "█▇▆▅▄▃▂▁", id="halving, more than a decade"),
        pytest.param([5, 5, 5], "▁▁▁", id="all the same"),
        pytest.param([-3, 4], "▁█", id="negative"),
        pytest.param([0, 0], "▁▁", id="zero"),
        pytest.param([], "", id="none"),
    ],
)
def test_bars_are_as_high_as_losses(losses: list[float], bars: str) -> None:
    course = [CoursePoint(step=step, loss=loss, learning_rate=0) for step, loss in enumerate(losses, start=1)]
    assert terminal.sparkline(course, n_steps=24) == bars


@pytest.mark.parametrize(
    ("step", "n_steps", "length"), [(1, 10_000, 1), (5000, 10_000, 12), (10_000, 10_000, 24), (7, 7, 24), (90, 0, 24)]
)
def test_the_sparkline_grows_with_the_share_of_steps_taken(step: int, n_steps: int, length: int) -> None:
    course = [CoursePoint(step=done, loss=1, learning_rate=0) for done in range(1, step + 1)]
    assert len(terminal.sparkline(course, n_steps)) == length


def test_a_bar_is_the_mean_of_its_share() -> None:
    losses = [1.0] * 10 + [2.0] * 5 + [6.0] * 5 + [8.0] * 10
    course = [CoursePoint(step=step, loss=loss, learning_rate=0) for step, loss in enumerate(losses, start=1)]
    assert terminal.sparkline(course, n_steps=240) == "▁▄█"


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        pytest.param(SAMPLED, "4d5e6f, W4A32 ×1: 4.00x", id="a sampled one says what it is"),
        pytest.param(GOOD.model_copy(update={"rung": "long"}), "int8 (1a2b3c), trained longer: ", id="the long rung"),
        pytest.param(ZIPPED, "500.0 kB (320.0 zipped)", id="the zipped size"),
        pytest.param(candidate("9"), "pruned 50 %: failed: it crashed", id="a failed one says why"),
        pytest.param(
            GOOD.model_copy(update=STOPPED),
            "int8 (1a2b3c), rolled back once, given up at step 60 of 150: 2.50x",
            id="one that was given up",
        ),
        pytest.param(
            candidate("9").model_copy(update=STOPPED),
            "pruned 50 %: failed: given up at step 60 of 150: it crashed",
            id="a failed one that was given up",
        ),
    ],
)
def test_a_candidate_in_one_line(shown: object, text: str) -> None:
    assert text in terminal.candidate_line(shown)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("speedup", "verdict"),
    [
        pytest.param((2.0, 1.9, 2.1), "2.00x [1.90, 2.10] faster", id="faster"),
        pytest.param((0.5, 0.4, 0.8), "2.00x [1.25, 2.50] slower", id="slower"),
        pytest.param((1.01, 0.99, 1.03), "no difference beyond noise: 1.01x [0.99, 1.03]", id="within noise"),
        pytest.param((1.004, 1.001, 1.007), "1.004x [1.001, 1.007] faster", id="a little, but beyond noise"),
    ],
)
def test_a_comparison_has_a_verdict(speedup: tuple[float, float, float], verdict: str) -> None:
    lines = compared(speedup)
    assert lines[0] == f"{verdict} (50 pairs, 95 % interval, one thread)"
    assert lines[-2:] == ["size 10 bytes against 20 bytes", "zipped size 8 bytes against 18 bytes"]


def compared(
    speedup: tuple[float, float, float] = (2.0, 1.99, 2.01), n_threads: int = 1, **check: float | bool
) -> list[str]:
    """Lines about a comparison."""
    target, file = console(is_terminal=False)
    value, low, high = speedup
    facts = {"p90_ms": 1.5, "p99_ms": 2.5, "noise_floor": 0.004, "busy_share": 0.25} | check
    result = PairedLatency(
        Speedup(value=value, low=low, high=high, n_pairs=50), 1.0, 2.0, LatencyCheck.model_validate(facts)
    )
    terminal.print_comparison(target, result, (10, 20), (8, 18), replace(FINALIST, n_threads=n_threads))
    return file.getvalue().splitlines()


def test_a_comparison_has_its_percentiles_and_noise() -> None:
    lines = compared(n_threads=2, n_discarded=4)
    assert lines[0].endswith("(50 pairs, 95 % interval, 2 threads)")
    assert lines[1] == (
        "latency 1.000 ms against 2.000 ms, medians of one inference; "
        "nine of ten took at most 1.500 ms, 99 of 100 at most 2.500 ms"
    )
    assert lines[2] == (
        "noise: the baseline differs from itself by at most 0.4 %; "
        "others had the processor for 25 % of the time; 4 rounds were measured again"
    )


@pytest.mark.parametrize(
    ("speedup", "is_noisy", "warning"),
    [
        pytest.param((2.0, 1.99, 2.01), False, None, id="quiet"),
        pytest.param((2.0, 1.99, 2.01), True, "warning: other work kept this machine busy; ", id="busy"),
        pytest.param((2.0, 1.9, 2.1), True, "warning: the interval is ±5 %, wider than the ±1 % that ", id="wide"),
    ],
)
def test_a_noisy_comparison_has_a_warning(
    speedup: tuple[float, float, float], is_noisy: bool, warning: str | None
) -> None:
    found = [line for line in compared(speedup, is_noisy=is_noisy) if line.startswith("warning: ")]
    assert len(found) == (warning is not None) and all(line.startswith(warning or "") for line in found)


def test_throughput_is_more_or_less_and_not_faster() -> None:
    target, file = console(is_terminal=False)
    terminal.print_throughput(target, Speedup(value=2.0, low=1.9, high=2.1, n_pairs=9), 2000.0, 1000.0)
    assert file.getvalue() == "throughput 2,000.0 a second against 1,000.0 a second: 2.00x [1.90, 2.10] more\n"


def layer(name: str, macs: int = 2_000_000) -> Layer:
    return Layer(name, "Conv2d", (64, 64, 3, 3), (1, 64, 28, 28), (1, 64, 28, 28), macs, 36_864, name)


NAMES = ("stage1.first.0", "stage2.block.shortcut.0")
GRAPH = ModelGraph(tuple(layer(name) for name in NAMES), ())
GAIN = Speedup(value=1.9, low=1.88, high=1.93, n_pairs=40)
COSTS = LayerCosts(
    {NAMES[0]: LayerCost(0.75, 0.5, -0.0001)}, LayerCost(0.25, 0.0, 0.125), baseline_ms=1.0, int8=GAIN, half=None
)


def inspected(width: int, costs: LayerCosts | None) -> str:
    target = Console(file=io.StringIO(), width=width, color_system=None)
    environment = Environment(
        cpu="a CPU",
        capabilities=("INT8",),
        n_cores=2,
        inference_threads=1,
        int8_saturates=True,
        versions={"openvino": "9"},
    )
    terminal.print_graph(target, GRAPH, load_space("int8").bind(GRAPH), environment, costs)
    return target.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def row_of(text: str, name: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.strip().startswith(name))


def test_a_wide_terminal_shows_shapes_and_costs_in_one_row() -> None:
    text = inspected(140, COSTS)
    shapes = ["Conv2d", "64x64x3x3", "1x64x28x28", "2.0M", "50.0", "%", "36.9k"]
    assert row_of(text, NAMES[0]) == [NAMES[0], *shapes, "0.750", "75.0", "%", "0.500"]
    assert row_of(text, "everything else")[-4:] == ["0.250", "25.0", "%", "0.000"]
    assert "INT8 saves" in text and "half saves" not in text


def test_a_layer_without_a_time_has_empty_cells() -> None:
    assert row_of(inspected(140, COSTS), NAMES[1])[-1] == "36.9k"


def test_a_narrow_terminal_shows_two_tables_and_loses_no_digit() -> None:
    text = inspected(80, COSTS)
    assert max(map(len, text.split("whole model")[0].splitlines())) <= 80
    for said in ("64x64x3x3", "1x64x28x28", "where the time goes", "75.0 %", "0.500"):
        assert said in text


def test_the_whole_model_is_below_its_layers() -> None:
    assert "\nwhole model: 1.000 ms in FP32, INT8 1.90x [1.88, 1.93]\n" in inspected(140, COSTS)


def test_without_timing_there_are_layers_and_no_times() -> None:
    text = inspected(140, None)
    assert row_of(text, NAMES[0])[-1] == "36.9k" and "whole model" not in text and " ms" not in text


def test_negative_zero_is_not_shown() -> None:
    text = inspected(140, replace(COSTS, half=GAIN))
    assert row_of(text, NAMES[0])[-1] == "0.000" and "half of the filters 1.90x" in text


def test_bars_are_layers_with_a_time_and_the_rest() -> None:
    bars = terminal.layer_bars(GRAPH, COSTS)
    assert [(bar.name, bar.latency_ms) for bar in bars] == [(NAMES[0], 0.75), ("everything else", 0.25)]


@pytest.mark.parametrize(
    ("n_bytes", "row"), [(None, ""), (700, "zipped size                  700 bytes (both in a zip")]
)
def test_a_measurement_has_its_zipped_size_where_there_is_one(n_bytes: int | None, row: str) -> None:
    target, file = console(is_terminal=False)
    terminal.print_measurement(target, measurement(zipped_bytes=n_bytes), "test", Path("out"))
    assert row in file.getvalue() and bool(row) == ("zipped" in file.getvalue())
