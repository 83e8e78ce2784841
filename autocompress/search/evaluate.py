"""The work of one candidate: training, exporting, measuring are separate calls that meet only in its folder.

Nothing here knows of Optuna; arguments and results can be pickled, so a call may run in any process that has the task.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autocompress.deploy import load_openvino, save_openvino, size_bytes, to_openvino, zipped_bytes
from autocompress.graph import inspect_model
from autocompress.latency import JointLatency, LatencySettings, compile_model, lasting
from autocompress.measure import (
    Predictions,
    accuracy_drop,
    default_precision_of,
    float_layers,
    layer_precisions,
    parity,
    predict_torch,
    score_of,
    split_for_choice,
    take,
)
from autocompress.measurement import Interval, Measurement
from autocompress.recipe import Recipe
from autocompress.search.context import EvaluationContext, Seconds, Split, Stopwatch, channels_last_module
from autocompress.search.folder import MODEL
from autocompress.task import Task, flatten, split_batch
from autocompress.train import channels_last

N_COMPARED = 1000  # validation samples on which the deployed model is compared with torch, at most about
LEAST_SPLIT = 200  # samples; a part of fewer can decide nothing


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
        latency: How to measure latency; the study says with how many threads, and how long.

    Returns:
        The measurement, and seconds by phase.
    """
    watch = Stopwatch()
    model = load_openvino(folder / MODEL)
    with watch.phase("evaluation"):
        compressed = context.restore(recipe, folder)
        baseline = context.baseline_predictions(split)
        deployed = baseline if recipe.is_identity else context.predict_deployed(model, split)
        drop, selection_drop = _drops(context.task, baseline, deployed, may_split=split == "validation")
        batches, same = _compared(context.task, deployed, split)
        in_torch = predict_torch(channels_last_module(compressed.module), batches, split)
        alike = parity(in_torch, same)
        accuracy = score_of(context.task, deployed)
        torch_accuracy = accuracy + (score_of(context.task, in_torch) - score_of(context.task, same))
    with watch.phase("latency"):
        timed = context.timer.compare(
            context.baseline_folder / MODEL, folder / MODEL, real_input(context.task), _as_asked(context, latency)
        )
        ran_in = layer_precisions(compile_model(model, context.n_inference_threads), compressed.quantized)
    measurement = Measurement(
        accuracy=accuracy,
        torch_accuracy=torch_accuracy,
        accuracy_drop=drop,
        selection_drop=selection_drop,
        agreement=alike.agreement,
        largest_difference=alike.largest_difference,
        speedup=timed.speedup,
        latency_ms=timed.latency_ms,
        latency_check=timed.check,
        size_bytes=size_bytes(folder / MODEL),
        zipped_bytes=zipped_bytes(folder / MODEL),
        macs=inspect_model(compressed.module, context.task.example_input, with_groups=False).macs,
        ran_in=ran_in,
        float_layers=float_layers(ran_in, compressed.quantized),
        n_samples=deployed.n_samples,
    )
    return measurement, watch.seconds


def _drops(
    task: Task, baseline: Predictions, deployed: Predictions, may_split: bool
) -> tuple[Interval, Interval | None]:
    """The drop by which candidates are proposed, and the one by which one of them is chosen."""
    if not may_split or deployed.n_samples < LEAST_SPLIT:
        return accuracy_drop(task, baseline, deployed), None
    first, second = (
        accuracy_drop(task, *pair) for pair in zip(split_for_choice(baseline), split_for_choice(deployed), strict=True)
    )
    return first, second


def time_together(
    context: EvaluationContext, folders: Sequence[Path], latency: LatencySettings
) -> tuple[JointLatency, Seconds]:
    """Time the deployed models in `folders` against the baseline and each other, in one session.

    Args:
        context: The study's; the FP32 baseline must be in its folder.
        folders: Where `export_candidate` has written them.
        latency: How to measure; the study says with how many threads, and how long.

    Returns:
        The latencies in the order of `folders`, and seconds by phase.
    """
    watch = Stopwatch()
    with watch.phase("latency"):
        paths = [folder / MODEL for folder in folders]
        inputs = real_input(context.task)
        timed = context.timer.compare_all(context.baseline_folder / MODEL, paths, inputs, _as_asked(context, latency))
    return timed, watch.seconds


def _as_asked(context: EvaluationContext, latency: LatencySettings) -> LatencySettings:
    """The settings with the study's threads, longer or shorter in the proportion in which it times a candidate."""
    settings = replace(latency, n_threads=context.n_inference_threads)
    return settings if context.latency_seconds is None else lasting(settings, context.latency_seconds)


def _compared(task: Task, deployed: Predictions, split: Split) -> tuple[list[Any], Predictions]:
    """Batches, with images channels last, on which the torch model is run, too, and what was deployed says to them.

    All of the test split; of other splits every so many batches, about `N_COMPARED` samples at most, since torch is the
    slower of the two by far.
    """
    batches = [split_batch(batch, split) for batch in getattr(task, split)]
    lengths = [len(flatten(inputs)[0]) for inputs, _ in batches]
    is_by_sample = sum(lengths) == deployed.n_samples
    step = -(-deployed.n_samples // N_COMPARED) if split != "test" and is_by_sample else 1
    kept = [(channels_last(inputs), targets) for inputs, targets in batches[::step]]
    if step == 1:
        return kept, deployed
    rows = torch.cat(torch.split(torch.arange(deployed.n_samples), lengths)[::step])
    return kept, Predictions(take(deployed.outputs, rows), take(deployed.targets, rows))


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
    from autocompress.deploy.onnx_export import write_onnx

    compressed = context.restore(recipe, folder)
    with compressed.export_form():
        write_onnx(compressed.freeze_weights(), context.task.example_input, compressed.integer_weights(), path)


def default_precision(context: EvaluationContext, latency: LatencySettings) -> tuple[str, float, float, float] | None:
    """The precision in which OpenVINO would run the FP32 model by itself, with its paired speed-up over f32.

    Args:
        context: The study's; the FP32 baseline must be in its folder.
        latency: How to measure; the study says with how many threads, and how long.

    Returns:
        Name of the precision, speed-up, ends of its interval; None where that precision is f32.
    """
    model = load_openvino(context.baseline_folder / MODEL)
    name = default_precision_of(model, context.n_inference_threads)
    if name == "f32":
        return None
    settings = _as_asked(context, latency)
    speedup = context.timer.default_precision(context.baseline_folder / MODEL, real_input(context.task), settings)
    return name, speedup.value, speedup.low, speedup.high
