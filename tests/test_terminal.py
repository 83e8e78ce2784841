"""What the command line shows, on a terminal and elsewhere."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from autocompress import terminal
from autocompress.latency import PairedLatency
from autocompress.measurement import CoursePoint, Speedup, TrainingSummary
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.search import Progress
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
    ],
)
def test_a_comparison_has_a_verdict(speedup: tuple[float, float, float], verdict: str) -> None:
    target, file = console(is_terminal=False)
    value, low, high = speedup
    result = PairedLatency(Speedup(value=value, low=low, high=high, n_pairs=50), 1.0, 1.0)
    terminal.print_comparison(target, result, (10, 20), (8, 18))
    assert file.getvalue().startswith(f"{verdict} (50 pairs, 95 % interval, one thread)")
    assert "\nsize 10 bytes against 20 bytes\nzipped size 8 bytes against 18 bytes\n" in file.getvalue()


@pytest.mark.parametrize(
    ("n_bytes", "row"), [(None, ""), (700, "zipped size                  700 bytes (both in a zip")]
)
def test_a_measurement_has_its_zipped_size_where_there_is_one(n_bytes: int | None, row: str) -> None:
    target, file = console(is_terminal=False)
    terminal.print_measurement(target, measurement(zipped_bytes=n_bytes), "test", Path("out"))
    assert row in file.getvalue() and bool(row) == ("zipped" in file.getvalue())
