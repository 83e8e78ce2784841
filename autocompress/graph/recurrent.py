"""Recurrent layers in the graph of channels: one operation each, which may lose inputs and keeps its outputs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.task import flatten, like

RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)


@contextmanager
def one_operation_each(model: nn.Module) -> Iterator[None]:
    """In the block, the autograd graph of every recurrent layer is one sum, whatever torch makes of the layer.

    Values stay; all outputs depend on the first, and the first on the input. A layer that gets packed sequences
    stays as it is.
    """
    layers = [module for module in model.modules() if isinstance(module, RECURRENT)]
    for layer in layers:
        object.__setattr__(layer, "forward", _one_operation(layer))
    try:
        yield
    finally:
        for layer in layers:
            object.__delattr__(layer, "forward")


def _one_operation(layer: nn.Module) -> Any:
    forward = layer.forward

    def one_operation(x: Any, *states: Any) -> Any:
        if not isinstance(x, Tensor):
            return forward(x, *states)
        with torch.no_grad():
            outputs = forward(x, *states)
        first, *others = flatten(outputs)
        joined = first + 0 * x.sum()
        return like(outputs, iter([joined, *(other + 0 * joined.sum() for other in others)]))

    return one_operation


def remove_recurrent_inputs(layer: Any, channels: Sequence[int]) -> None:
    """Remove the columns of the first weights, of both directions, that read `channels`; `layer` is changed."""
    kept = sorted(set(range(layer.input_size)) - set(channels))
    for name, weight in list(layer.named_parameters(recurse=False)):
        if name.startswith("weight_ih_l0"):
            setattr(layer, name, nn.Parameter(weight.detach()[:, kept], weight.requires_grad))
    layer.input_size = len(kept)
