"""The recipes of the compression benchmark, and what each of them gives on the built-in task."""

from dataclasses import dataclass
from pathlib import Path

import openvino

from autocompress.deploy import load_openvino
from autocompress.graph import ModelGraph, inspect_model
from autocompress.latency import LatencySettings, paired_latency
from autocompress.measure import default_weight_bits, describe_environment
from autocompress.measurement import Measurement, Speedup
from autocompress.recipe import LayerRecipe, Recipe, Sparsification
from autocompress.search.context import EvaluationContext, Rung
from autocompress.search.evaluate import export_candidate, measure_candidate, real_input
from autocompress.search.folder import MODEL
from autocompress.search.training import train_candidate
from autocompress.space import uniform_recipe
from autocompress.task import Task

FP32, INT8, PRUNED = "FP32", "INT8", "INT8, half of the filters"
GLOBAL, LOCAL = "70 % sparse, magnitude, global", "70 % sparse, magnitude, local"
GATES, MOVEMENT = "70 % sparse, regularization", "70 % sparse, movement"
LOW_RANK = "INT8, rank x 0.4"
SPARSITY = 0.7


@dataclass(frozen=True)
class Row:
    """One recipe after training.

    Attributes:
        name: What tables call it.
        measurement: Of the deployed model on the test split.
        over_int8: Speed-up over INT8, paired.
        sparsity: Fraction of zero weights in the layers of the recipe, in [0, 1].
        train_seconds: Of the fine-tuning.
    """

    name: str
    measurement: Measurement
    over_int8: Speedup
    sparsity: float
    train_seconds: float


def recipes(graph: ModelGraph) -> dict[str, Recipe]:
    """What is compared, by name; INT8 comes first."""
    layer = LayerRecipe(weight_bits=default_weight_bits(), activation_bits=8)
    int8 = uniform_recipe(graph, layer)
    sparse = uniform_recipe(graph, LayerRecipe(sparsity=SPARSITY)).layers
    return {
        INT8: int8,
        PRUNED: Recipe(layers=int8.layers, pruning={group.name: 0.5 for group in graph.prunable}),
        LOW_RANK: uniform_recipe(graph, layer.model_copy(update={"rank_ratio": 0.4})),
        GLOBAL: Recipe(layers=sparse, sparsification=Sparsification(scope="global")),
        LOCAL: Recipe(layers=sparse),
        GATES: Recipe(layers=sparse, sparsification=Sparsification(method="regularization", scope="global")),
        MOVEMENT: Recipe(layers=sparse, sparsification=Sparsification(method="movement", scope="global")),
    }


def run(task: Task, n_epochs: float, latency: LatencySettings, folder: Path) -> list[Row]:
    """Train, deploy and measure every recipe, in one process and one session.

    Args:
        task: Model, data and score.
        n_epochs: Length of each training; INT8 alone is calibrated and not trained.
        latency: How to measure latency.
        folder: Gets one folder a recipe.
    """
    graph = inspect_model(task.model, task.example_input)
    context = EvaluationContext(task, graph, folder, describe_environment(1).n_cores)
    n_steps = max(1, round(n_epochs * len(task.train)))  # type: ignore[arg-type]
    train_candidate(context, Recipe(), context.baseline_folder, Rung("baseline", 0), 0)
    export_candidate(context, Recipe(), context.baseline_folder)
    wanted = recipes(graph)
    rows = []
    for name, recipe in wanted.items():
        print(name, flush=True)
        trained = 0 if name == INT8 else n_steps
        rows.append(_row(context, name, recipe, trained, latency, folder / wanted[INT8].digest()))
    return rows


def _row(
    context: EvaluationContext, name: str, recipe: Recipe, n_steps: int, latency: LatencySettings, int8: Path
) -> Row:
    folder = context.folder / recipe.digest()
    seconds = train_candidate(context, recipe, folder, Rung("benchmark", n_steps), 0).seconds
    export_candidate(context, recipe, folder)
    measurement, _ = measure_candidate(context, recipe, folder, "test", latency)
    models: list[openvino.Model] = [load_openvino(path / MODEL) for path in (int8, folder)]
    over_int8 = paired_latency(*models, real_input(context.task), latency).speedup
    return Row(name, measurement, over_int8, _sparsity(context, recipe, folder), seconds["finetune"])


def _sparsity(context: EvaluationContext, recipe: Recipe, folder: Path) -> float:
    """Fraction of zeros among the deployed weights of the layers that the recipe names."""
    compressed = context.restore(recipe, folder)
    frozen = compressed.freeze_weights()
    weights = [frozen.get_submodule(name).weight for name in compressed.layers]
    n_zeros = sum(int((weight == 0).sum()) for weight in weights)
    return n_zeros / max(1, sum(weight.numel() for weight in weights))
