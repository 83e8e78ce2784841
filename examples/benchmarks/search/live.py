"""Live searches on the embedded example: every sampler gets the same time, then all choices are measured together.

Writes `reports/benchmarks/search_live.md`. Takes the budget once for each sampler, and two minutes more; on a machine
that does nothing else. `pip install .[peers]` for `nncf.quantize`. Run: `python -m examples.benchmarks.search.live`
"""

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from autocompress.deploy import load_openvino, save_openvino
from autocompress.latency import FINALIST, JointLatency, LatencyProcess
from autocompress.measure import Predictions, accuracy_drop, predict_deployed
from autocompress.measurement import Interval
from autocompress.record import StudyRecord
from autocompress.report.wording import points_interval, times
from autocompress.search.evaluate import real_input
from autocompress.task import Task
from autocompress.tasks.loading import load_task
from examples.benchmarks.cases import SMOKE, Scale, fashion_case
from examples.benchmarks.contenders import quantize_nncf_openvino

TARGET = Path(__file__).parents[3] / "reports" / "benchmarks" / "search_live.md"
SAMPLERS = ("bayesdp", "tpe", "random", "greedy")
NNCF = "nncf.quantize"
FLOOR = 0.01
SECONDS = 60.0  # of the last timing, all models together


@dataclass(frozen=True)
class Run:
    """One row.

    Attributes:
        name: Sampler, or the tool.
        model: Its deployed model.
        note: What the search did.
    """

    name: str
    model: Path
    note: str


def search(sampler: str, budget: str, folder: Path, seed: int) -> Run:
    """One search by the command line, as a user runs it who has no damage table from before."""
    out = folder / sampler
    if not (out / "chosen" / "model.onnx").is_file():
        command = [sys.executable, "-m", "autocompress", "search", "fashion", "--budget", budget]
        command += ["--max-drop", str(FLOOR), "--sampler", sampler, "--seed", str(seed), "--out", str(out)]
        cache = (folder / f"{sampler}-cache").resolve()
        subprocess.run(command, check=True, env=os.environ | {"XDG_CACHE_HOME": str(cache)})
    record = StudyRecord.read(out / "candidates.json")
    n_long = sum(c.rung == "long" for c in record.candidates)
    seconds = record.seconds["total"]
    note = f"{len(record.candidates) - 1} candidates, {n_long} of them trained longer, {seconds:.0f} s"
    return Run(sampler, out / "chosen" / "model.xml", note)


def with_nncf(folder: Path, scale: Scale) -> Run:
    """What NNCF's post-training quantization makes of the same network."""
    start = time.monotonic()
    quantized = quantize_nncf_openvino(fashion_case(scale)).model
    path = save_openvino(quantized, folder / "nncf")
    return Run(NNCF, path, f"its defaults, {time.monotonic() - start:.0f} s")


def drops(task: Task, baseline: Path, runs: list[Run]) -> list[Interval]:
    """Accuracy drops on the test split."""

    def predict(path: Path) -> Predictions:
        return predict_deployed(load_openvino(path), task.test, structure, "test", 2)

    structure = task.model(task.example_input)
    reference = predict(baseline)
    return [accuracy_drop(task, reference, predict(run.model)) for run in runs]


def table(runs: list[Run], found: list[Interval], timed: JointLatency) -> str:
    """Rows, and the ratios that the targets are about."""
    head = (
        "| search by | chosen: speed-up over FP32 | drop on the test split, points | what it did |\n|---|---|---|---|\n"
    )
    rows = "".join(
        f"| {run.name} | {times(result.speedup)} | {points_interval(drop)} | {run.note} |\n"
        for run, drop, result in zip(runs, found, timed.results, strict=True)
    )
    names = [run.name for run in runs]
    others = [i for i, name in enumerate(names) if name not in (SAMPLERS[0], NNCF)]
    best = max(others, key=lambda i: timed.results[i].speedup.value)
    ratios = [(f"the best other sampler, {names[best]}", best, 1.3), (NNCF, names.index(NNCF), 1.5)]
    lines = []
    for what, index, target in ratios:
        ratio = timed.between[index][0]
        lines.append(
            f"| {SAMPLERS[0]} against {what} | at least {target}x | {times(ratio)} | "
            f"{'yes' if ratio.value >= target else '**no**'} |\n"
        )
    return f"{head}{rows}\n| faster than | target | measured | met |\n|---|---|---|---|\n{''.join(lines)}"


def main() -> None:
    """Search with all samplers, measure the choices together, write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="10m", help="of each search")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--keep",
        type=Path,
        help="folder for the studies, of which finished ones are read again; by default a temporary one",
    )
    parser.add_argument("--out", type=Path, default=TARGET, help="Markdown file to write")
    parser.add_argument("--smoke", action="store_true", help="little data for NNCF")
    arguments = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        runs = [search(sampler, arguments.budget, folder, arguments.seed) for sampler in SAMPLERS]
        runs.append(with_nncf(folder, SMOKE if arguments.smoke else Scale()))
        task = load_task("fashion")
        record = StudyRecord.read(folder / SAMPLERS[0] / "candidates.json")
        baseline = folder / SAMPLERS[0] / "candidates" / record.baseline.digest / "model.xml"
        found = drops(task, baseline, runs)
        settings = replace(FINALIST, min_pairs=100, max_seconds=SECONDS)
        with LatencyProcess() as process:
            timed = process.compare_all(baseline, [run.model for run in runs], real_input(task), settings)
    environment = record.environment
    kept = " Searches of a kept folder (`--keep`) are read again, resumed ones included." if arguments.keep else ""
    text = (
        f"# Live searches\n\nCPU {environment.cpu}, {environment.n_cores} cores; {arguments.budget} each, seed "
        f"{arguments.seed}, a floor of {FLOOR * 100:g} point. All searches try the same anchors first (INT8, and INT8 "
        "with a quarter and half of the filters removed) and train their best candidates longer. All models were timed "
        f"in one session.{kept} Written by `python -m examples.benchmarks.search.live`.\n\n{table(runs, found, timed)}"
    )
    print(text)
    arguments.out.write_text(text)


if __name__ == "__main__":
    main()
