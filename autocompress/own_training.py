"""Compression inside a training script of one's own, without a search."""

import copy

from torch import nn

from autocompress.compress import CompressedModel, parameter_groups
from autocompress.train import Teacher, TrainingBudget


def own_loop(
    compressed: CompressedModel, n_steps: int, *, teacher: nn.Module | None = None, steps_per_epoch: int | None = None
) -> TrainingBudget:
    """What a training loop of one's own needs: a context manager, inside of which the loop trains.

    ::

        with own_loop(compressed, n_steps=1000, teacher=model) as budget:
            optimizer = torch.optim.AdamW(budget.parameter_groups(1e-4))
            for inputs, targets in batches:  # 1000 of them
                loss = criterion(compressed.module(inputs), targets)
                optimizer.zero_grad()
                (loss + budget.compression_loss(targets)).backward()
                optimizer.step()
                budget.scheduler.step(loss)

    Args:
        compressed: From `compress`; quantizers in it are calibrated already.
        n_steps: Optimizer steps that the loop will take, >= 0; sparsity rises over them.
        teacher: The FP32 model to learn from, as the recipe's `distillation` says; it is copied. None for none.
        steps_per_epoch: For a loop that calls ``budget.scheduler.epoch_step()`` alone, >= 1.

    Raises:
        TrainingError: The recipe wants features to be distilled, which needs the loop of autocompress.
    """
    return TrainingBudget(
        compressed.module,
        n_steps,
        ranges=parameter_groups(compressed.module)[1],
        compression=compressed.training(n_steps, steps_per_epoch),
        teacher=None if teacher is None else Teacher(copy.deepcopy(teacher)),
        distillation=compressed.recipe.distillation,
        steps_per_epoch=steps_per_epoch,
    )
