"""Run the default search as a user would, and write `reports/fashion/` with the figures that the README quotes.

Run `python examples/fashion_report.py`: about 12 minutes, or seconds with `--study FOLDER`, a finished one. The study
is made in a temporary folder; the report is kept.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from math import isnan, nan
from pathlib import Path
from typing import Any

from autocompress.measurement import Interval, Speedup
from autocompress.report import render
from autocompress.report.wording import points_interval, times

TARGET = Path(__file__).parents[1] / "reports" / "fashion"
KEPT = ("candidates.json", "study.json")
COUNTED_WORK = ("finetune", "calibrate", "evaluation", "latency", "damage table", "screening", "latency model")


def main() -> None:
    """Search, copy the report, print and write the acceptance figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget-minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=TARGET)
    parser.add_argument("--study", type=Path, help="a finished study of the default task, in place of a new search")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        study = Path(work) / "study"
        seconds, first = nan, nan
        if arguments.study:
            shutil.copytree(arguments.study, study)
        else:
            seconds, first = timed_search(study, arguments.budget_minutes)
        arguments.out.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            shutil.copy(study / name, arguments.out)
        render(arguments.out)
        shutil.copy(study / "chosen" / "manifest.json", arguments.out)
        shutil.copy(study / "chosen" / "recipe.yaml", arguments.out)
        agreement = agreement_at_7_bits(study, Path(work) / "w7")
    record = json.loads((arguments.out / "candidates.json").read_text())
    text = acceptance(record, seconds, first, 60 * arguments.budget_minutes, agreement)
    (arguments.out / "acceptance.md").write_text(text)
    print(text)


def timed_search(study: Path, minutes: float) -> tuple[float, float]:
    """Seconds of the whole command, and until `chosen/` first held a deployable model."""
    command = [sys.executable, "-m", "autocompress", "search", "--budget", f"{minutes:g}m", "--out", str(study)]
    start, first = time.monotonic(), nan
    process = subprocess.Popen(command)
    while process.poll() is None:
        if isnan(first) and (study / "chosen" / "manifest.json").is_file():
            first = time.monotonic() - start
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.monotonic() - start, first


def agreement_at_7_bits(study: Path, out: Path) -> str:
    """What `autocompress compress` says of 7-bit weights everywhere on the test split."""
    candidates = json.loads((study / "candidates.json").read_text())["candidates"]
    (int8,) = (c["digest"] for c in candidates if c["label"] == "int8")
    recipe = study / "w7.yaml"
    text = (study / "candidates" / int8 / "recipe.yaml").read_text()
    recipe.write_text(text.replace("weight_bits: 8", "weight_bits: 7"))
    command = [sys.executable, "-m", "autocompress", "compress", "fashion", "--recipe", str(recipe), "--out", str(out)]
    wide = os.environ | {"COLUMNS": "200"}  # so that no line is wrapped
    done = subprocess.run([*command, "--steps", "0"], capture_output=True, text=True, check=True, env=wide)
    return next(line for line in done.stdout.splitlines() if "agree on" in line).split("agree on")[1].strip()


def acceptance(record: dict[str, Any], seconds: float, first: float, budget: float, agreement: str) -> str:
    """The figures that the project promises, as Markdown."""
    test = record["chosen"]["test"]
    by_phase = record["seconds"]
    work = sum(by_phase.get(phase, 0.0) for phase in COUNTED_WORK)
    timed = [
        ("first deployable model in `chosen/`", f"{first:.1f} s", "at most 60 s"),
        ("whole command against the budget", f"{seconds:.1f} s of {budget:.0f} s", "at most 10 % over"),
    ]
    rows = [
        *([] if isnan(seconds) else timed),
        (
            "speed-up of the chosen model over FP32 on this CPU",
            times(Speedup(**test["speedup"])),
            "lower bound at least 2.5x",
        ),
        (
            "its accuracy drop on the test split",
            f"{points_interval(Interval(**test['accuracy_drop']))} points",
            "at most 1 point",
        ),
        (
            "time outside fine-tuning and measuring",
            f"{1 - work / by_phase['total']:.1%}",
            "at most 15 %",
        ),
        ("torch and deployed agree with 7-bit weights, test split", agreement, "at least 99.5 %"),
    ]
    environment = record["environment"]
    saturation = "saturates" if environment["int8_saturates"] else "is exact"
    head = f"CPU {environment['cpu']}, {environment['n_cores']} cores; 8-bit arithmetic {saturation}."
    table = "\n".join(f"| {what} | {value} | {wanted} |" for what, value, wanted in rows)
    return f"# Acceptance figures\n\n{head} Written by `python examples/fashion_report.py`.\n\n" + (
        f"| what | measured | promised |\n|---|---|---|\n{table}\n"
    )


if __name__ == "__main__":
    main()
