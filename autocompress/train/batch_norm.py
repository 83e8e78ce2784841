"""Batch-norm adaptation: fresh statistics for a model whose filters or weights have changed."""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autocompress.task import Batch, call, evaluating, split_batch

N_HELD = 20  # batches for statistics that are held


def running_norms(model: nn.Module) -> list[_BatchNorm]:
    """Batch norms that keep running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


@contextmanager
def adapted_batch_norm(model: nn.Module, batches: Iterable[Batch]) -> Iterator[None]:
    """A block in which a model has the statistics that `adapt_batch_norm` gives it; afterwards it has its own again.

    Args:
        model: Any module, in training, say: running statistics of a small momentum lag far behind its weights.
        batches: Batches of (inputs, targets), all of which are read.
    """
    norms = running_norms(model)
    before = [copy.deepcopy(norm.state_dict()) for norm in norms]
    try:
        adapt_batch_norm(model, batches)
        yield
    finally:
        for norm, state in zip(norms, before, strict=True):
            norm.load_state_dict(state)


def adapt_batch_norm(model: nn.Module, batches: Iterable[Batch], n_batches: int = 10) -> None:
    """Replace the running statistics of every batch norm that runs by averages over `n_batches` batches.

    Nothing else of the model changes, and it runs in evaluation mode meanwhile. Statistics are cumulative averages
    (momentum None), so the order of the batches does not matter. A batch norm that sees no data keeps what it had.

    Args:
        model: Any module; one without batch norm is left alone.
        batches: Batches of (inputs, targets).
        n_batches: How many are read at most.
    """
    norms = running_norms(model)
    if not norms:
        return
    before = [(norm.momentum, copy.deepcopy(norm.state_dict())) for norm in norms]
    try:
        with torch.no_grad(), evaluating(model):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None
                norm.train()
            for batch in itertools.islice(batches, n_batches):
                call(model, split_batch(batch, "train")[0])
    finally:
        for norm, (momentum, state) in zip(norms, before, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked == 0:
                norm.load_state_dict(state)


class HeldStatistics:
    """Batch norms of a training: they run, and from some step on keep fresh statistics of the weights of that step.

    Args:
        model: Any module.
        start: Number of steps after which statistics are held; that of all steps, or more, for never.
    """

    def __init__(self, model: nn.Module, start: int) -> None:
        self._model, self._norms, self._start = model, running_norms(model), start

    def is_held(self, n_done: int) -> bool:
        """Whether the last of `n_done` steps was taken with held statistics."""
        return bool(self._norms) and n_done > self._start

    def begin(
        self, n_done: int, batches: Callable[[int], Iterable[Batch]], mean: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        """Bring the model into the mode for the step after `n_done` others; the first held one needs data.

        Args:
            n_done: Steps taken.
            batches: Gives so many training batches.
            mean: Over all processes.
        """
        self._model.train()
        if not self._norms or n_done < self._start:
            return
        if n_done == self._start:
            adapt_batch_norm(self._model, batches(N_HELD), N_HELD)
            for norm in self._norms:
                for statistics in (norm.running_mean, norm.running_var):
                    if statistics is not None:
                        statistics.copy_(mean(statistics))
        for norm in self._norms:
            norm.eval()
