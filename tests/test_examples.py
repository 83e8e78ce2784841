"""The example scripts run, and the committed report is what they made."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from autocompress.record import StudyRecord
from autocompress.report import render
from autocompress.search.chosen import Manifest
from autocompress.tasks.loading import load_task

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "reports" / "fashion"


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*command: object) -> str:
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_training_of_the_checkpoint_runs() -> None:
    printed = run("examples/train_fashion.py", "--smoke")
    assert re.search(r"validation 0\.\d{4}  test 0\.\d{4}$", printed.strip())


@pytest.mark.slow
def test_a_task_of_ones_own_is_searched_from_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "digits"
    task = "examples/digits_task.py:digits"
    brief = ("--budget", "2trials", "--finetune-steps", 20, "--latency-seconds", 0.3, "--sampler", "random")
    printed = run("-m", "autocompress", "search", task, *brief, "--out", out)
    assert "chosen: " in printed
    manifest = Manifest.read(out / "chosen")
    assert manifest.chosen.test and manifest.chosen.test.accuracy > 0.9
    assert manifest.candidate.measurement and manifest.candidate.measurement.agreement > 0.99


@pytest.mark.slow
def test_a_training_script_of_ones_own_compresses_and_deploys() -> None:
    printed = run("examples/own_loop.py", "--smoke")
    found = re.search(r"FP32  accuracy (\S+)  (\d+) bytes\ndeployed    accuracy (\S+)  (\d+) bytes", printed)
    assert found, printed
    accuracy, size, small_accuracy, small_size = map(float, found.groups())
    assert small_accuracy > accuracy - 0.1 and small_size < size / 4


def test_the_digits_are_a_task() -> None:
    task = load_task(f"{ROOT / 'examples' / 'digits_task.py'}:digits")
    assert sum(len(y) for _, y in task.validation) == 400 and sum(len(y) for _, y in task.test) == 400


def test_the_committed_report_is_made_from_its_data(tmp_path: Path) -> None:
    (tmp_path / "candidates.json").write_bytes((REPORT / "candidates.json").read_bytes())
    render(tmp_path)
    assert (tmp_path / "report.md").read_bytes() == (REPORT / "report.md").read_bytes()
    assert {"front.svg", "front.html"} <= {path.name for path in REPORT.iterdir()}


def test_the_committed_figures_are_those_of_the_record() -> None:
    record = StudyRecord.read(REPORT / "candidates.json")
    text = (REPORT / "acceptance.md").read_text()
    example = load_example("fashion_report")
    rows = example.acceptance(json.loads((REPORT / "candidates.json").read_text()), 0.0, 0.0, 600.0, "")
    for row in ("speed-up of the chosen", "its accuracy drop", "time outside"):
        (line,) = (line for line in text.splitlines() if row in line)
        assert line in rows
    assert record.chosen and record.chosen.test and record.chosen.test.speedup.low >= 2.5


def test_the_manifest_that_is_committed_is_that_of_the_chosen() -> None:
    manifest = Manifest.model_validate_json((REPORT / "manifest.json").read_text())
    assert manifest.chosen == StudyRecord.read(REPORT / "candidates.json").chosen
