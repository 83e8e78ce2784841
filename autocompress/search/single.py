"""One recipe without a search, and the check of a chosen model on the machine at hand."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from autocompress.graph import ModelGraph, inspect_model
from autocompress.latency import FINALIST
from autocompress.measure import default_weight_bits, describe_environment
from autocompress.measurement import Measurement
from autocompress.recipe import Recipe
from autocompress.search.chosen import ONNX, Manifest
from autocompress.search.context import EvaluationContext, Rung
from autocompress.search.evaluate import export_candidate, export_onnx, measure_candidate
from autocompress.search.training import train_candidate
from autocompress.search.worker import Worker
from autocompress.space import PRESETS, preset
from autocompress.task import Task
from autocompress.train import Hardware

OnPhase = Callable[[str], None]
SPEEDUP = "speed-up"
VERIFY_ATTEMPTS = 3  # a neighbour on the same machine can spoil one measurement of the speed-up
SPEEDUP_SHARE = 0.9  # two sessions on one machine differ by more than one session's interval (facts: openvino-cpu.md)


@dataclass(frozen=True)
class Claim:
    """A number of the manifest beside the same number here, as text, and whether it holds."""

    what: str
    claimed: str
    here: str
    holds: bool


@contextmanager
def _worker_with_baseline(
    task: Task, graph: ModelGraph, folder: Path, on_phase: OnPhase, threads: int, hardware: Hardware | None = None
) -> Iterator[Worker]:
    """A worker whose folder of candidates holds the deployed FP32 model."""
    environment = describe_environment(threads)
    context = EvaluationContext(
        task,
        graph,
        folder.resolve(),
        environment.n_cores,
        environment.inference_threads,
        hardware or Hardware(),
    )
    with Worker(context) as worker:
        on_phase("deploying the FP32 model")
        worker.call(train_candidate, Recipe(), context.baseline_folder, Rung("baseline", 0), 0)
        worker.call(export_candidate, Recipe(), context.baseline_folder)
        yield worker


def read_recipe(name_or_path: str, task: Task) -> Recipe:
    """The recipe in a file, or the preset of that name where there is no such file.

    Raises:
        RecipeError: The file is missing or wrong.
    """
    if name_or_path in PRESETS and not Path(name_or_path).exists():
        return preset(name_or_path, inspect_model(task.model, task.example_input), default_weight_bits())
    return Recipe.read(Path(name_or_path))


def compress_once(
    task: Task,
    recipe: Recipe,
    out: Path,
    n_steps: int,
    seed: int,
    on_phase: OnPhase = lambda _: None,
    hardware: Hardware | None = None,
    threads: int = 1,
) -> Measurement:
    """Apply `recipe`, fine-tune, deploy into `out` and measure on the test split.

    Args:
        task: Model, data and score; it is not changed.
        recipe: What to do.
        out: Folder that gets model.xml, model.bin, model.onnx, weights.safetensors, recipe.yaml and training.csv.
        n_steps: Training steps.
        seed: Of the training.
        on_phase: Told what is being done.
        hardware: On what to train.
        threads: Inference threads, >= 1.

    Raises:
        AutocompressError: The recipe does not fit the model, or a step fails.
    """
    graph = inspect_model(task.model, task.example_input)
    out.mkdir(parents=True, exist_ok=True)
    out = out.resolve()
    with (
        TemporaryDirectory(prefix=".work-", dir=out) as work,
        _worker_with_baseline(task, graph, Path(work), on_phase, threads, hardware) as worker,
    ):
        on_phase(f"fine-tuning ({n_steps} steps)")
        worker.call(train_candidate, recipe, out, Rung("single", n_steps), seed)
        on_phase("exporting")
        worker.call(export_candidate, recipe, out)
        worker.call(export_onnx, recipe, out, out / ONNX)
        on_phase("measuring on the test split")
        measurement, _ = worker.call(measure_candidate, recipe, out, "test", FINALIST)
    return measurement


def verify_chosen(folder: Path, task: Task, on_phase: OnPhase = lambda _: None) -> list[Claim]:
    """Measure the model in a `chosen/` folder again on this machine, and compare with its manifest.

    Where only the claimed speed-up is missed it is measured again, three times in all.

    Args:
        folder: The `chosen/` folder; its files must be those of the manifest.
        task: The task that it was made for.
        on_phase: Told what is being done.

    Raises:
        StudyError: Manifest or files are missing or differ.
    """
    manifest = Manifest.read(folder)
    graph = inspect_model(task.model, task.example_input)
    recipe = manifest.candidate.recipe
    split = "test" if manifest.chosen.test else "validation"
    with TemporaryDirectory(prefix="autocompress-verify-") as work:
        copied = Path(work) / "copied"
        shutil.copytree(folder, copied)
        threads = manifest.environment.inference_threads
        with _worker_with_baseline(task, graph, Path(work), on_phase, threads) as worker:
            for attempt in range(VERIFY_ATTEMPTS):
                on_phase(f"measuring on the {split} split" + (", once more" if attempt else ""))
                here, _ = worker.call(measure_candidate, recipe, copied, split, FINALIST)
                claims = _claims(manifest.chosen.test or manifest.candidate.measurement, here)
                if {claim.what for claim in claims if not claim.holds} != {SPEEDUP}:
                    break
    return claims


def _claims(claimed: Measurement | None, here: Measurement) -> list[Claim]:
    """Accuracy and drop must be within 0.001, the speed-up at least nine tenths of the claimed one, the size equal."""
    if claimed is None:
        return []
    tolerance = 0.001 * max(1.0, abs(claimed.accuracy))
    a, b = claimed.speedup, here.speedup
    return [
        Claim(
            "accuracy",
            f"{claimed.accuracy:.4f}",
            f"{here.accuracy:.4f}",
            abs(claimed.accuracy - here.accuracy) <= tolerance,
        ),
        Claim(
            "accuracy drop",
            f"{claimed.accuracy_drop.value:.4f}",
            f"{here.accuracy_drop.value:.4f}",
            abs(claimed.accuracy_drop.value - here.accuracy_drop.value) <= tolerance,
        ),
        Claim(
            SPEEDUP,
            f"{a.value:.2f}x [{a.low:.2f}, {a.high:.2f}]",
            f"{b.value:.2f}x [{b.low:.2f}, {b.high:.2f}]",
            b.high >= SPEEDUP_SHARE * a.low,
        ),
        Claim("size", f"{claimed.size_bytes} bytes", f"{here.size_bytes} bytes", claimed.size_bytes == here.size_bytes),
    ]
