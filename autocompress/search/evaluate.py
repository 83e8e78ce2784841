"""The work of one candidate: training, exporting, measuring are separate calls that meet only in its folder.

Nothing here knows of Optuna; arguments and results can be pickled, so a call may run in any process that has the task.
"""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from autocompress.compress import CompressedModel, calibrate, compress, parameter_groups
from autocompress.deploy import (
    load_openvino,
    read_tensors,
    save_openvino,
    size_bytes,
    to_openvino,
    write_onnx,
    write_tensors,
)
from autocompress.graph import ModelGraph, inspect_model
from autocompress.measure import (
    LatencySettings,
    Predictions,
    accuracy_drop,
    agreement,
    compile_model,
    default_precision_of,
    default_precision_speedup,
    float_layers,
    layer_precisions,
    paired_latency,
    predict_deployed,
    predict_torch,
    score_of,
)
from autocompress.measurement import Measurement
from autocompress.recipe import Recipe
from autocompress.task import Task, call, flatten, split_batch
from autocompress.train import FinetuneSettings, adapt_batch_norm, channels_last, finetune

Split = Literal["validation", "test"]
Seconds = dict[str, float]
RATE_QUANTIZED = 2e-4  # a quantized model only needs to settle
RATE_PRUNED = 5e-3  # one that lost filters has to learn again
WEIGHTS, RECIPE, MODEL = "weights.safetensors", "recipe.yaml", "model.xml"


@dataclass(frozen=True)
class Rung:
    """A fidelity step: its name and the number of training steps."""

    name: str
    n_steps: int


@dataclass
class EvaluationContext:
    """What every candidate of a study shares.

    Attributes:
        task: Model, data and score.
        graph: What `inspect_model` found.
        folder: Where candidates have their folders, by digest.
        n_cores: Threads for training and scoring.
        n_inference_threads: Threads for latency.
    """

    task: Task
    graph: ModelGraph
    folder: Path
    n_cores: int
    n_inference_threads: int = 1
    _baseline: dict[str, Predictions] = field(default_factory=dict, repr=False)
    _structure: list[Any] = field(default_factory=list, repr=False)
    _teacher: list[nn.Module] = field(default_factory=list, repr=False)

    @property
    def baseline_folder(self) -> Path:
        """Folder of the FP32 candidate."""
        return self.folder / Recipe().digest()

    @property
    def teacher(self) -> nn.Module:
        """A copy of the FP32 model that is laid out for speed."""
        if not self._teacher:
            self._teacher.append(channels_last_module(copy.deepcopy(self.task.model)).eval())
        return self._teacher[0]

    def baseline_predictions(self, split: Split) -> Predictions:
        """Outputs of the deployed FP32 model; computed once a process and split."""
        if split not in self._baseline:
            model = load_openvino(self.baseline_folder / MODEL)
            self._baseline[split] = self.predict_deployed(model, split)
        return self._baseline[split]

    def predict_deployed(self, model: Any, split: Split) -> Predictions:
        """Outputs of a deployed model on a split."""
        if not self._structure:
            with torch.no_grad():
                self._structure.append(call(self.teacher, self.task.example_input))
        return predict_deployed(model, getattr(self.task, split), self._structure[0], split, self.n_cores)

    def restore(self, recipe: Recipe, folder: Path) -> CompressedModel:
        """The trained compressed model, from its recipe and its weights in `folder`."""
        compressed = compress(self.task.model, self.graph, recipe, self.task.example_input)
        compressed.load_state(read_tensors(folder / WEIGHTS))
        return compressed


class Stopwatch:
    """Wall-clock seconds by phase."""

    def __init__(self) -> None:
        self.seconds: Seconds = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the block to the phase `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def train_candidate(context: EvaluationContext, recipe: Recipe, folder: Path, rung: Rung, seed: int) -> Seconds:
    """Compress and fine-tune; leaves the recipe and the trained weights in `folder`.

    Args:
        context: The study's.
        recipe: What to do.
        folder: Made if it is missing.
        rung: How long to train.
        seed: Of everything random in training.

    Returns:
        Seconds by phase.
    """
    watch = Stopwatch()
    task = context.task
    with watch.phase("compress"):
        compressed = compress(task.model, context.graph, recipe, task.example_input)
        module = channels_last_module(compressed.module)
    if not recipe.is_identity:
        with watch.phase("calibrate"):
            if recipe.pruning:
                adapt_batch_norm(module, task.train)
            if recipe.layers:
                calibrate(module, task.train, recipe.calibration)
        with watch.phase("finetune"):
            if rung.n_steps:
                _train(context, compressed, rung.n_steps, seed)
    with watch.phase("save"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECIPE).write_text(recipe.to_yaml())
        write_tensors(compressed.state(), folder / WEIGHTS)
    return watch.seconds


def _train(context: EvaluationContext, compressed: CompressedModel, n_steps: int, seed: int) -> None:
    task = context.task
    rate = RATE_PRUNED if compressed.recipe.pruning else RATE_QUANTIZED
    settings = FinetuneSettings(n_steps=n_steps, learning_rate=rate, seed=seed)
    ranges = parameter_groups(compressed.module)[1]
    finetune(compressed.module, ranges, context.teacher, task.train, task.loss, settings)
    adapt_batch_norm(compressed.module, task.train, n_batches=20)


def channels_last_module(module: nn.Module) -> nn.Module:
    """The module itself, weights of 2-d convolutions stored channels last; values don't change."""
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return module


def seconds_a_step(context: EvaluationContext, recipe: Recipe, n_steps: int = 6) -> float:
    """Seconds of one training step of `recipe` on this machine; nothing is kept.

    The fastest of `n_steps` counts, since a passing load would make the whole study's trainings too short.
    """
    task = context.task
    compressed = compress(task.model, context.graph, recipe, task.example_input)
    channels_last_module(compressed.module)
    calibrate(compressed.module, task.train, recipe.calibration, n_batches=1)
    ends = [time.perf_counter()]
    settings = FinetuneSettings(n_steps=n_steps)
    ranges = parameter_groups(compressed.module)[1]
    finetune(
        compressed.module,
        ranges,
        context.teacher,
        task.train,
        task.loss,
        settings,
        on_step=lambda _step, _loss: ends.append(time.perf_counter()),
    )
    return min(end - start for start, end in zip(ends, ends[1:], strict=False))


def export_candidate(context: EvaluationContext, recipe: Recipe, folder: Path) -> Seconds:
    """Write the deployed model of a trained candidate into its folder.

    Args:
        context: The study's.
        recipe: A candidate that `train_candidate` has trained.
        folder: Where it left the weights.

    Returns:
        Seconds by phase.
    """
    watch = Stopwatch()
    with watch.phase("export"):
        compressed = context.restore(recipe, folder)
        with compressed.export_form() as module:
            save_openvino(to_openvino(module, context.task.example_input), folder)
    return watch.seconds


def measure_candidate(
    context: EvaluationContext, recipe: Recipe, folder: Path, split: Split, latency: LatencySettings
) -> tuple[Measurement, Seconds]:
    """Measure the deployed model in `folder`, and compare it with the torch model that it was exported from.

    Args:
        context: The study's; the FP32 baseline must be in its folder.
        recipe: A candidate that `export_candidate` has exported.
        folder: Where its files are.
        split: Data for the accuracy.
        latency: How to measure latency.

    Returns:
        The measurement, and seconds by phase.
    """
    watch = Stopwatch()
    model = load_openvino(folder / MODEL)
    with watch.phase("evaluation"):
        compressed = context.restore(recipe, folder)
        torch_predictions = predict_torch(channels_last_module(compressed.module), _last(context, split), split)
        deployed = context.predict_deployed(model, split)
        drop = accuracy_drop(context.task, context.baseline_predictions(split), deployed)
        accuracy, torch_accuracy = (score_of(context.task, p) for p in (deployed, torch_predictions))
    with watch.phase("latency"):
        baseline_model = load_openvino(context.baseline_folder / MODEL)
        timed = paired_latency(baseline_model, model, real_input(context.task), latency)
        ran_in = layer_precisions(compile_model(model, context.n_inference_threads), recipe.layers)
    measurement = Measurement(
        accuracy=accuracy,
        torch_accuracy=torch_accuracy,
        accuracy_drop=drop,
        agreement=agreement(deployed, torch_predictions),
        speedup=timed.speedup,
        latency_ms=timed.latency_ms,
        size_bytes=size_bytes(folder / MODEL),
        macs=inspect_model(compressed.module, context.task.example_input, with_groups=False).macs,
        ran_in=ran_in,
        float_layers=float_layers(ran_in, recipe.layers),
        n_samples=deployed.n_samples,
    )
    return measurement, watch.seconds


def _last(context: EvaluationContext, split: Split) -> Any:
    """Batches of a split with images channels last."""
    return [(channels_last(x), y) for x, y in (split_batch(batch, split) for batch in getattr(context.task, split))]


def real_input(task: Task) -> list[Any]:
    """Inputs of one inference as arrays: the first validation samples, else the example input where shapes differ."""
    example = flatten(task.example_input)
    inputs = flatten(split_batch(next(iter(task.validation)), "validation")[0])
    taken: list[Tensor] = [x[: len(e)] for x, e in zip(inputs, example, strict=False)]
    if len(taken) != len(example) or any(x.shape != e.shape for x, e in zip(taken, example, strict=True)):
        taken = example
    return [tensor.numpy() for tensor in taken]


def export_onnx(context: EvaluationContext, recipe: Recipe, folder: Path, path: Path) -> None:
    """Write the trained candidate in `folder` as ONNX."""
    compressed = context.restore(recipe, folder)
    with compressed.export_form():
        write_onnx(compressed.freeze_weights(), context.task.example_input, compressed.integer_weights(), path)


def default_precision(context: EvaluationContext) -> tuple[str, float, float, float] | None:
    """The precision in which OpenVINO would run the FP32 model by itself, with its paired speed-up over f32.

    Returns:
        Name of the precision, speed-up, ends of its interval; None where that precision is f32.
    """
    model = load_openvino(context.baseline_folder / MODEL)
    name = default_precision_of(model, context.n_inference_threads)
    if name == "f32":
        return None
    settings = LatencySettings(n_threads=context.n_inference_threads)
    speedup = default_precision_speedup(model, real_input(context.task), settings)
    return name, speedup.value, speedup.low, speedup.high
