"""Outputs and score of torch and deployed models."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino
import torch
from torch import Tensor, nn

from autocompress.errors import MeasurementError
from autocompress.measure.inference import Arrays, BatchRunner
from autocompress.measurement import CHOICE_SHARE
from autocompress.task import Batch, Task, call, concatenate, flatten, like, split_batch


@dataclass(frozen=True)
class Predictions:
    """Outputs of one model on a whole split, with the targets; both joined over batches along axis 0."""

    outputs: Any
    targets: Any

    @property
    def n_samples(self) -> int:
        """Samples in the split."""
        return len(flatten(self.outputs)[0])


def predict_torch(model: nn.Module, batches: Iterable[Batch], split: str) -> Predictions:
    """Outputs of a torch module in evaluation mode.

    Raises:
        MeasurementError: The split has no batches.
    """
    model.eval()
    outputs, targets = [], []
    with torch.no_grad():
        for batch in batches:
            inputs, target = split_batch(batch, split)
            outputs.append(call(model, inputs))
            targets.append(target)
    return _joined(outputs, targets, split)


def predict_deployed(
    model: openvino.Model, batches: Iterable[Batch], structure: Any, split: str, n_threads: int
) -> Predictions:
    """Outputs of a deployed model, in the structure that the torch module gives.

    The model takes batches of any number of samples, and of any lengths that it allows, as `BatchRunner` says.

    Args:
        model: Deployed model; not changed.
        batches: Batches of (inputs, targets).
        structure: An output of the torch module, for its structure.
        split: Name of the data, for messages.
        n_threads: Threads that may be used; this is not the latency measurement.

    Raises:
        MeasurementError: The split has no batches, inference fails, or the model does not allow the lengths of a batch.
    """
    targets: list[Any] = []

    def arrays() -> Iterator[Arrays]:
        for batch in batches:
            inputs, target = split_batch(batch, split)
            targets.append(target)
            yield [tensor.detach().cpu().numpy() for tensor in flatten(inputs)]

    outputs = [like(structure, iter(tensors)) for tensors in BatchRunner(model, n_threads)(arrays())]
    return _joined(outputs, targets, split)


def _joined(outputs: list[Any], targets: list[Any], split: str) -> Predictions:
    if not outputs:
        raise MeasurementError(f"the task's {split} data has no batches; give at least one (inputs, targets) pair")
    try:
        return Predictions(concatenate(outputs), concatenate(targets))
    except RuntimeError as error:
        law = f"outputs and targets of all batches of the {split} data must fit together along axis 0"
        raise MeasurementError(f"{law}, but {error}; pad them to one length, or return one row a sample") from None


def score_of(task: Task, predictions: Predictions) -> float:
    """The task's score of `predictions`.

    Raises:
        MeasurementError: The score fails or is not a finite number.
    """
    try:
        value = float(task.score(predictions.outputs, predictions.targets))
    except Exception as error:  # the score is the user's code
        raise MeasurementError(f"the task's {task.score_name} fails: {type(error).__name__}: {error}") from error
    if not np.isfinite(value):
        raise MeasurementError(f"the task's {task.score_name} must be a finite number, but got {value}")
    return value


def split_for_choice(predictions: Predictions) -> tuple[Predictions, Predictions]:
    """The samples by which candidates are proposed, and those by which one is chosen: 30 and 70 % of all.

    Drawn at random, always the same ones. More are for the choice, since its bound decides alone, while the search
    sees many candidates.
    """
    order = torch.randperm(predictions.n_samples, generator=torch.Generator().manual_seed(0))
    n_search = round((1 - CHOICE_SHARE) * len(order))
    parts = [order[:n_search].sort().values, order[n_search:].sort().values]
    first, second = (Predictions(take(predictions.outputs, p), take(predictions.targets, p)) for p in parts)
    return first, second


def take(structure: Any, chosen: Tensor) -> Any:
    """Samples `chosen` of tensors joined along axis 0; a list holds one item a sample."""
    if isinstance(structure, Tensor):
        return structure[chosen]
    if isinstance(structure, list):
        return [structure[i] for i in chosen.tolist()]
    return like(structure, iter([tensor[chosen] for tensor in flatten(structure)]))
