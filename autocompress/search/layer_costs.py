"""What each layer costs on this processor, and what integers or half of the filters would save of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import openvino

from autocompress.compress import calibrate, compress
from autocompress.deploy import load_openvino, save_openvino, to_openvino
from autocompress.graph import ModelGraph
from autocompress.latency import LatencyProcess, LatencySettings, PairedLatency
from autocompress.measure import default_weight_bits
from autocompress.measure.profile import profile_layers
from autocompress.measurement import Speedup
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.search.evaluate import real_input
from autocompress.space import uniform_recipe
from autocompress.task import Task

HALF = 0.5
_FP32 = "fp32"


@dataclass(frozen=True)
class LayerCost:
    """Milliseconds of one inference that belong to one layer.

    Attributes:
        latency_ms: In the FP32 model, >= 0.
        int8_saves_ms: How much less in the model with 8-bit inputs and 7- or 8-bit weights everywhere; negative where
            that is slower, None where nothing of the model can be quantized.
        half_saves_ms: The same for half of the filters of every channel group removed, in FP32.
    """

    latency_ms: float
    int8_saves_ms: float | None = None
    half_saves_ms: float | None = None


@dataclass(frozen=True)
class LayerCosts:
    """Costs of all layers; their sums are the whole models' as measured in pairs.

    Attributes:
        layers: By name, in the order of the graph. A layer that OpenVINO does not run under its name is left out.
        rest: All that belongs to no layer: pooling, reorders, what was not fused.
        baseline_ms: Median of one inference of the FP32 model, milliseconds.
        int8: Speed-up of the whole model on integers.
        half: Speed-up of the whole model with half of its filters.
        is_noisy: Whether the machine was too busy for one of these two.
    """

    layers: dict[str, LayerCost]
    rest: LayerCost
    baseline_ms: float
    int8: Speedup | None
    half: Speedup | None
    is_noisy: bool = False


def layer_costs(
    task: Task, graph: ModelGraph, n_threads: int = 1, on_progress: Callable[[str], None] = lambda phase: None
) -> LayerCosts:
    """Time the FP32 model, one that is all INT8, and one with half of its filters; weights are not trained.

    Counters say how the time of a model is divided among its layers, and paired runs how long it takes: the times of
    the layers are scaled to that, so that what they save adds up to what the whole model saves.

    Args:
        task: Gives the model and, for ranges of inputs, the first batch of validation data.
        graph: What `inspect_model` found in the model.
        n_threads: Inference threads.
        on_progress: Told what is done.

    Raises:
        DeployError: OpenVINO cannot convert the model.
        MeasurementError: It cannot compile or run it.
        WorkFailedError: The measuring process failed.
    """
    with TemporaryDirectory(prefix="autocompress-") as folder:
        paths = _export(task, graph, Path(folder), on_progress)
        times = _profiles(paths, task, n_threads, on_progress)
        paired = _compare(paths, task, n_threads, on_progress)
    return costs_of(times, paired, graph)


def _export(task: Task, graph: ModelGraph, folder: Path, on_progress: Callable[[str], None]) -> dict[str, Path]:
    paths = {}
    for name, recipe in _recipes(graph).items():
        on_progress(f"exporting {name}")
        paths[name] = save_openvino(_deployed(task, graph, recipe), folder, name)
    return paths


def _recipes(graph: ModelGraph) -> dict[str, Recipe]:
    """FP32 first, then what is possible of `int8` and `half`."""
    recipes = {_FP32: Recipe()}
    if graph.compressible:
        recipes["int8"] = uniform_recipe(graph, LayerRecipe(weight_bits=default_weight_bits(), activation_bits=8))
    if graph.prunable:
        recipes["half"] = Recipe(pruning={group.name: HALF for group in graph.prunable})
    return recipes


def _deployed(task: Task, graph: ModelGraph, recipe: Recipe) -> openvino.Model:
    compressed = compress(task.model, graph, recipe, task.example_input)
    if recipe.layers:
        calibrate(compressed.module, task.validation, n_batches=1)
    with compressed.export_form() as module:
        return to_openvino(module, task.example_input)


def _profiles(
    paths: dict[str, Path], task: Task, n_threads: int, on_progress: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    times = {}
    for name, path in paths.items():
        on_progress(f"timing the layers of {name}")
        times[name] = profile_layers(load_openvino(path), real_input(task), n_threads)
    return times


def _compare(
    paths: dict[str, Path], task: Task, n_threads: int, on_progress: Callable[[str], None]
) -> dict[str, PairedLatency]:
    settings = replace(LatencySettings(), n_threads=n_threads)
    paired = {}
    with LatencyProcess() as process:
        for name, path in paths.items():
            if name != _FP32:
                on_progress(f"comparing {name} with fp32")
                paired[name] = process.compare(paths[_FP32], path, real_input(task), settings)
    return paired


def costs_of(times: dict[str, dict[str, float]], paired: dict[str, PairedLatency], graph: ModelGraph) -> LayerCosts:
    """Costs from the times by layer of `fp32`, `int8` and `half`, and the paired latencies of the last two.

    Args:
        times: Milliseconds by layer and model; `int8` and `half` may be missing, and are in `paired` if they are here.
        paired: Each against FP32.
        graph: Says which names are layers.
    """
    baseline_ms = sum(p.baseline_ms for p in paired.values()) / len(paired) if paired else sum(times[_FP32].values())
    speedups = {name: p.speedup for name, p in paired.items()}
    totals = {_FP32: baseline_ms} | {name: baseline_ms / s.value for name, s in speedups.items()}
    scaled = {name: _scaled(parts, totals[name]) for name, parts in times.items()}
    names = [layer.name for layer in graph.layers if layer.name in scaled[_FP32]]
    layers = {name: _cost({which: ms.get(name, 0.0) for which, ms in scaled.items()}) for name in names}
    outside = {which: sum(t for name, t in ms.items() if name not in names) for which, ms in scaled.items()}
    return LayerCosts(
        layers=layers,
        rest=_cost(outside),
        baseline_ms=baseline_ms,
        int8=speedups.get("int8"),
        half=speedups.get("half"),
        is_noisy=any(p.check.is_noisy for p in paired.values()),
    )


def _scaled(times: dict[str, float], total: float) -> dict[str, float]:
    scale = total / max(sum(times.values()), 1e-9)
    return {name: scale * ms for name, ms in times.items()}


def _cost(ms: dict[str, float]) -> LayerCost:
    """Cost from milliseconds by model."""
    saved = {name: ms[_FP32] - after for name, after in ms.items()}
    return LayerCost(ms[_FP32], saved.get("int8"), saved.get("half"))
