"""Giving up a training that cannot come near the accuracy floor, by interim scores of the torch model."""

import itertools
import math
from typing import Any

import torch
from torch import nn

from autocompress.errors import MeasurementError
from autocompress.measure import Predictions, score_of
from autocompress.search.context import EvaluationContext
from autocompress.search.training_data import begun_anew, training_pairs
from autocompress.task import Batch, call, concatenate, evaluating, flatten, like, split_batch
from autocompress.train import StepInfo, Watch, adapted_batch_norm, layout_of, running_norms

N_SAMPLES = 500  # of the validation split, about
N_BATCHES = 5  # of training data, for batch norms
MIN_STEPS = 40  # a shorter training is not worth an interim score
# Not before 40 % of the schedule, since pruned and quantized candidates overtake each other (facts: search.md, 4.7).
MARGINS = {0.5: 4.0, 0.75: 2.5}  # share of the steps: how many times the allowed drop is hopeless there
EXTRA_DROP = 0.06  # in units of the baseline's score, on top of the floor; what a longer training may still repair


class InterimScore:
    """Scores torch models on the first validation samples, with fresh statistics of batch norms as after a training.

    Args:
        context: The study's.
    """

    def __init__(self, context: EvaluationContext) -> None:
        self._task = context.task
        self._batches, self._training = _first_samples(context), _training_batches(context)
        self.baseline = self._score(context.fp32)

    def __call__(self, module: nn.Module) -> float:
        """The score; NaN where there is none, as of outputs that are not finite."""
        with adapted_batch_norm(module, [(_moved(inputs, module), targets) for inputs, targets in self._training]):
            return self._score(module)

    def _score(self, module: nn.Module) -> float:
        outputs = [_outputs(module, inputs) for inputs, _ in self._batches]
        targets = [targets for _, targets in self._batches]
        try:
            return score_of(self._task, Predictions(concatenate(outputs), concatenate(targets)))
        except (MeasurementError, RuntimeError):
            return math.nan

    def drop(self, score: float) -> float:
        """How much worse `score` is than the baseline's."""
        difference = self.baseline - score
        return difference if self._task.higher_is_better else -difference


def _first_samples(context: EvaluationContext) -> list[Batch]:
    batches, n_samples = [], 0
    for batch in context.task.validation:
        batches.append(split_batch(batch, "validation"))
        n_samples += len(flatten(batches[-1][0])[0])
        if n_samples >= N_SAMPLES:
            break
    return batches


def _training_batches(context: EvaluationContext) -> list[Batch]:
    """The first ones, where there are batch norms to adapt."""
    if not running_norms(context.fp32):
        return []
    with begun_anew(context.task, context.task.seed):
        batches = itertools.islice(training_pairs(context), N_BATCHES)
        return [split_batch(batch, "train") for batch in batches]


def _moved(inputs: Any, module: nn.Module) -> Any:
    """The inputs where the module is, laid out as it wants images."""
    first = next(itertools.chain(module.parameters(), module.buffers()), torch.empty(0))
    return layout_of(like(inputs, iter([tensor.to(first.device) for tensor in flatten(inputs)])), module)


def _outputs(module: nn.Module, inputs: Any) -> Any:
    with torch.no_grad(), evaluating(module):
        outputs = call(module, _moved(inputs, module))
    return like(outputs, iter([tensor.float().cpu() for tensor in flatten(outputs)]))


def watch_for_hopeless(
    context: EvaluationContext, n_steps: int, n_before: int = 0, n_in_all: int | None = None
) -> Watch:
    """A watch on a training; it gives up nothing without a floor, or where the baseline has no score.

    Args:
        context: The study's.
        n_steps: Steps of the training.
        n_before: Steps of trainings of the same candidate before this one.
        n_in_all: Steps of all trainings of the candidate, to which the shares of `MARGINS` refer; `n_steps` if there
            are no others.
    """
    n_whole = n_in_all or n_steps
    if context.max_drop is None or n_whole < MIN_STEPS:
        return Watch()
    interim = InterimScore(context)
    if math.isnan(interim.baseline):
        return Watch()
    allowed = context.max_drop + EXTRA_DROP * abs(interim.baseline)

    def is_hopeless(info: StepInfo) -> bool:
        if info.score is None:
            return False
        n_done = n_before + info.step
        margin = MARGINS[max(share for share in MARGINS if n_done >= share * n_whole)]
        return not interim.drop(info.score) <= margin * allowed

    here = ((share * n_whole - n_before) / n_steps for share in MARGINS)
    return Watch(on_step=is_hopeless, score=interim, score_at=tuple(share for share in here if 0 < share < 1))
