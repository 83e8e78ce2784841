"""What a training step minimizes: the task's own loss, distillation, and the term of the compression methods."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from autocompress.errors import TrainingError
from autocompress.recipe import Distillation
from autocompress.task import Batch, Loss, TrainingStep, call, evaluating, split_batch
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
            return _scalar(self.training_step(model, batch), "what training_step returns")
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

    def pairs(self, model: nn.Module, batches: Iterable[Any]) -> Iterable[Batch]:
        """The batches as pairs of inputs and something, whatever form a training step gives them."""
        step = self._objective.training_step
        return batches if step is None else StepInputs(batches, step, model)

    def _compression_loss(self, value: Tensor) -> Tensor:
        term = self._compression.loss() if self._compression else torch.zeros(())
        return term.to(value.device)


def call_arguments(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments with which a model is called for the inputs of a batch."""
    inputs = split_batch(batch, "train")[0]
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}


def targets_of(batch: Any) -> Any:
    """The targets of a pair; None for a batch of another form, which only a `training_step` can read."""
    return batch[1] if isinstance(batch, tuple | list) and len(batch) == 2 else None


class StepInputs:
    """Training batches for whoever reads inputs alone: what `training_step` calls the model with, and the whole batch.

    An iterable of pairs, whatever the form of the batches; the model itself does not run. Where it would be called
    several times for a batch, the first call counts.

    Args:
        batches: Training batches; read again and again.
        training_step: ``training_step(model, batch)``.
        model: Any form of the model; not changed.

    Raises:
        TrainingError: While iterating: the step does not call the model that it is given.
    """

    def __init__(self, batches: Iterable[Any], training_step: TrainingStep, model: nn.Module) -> None:
        self._batches, self._step, self._model = batches, training_step, model

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            yield self._inputs(batch), batch

    def _inputs(self, batch: Any) -> Any:
        try:
            with evaluating(self._model), _ends_when_called(self._model):
                self._step(self._model, batch)
        except _CalledError as call_of_model:
            return _as_inputs(self._model, call_of_model.args_given, call_of_model.kwargs_given)
        raise TrainingError("training_step must call the model that it is given, but did not call it for a batch")


class _CalledError(Exception):
    """Ends a training step where it calls the model; it holds the arguments."""

    def __init__(self, args_given: tuple[Any, ...], kwargs_given: dict[str, Any]) -> None:
        super().__init__("the model was called to see its inputs")
        self.args_given, self.kwargs_given = args_given, kwargs_given


@contextmanager
def _ends_when_called(model: nn.Module) -> Iterator[None]:
    """A block that `_CalledError` ends when `model` is called in it."""

    def end(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _CalledError(args, kwargs)

    hook = model.register_forward_pre_hook(end, with_kwargs=True, prepend=True)
    try:
        yield
    finally:
        hook.remove()


def _as_inputs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Arguments in a form that `call` takes: a tensor, a tuple or, where there are named ones, a dict."""
    if kwargs:
        return dict(inspect.signature(model.forward).bind_partial(*args, **kwargs).arguments) if args else kwargs
    return args[0] if len(args) == 1 else args


def mean_of(terms: list[Terms]) -> Terms:
    """Terms of one step from those of its batches."""
    if len(terms) == 1:
        return terms[0]
    soft = [term.distillation for term in terms if term.distillation is not None]
    return Terms(
        torch.stack([term.value for term in terms]).mean(),
        torch.stack(soft).mean() if soft else None,
        torch.stack([term.compression for term in terms]).mean(),
    )


def loss_after(training_step: TrainingStep, model: nn.Module) -> Loss:
    """`training_step` as a loss of outputs that are there already, for pairs of `StepInputs`.

    Args:
        training_step: ``training_step(model, batch)``.
        model: What the step sees of the model beside its outputs, such as its configuration; not changed.

    Returns:
        ``loss(outputs, batch)``, which raises a `TrainingError` where the step calls the model more than once, or
        returns no scalar.
    """

    def loss(outputs: Any, batch: Any) -> Tensor:
        stand_in = _StandIn(outputs, model)
        value = training_step(stand_in, batch)
        if stand_in.n_calls != 1:
            raise TrainingError(
                "importance of filters by loss needs a training_step that calls the model once a batch, but it called "
                f"it {stand_in.n_calls} times; use another importance"
            )
        return _scalar(value, "what training_step returns")

    return loss


class _StandIn(nn.Module):
    """Says what another module has said already."""

    def __init__(self, outputs: Any, model: nn.Module) -> None:
        super().__init__()
        self.n_calls = 0
        self._held = (outputs, model)  # in a tuple, so that it is no submodule

    def forward(self, *_: Any, **__: Any) -> Any:
        """The outputs, whatever the inputs."""
        self.n_calls += 1
        return self._held[0]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._held[1], name)


def _scalar(value: Any, what: str) -> Tensor:
    if not isinstance(value, Tensor) or value.dim() != 0:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TrainingError(f"{what} must be a scalar tensor, but got {got}; return the mean over the batch")
    if not value.requires_grad:
        raise TrainingError(f"{what} must depend on the model's parameters, but got a tensor without a gradient")
    return value
