"""Batches over and over, in an order that the seed decides, from any position on."""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from autocompress.errors import TrainingError
from autocompress.task import Batch

_EPOCH_PRIME = 1_000_003  # so that seeds of small numbers do not meet those of small epochs


@dataclass(frozen=True)
class Position:
    """How far the batches were read: whole epochs, then batches of the present one."""

    epoch: int = 0
    index: int = 0


def endless(
    batches: Iterable[Batch], seed: int, start: Position | None = None, on_start: Callable[[], None] | None = None
) -> Iterator[tuple[Position, Any]]:
    """Batches, and again from the first when used up, each with the position behind it.

    At the beginning of each epoch the generators of torch, NumPy and Python are seeded from `seed` and the epoch, and
    the epoch is told to a loader that has `set_epoch`; so a loader that shuffles or augments does it in the same way
    whenever it is read, from whatever position.

    Args:
        batches: Read again and again.
        seed: Of the order.
        start: Where to begin; batches before are read and dropped.
        on_start: Called between the dropped batches and the first one, to set generators to what they were there; not
            at the beginning of an epoch, where the seed says it all.

    Raises:
        TrainingError: There is no batch.
    """
    start = start or Position()
    epoch, n_dropped = start.epoch, start.index
    while True:
        seed_generators(_EPOCH_PRIME * seed + epoch)
        if hasattr(batches, "set_epoch"):
            batches.set_epoch(epoch)
        iterator, index = iter(batches), 0
        while index < n_dropped and next(iterator, None) is not None:
            index += 1
        if n_dropped and on_start:
            on_start()
        for batch in iterator:
            index += 1
            yield Position(epoch, index), batch
        if index == 0:
            raise TrainingError("the task's train data has no batches; give at least one (inputs, targets) pair")
        epoch, n_dropped = epoch + 1, 0


def seed_generators(seed: int) -> None:
    """Seed the global generators of torch, NumPy and Python, which users' loaders may draw from."""
    torch.default_generator.manual_seed(seed)
    if gpus_in_use():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # the legacy generator is what loaders of others use
    random.seed(seed)


def gpus_in_use() -> list[int]:
    """GPUs whose generators this process may have drawn from; to look at others would start CUDA for nothing."""
    return list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Global generators, those of GPUs too, are afterwards what they were before the block."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=gpus_in_use()):
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
