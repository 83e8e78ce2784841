"""What must stay good: a model, its data and how both are judged.

A batch is a pair ``(inputs, targets)``. The inputs are a tensor, a tuple or list of tensors (passed as
positional arguments) or a mapping of tensors (passed by name), such as a dict or what a tokenizer of transformers
gives; the targets are whatever loss and score expect.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.errors import TaskError

Batch = tuple[Any, Any]
Augmentation = Callable[[Tensor, torch.Generator], Tensor]
Loss = Callable[[Any, Any], Tensor]
TrainingStep = Callable[[nn.Module, Any], Tensor]
Fit = Callable[[nn.Module, Any], None]


@dataclass(frozen=True)
class Score:
    """A named quality of outputs against targets, the same one for torch and for the deployed model.

    Args:
        function: ``function(outputs, targets) -> float`` over a whole split; it receives the model's
            outputs (float tensors on the CPU) and the targets, each concatenated over all batches. With `prepare` it is
            ``function(rows) -> float``.
        higher_is_better: Direction; an accuracy goes up, an error goes down.
        name: What reports call it.
        per_sample: ``per_sample(outputs, targets) -> tensor`` of one value a sample, whose mean is the score; with it
            the uncertainty of a drop is known faster and better. None where the score is not such a mean.
        prepare: ``prepare(outputs, targets) -> rows``, the part of the work that looks at each sample alone, such as
            matching boxes: tensors with a row a sample, which `function` makes one number of. It is done once, and
            resampling, which calls `function` a thousand times, is that much faster.
    """

    function: Callable[..., float]
    higher_is_better: bool = True
    name: str = "score"
    per_sample: Callable[[Any, Any], Tensor] | None = None
    prepare: Callable[[Any, Any], Any] | None = None

    def __call__(self, outputs: Any, targets: Any) -> float:
        """Value of the score for `outputs` and `targets`."""
        return float(self.function(self.prepare(outputs, targets)) if self.prepare else self.function(outputs, targets))


def _hits(outputs: Any, targets: Tensor) -> Tensor:
    logits: Tensor = outputs["logits"] if isinstance(outputs, Mapping) else outputs
    return (logits.argmax(dim=-1) == targets).double()


def _top1(outputs: Any, targets: Tensor) -> float:
    return float(_hits(outputs, targets).mean())


def _is_top1(outputs: Any, targets: Tensor) -> Tensor:
    is_right = _hits(outputs, targets)
    return is_right if is_right.dim() == 1 else is_right.flatten(1).mean(dim=1)


def top1_accuracy() -> Score:
    """Fraction of samples whose largest output is at the target's class index, in [0, 1].

    The outputs are a tensor, or a mapping with one called `logits`, which is what classifiers of transformers return.

    >>> top1_accuracy()(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    0.5
    """
    return Score(_top1, higher_is_better=True, name="top-1 accuracy", per_sample=_is_top1)


@dataclass
class TensorBatches:
    """Batches of tensors held in memory; the cheapest loader for data that fits there.

    Args:
        inputs: Tensor of shape (n_samples, ...).
        targets: Tensor of shape (n_samples, ...).
        batch_size: Samples a batch; the last batch may be smaller.
        shuffle: Whether the order changes with `epoch`.
        augment: Optional ``augment(inputs, generator)`` applied to each batch of inputs.
        seed: Together with `epoch` decides order and augmentation.
    """

    inputs: Tensor
    targets: Tensor
    batch_size: int = 64
    shuffle: bool = False
    augment: Augmentation | None = None
    seed: int = 0
    epoch: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        self.inputs, self.targets = torch.as_tensor(self.inputs), torch.as_tensor(self.targets)
        if len(self.inputs) != len(self.targets):
            message = f"inputs and targets must have equal length, but got {len(self.inputs)} and {len(self.targets)}"
            raise TaskError(message)
        if self.batch_size < 1:
            raise TaskError(f"batch_size must be at least 1, but got {self.batch_size}")

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order and augmentation the next iteration uses."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        n = len(self.inputs)
        order = torch.randperm(n, generator=generator) if self.shuffle else torch.arange(n)
        for chosen in torch.split(order, self.batch_size):
            x = self.inputs[chosen]
            yield (self.augment(x, generator) if self.augment else x), self.targets[chosen]


_TRAINING = {
    "loss": "(outputs, targets) -> tensor",
    "training_step": "(model, batch) -> tensor",
    "fit": "(model, budget) -> None",
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """A model, its data, how to train it and its score; everything that a search may look at.

    Training can be said in three ways, of which the last one given counts: `loss`, `training_step`, `fit`.

    Args:
        model: The trained FP32 module; never changed.
        example_input: Inputs of one inference, as in a batch; latency is measured at this shape.
        train: Batches for calibration and fine-tuning; any iterable that can be read again and again.
        validation: Batches that the search selects on.
        test: Batches that are read once, for the chosen model.
        score: A callable with ``higher_is_better``, for example a `Score`.
        loss: ``loss(outputs, targets)``, a scalar tensor.
        training_step: ``training_step(model, batch)``, the loss of one training batch as a scalar tensor, for models
            with several losses or whose training is more than one call.
        fit: ``fit(model, budget)``, a training loop of one's own; it trains the compressed `model` in place, for
            ``budget.n_steps`` optimizer steps, and calls ``budget.compression_loss()`` and ``budget.scheduler``, as
            `autocompress.train.TrainingBudget` says.
        seed: Seed of everything random in training.
        name: What reports call the task.

    Raises:
        TaskError: Something is missing, of the wrong kind, or can be read only once.
    """

    model: nn.Module
    example_input: Any
    train: Iterable[Batch]
    validation: Iterable[Batch]
    test: Iterable[Batch]
    score: Callable[[Any, Any], float]
    loss: Loss | None = None
    training_step: TrainingStep | None = None
    fit: Fit | None = None
    seed: int = 0
    name: str = "task"

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise TaskError(f"model must be a torch.nn.Module, but got {type(self.model).__name__}")
        for split in ("train", "validation", "test"):
            _check_loader(split, getattr(self, split))
        for name, arguments in _TRAINING.items():
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise TaskError(f"{name} must be a callable {arguments}, but got {getattr(self, name)!r}")
        if self.loss is None and self.training_step is None and self.fit is None:
            raise TaskError("a task must say how to train: give a loss, a training_step or a fit, but got none of them")
        if not isinstance(getattr(self.score, "higher_is_better", None), bool):
            raise TaskError(
                "score must be a callable with a higher_is_better attribute, "
                f"but got {self.score!r}; wrap it: autocompress.Score(function, higher_is_better=True)"
            )

    @property
    def higher_is_better(self) -> bool:
        """Direction of the score."""
        return bool(self.score.higher_is_better)  # type: ignore[attr-defined]  # checked above

    @property
    def score_name(self) -> str:
        """Name of the score in reports."""
        return str(getattr(self.score, "name", None) or getattr(self.score, "__name__", "score"))


def _check_loader(split: str, loader: Any) -> None:
    if isinstance(loader, Iterator) or not hasattr(loader, "__iter__"):
        raise TaskError(
            f"{split} must be an iterable that can be read again and again, but got "
            f"{type(loader).__name__}; give a list, a DataLoader or a TensorBatches"
        )
    if isinstance(loader, Sized) and len(loader) == 0:
        raise TaskError(f"{split} has no batches; give at least one (inputs, targets) pair")


def split_batch(batch: Any, split: str = "data") -> Batch:
    """Inputs and targets of `batch`.

    Raises:
        TaskError: `batch` is not a pair.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        kind = f"{type(batch).__name__} of length {len(batch)}" if isinstance(batch, Sized) else type(batch).__name__
        raise TaskError(f"a batch of {split} must be a pair (inputs, targets), but got a {kind}")
    return batch[0], batch[1]


def call(model: Callable[..., Any], inputs: Any) -> Any:
    """Outputs of `model` for `inputs` that are a tensor, a sequence of tensors or a mapping of tensors."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


def flatten(values: Any) -> list[Tensor]:
    """Tensors inside nested mappings, sequences and dataclass-like outputs, in a stable order.

    >>> [t.item() for t in flatten({"a": torch.tensor(1), "b": (torch.tensor(2),)})]
    [1, 2]
    """
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, np.ndarray):
        return [torch.from_numpy(values)]
    if isinstance(values, Mapping):
        return [tensor for value in values.values() for tensor in flatten(value)]
    if isinstance(values, tuple | list):
        return [tensor for value in values for tensor in flatten(value)]
    return []


def like(structure: Any, tensors: Iterator[Tensor]) -> Any:
    """`structure` with its tensors replaced, in the order of `flatten`, by the next of `tensors`."""
    if isinstance(structure, Tensor | np.ndarray):
        return next(tensors)
    if isinstance(structure, Mapping):
        return _same_kind(structure, {key: like(value, tensors) for key, value in structure.items()})
    if isinstance(structure, tuple | list):
        return tuple(like(value, tensors) for value in structure)
    return structure


def concatenate(parts: list[Any]) -> Any:
    """Outputs or targets of many batches as one, tensors joined along axis 0, other leaves collected in a list."""
    first = parts[0]
    if isinstance(first, Tensor):
        joined = [part if part.dim() else part[None] for part in parts]
        return torch.cat(joined)
    if isinstance(first, Mapping):
        return _same_kind(first, {key: concatenate([part[key] for part in parts]) for key in first})
    if isinstance(first, tuple):
        return tuple(concatenate(list(column)) for column in zip(*parts, strict=True))
    if isinstance(first, list):
        return [item for part in parts for item in part]
    return parts


def _same_kind(mapping: Mapping[Any, Any], values: dict[Any, Any]) -> Any:
    """`values` as an object of the class of `mapping` if that is one of dict, such as a ModelOutput of transformers."""
    return type(mapping)(**values) if isinstance(mapping, dict) and type(mapping) is not dict else values


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """`model` in evaluation mode inside the block; afterwards each module in the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training
