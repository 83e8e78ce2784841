"""Compression inside a training loop of one's own: two calls, and what the loop may want to know."""

import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.errors import TrainingError
from autocompress.latency import training
from autocompress.recipe import Distillation
from autocompress.task import Fit, evaluating
from autocompress.train.binarization_stages import split_stages, switch_binarizers
from autocompress.train.data_order import preserved_generators, seed_generators
from autocompress.train.distillation import Distiller
from autocompress.train.objective import Compression
from autocompress.train.optimizer import parameter_groups
from autocompress.train.settings import FinetuneSettings
from autocompress.train.teacher import Teacher
from autocompress.train.training_log import TrainingLog
from autocompress.train.watching import Outcome, StepInfo, Watch

LARGEST_SHARE = 0.99  # of distillation, since a loop of one's own cannot leave its own loss out


class Scheduler:
    """Moves the compression methods on; call `step` after each optimizer step, or `epoch_step` after each epoch.

    Who calls both may: epochs whose steps were told change nothing.

    Args:
        budget: Of the training.
    """

    def __init__(self, budget: "TrainingBudget") -> None:
        self._budget = budget

    def step(self, loss: Tensor | float | None = None) -> None:
        """Go on by one optimizer step.

        Args:
            loss: The loss of the step without `compression_loss()`, one number; it is shown as the course of the
                training, and the `adaptive` sparsity schedule needs it.

        Raises:
            TrainingError: The loss is not one number, or `compression_loss` was never called but has a term.
            CompressionError: The sparsity schedule is `adaptive`, and there is no loss.
        """
        self._budget.advance(1, loss, is_epoch=False)

    def epoch_step(self, loss: Tensor | float | None = None) -> None:
        """Go on by one epoch, unless its steps were told by `step`.

        Args:
            loss: The mean loss of the epoch, likewise.

        Raises:
            TrainingError: As of `step`, or nobody said how many steps an epoch has.
            CompressionError: As of `step`.
        """
        self._budget.advance(self._budget.steps_per_epoch, loss, is_epoch=True)


class TrainingBudget:
    """What a training loop of one's own gets beside the compressed module, and the two calls that it must make.

    After the forward pass of each batch `compression_loss` is added to the loop's own loss; after each optimizer step
    ``scheduler.step()`` is called, or ``scheduler.epoch_step()`` after each epoch (NNCF paper, appendix A). ::

        def fit(model, budget):
            optimizer = torch.optim.AdamW(budget.parameter_groups(1e-4))
            while not budget.is_over:
                for inputs, targets in loader:
                    loss = criterion(model(inputs), targets)
                    optimizer.zero_grad()
                    (loss + budget.compression_loss(targets)).backward()
                    optimizer.step()
                    budget.scheduler.step(loss)

    The loop may run on a GPU; the teacher follows the module there, and `run` brings both back. It is watched like any
    other, so `is_over` may come early.

    Outside of a search it is a context manager, inside of which the module is trained; see `autocompress.own_loop`.

    Args:
        model: The compressed module, which the loop trains in place.
        n_steps: Optimizer steps that it should take, >= 0.
        ranges: Parameters of `model` that are steps and ranges of quantizers.
        compression: Methods that change during training.
        teacher: The FP32 model; None for no distillation.
        distillation: What is learnt from it.
        steps_per_epoch: For `epoch_step`, >= 1; None where nobody knows.
        seed: For whatever is random in the loop.
        watch: Who looks on.
        log: Path of the log; None for none.

    Attributes:
        n_steps: Optimizer steps that the loop should take.
        steps_per_epoch: Optimizer steps of an epoch, if known; a search takes the number of batches in the task's
            training data, so a loop that reads other data, or accumulates gradients, calls ``scheduler.step``.
        seed: For whatever is random in the loop.
        scheduler: To be told of steps or epochs.
        n_done: Optimizer steps told so far.

    Raises:
        TrainingError: Features are to be distilled, which needs the loop of autocompress.
    """

    def __init__(
        self,
        model: nn.Module,
        n_steps: int,
        *,
        ranges: Iterable[nn.Parameter] = (),
        compression: Compression | None = None,
        teacher: Teacher | None = None,
        distillation: Distillation | None = None,
        steps_per_epoch: int | None = None,
        seed: int = 0,
        watch: Watch | None = None,
        log: Path | None = None,
    ) -> None:
        settings = distillation or Distillation()
        if teacher is not None and settings.features:
            raise TrainingError(
                "features are distilled in the loop of autocompress only, not in one of your own, but the recipe has "
                f"features {settings.features}; take them out"
            )
        self.n_steps, self.steps_per_epoch, self.seed = n_steps, steps_per_epoch, seed
        self.scheduler, self.n_done = Scheduler(self), 0
        self._model, self._compression, self._ranges = model, compression, list(ranges)
        self._watch, self._log_path, self._log = watch or Watch(), log, TrainingLog(None, n_steps)
        self._stages = split_stages(n_steps)
        self._binarizers = [m for m in model.modules() if hasattr(m, "binarizes") and hasattr(m, "enabled")]
        self._is_given_up = self._steps_are_told = self._is_asked = False
        self._parts: tuple[Tensor | None, Tensor | None] = None, None
        self._n_scored = 0
        self._share = min(settings.weight, LARGEST_SHARE)
        self._teacher = teacher if settings.weight > 0 else None
        self._distiller = Distiller(model, self._teacher, settings, (), {}) if self._teacher else None
        self._open = ExitStack()
        self._let_timings_in: Callable[[], None] = lambda: None

    @property
    def is_over(self) -> bool:
        """Whether all steps were taken, or the training was given up as hopeless."""
        return self._is_given_up or self.n_done >= self.n_steps

    def parameter_groups(self, learning_rate: float, weight_decay: float = 1e-4) -> list[dict[str, Any]]:
        """Groups for an optimizer: weights, which decay, what does not, ranges of quantizers, and scores of masks.

        Args:
            learning_rate: For weights, > 0.
            weight_decay: For weights, >= 0.

        Raises:
            TrainingError: A value is out of its range, or every parameter is frozen.
        """
        settings = FinetuneSettings(self.n_steps, learning_rate=learning_rate, weight_decay=weight_decay)
        groups = parameter_groups(
            self._model, settings, self._ranges, self._compression.scores if self._compression else ()
        )
        if not groups:
            raise TrainingError("nothing can be trained: every parameter is frozen; call model.requires_grad_(True)")
        return groups

    def compression_loss(self, targets: Any = None) -> Tensor:
        """The term to be added to the loop's own loss: that of sparsity methods, and distillation.

        Distillation compares what the module gave since the last call with what the teacher gives for the same inputs,
        ``w / (1 - w)`` times, so that it has the share w in the sum.

        Args:
            targets: Of the batch; with class indices the outputs are compared as probabilities, otherwise as numbers.

        Returns:
            A scalar; 0 where nothing has a term.

        Raises:
            TrainingError: The outputs do not fit the teacher's, or the module was not called since the last call.
        """
        self._is_asked = True
        term = self._compression.loss() if self._compression else torch.zeros(())
        if self._distiller is None or self._teacher is None:
            self._parts = None, term.detach()
            return term
        _follow(self._teacher.module, self._model)
        soft = self._share / (1 - self._share) * self._distiller.soft_loss(targets)
        self._distiller.clear()
        self._parts = soft.detach(), term.detach()
        return term.to(soft.device) + soft

    def advance(self, n_steps: int | None, loss: Tensor | float | None, *, is_epoch: bool) -> None:
        """What the scheduler calls; `n_steps` optimizer steps were taken, None where nobody knows."""
        if n_steps is None:
            raise TrainingError("epoch_step needs steps_per_epoch, but got None; give it, or call scheduler.step()")
        value = None if loss is None else _number(loss)
        self._check_is_asked()
        if self._distiller:
            self._distiller.clear()
        if self._compression:
            (self._compression.epoch_step if is_epoch else self._compression.step)(value)
        if is_epoch and self._steps_are_told:
            self._steps_are_told = False
            return
        self._steps_are_told = not is_epoch
        self.n_done += n_steps
        switch_binarizers(self._binarizers, self._stages.at(self.n_done))
        self._tell(value)
        self._let_timings_in()

    def _check_is_asked(self) -> None:
        """Before the first step: a loop that leaves the methods' term out would train something else."""
        if self._is_asked or self.n_done:
            return
        if self._distiller is not None or (self._compression and self._compression.loss().requires_grad):
            raise TrainingError(
                "a training loop of your own must add budget.compression_loss() to its loss, but had not called it at "
                "its first step; call it, or set distillation weight 0 and use no gates"
            )

    def _tell(self, value: float | None) -> None:
        """Log a loss, and tell the watcher, with an interim score where one is due; NaN is a loss that nobody told."""
        score = self._interim_score()
        if value is not None:
            soft, term = (None if part is None else float(part) for part in self._parts)
            self._log.add(self.n_done, value, 0.0, distillation=soft, compression=term, score=score)
        info = StepInfo(self.n_done, self.n_steps, math.nan if value is None else value, 0.0, score)
        self._is_given_up |= bool(self._watch.on_step and self._watch.on_step(info))

    def _interim_score(self) -> float | None:
        n_due = sum(self.n_done >= share * self.n_steps for share in self._watch.score_at)
        if self._watch.score is None or n_due == self._n_scored or self.n_done >= self.n_steps:
            return None
        self._n_scored = n_due
        with preserved_generators(), torch.no_grad(), evaluating(self._model):
            return self._watch.score(self._model)

    def __enter__(self) -> "TrainingBudget":
        self._log = TrainingLog(self._log_path, self.n_steps)
        self._log.truncate(0)
        switch_binarizers(self._binarizers, self._stages.at(0))
        if self._teacher is not None and self._distiller is not None:
            self._open.enter_context(evaluating(self._teacher.module))
            self._open.enter_context(self._distiller)
        self._let_timings_in = self._open.enter_context(training())
        self._model.train()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._open.close()
        self._let_timings_in = lambda: None
        if kind is None and self._compression:
            self._compression.finish()
        self._log.close()
        self._model.eval()

    def run(self, fit: Fit) -> Outcome:
        """Let a loop train the module, and finish the methods.

        The global generators of torch, NumPy and Python are seeded with `seed` before, and are afterwards what they
        were. The module is in evaluation mode and on the CPU afterwards.

        Raises:
            TrainingError: The loop never told the scheduler of a step, or a weight is not finite.
        """
        try:
            with preserved_generators(), self:
                seed_generators(self.seed)
                fit(self._model, self)
        finally:
            for module in (self._model, *([self._teacher.module] if self._teacher else [])):
                module.cpu()
        if self.n_done == 0 and self.n_steps > 0:
            raise TrainingError(
                "the task's fit must call budget.scheduler.step() after each optimizer step, or epoch_step() after "
                "each epoch, but it did neither"
            )
        if not all(bool(torch.isfinite(p).all()) for p in self._model.parameters()):
            raise TrainingError("weights are not finite after the task's fit; lower its learning rate")
        return Outcome(self.n_done, self._is_given_up and self.n_done < self.n_steps, 0, self._log.course())


def _number(loss: Tensor | float) -> float:
    """The value of a loss.

    Raises:
        TrainingError: It is a tensor of several values.
    """
    if not isinstance(loss, Tensor):
        return float(loss)
    if loss.numel() != 1:
        raise TrainingError(
            f"the loss told to the scheduler must be one number, but got shape {tuple(loss.shape)}; give the mean"
        )
    return float(loss.detach())


def _follow(teacher: nn.Module, student: nn.Module) -> None:
    """Move the teacher to the student's device, unless it is there."""
    mine, its = (next(module.parameters(), None) for module in (teacher, student))
    if mine is not None and its is not None and mine.device != its.device:
        teacher.to(its.device)
