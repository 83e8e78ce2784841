"""One recipe without a search."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from autocompress.graph import ModelGraph, inspect_model
from autocompress.latency import FINALIST
from autocompress.measure import default_weight_bits, describe_environment
from autocompress.measurement import Measurement
from autocompress.recipe import Recipe
from autocompress.search.chosen import ONNX
from autocompress.search.context import EvaluationContext, Rung
from autocompress.search.evaluate import export_candidate, export_onnx, measure_candidate
from autocompress.search.training import train_candidate
from autocompress.search.worker import Worker
from autocompress.space import PRESETS, preset
from autocompress.task import Task
from autocompress.train import Hardware

OnPhase = Callable[[str], None]


@contextmanager
def worker_with_baseline(
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
        worker_with_baseline(task, graph, Path(work), on_phase, threads, hardware) as worker,
    ):
        on_phase(f"fine-tuning ({n_steps} steps)")
        worker.call(train_candidate, recipe, out, Rung("single", n_steps), seed)
        on_phase("exporting")
        worker.call(export_candidate, recipe, out)
        worker.call(export_onnx, recipe, out, out / ONNX)
        on_phase("measuring on the test split")
        measurement, _ = worker.call(measure_candidate, recipe, out, "test", FINALIST)
    return measurement
