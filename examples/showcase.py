"""Search one of the examples as a user would, set it beside `nncf.quantize`, and write `reports/<name>/`.

Run `python examples/showcase.py emoji`: trains the checkpoint if there is none, then searches for 20 minutes, then
compares. `--smoke` takes a slice of the data and a checkpoint of its own, and keeps nothing without `--out`. NNCF comes
with `pip install .[peers]`.
"""

import argparse
import importlib.util
import os
import runpy
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy.typing as npt
import openvino
import torch
from fetch import cache_folder
from showcase_text import EXAMPLES, Compared, Row, comparison

from autocompress import AutocompressError, Recipe, Task
from autocompress.cli import app
from autocompress.deploy import load_openvino, save_openvino, size_bytes
from autocompress.latency import FINALIST, LatencyProcess, LatencySettings
from autocompress.measure import Predictions, accuracy_drop, discordant_pairs, predict_deployed, score_of
from autocompress.recipe import FLOAT_BITS
from autocompress.record import RECORD_FILE, StudyRecord
from autocompress.report import render
from autocompress.search.evaluate import real_input
from autocompress.task import call, flatten, split_batch
from autocompress.tasks.loading import load_task

Sample = dict[str, npt.NDArray[Any]]

ROOT = Path(__file__).parents[1]
N_CALIBRATION = 300  # what nncf.quantize takes by default
KEPT = (RECORD_FILE, "study.json", "chosen/recipe.yaml", "chosen/manifest.json")
PREFIX = "__module.module."
WITH_WEIGHTS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul")
TIMING = replace(FINALIST, max_seconds=60.0)
SMOKE_TIMING = LatencySettings(min_pairs=6, max_pairs=30, max_seconds=0.5, min_seconds=0.0, n_copies=2)
SMOKE_OPTIONS = ("--budget", "1trial", "--finetune-steps", "3", "--latency-seconds", "0.3", "--sampler", "random")
SLICED = """
import sys
from dataclasses import replace
from itertools import islice

sys.path.insert(0, {folder!r})
from {name}_task import {name}


def sliced():
    task = {name}()
    return replace(task, **{{s: list(islice(getattr(task, s), 1)) for s in ("train", "validation", "test")}})
"""


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        name: A key of `EXAMPLES`.
        task: How the command line names the task.
        study: Folder of the study.
        floor: Accuracy floor of the choice.
        n_calibration: Samples for NNCF.
        timing: How the models are timed.
    """

    name: str
    task: str
    study: Path
    floor: float
    n_calibration: int
    timing: LatencySettings


def train(name: str, *options: str) -> None:
    """Run the example's own training script, in this process: starting another one takes seconds."""
    script = ROOT / "examples" / f"train_{name}.py"
    before, sys.argv = sys.argv, [str(script), *options]
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = before


def cli(*arguments: str) -> None:
    """Run our own command as its command line does."""
    app(list(arguments), prog_name="autocompress", standalone_mode=False)


def has_checkpoint(name: str) -> bool:
    """Whether the example's network was trained before."""
    return any((cache_folder() / "examples").glob(f"{name}.*"))


def is_finished(study: Path) -> bool:
    """Whether a search has ended in this folder, its choice being confirmed on the test split."""
    path = study / RECORD_FILE
    chosen = StudyRecord.read(path).chosen if path.is_file() else None
    return chosen is not None and chosen.test is not None


def calibration(task: Task, names: Sequence[str], n: int) -> list[Sample]:
    """The first `n` training samples, one by one, by name of the model's inputs."""
    rows = (
        [tensor[i : i + 1].numpy() for tensor in tensors]
        for tensors in (flatten(split_batch(batch)[0]) for batch in task.train)
        for i in range(len(tensors[0]))
    )
    return [dict(zip(names, row, strict=True)) for row in islice(rows, n)]


def with_nncf(task: Task, baseline: Path, folder: Path, is_transformer: bool, n: int) -> Path:
    """What NNCF's post-training quantization makes of the FP32 model of the study, for inputs of the same shapes."""
    import nncf  # type: ignore[import-untyped]

    model = load_openvino(baseline)
    shapes = {port.any_name: list(port.shape) for port in model.inputs}
    samples = calibration(task, list(shapes), n)
    model.reshape({name: _covering([shape, *(s[name].shape for s in samples)]) for name, shape in shapes.items()})
    kind = nncf.ModelType.TRANSFORMER if is_transformer else None
    quantized = nncf.quantize(model, nncf.Dataset(samples), subset_size=len(samples), model_type=kind)
    quantized.reshape(shapes)
    return save_openvino(quantized, folder)


def _covering(shapes: Sequence[Sequence[int]]) -> list[int]:
    """One shape for all, -1 where their lengths differ, as those of texts do."""
    return [lengths[0] if len(set(lengths)) == 1 else -1 for lengths in zip(*shapes, strict=True)]


def float_operations(model: openvino.Model, recipe: Recipe) -> list[str]:
    """Names, in the FP32 model, of the operations whose layers `recipe` leaves in floating point."""
    found = []
    for op in model.get_ordered_ops():
        name = op.get_friendly_name()
        if op.get_type_name() in WITH_WEIGHTS and name.startswith(PREFIX):
            layer = recipe.layer(name.removeprefix(PREFIX).partition("/")[0])
            if FLOAT_BITS in (layer.weight_bits, layer.activation_bits):
                found.append(name)
    return found


def compare(plan: Plan, task: Task, folder: Path) -> Compared:
    """Measure the FP32 model, NNCF's and the chosen one on the test split, and time them in one session."""
    record = StudyRecord.read(plan.study / RECORD_FILE)
    if record.chosen is None:
        raise SystemExit(f"showcase.py: the study in {plan.study} has no choice yet; run the search again")
    baseline = plan.study / "candidates" / record.baseline.digest / "model.xml"
    quantized = with_nncf(task, baseline, folder, EXAMPLES[plan.name].is_transformer, plan.n_calibration)
    paths = (baseline, quantized, plan.study / "chosen" / "model.xml")
    with torch.no_grad():
        structure = call(task.model.eval(), task.example_input)

    def predict(path: Path) -> Predictions:
        return predict_deployed(load_openvino(path), task.test, structure, "test", record.environment.n_cores)

    predictions = [predict(path) for path in paths]
    with LatencyProcess() as process:
        timed = process.compare_all(baseline, paths[1:], real_input(task), plan.timing)
    chosen = record.candidate(record.chosen.digest)
    names = ("FP32", "`nncf.quantize`", f"chosen, {chosen.name}")
    speedups = (None, *(result.speedup for result in timed.results))
    rows = [
        Row(
            name=name,
            score=score_of(task, predicted),
            drop=accuracy_drop(task, predictions[0], predicted) if speedup else None,
            counts=discordant_pairs(task, predictions[0], predicted) if speedup else None,
            speedup=speedup,
            size_bytes=size_bytes(path),
        )
        for name, path, predicted, speedup in zip(names, paths, predictions, speedups, strict=True)
    ]
    return Compared(
        rows=(rows[0], rows[1], rows[2]),
        ratio=timed.between[0][1],
        n_samples=predictions[0].n_samples,
        n_calibration=plan.n_calibration,
        floor=plan.floor,
        float_operations=tuple(float_operations(load_openvino(baseline), chosen.recipe)),
        record=record,
    )


def smoke_cache(folder: Path) -> None:
    """Let this process and those that it starts use a cache of their own, with the fetched data of the usual one."""
    data = cache_folder() / "data"
    data.mkdir(parents=True, exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = str(folder)
    cache_folder().mkdir(parents=True)
    (cache_folder() / "data").symlink_to(data.resolve())


def main() -> None:
    """Train where needed, search, compare, write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(EXAMPLES))
    parser.add_argument("--smoke", action="store_true", help="a slice of the data, one trial of a few steps")
    parser.add_argument("--budget", default="20m", help="of the search")
    parser.add_argument("--max-drop", type=float, help="accuracy floor of the search; by default the example's own")
    parser.add_argument("--out", type=Path, help="folder of the report; by default reports/NAME")
    parser.add_argument(
        "--study", type=Path, help="folder of the study, to keep it; of a finished one another choice may be made"
    )
    arguments = parser.parse_args()
    if importlib.util.find_spec("nncf") is None:
        raise SystemExit("showcase.py: nncf is missing; pip install autocompress[peers]")
    with TemporaryDirectory() as work:
        try:
            showcase(arguments, Path(work))
        except AutocompressError as error:
            raise SystemExit(f"showcase.py: {error}") from None


def showcase(arguments: argparse.Namespace, work: Path) -> None:
    """Do what the command line asks for, with `work` for what is not kept."""
    name, example = arguments.name, EXAMPLES[arguments.name]
    out = (arguments.out or (work / "report" if arguments.smoke else ROOT / "reports" / name)).resolve()
    study = (arguments.study or work / "study").resolve()
    os.chdir(ROOT)  # where the task is named from
    task = f"examples/{name}_task.py:{name}"
    if arguments.smoke:
        smoke_cache(work / "cache")
        task_file = work / "sliced_task.py"
        task_file.write_text(SLICED.format(folder=str(ROOT / "examples"), name=name))
        task = f"{task_file}:sliced"
        checkpoint = cache_folder() / "examples" / f"{name}.safetensors"
        train(name, "--smoke", "--out", str(checkpoint))
    elif not has_checkpoint(name):
        train(name)
    floor = next(x for x in (arguments.max_drop, example.floor, example.max_drop) if x is not None)
    plan = Plan(
        name=name,
        task=task,
        study=study,
        floor=floor,
        n_calibration=8 if arguments.smoke else N_CALIBRATION,
        timing=SMOKE_TIMING if arguments.smoke else TIMING,
    )
    if not is_finished(plan.study):
        options = SMOKE_OPTIONS if arguments.smoke else ("--budget", arguments.budget)
        cli("search", task, *options, "--max-drop", str(floor), "--out", str(plan.study))
    elif StudyRecord.read(plan.study / RECORD_FILE).study.max_drop != floor:
        cli("choose", str(plan.study), "--max-drop", str(floor))
    text = comparison(name, compare(plan, load_task(str(ROOT / task)), work / "nncf"))
    print(text)
    out.mkdir(parents=True, exist_ok=True)
    for kept in KEPT:
        shutil.copy(plan.study / kept, out)
    render(out)
    (out / "comparison.md").write_text(text)


if __name__ == "__main__":
    main()
