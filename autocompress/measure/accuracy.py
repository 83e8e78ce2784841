"""Outputs and score of torch and deployed models, and their paired comparison on the same samples."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino
import torch
from torch import Tensor, nn

from autocompress.errors import MeasurementError
from autocompress.measure.runtime import compile_model
from autocompress.measurement import Interval
from autocompress.task import Batch, Task, call, concatenate, flatten, like, split_batch

N_RESAMPLES = 400
_ALIKE = 0.1  # standard deviations of the torch output that may lie between two outputs that agree


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

    The model's batch dimension is made dynamic; a model that does not allow it runs at its own batch size.

    Args:
        model: Deployed model; not changed.
        batches: Batches of (inputs, targets).
        structure: An output of the torch module, for its structure.
        split: Name of the data, for messages.
        n_threads: Threads that may be used; this is not the latency measurement.

    Raises:
        MeasurementError: The split has no batches, or inference fails.
    """
    runner = _Runner(model, n_threads)
    outputs, targets = [], []
    for batch in batches:
        inputs, target = split_batch(batch, split)
        arrays = [tensor.numpy() for tensor in flatten(inputs)]
        outputs.append(like(structure, iter(runner(arrays))))
        targets.append(target)
    return _joined(outputs, targets, split)


def _joined(outputs: list[Any], targets: list[Any], split: str) -> Predictions:
    if not outputs:
        raise MeasurementError(f"the task's {split} data has no batches; give at least one (inputs, targets) pair")
    return Predictions(concatenate(outputs), concatenate(targets))


class _Runner:
    """Runs batches of any size on a model that was exported for one size."""

    def __init__(self, model: openvino.Model, n_threads: int) -> None:
        self._size = int(model.inputs[0].partial_shape[0].get_length())
        flexible = model.clone()
        try:
            flexible.reshape({port: [-1, *list(port.shape)[1:]] for port in flexible.inputs})
            if any(
                port.partial_shape[0].is_static for port in flexible.outputs if port.partial_shape.rank.get_length()
            ):
                raise MeasurementError("the model computes a fixed number of samples")
            self._compiled, self._fixed = compile_model(flexible, n_threads), False
        except (RuntimeError, MeasurementError):
            self._compiled, self._fixed = compile_model(model, n_threads), True

    def __call__(self, arrays: list[Any]) -> list[Tensor]:
        try:
            if not self._fixed:
                return self._infer(arrays)
            n = len(arrays[0])
            parts = [
                self._infer([_padded(a[i : i + self._size], self._size) for a in arrays])
                for i in range(0, n, self._size)
            ]
        except RuntimeError as error:
            last = next((line for line in reversed(str(error).splitlines()) if line.strip()), "")
            raise MeasurementError(f"inference of the deployed model fails: {last.strip()[:200]}") from None
        return [torch.cat(column)[:n] for column in zip(*parts, strict=True)]

    def _infer(self, arrays: list[Any]) -> list[Tensor]:
        results = self._compiled(arrays)
        return [torch.from_numpy(results[port].copy()) for port in self._compiled.outputs]


def _padded(array: Any, size: int) -> Any:
    missing = size - len(array)
    return array if missing == 0 else np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])


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


def accuracy_drop(task: Task, baseline: Predictions, candidate: Predictions, seed: int = 0) -> Interval:
    """How much worse the candidate scores than the baseline on the same samples, positive when worse.

    The interval is the two-sided 90 % percentile interval of a paired bootstrap over samples (Efron 1979), so that its
    upper end is the one-sided 95 % bound.

    Args:
        task: Gives score and direction.
        baseline: Predictions of the deployed FP32 model.
        candidate: Predictions on the same samples in the same order.
        seed: Of the resampling.
    """
    sign = 1.0 if task.higher_is_better else -1.0
    value = sign * (score_of(task, baseline) - score_of(task, candidate))
    rng = np.random.default_rng(seed)
    drops = []
    for _ in range(N_RESAMPLES):
        chosen = torch.from_numpy(rng.integers(0, baseline.n_samples, baseline.n_samples))
        pair = [
            score_of(task, Predictions(take(p.outputs, chosen), take(p.targets, chosen))) for p in (baseline, candidate)
        ]
        drops.append(sign * (pair[0] - pair[1]))
    low, high = np.quantile(drops, [0.05, 0.95])
    return Interval(value=value, low=float(low), high=float(high))


def take(structure: Any, chosen: Tensor) -> Any:
    """Samples `chosen` of tensors joined along axis 0; a list holds one item a sample."""
    if isinstance(structure, Tensor):
        return structure[chosen]
    if isinstance(structure, list):
        return [structure[i] for i in chosen.tolist()]
    return like(structure, iter([tensor[chosen] for tensor in flatten(structure)]))


def agreement(a: Predictions, b: Predictions) -> float:
    """Fraction of samples on which two models decide alike, in [0, 1].

    For outputs of shape (n, classes) the largest output is at the same index; for others no value differs by more than
    a tenth of the output's standard deviation.
    """
    alike = torch.ones(a.n_samples, dtype=torch.bool)
    for x, y in zip(flatten(a.outputs), flatten(b.outputs), strict=True):
        if x.dim() == 2 and x.shape[1] > 1:
            alike &= x.argmax(dim=1) == y.argmax(dim=1)
        elif x.is_floating_point():
            alike &= (x - y).abs().flatten(1 if x.dim() > 1 else 0).reshape(len(x), -1).amax(dim=1) <= _ALIKE * x.std()
    return float(alike.double().mean())
