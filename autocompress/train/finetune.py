"""A short fine-tuning loop with distillation from the FP32 model."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from autocompress.errors import TrainingError
from autocompress.task import Batch, call, evaluating, flatten, like, split_batch
from autocompress.train.binarization_stages import StagedBinarization, split_stages
from autocompress.train.distillation import distillation_loss

OnStep = Callable[[int, float], None]


class Compression(Protocol):
    """What methods that change during training, as sparsity, want from a training loop."""

    @property
    def scores(self) -> list[nn.Parameter]:
        """Parameters of the method itself, which get a rate of their own and do not decay."""

    def loss(self) -> Tensor:
        """The method's term of the loss, a scalar; called after the model has run."""

    def step(self, loss: float | None = None) -> None:
        """To be called after each optimizer step, with the value of the loss without the term."""

    def finish(self) -> None:
        """To be called after the last step."""


@dataclass(frozen=True)
class FinetuneSettings:
    """How to fine-tune.

    Attributes:
        n_steps: Optimizer steps, >= 0.
        learning_rate: Peak rate of AdamW for weights.
        range_learning_rate: Peak rate for the logarithms of quantizer steps and ranges.
        score_travel: How far scores of gates can move in the whole training; their peak rate is this over `n_steps`.
        weight_decay: Of weights only.
        warm_up: Fraction of the steps over which the rate rises linearly; then it falls as a cosine to 0. Binary
            models go through the four stages of `binarization_stages` instead.
        distillation: Share of the distillation loss, in [0, 1]; the rest is the task's loss.
        temperature: Of the distillation of logits, > 0.
        seed: Of everything random.
    """

    n_steps: int
    learning_rate: float = 1e-3
    range_learning_rate: float = 1e-3
    score_travel: float = 80.0
    weight_decay: float = 1e-4
    warm_up: float = 0.1
    distillation: float = 0.9
    temperature: float = 4.0
    seed: int = 0


def finetune(
    model: nn.Module,
    ranges: list[nn.Parameter],
    teacher: nn.Module,
    batches: Iterable[Batch],
    loss: Callable[[Any, Any], Tensor],
    settings: FinetuneSettings,
    on_step: OnStep | None = None,
    compression: Compression | None = None,
) -> None:
    """Train `model` in place; it is in evaluation mode afterwards.

    Global random state is left as it was.

    Args:
        model: The compressed module.
        ranges: Its parameters that are steps and ranges of quantizers.
        teacher: The FP32 module; evaluated, not changed.
        batches: Training batches; read again from the start when used up, after `set_epoch` where the loader has it.
        loss: ``loss(outputs, targets)``, a scalar tensor.
        settings: How.
        on_step: Called after each step with the step's number and loss.
        compression: Methods that change during training.

    Raises:
        TrainingError: There are no batches, the loss is not a finite scalar, or every parameter is frozen.
    """
    if settings.n_steps == 0:
        model.eval()
        return
    optimizer = _optimizer(model, ranges, compression.scores if compression else [], settings)
    before_step = _schedule(model, optimizer, settings)
    layout = channels_last if _is_channels_last(model) else _as_it_is
    with torch.random.fork_rng(devices=[]), evaluating(teacher):
        torch.manual_seed(settings.seed)
        for step, batch in zip(range(settings.n_steps), _endless(batches), strict=False):
            model.train()
            before_step(step)
            inputs, targets = split_batch(batch, "train")
            value = _total_loss(model, teacher, layout(inputs), targets, loss, settings)
            total = value + compression.loss() if compression else value
            optimizer.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if compression:
                compression.step(value.item())
            if on_step:
                on_step(step + 1, value.item())
        if compression:
            compression.finish()
    model.eval()


def _schedule(
    model: nn.Module, optimizer: torch.optim.Optimizer, settings: FinetuneSettings
) -> Callable[[int], object]:
    """What is to be called before each step; a model with binary layers goes through the four stages."""
    staged = StagedBinarization(model, optimizer, split_stages(settings.n_steps))
    if staged.binarizers:
        return staged.apply
    rates = [group["lr"] for group in optimizer.param_groups]

    def set_rates(step: int) -> None:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * rate_factor(step, settings)

    return set_rates


def rate_factor(step: int, settings: FinetuneSettings) -> float:
    """Share of the peak rate at `step`: linear warm-up, then a cosine to 0.

    >>> [round(rate_factor(s, FinetuneSettings(n_steps=10, warm_up=0.2)), 2) for s in (0, 1, 2, 6, 10)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    n_warm = max(1, int(settings.warm_up * settings.n_steps))
    if step < n_warm:
        return (step + 1) / n_warm
    return 0.5 * (1 + math.cos(math.pi * (step - n_warm) / max(1, settings.n_steps - n_warm)))


def _optimizer(
    model: nn.Module, ranges: list[nn.Parameter], scores: list[nn.Parameter], settings: FinetuneSettings
) -> torch.optim.Optimizer:
    of_methods = {id(p) for p in (*ranges, *scores)}
    trained = [p for p in model.parameters() if p.requires_grad and id(p) not in of_methods]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        {"params": ranges, "lr": settings.range_learning_rate, "weight_decay": 0.0},
        {"params": scores, "lr": settings.score_travel / settings.n_steps, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise TrainingError("nothing can be trained: every parameter is frozen; call model.requires_grad_(True)")
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def _total_loss(
    model: nn.Module, teacher: nn.Module, inputs: Any, targets: Any, loss: Any, settings: FinetuneSettings
) -> Tensor:
    outputs = call(model, inputs)
    value = loss(outputs, targets)
    if not isinstance(value, Tensor) or value.dim() != 0:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TrainingError(f"the task's loss must be a scalar tensor, but got {got}")
    if settings.distillation > 0:
        with torch.no_grad():
            teacher_outputs = call(teacher, inputs)
        soft = distillation_loss(outputs, teacher_outputs, targets, settings.temperature)
        value = (1 - settings.distillation) * value + settings.distillation * soft
    if not torch.isfinite(value):
        raise TrainingError(
            f"the training loss is {value.item()}; lower the learning rate or look for bad training data"
        )
    return value


def _endless(batches: Iterable[Batch]) -> Iterator[Batch]:
    epoch = 0
    while True:
        if hasattr(batches, "set_epoch"):
            batches.set_epoch(epoch)
        n_read = 0
        for batch in batches:
            yield batch
            n_read += 1
        if n_read == 0:
            raise TrainingError("the task's train data has no batches; give at least one (inputs, targets) pair")
        epoch += 1


def _is_channels_last(model: nn.Module) -> bool:
    """Whether weights of 2-d convolutions are stored channels last, so that its inputs had better be, too."""
    return any(p.dim() == 4 and not p.is_contiguous() for p in model.parameters())


def _as_it_is(inputs: Any) -> Any:
    return inputs


def channels_last(inputs: Any) -> Any:
    """`inputs` with image tensors (N, C, H, W) stored channels last, the faster layout on a CPU."""
    tensors = [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in flatten(inputs)]
    return like(inputs, iter(tensors))
