"""What a training step minimizes: the task's own loss, distillation, and the term of the compression methods."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from autocompress.errors import TrainingError
from autocompress.recipe import Distillation
from autocompress.task import Loss, TrainingStep, call, split_batch
from autocompress.train.distillation import Distiller
from autocompress.train.teacher import Teacher


class Compression(Protocol):
    """What methods that change during training, as sparsity, want from a training loop."""

    @property
    def scores(self) -> list[nn.Parameter]:
        """Parameters of the method itself, which get a rate of their own and do not decay."""

    @property
    def needs_loss(self) -> bool:
        """Whether `step` must be told the loss."""

    def loss(self) -> Tensor:
        """The method's term of the loss, a scalar; called after the model has run."""

    def step(self, loss: float | None = None) -> None:
        """To be called after each optimizer step, with the value of the loss without the term."""

    def epoch_step(self, loss: float | None = None) -> None:
        """To be called after each epoch by a loop that does not call `step`."""

    def finish(self) -> None:
        """To be called after the last step."""

    def state(self) -> dict[str, Any]:
        """How far it is, in numbers that JSON can hold."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to what `state` said."""


@dataclass(frozen=True)
class Objective:
    """What is to be learnt.

    Attributes:
        loss: ``loss(outputs, targets)``, a scalar tensor.
        training_step: ``training_step(model, batch)``, the loss of a batch; it goes before `loss`.
        teacher: The FP32 module; None for a training without distillation.

    Raises:
        TrainingError: Neither a loss nor a training step is given.
    """

    loss: Loss | None = None
    training_step: TrainingStep | None = None
    teacher: Teacher | None = None

    def __post_init__(self) -> None:
        """Check that there is something to minimize."""
        if self.loss is None and self.training_step is None:
            raise TrainingError(
                "training needs a loss(outputs, targets) or a training_step(model, batch), but got none"
            )

    def of(self, model: nn.Module, batch: Any) -> Tensor:
        """The task's own loss of a batch.

        Raises:
            TrainingError: It is not a scalar tensor.
        """
        if self.training_step is not None:
            return _scalar(self.training_step(model, batch), "training_step")
        inputs, targets = split_batch(batch, "train")
        if self.loss is None:
            raise TrainingError("training needs a loss(outputs, targets), but got None")
        return _scalar(self.loss(call(model, inputs), targets), "the task's loss")


@dataclass(frozen=True)
class Terms:
    """Terms of the loss of one batch, each a scalar.

    Attributes:
        value: The task's loss and distillation, weighted; what is shown and watched.
        distillation: The part of `value` that comes from the teacher, weighted; None without a teacher.
        compression: The term of the compression methods.
    """

    value: Tensor
    distillation: Tensor | None
    compression: Tensor

    @property
    def total(self) -> Tensor:
        """What is minimized."""
        return self.value + self.compression

    def detached(self) -> "Terms":
        """The same without gradients."""
        soft = None if self.distillation is None else self.distillation.detach()
        return Terms(self.value.detach(), soft, self.compression.detach())


class BatchLoss:
    """Computes the terms of a batch; a context manager, inside of which distillation watches the model.

    Args:
        objective: What is to be learnt.
        distillation: How much of it from the teacher.
        compression: Methods that change during training.
        model: The compressed module.
        batch: A training batch, on which the model is run once where layers are distilled; otherwise not read.
    """

    def __init__(
        self,
        objective: Objective,
        distillation: Distillation,
        compression: Compression | None,
        model: nn.Module,
        batch: Any,
    ) -> None:
        self._objective, self._distillation, self._compression = objective, distillation, compression
        self._distiller: Distiller | None = None
        if objective.teacher is not None and (distillation.weight > 0 or distillation.features):
            args, kwargs = call_arguments(batch) if distillation.features else ((), {})
            self._distiller = Distiller(model, objective.teacher, distillation, args, kwargs)

    @property
    def adapters(self) -> list[nn.Parameter]:
        """Parameters beside the model that are trained with it."""
        return self._distiller.parameters if self._distiller else []

    def watching(self) -> AbstractContextManager[Any]:
        """The block in which `of` may be called."""
        return self._distiller or nullcontext()

    def of(self, model: nn.Module, batch: Any) -> Terms:
        """Terms of a batch.

        Raises:
            TrainingError: The task's loss is not a scalar tensor, or outputs do not fit the teacher's.
        """
        if self._distiller is None:
            value = self._objective.of(model, batch)
            return Terms(value, None, self._compression_loss(value))
        self._distiller.clear()
        hard = self._objective.of(model, batch)
        settings = self._distillation
        soft = hard.new_zeros(())
        if settings.weight > 0:
            soft = settings.weight * self._distiller.soft_loss(targets_of(batch))
        if settings.features:
            soft = soft + settings.feature_weight * self._distiller.feature_loss()
        value = (1 - settings.weight) * hard + soft
        self._distiller.clear()
        return Terms(value, soft, self._compression_loss(value))

    def _compression_loss(self, value: Tensor) -> Tensor:
        term = self._compression.loss() if self._compression else torch.zeros(())
        return term.to(value.device)


def call_arguments(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments with which a model is called for the inputs of a batch."""
    inputs = split_batch(batch, "train")[0]
    if isinstance(inputs, dict):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}


def targets_of(batch: Any) -> Any:
    """The targets of a pair; None for a batch of another form, which only a `training_step` can read."""
    return batch[1] if isinstance(batch, tuple | list) and len(batch) == 2 else None


def _scalar(value: Any, what: str) -> Tensor:
    if not isinstance(value, Tensor) or value.dim() != 0:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TrainingError(f"{what} must be a scalar tensor, but got {got}; return the mean over the batch")
    if not value.requires_grad:
        raise TrainingError(f"{what} must depend on the model's parameters, but got a tensor without a gradient")
    return value
