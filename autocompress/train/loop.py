"""The steps of one fine-tuning: forward, backward, update, watch, and the way back from a divergence."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autocompress.errors import TrainingError
from autocompress.latency import training
from autocompress.task import Batch, evaluating
from autocompress.train.batch_norm import HeldStatistics
from autocompress.train.checkpoint import (
    fits_module,
    generator_state,
    load_generator_state,
    load_module,
    load_optimizer,
    module_tensors,
    optimizer_tensors,
    read_checkpoint,
    write_checkpoint,
)
from autocompress.train.data_order import Position, endless, preserved_generators
from autocompress.train.layout import channels_last, is_channels_last
from autocompress.train.objective import BatchLoss, Compression, Terms, mean_of
from autocompress.train.optimizer import Rates, make_optimizer, parameter_groups
from autocompress.train.settings import FinetuneSettings
from autocompress.train.training_log import TrainingLog
from autocompress.train.watching import Outcome, StepInfo, Watch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CHECKPOINT = "checkpoint.npz"
N_CHECKPOINTS = 10  # in a whole training, the one before its first step not counted
STEPS_UNSEEN = {"cpu": 1, "cuda": 10}  # from one look at losses to the next; on a GPU each look waits for it
EXPLOSION = 1000.0  # times the mean loss of the first steps; rising sparsity alone makes tens of times
N_FIRST = 5  # steps whose mean loss is what later ones are compared with
SMALLEST_FIRST = 1.0  # what that mean counts as at least: of a model that equals its teacher it is nearly 0
ROLLBACK_RATE = 0.3  # factor on all rates after a divergence


class DivergedError(TrainingError):
    """The loss or a weight is not finite, or the loss has exploded."""


class Loop:
    """One training of one module.

    Args:
        fabric: Devices and precision.
        model: Trained in place; on the device of `fabric`.
        batches: Training batches.
        batch_loss: Terms of the loss.
        settings: How.
        ranges: Parameters of `model` that are steps and ranges of quantizers.
        compression: Methods that change during training.
        watch: Who looks on.
        folder: For the checkpoint and the log.
        log: The log.
        origin: What `model` starts from, to tell checkpoints apart.
    """

    def __init__(
        self,
        fabric: "Fabric",
        model: nn.Module,
        batches: Iterable[Batch],
        batch_loss: BatchLoss,
        settings: FinetuneSettings,
        ranges: Iterable[nn.Parameter],
        compression: Compression | None,
        watch: Watch,
        folder: Path,
        log: TrainingLog,
        origin: str = "",
    ) -> None:
        self._fabric, self._module, self._batches = fabric, model, batches
        self._loss, self._settings, self._compression = batch_loss, settings, compression
        self._watch, self._log = watch, log
        self._norms = HeldStatistics(model, math.ceil(settings.hold_statistics_at * settings.n_steps))
        self._checkpoint = folder / CHECKPOINT
        scores = compression.scores if compression else ()
        optimizer = make_optimizer(parameter_groups(model, settings, ranges, scores, self._adapters))
        self._identity = _identity(fabric, optimizer, settings, origin)
        self._rates = Rates(model, optimizer, settings)
        self._raw_optimizer = optimizer
        self._model, self._optimizer = fabric.setup(model, optimizer)
        self._layout = channels_last if is_channels_last(model) else None
        self._step, self._position, self._n_rollbacks = 0, Position(), 0
        self._restore_generators: Callable[[], None] | None = None
        self._unseen: list[tuple[int, float, Terms]] = []
        self._first_losses: list[float] = []
        self._given_up = False
        self._let_timings_in: Callable[[], None] = _go_on

    @property
    def _adapters(self) -> list[nn.Parameter]:
        return self._loss.adapters

    def run(self) -> Outcome:
        """Take all steps, from the checkpoint in the folder on if it is one of this training.

        Raises:
            TrainingError: There are no batches, a loss is not a scalar, or the training diverges twice.
        """
        try:
            # one process is in the room for all, which wait for it at each step
            room = training() if self._fabric.is_global_zero else nullcontext(_go_on)
            with preserved_generators(), self._loss.watching(), room as self._let_timings_in:
                self._run()
        finally:
            self._rates.let_ranges_learn(True)
            self._log.close()
        self._fabric.barrier()
        if self._fabric.is_global_zero:
            self._checkpoint.unlink(missing_ok=True)
        held = self._norms.is_held(self._step)
        return Outcome(self._step, self._given_up, self._n_rollbacks, self._log.course(), held)

    def _run(self) -> None:
        resumed = self._restore()
        self._log.truncate(self._step)
        self._fabric.barrier()  # nobody may take the checkpoint of the first step for one to go on from
        if not resumed:
            self._save()
        while not self._is_over:
            try:
                self._train(resumed)
            except DivergedError as error:
                self._roll_back(error)
            resumed = True
        if self._compression:
            self._compression.finish()

    @property
    def _is_over(self) -> bool:
        return self._given_up or self._step == self._settings.n_steps

    def _train(self, resumed: bool) -> None:
        """Steps from the present position to the end."""
        restore = self._restore_generators if resumed else None
        stream = endless(self._batches, self._settings.seed, self._position, restore)
        while not self._is_over:
            try:
                self._take_step(stream)
            except Exception:  # a model may well fail once its weights are NaN
                self._check_weights()
                raise
            saves = self._step % max(1, self._settings.n_steps // N_CHECKPOINTS) == 0
            if saves or self._is_time_to_look:
                self._look()
            if saves and not self._is_over:
                self._check_weights()
                self._save()
        self._check_weights()

    @property
    def _is_time_to_look(self) -> bool:
        is_last = self._step == self._settings.n_steps
        return is_last or self._is_score_due or self._step % STEPS_UNSEEN[self._fabric.device.type] == 0

    def _take_step(self, stream: Iterator[tuple[Position, Any]]) -> None:
        self._norms.begin(self._step, lambda n: self._next_pairs(stream, n), self._mean)
        rate = self._rates.apply(self._step)
        n = self._settings.accumulate
        terms = mean_of([self._accumulate(self._next_batch(stream), n, index == n - 1) for index in range(n)])
        self._average_adapters()
        if self._settings.clip_norm is not None:
            self._fabric.clip_gradients(
                self._model, self._optimizer, max_norm=self._settings.clip_norm, error_if_nonfinite=False
            )
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._step += 1
        self._let_timings_in()
        if self._compression:
            self._compression.step(self._mean(terms.value).item() if self._compression.needs_loss else None)
        self._unseen.append((self._step, rate, terms))

    def _accumulate(self, batch: Any, n: int, is_last: bool) -> Terms:
        with self._fabric.no_backward_sync(self._model, enabled=not is_last and self._fabric.world_size > 1):
            terms = self._loss.of(self._model, batch)
            self._fabric.backward(terms.total if n == 1 else terms.total / n)
        return terms.detached()

    def _next_batch(self, stream: Iterator[tuple[Position, Any]]) -> Any:
        """This process's one of the next batches, of which each process takes one."""
        group = [next(stream) for _ in range(self._fabric.world_size)]
        self._position = group[-1][0]
        batch = self._fabric.to_device(group[self._fabric.global_rank][1])
        if isinstance(batch, tuple | list) and len(batch) == 2:
            return (self._layout(batch[0]) if self._layout else batch[0]), batch[1]
        return batch

    def _next_pairs(self, stream: Iterator[tuple[Position, Any]], n: int) -> Iterable[Batch]:
        return self._loss.pairs(self._module, (self._next_batch(stream) for _ in range(n)))

    def _average_adapters(self) -> None:
        """Gradients of adapters, which stand outside of the module that is synchronized, as a mean over processes."""
        if self._fabric.world_size > 1:
            for parameter in self._adapters:
                if parameter.grad is not None:
                    parameter.grad = self._mean(parameter.grad)

    def _mean(self, tensor: Tensor) -> Tensor:
        averaged = self._fabric.all_reduce(tensor, reduce_op="mean")
        return averaged if isinstance(averaged, Tensor) else tensor

    def _look(self) -> None:
        """Read the losses of the steps since the last look: log them, check them, and tell the watcher."""
        if not self._unseen:
            return
        values = self._mean(torch.stack([terms.value.float() for _, _, terms in self._unseen])).tolist()
        unseen, self._unseen = self._unseen, []
        for (step, rate, terms), value in zip(unseen, values, strict=True):
            self._check(step, value)
            score = self._interim_score() if step == self._step else None
            self._log.add(
                step,
                value,
                rate,
                distillation=None if terms.distillation is None else float(terms.distillation),
                compression=float(terms.compression) if self._compression else None,
                score=score,
            )
            if self._watch.on_step and self._watch.on_step(StepInfo(step, self._settings.n_steps, value, rate, score)):
                self._given_up = True
        if self._fabric.world_size > 1:
            self._given_up = bool(self._fabric.broadcast(self._given_up))

    def _interim_score(self) -> float | None:
        if self._watch.score is None or not self._is_score_due:
            return None
        with preserved_generators(), torch.no_grad(), evaluating(self._module):
            return self._watch.score(self._module)

    @property
    def _is_score_due(self) -> bool:
        n_steps = self._settings.n_steps
        return self._step in {max(1, math.ceil(share * n_steps)) for share in self._watch.score_at}

    def _check(self, step: int, value: float) -> None:
        """Compare a loss with those of the first steps."""
        if not math.isfinite(value):
            raise DivergedError(f"the training loss is {value} at step {step}")
        if len(self._first_losses) < N_FIRST:
            self._first_losses.append(value)
            return
        first = sum(map(abs, self._first_losses)) / N_FIRST
        if abs(value) > EXPLOSION * max(first, SMALLEST_FIRST):
            raise DivergedError(f"the training loss rose from {first:.3g} to {value:.3g} at step {step}")

    def _check_weights(self) -> None:
        """No loss has shown yet what the last update did."""
        if not all(bool(torch.isfinite(p).all()) for p in self._module.parameters()):
            raise DivergedError(f"weights are not finite after step {self._step}")

    def _roll_back(self, error: DivergedError) -> None:
        """Go on from the last checkpoint with smaller rates; the second time give up."""
        rate = self._rates.scale * self._settings.learning_rate
        if self._n_rollbacks:
            raise TrainingError(
                f"{error}, for the second time, at a learning rate of {rate:.2g}; lower the learning rate or look for "
                "bad training data"
            )
        n_rollbacks = self._n_rollbacks + 1
        self._unseen, self._first_losses = [], []
        self._optimizer.zero_grad()
        if not self._restore():
            raise TrainingError(f"{error}, and {self._checkpoint} is gone; lower the learning rate")
        self._n_rollbacks, self._given_up = n_rollbacks, False
        self._rates.scale *= ROLLBACK_RATE
        self._log.truncate(self._step)

    def _save(self) -> None:
        """Write the checkpoint, which is also the last good state."""
        generators, generator_numbers = generator_state()
        tensors = module_tensors(self._module, "model") | optimizer_tensors(self._raw_optimizer) | generators
        tensors |= {f"adapter.{n}": p for n, p in enumerate(self._adapters)}
        numbers = {
            "identity": self._identity,
            "step": self._step,
            "position": asdict(self._position),
            "n_rollbacks": self._n_rollbacks,
            "scale": self._rates.scale,
            "first_losses": self._first_losses,
            "compression": self._compression.state() if self._compression else None,
            "precision": self._fabric.strategy.precision.state_dict(),
            "generators": generator_numbers,
        }
        self._log.flush()
        if self._fabric.is_global_zero:
            write_checkpoint(self._checkpoint, tensors, numbers)
        self._fabric.barrier()

    def _restore(self) -> bool:
        """Go to the state of the checkpoint, if there is one of a training with the same settings."""
        found = read_checkpoint(self._checkpoint)
        if found is None or found.numbers.get("identity") != self._identity:
            return False
        if not fits_module(self._module, "model", found.tensors):
            return False
        load_module(self._module, "model", found.tensors)
        load_optimizer(self._raw_optimizer, found.tensors)
        with torch.no_grad():
            for n, parameter in enumerate(self._adapters):
                parameter.copy_(found.tensors[f"adapter.{n}"])
        numbers = found.numbers
        self._step, self._position = numbers["step"], Position(**numbers["position"])
        self._n_rollbacks, self._rates.scale = numbers["n_rollbacks"], numbers["scale"]
        self._first_losses = list(numbers["first_losses"])
        if self._compression:
            self._compression.load_state(numbers["compression"])
        self._fabric.strategy.precision.load_state_dict(numbers["precision"])
        self._restore_generators = lambda: load_generator_state(found.tensors, numbers["generators"])
        return True


def _go_on() -> None:
    """What a process does between two steps where another one is in the room for it."""


def _identity(
    fabric: "Fabric", optimizer: torch.optim.Optimizer, settings: FinetuneSettings, origin: str
) -> dict[str, Any]:
    """What must be equal for a training to go on from the checkpoint of another one, as JSON would give it back."""
    groups = [[group["name"], [list(p.shape) for p in group["params"]]] for group in optimizer.param_groups]
    hardware = {"n_processes": fabric.world_size, "precision": str(fabric.strategy.precision.precision)}
    return {"settings": _as_json(settings), "origin": origin, "trained": groups, **hardware}


def _as_json(settings: FinetuneSettings) -> dict[str, Any]:
    """Settings as JSON would give them back."""
    values = {name: getattr(settings, name) for name in settings.__dataclass_fields__}
    return values | {
        "distillation": settings.distillation.model_dump(mode="json"),
        "rewind_at": list(settings.rewind_at),
    }
