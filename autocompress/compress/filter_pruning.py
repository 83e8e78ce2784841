"""Filter pruning: the filters of least importance are cut out, so that shapes become really smaller."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.errors import CompressionError
from autocompress.graph import ChannelDependencies
from autocompress.graph.groups import CHANNEL_STEP


def n_kept(n_channels: int, pruning_ratio: float) -> int:
    """Filters that stay: `n_channels * (1 - pruning_ratio)` rounded to a multiple of 8, at least 8.

    A ratio that rounds to all filters removes none, and a layer of at most 8 filters is never pruned.

    >>> n_kept(64, 0.25), n_kept(64, 0.99), n_kept(20, 0.5), n_kept(32, 0.1)
    (48, 8, 8, 32)
    """
    if pruning_ratio == 0 or n_channels <= CHANNEL_STEP:
        return n_channels
    wanted = n_channels * (1 - pruning_ratio)
    rounded = CHANNEL_STEP * int(wanted / CHANNEL_STEP + 0.5)
    return min(n_channels, max(CHANNEL_STEP, rounded))


def l1_importance(model: nn.Module, dependencies: ChannelDependencies, group: str) -> Tensor:
    """Importance of each channel of `group`: L1 norms of its filters (Li et al. 2017), each layer scaled to mean 1.

    Returns:
        Shape (channels,), >= 0; low goes first.
    """
    total = torch.zeros(dependencies.n_channels(group))
    for part in dependencies.slices(group):
        weight: Tensor = model.get_submodule(part.layer).weight  # type: ignore[assignment]
        norms = weight.detach().flatten(1).abs().sum(dim=1)[list(part.filters)].float()
        total.index_add_(0, torch.tensor(part.channels), norms / norms.mean().clamp(min=1e-12))
    return total


def prune_filters(model: nn.Module, example_input: Any, pruning: Mapping[str, float]) -> None:
    """Remove the least important filters of each group from `model`, which is changed.

    Args:
        model: Module in evaluation mode.
        example_input: Inputs of one inference.
        pruning: `pruning_ratio` by channel group.

    Raises:
        CompressionError: A group does not exist in the model.
    """
    if not pruning:
        return
    dependencies = ChannelDependencies(model, example_input)
    removed: dict[str, list[int]] = {}
    for group, ratio in pruning.items():
        if group not in dependencies.groups:
            known = ", ".join(dependencies.groups)
            raise CompressionError(f"the recipe prunes {group!r}, but the model's channel groups are: {known}")
        n_channels = dependencies.n_channels(group)
        order = l1_importance(model, dependencies, group).argsort(stable=True)
        removed[group] = sorted(order[: n_channels - n_kept(n_channels, ratio)].tolist())
    for group, channels in removed.items():
        if channels:
            dependencies.remove(group, channels)
