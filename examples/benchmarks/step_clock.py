"""Where the time of a training step goes: a clock around the parts of the loop that is measured."""

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from autocompress.task import Batch, TensorBatches
from autocompress.train import objective, teacher
from autocompress.train.distillation import Distiller
from autocompress.train.loop import Loop
from autocompress.train.tensor_cache import TensorCache

FETCH, FORWARD, BACKWARD, OPTIMIZER = "next batch of the task", "forward and task's loss", "backward", "optimizer"
HASH, READ, TEACH, SOFT = "teacher: digest of the batch", "teacher: cache", "teacher: forward", "distillation loss"
LAYOUT, LOG, CHECKPOINT, REST = "loop: layout", "loop: checks and log", "loop: checkpoint", "loop: all else"
PARTS = (FETCH, FORWARD, HASH, READ, TEACH, SOFT, BACKWARD, OPTIMIZER, LAYOUT, LOG, CHECKPOINT, REST)
LOOP = (LAYOUT, LOG, CHECKPOINT, REST)
N_FIRST = 3  # steps that are left out: memory is allocated there


@dataclass(frozen=True)
class Profile:
    """Where the time of a step goes.

    Attributes:
        name: What was trained.
        ms: Milliseconds a step of each of `PARTS`, without those of parts inside of it, medians over the steps; that
            of a checkpoint is spread over the steps to the next one.
    """

    name: str
    ms: dict[str, float]

    @property
    def step_ms(self) -> float:
        """The whole step."""
        return sum(self.ms.values())

    def share(self, *parts: str) -> float:
        """Of the step that goes to `parts`, in [0, 1]."""
        return sum(self.ms[part] for part in parts) / self.step_ms


class StepClock:
    """Times the parts of each step; what runs inside another part counts for itself only.

    Attributes:
        steps: Seconds by part, a dict a step.
    """

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._now: dict[str, float] = defaultdict(float)
        self._inside: list[float] = []

    def profile(self, name: str, checkpoints_a_step: float) -> Profile:
        """Of the steps so far, but for the first `N_FIRST`.

        Args:
            name: What was trained.
            checkpoints_a_step: How often one is written, > 0; those so far give their price.
        """
        steps = self.steps[N_FIRST:]
        ms = {part: 1e3 * median(step.get(part, 0.0) for step in steps) for part in PARTS}
        written = [step[CHECKPOINT] for step in steps if CHECKPOINT in step]
        return Profile(name, ms | {CHECKPOINT: 1e3 * checkpoints_a_step * median(written)})

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, its time added to `part`."""

        @functools.wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            self._inside.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds = time.perf_counter() - start
                self._now[part] += seconds - self._inside.pop()
                if self._inside:
                    self._inside[-1] += seconds

        return inner

    def starting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, each call of which begins a step."""
        timed = self.timed(REST, function)

        @functools.wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            self._now = defaultdict(float)
            self.steps.append(self._now)
            return timed(*args, **kwargs)

        return inner

    @contextmanager
    def watching(self) -> Iterator[None]:
        """A block in which every fine-tuning is timed."""
        with ExitStack() as stack:
            for owner, attribute, part in _WATCHED:
                stack.enter_context(_replaced(owner, attribute, self.timed(part, getattr(owner, attribute))))
            stack.enter_context(_replaced(Loop, "_take_step", self.starting(Loop._take_step)))
            yield


_WATCHED: tuple[tuple[Any, str, str], ...] = (
    (Loop, "_next_batch", LAYOUT),
    (Loop, "_look", LOG),
    (Loop, "_save", CHECKPOINT),
    (objective.Objective, "of", FORWARD),
    (Distiller, "soft_loss", SOFT),
    (teacher, "batch_key", HASH),
    (TensorCache, "read", READ),
    (teacher.Teacher, "_compute", TEACH),
    (torch.Tensor, "backward", BACKWARD),
    (torch.optim.AdamW, "step", OPTIMIZER),
    (torch.optim.AdamW, "zero_grad", OPTIMIZER),
)


@contextmanager
def _replaced(owner: Any, attribute: str, value: Any) -> Iterator[None]:
    """`owner.attribute` is `value` inside the block, and afterwards what it was."""
    is_own, before = attribute in vars(owner), getattr(owner, attribute)
    setattr(owner, attribute, value)
    try:
        yield
    finally:
        if is_own:
            setattr(owner, attribute, before)
        else:
            delattr(owner, attribute)


class TimedBatches:
    """Batches of which each is timed as it is made.

    Args:
        batches: The batches.
        clock: Gets the times.
    """

    def __init__(self, batches: TensorBatches, clock: StepClock) -> None:
        self._batches, self._clock = batches, clock

    def set_epoch(self, epoch: int) -> None:
        """Tell the batches."""
        self._batches.set_epoch(epoch)

    def __iter__(self) -> Iterator[Batch]:
        fetch = self._clock.timed(FETCH, next)
        iterator = iter(self._batches)
        while (batch := fetch(iterator, None)) is not None:
            yield batch
