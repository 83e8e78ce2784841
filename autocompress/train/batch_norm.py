"""Batch-norm adaptation: fresh statistics for a model whose filters or weights have changed."""

import copy
import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autocompress.task import Batch, call, evaluating, split_batch


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
