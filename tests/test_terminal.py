"""What the command line shows, on a terminal and elsewhere."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from autocompress import terminal
from autocompress.measure import PairedLatency
from autocompress.measurement import Speedup
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.search import Progress
from tests.examples import candidate, measurement

GOOD = candidate("1a2b3c", 0.004, 2.5, 500_000, label="int8")
ZIPPED = GOOD.model_copy(
    update={"measurement": measurement(0.004, 2.5, 500_000, zipped_bytes=320_000)},
)
SAMPLED = candidate("4d5e6f", 0.02, 4.0, 300_000, recipe=Recipe(layers={"a": LayerRecipe(weight_bits=4)}))


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


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        pytest.param(SAMPLED, "4d5e6f, W4A32 ×1: 4.00x", id="a sampled one says what it is"),
        pytest.param(GOOD.model_copy(update={"rung": "long"}), "int8 (1a2b3c), trained longer: ", id="the long rung"),
        pytest.param(ZIPPED, "500.0 kB (320.0 zipped)", id="the zipped size"),
        pytest.param(candidate("9"), "pruned 50 %: failed: it crashed", id="a failed one says why"),
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
