"""Training data where no step is trained: for calibration, batch norms and the importance of filters."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor

from autocompress.compress import importance_scores, needs_data
from autocompress.errors import TrainingError
from autocompress.recipe import Recipe
from autocompress.search.context import EvaluationContext
from autocompress.task import Batch, Task
from autocompress.train.data_order import preserved_generators, seed_generators
from autocompress.train.objective import StepInputs, loss_after


@contextmanager
def begun_anew(task: Task, seed: int) -> Iterator[None]:
    """A block in which data and chance begin as for every other candidate, whatever was trained in this process.

    Global random state is afterwards as it was.

    Args:
        task: Its training data goes back to epoch 0 where it has `set_epoch`.
        seed: Of the global generators.
    """
    with preserved_generators():
        seed_generators(seed)
        if hasattr(task.train, "set_epoch"):
            task.train.set_epoch(0)
        yield


def training_pairs(context: EvaluationContext) -> Iterable[Batch]:
    """Training batches as pairs of inputs and something, whatever form a `training_step` gives them."""
    task = context.task
    if task.training_step is None:
        return task.train
    return StepInputs(task.train, task.training_step, context.fp32)


def with_pairs(context: EvaluationContext) -> EvaluationContext:
    """The context, its training batches being pairs, for whoever trains nothing."""
    return replace(context, task=replace(context.task, train=training_pairs(context)))


def filter_scores(context: EvaluationContext, recipe: Recipe) -> dict[str, Tensor] | None:
    """Importance of filters from training data; None where the recipe does not want it so.

    Raises:
        TrainingError: It is that of the loss, but the task has a loop of its own only.
    """
    if not (recipe.pruning and needs_data(recipe.importance)):
        return None
    task = context.task
    loss = loss_after(task.training_step, context.fp32) if task.training_step else task.loss
    if recipe.importance == "taylor" and loss is None:
        raise TrainingError(
            "importance taylor needs the task's loss or training_step, but the task has a fit only; give one of them "
            "too, or use importance activation or l2"
        )
    return importance_scores(
        task.model, task.example_input, recipe.importance, list(recipe.pruning), training_pairs(context), loss
    )
