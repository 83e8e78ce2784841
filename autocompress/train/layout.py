"""Memory layout of images: channels last is the faster one on a CPU."""

from typing import Any

import torch
from torch import nn

from autocompress.task import flatten, like


def layout_of(inputs: Any, model: nn.Module) -> Any:
    """`inputs` laid out as the weights of `model` are."""
    return channels_last(inputs) if is_channels_last(model) else inputs


def is_channels_last(model: nn.Module) -> bool:
    """Whether weights of 2-d convolutions are stored channels last, so that its inputs had better be, too.

    Those of 1x1 kernels or of one input channel are stored in both ways at once, so they alone say nothing against it.
    """
    weights = [p for p in model.parameters() if p.dim() == 4]
    return bool(weights) and all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


def channels_last(inputs: Any) -> Any:
    """`inputs` with image tensors (N, C, H, W) stored channels last, the faster layout on a CPU."""
    tensors = [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in flatten(inputs)]
    return like(inputs, iter(tensors))
