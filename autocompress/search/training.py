"""Training of one candidate: compress, set up, fine-tune; the result is in its folder."""

import time
from pathlib import Path

from torch import Tensor

from autocompress.compress import (
    CompressedModel,
    calibrate,
    compress,
    importance_scores,
    needs_data,
    parameter_groups,
    shrink,
)
from autocompress.deploy import write_tensors
from autocompress.recipe import Recipe
from autocompress.search.context import (
    RECIPE,
    WEIGHTS,
    EvaluationContext,
    Rung,
    Seconds,
    Stopwatch,
    channels_last_module,
    loses_rows,
)
from autocompress.train import FinetuneSettings, adapt_batch_norm, finetune

RATE_QUANTIZED = 2e-4  # a quantized model only needs to settle
RATE_PRUNED = 5e-3  # one that lost filters has to learn again


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
        compressed = compress(task.model, context.graph, recipe, task.example_input, scores=_scores(context, recipe))
        module = channels_last_module(compressed.module)
    if not recipe.is_identity:
        with watch.phase("calibrate"):
            if is_reshaped(recipe):
                adapt_batch_norm(module, task.train)
            if recipe.quantized:
                calibrate(module, task.train, recipe.calibration)
        with watch.phase("finetune"):
            compressed = _train(context, compressed, rung.n_steps, seed)
    with watch.phase("save"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECIPE).write_text(recipe.to_yaml())
        write_tensors(compressed.state(), folder / WEIGHTS)
    return watch.seconds


def is_reshaped(recipe: Recipe) -> bool:
    """Whether the recipe takes away so much that the model has to learn again: filters, ranks or weights."""
    return bool(recipe.pruning or recipe.sparse or any(layer.rank_ratio < 1 for layer in recipe.layers.values()))


def _scores(context: EvaluationContext, recipe: Recipe) -> dict[str, Tensor] | None:
    """Importance of filters from training data, where the recipe wants it so."""
    if not (recipe.pruning and needs_data(recipe.importance)):
        return None
    task = context.task
    return importance_scores(
        task.model, task.example_input, recipe.importance, list(recipe.pruning), task.train, task.loss
    )


def _train(context: EvaluationContext, compressed: CompressedModel, n_steps: int, seed: int) -> CompressedModel:
    """Fine-tune in place; a model that loses rows in training is shrunk, and trained on for the rest of the steps."""
    recipe = compressed.recipe
    if not loses_rows(recipe):
        return _trained(context, compressed, n_steps, seed)
    n_masked = round(n_steps * recipe.sparsification.end)
    _trained(context, compressed, n_masked, seed)
    shrunk = shrink(compressed, context.graph, context.task.train)
    return _trained(context, shrunk, n_steps - n_masked, seed)


def _trained(context: EvaluationContext, compressed: CompressedModel, n_steps: int, seed: int) -> CompressedModel:
    if n_steps == 0:
        return compressed
    task = context.task
    rate = RATE_PRUNED if is_reshaped(compressed.recipe) else RATE_QUANTIZED
    settings = FinetuneSettings(n_steps=n_steps, learning_rate=rate, seed=seed)
    ranges = parameter_groups(compressed.module)[1]
    training = compressed.training(n_steps)
    finetune(compressed.module, ranges, context.teacher, task.train, task.loss, settings, compression=training)
    adapt_batch_norm(compressed.module, task.train, n_batches=20)
    return compressed


def seconds_a_step(context: EvaluationContext, recipe: Recipe, n_steps: int = 6) -> float:
    """Seconds of one training step of `recipe` on this machine; nothing is kept.

    The fastest of `n_steps` counts, since a passing load would make the whole study's trainings too short.
    """
    task = context.task
    compressed = compress(task.model, context.graph, recipe, task.example_input, scores={})
    channels_last_module(compressed.module)
    if recipe.quantized:
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
        compression=compressed.training(n_steps),
    )
    return min(end - start for start, end in zip(ends, ends[1:], strict=False))
