"""Distillation: the compressed model learns from the FP32 model as well as from the targets."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from autocompress.errors import TrainingError
from autocompress.recipe import Distillation
from autocompress.task import evaluating, flatten
from autocompress.train.features import (
    FeatureDistillation,
    captured_features,
    check_captured,
    named_layers,
    relative_difference,
    wide,
)
from autocompress.train.teacher import Teacher, TeacherOutputs, own_chance

IGNORED_TARGET = -100  # what torch's cross_entropy ignores by default
_CHANNELS_FIRST = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm),
)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding)
_WEIGHT_0 = "set distillation weight 0"
_Versions = tuple[tuple[Tensor, int], ...]


def distillation_loss(outputs: Any, teacher_outputs: Any, targets: Any, temperature: float) -> Tensor:
    """How far `outputs` are from the teacher's.

    For logits of a classifier ``T^2 KL(softmax(teacher / T) || softmax(outputs / T))`` (Hinton et al. 2015,
    section 2.1), a mean over samples and positions, of which those with a target of -100 don't count; T^2 keeps the
    size of gradients. For everything else the mean squared difference in units of the teacher's variance, a mean over
    tensors.

    Args:
        outputs: Output of the compressed model, any structure of tensors. Tensors that are not floating point, have no
            dimension or no elements are left out.
        teacher_outputs: Output of the FP32 model, the same structure or the list of its tensors.
        targets: Integer targets tell the logits of a classifier, beside a single output of more than one class: with
            targets (n, ...), outputs (n, classes, ...) as `torch.nn.functional.cross_entropy` reads them, or else
            (n, ..., classes).
        temperature: T > 0.

    Returns:
        Scalar >= 0.

    Raises:
        TrainingError: The two differ in structure or shape.
    """
    pairs = _pairs(outputs, teacher_outputs)
    axis = _class_axis(pairs[0][0], targets) if len(pairs) == 1 else None
    if axis is not None:
        return _soft_cross_entropy(*pairs[0], targets, axis, temperature)
    terms = [relative_difference(student, teacher) for student, teacher in pairs]
    return torch.stack(terms).mean() if terms else torch.zeros(())


def _pairs(outputs: Any, teacher_outputs: Any) -> list[tuple[Tensor, Tensor]]:
    mine, theirs = (
        [t for t in flatten(values) if t.is_floating_point() and t.dim() and t.numel()]
        for values in (outputs, teacher_outputs)
    )
    shapes, wanted = ([tuple(t.shape) for t in tensors] for tensors in (mine, theirs))
    if shapes != wanted:
        raise TrainingError(
            "the outputs of the compressed model in training must have the shapes of the FP32 model's, "
            f"{_listed(wanted)}, but got {_listed(shapes)}; {_WEIGHT_0}"
        )
    return list(zip(mine, theirs, strict=True))


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return " and ".join(map(str, shapes)) or "no tensors"


def _class_axis(output: Tensor, targets: Any) -> int | None:
    """Axis of the classes, 1 or -1; None for outputs that are no logits, as far as can be told."""
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.is_complex() or output.dim() < 2:
        return None
    if output.shape[1] > 1 and targets.shape == output.shape[:1] + output.shape[2:]:
        return 1
    return -1 if output.shape[-1] > 1 and targets.shape == output.shape[:-1] else None


def _soft_cross_entropy(student: Tensor, teacher: Tensor, targets: Tensor, axis: int, temperature: float) -> Tensor:
    """T^2 KL over `axis`, a mean over all positions that are not ignored; 0 where all are."""
    mine, theirs = (log_softmax(wide(logits) / temperature, dim=axis) for logits in (student, teacher))
    divergences = kl_div(mine, theirs, reduction="none", log_target=True).sum(dim=axis)
    kept = targets != IGNORED_TARGET
    total = divergences.masked_fill(~kept, 0.0).sum()
    return temperature**2 * total / kept.sum().clamp(min=1)


def feature_distillation(
    student: nn.Module,
    teacher: Teacher,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    names: tuple[str, ...] | None = None,
) -> FeatureDistillation:
    """Feature distillation with adapters for the widths that both models have on one batch.

    Both run once in evaluation mode; random state and the models' modes are left as they were.

    Args:
        student: The compressed module.
        teacher: The FP32 module; it must capture the layers.
        args: Positional arguments of a batch.
        kwargs: Arguments by name.
        names: Of the layers; None for all that the teacher captures.

    Returns:
        On the device of the student's features; the same first weights every time.

    Raises:
        TrainingError: A layer is missing, does not run, or differs in more than channels.
    """
    names = teacher.features if names is None else names
    missing = [name for name in names if name not in teacher.features]
    if missing:
        raise TrainingError(
            f"features of distillation must be among those of the teacher, {teacher.features}, but got {missing}; "
            "make the teacher with them"
        )
    taught = teacher.outputs(args, kwargs).features
    with (
        torch.no_grad(),
        evaluating(student),
        own_chance(flatten((args, kwargs))),
        captured_features(student, names) as features,
    ):
        student(*args, **kwargs)
    check_captured(features, names, "the compressed model")
    axes = {name: _axis_of(teacher.module.get_submodule(name)) for name in names}
    known = {name: axis for name, axis in axes.items() if axis is not None}
    return FeatureDistillation(features, {name: taught[name] for name in names}, known)


def _axis_of(layer: nn.Module) -> int | None:
    """Axis of the channels in the output of `layer`, where its class tells."""
    if isinstance(layer, _CHANNELS_FIRST):
        return 1
    return -1 if isinstance(layer, _CHANNELS_LAST) else None


@dataclass(frozen=True)
class Call:
    """One call of a module.

    Attributes:
        args: Positional arguments.
        kwargs: Arguments by name.
        outputs: What came out, with gradients.
        features: Outputs by name of layer, with gradients; of a layer that ran several times, the last one.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Any
    features: dict[str, Tensor]
    _versions: _Versions = field(default=(), repr=False)

    def check_unchanged(self) -> None:
        """Check that nobody wrote into the inputs since the call began, or into the outputs.

        Raises:
            TrainingError: Somebody did, so that the teacher would see other inputs, or be compared with other outputs.
        """
        for tensor, version in self._versions:
            if tensor._version != version:
                raise TrainingError(
                    "inputs and outputs of the compressed model must not be changed in place while a loss is computed, "
                    f"but a tensor of shape {tuple(tensor.shape)} was; change a copy, or {_WEIGHT_0}"
                )


class Calls:
    """Records the calls of a module while its block runs, whoever makes them.

    Calls in a block of `torch.no_grad` cannot be learnt from and are left out.

    Args:
        module: Any module.
        features: Names of layers whose outputs are recorded, too.

    Attributes:
        calls: Since the start or the last `clear`.

    Raises:
        TrainingError: The module has no layer of a name in `features`.
    """

    def __init__(self, module: nn.Module, features: tuple[str, ...] = ()) -> None:
        named_layers(module, features, "the compressed model")
        self.calls: list[Call] = []
        self._module, self._names = module, features
        self._features: dict[str, Tensor] = {}
        self._begun: list[tuple[tuple[Any, ...], dict[str, Any], _Versions]] = []
        self._hooks = ExitStack()

    def __enter__(self) -> Self:
        self._features = self._hooks.enter_context(captured_features(self._module, self._names))
        for hook in (
            self._module.register_forward_pre_hook(self._begin, with_kwargs=True, prepend=True),
            self._module.register_forward_hook(self._end),
        ):
            self._hooks.callback(hook.remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._hooks.close()
        self.clear()

    def clear(self) -> None:
        """Forget all calls."""
        self.calls.clear()
        self._begun.clear()
        self._features.clear()

    def _begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._begun.append((args, kwargs, _versions((args, kwargs))))

    def _end(self, _: nn.Module, __: Any, outputs: Any) -> None:
        args, kwargs, versions = self._begun.pop()
        features = dict(self._features)
        self._features.clear()
        if torch.is_grad_enabled():
            self.calls.append(Call(args, kwargs, outputs, features, versions + _versions(outputs)))


def _versions(values: Any) -> _Versions:
    """Tensors with torch's count of the times that each was written to; inference tensors have none."""
    return tuple((tensor, tensor._version) for tensor in flatten(values) if not tensor.is_inference())


class Distiller:
    """Both kinds of distillation for the training steps of one module; a context manager that watches its calls.

    In each step: `clear`, any calls of the module, `soft_loss` and `feature_loss`, `clear`. The teacher runs once for
    each call, and only if one of the losses needs it.

    Args:
        student: The compressed module itself, not what a library wraps around it.
        teacher: The FP32 module; it must capture the layers in `settings.features`.
        settings: What to distil.
        args: Positional arguments of a batch that shows the widths of layers; read only if there are features.
        kwargs: Arguments by name.

    Attributes:
        features: The distillation of features with its adapters; None without features.
        parameters: Of the adapters, to be trained along.

    Raises:
        TrainingError: A layer is missing, does not run, or differs from the FP32 model's in more than channels.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher,
        settings: Distillation,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        names = settings.features
        self.features = feature_distillation(student, teacher, args, kwargs or {}, names) if names else None
        self.parameters: list[nn.Parameter] = list(self.features.parameters()) if self.features else []
        self._teacher, self._settings = teacher, settings
        self._calls = Calls(student, names)
        self._taught: list[TeacherOutputs] = []

    def __enter__(self) -> Self:
        self._calls.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._calls.__exit__(kind, error, traceback)
        self._taught.clear()

    def soft_loss(self, targets: Any) -> Tensor:
        """Distillation of outputs, a mean over the calls since `clear`, not yet weighted.

        Args:
            targets: Of the batch, or None; `distillation_loss` says what they are for.

        Returns:
            Scalar >= 0; 0 where the weight is 0.

        Raises:
            TrainingError: The student was not called, or its outputs do not fit the teacher's.
        """
        if self._settings.weight == 0:
            return torch.zeros(())
        temperature = self._settings.temperature
        return _mean(
            distillation_loss(call.outputs, taught.outputs, targets, temperature) for call, taught in self._pairs()
        )

    def feature_loss(self) -> Tensor:
        """Distillation of features, a mean over the calls since `clear`, not yet weighted.

        Returns:
            Scalar >= 0; 0 where there are no features.

        Raises:
            TrainingError: The student was not called, or a layer did not run or gave another shape than before.
        """
        if self.features is None:
            return torch.zeros(())
        losses = []
        for call, taught in self._pairs():
            check_captured(call.features, self.features.names, "the compressed model")
            losses.append(self.features(call.features, taught.features))
        return _mean(losses)

    def clear(self) -> None:
        """Forget all calls, and what the teacher said to them."""
        self._calls.clear()
        self._taught.clear()

    def _pairs(self) -> list[tuple[Call, TeacherOutputs]]:
        calls = self._calls.calls
        if not calls:
            raise TrainingError(
                "distillation needs a call of the compressed model with gradients in each training step, but there was "
                f"none; call the model that training_step is given, or {_WEIGHT_0} and distil no features"
            )
        for call in calls[len(self._taught) :]:
            call.check_unchanged()
            self._taught.append(self._teacher.outputs(call.args, call.kwargs))
        return list(zip(calls, self._taught, strict=True))


def _mean(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(losses)).mean()
