"""Filter pruning: the filters of least importance are cut out, so that shapes become really smaller."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.compress.importance import check_groups, group_scores, needs_data, over_units, to_mean_1
from autocompress.errors import CompressionError
from autocompress.graph import ChannelDependencies
from autocompress.graph.groups import CHANNEL_STEP
from autocompress.recipe import Importance


def n_kept(n_channels: int, pruning_ratio: float, unit: int = 1) -> int:
    """Filters that stay: `n_channels * (1 - pruning_ratio)` rounded to a multiple of 8, at least 8.

    A ratio that rounds to all filters removes none, and a layer of at most 8 filters is never pruned. Channels that go
    as `unit` neighbours, such as attention heads, are rounded to whole units instead, at least one.

    >>> n_kept(64, 0.25), n_kept(64, 0.99), n_kept(20, 0.5), n_kept(32, 0.1)
    (48, 8, 8, 32)
    >>> n_kept(36, 0.25, unit=12), n_kept(36, 0.99, unit=12)
    (24, 12)
    """
    step = _step(unit)
    if pruning_ratio == 0 or n_channels <= step:
        return n_channels
    wanted = n_channels * (1 - pruning_ratio)
    rounded = step * int(wanted / step + 0.5)
    return min(n_channels, max(step, rounded))


def _step(unit: int) -> int:
    return CHANNEL_STEP if unit == 1 else unit


def prune_filters(
    model: nn.Module,
    example_input: Any,
    pruning: Mapping[str, float],
    importance: Importance = "l1",
    scores: Mapping[str, Tensor] | None = None,
) -> dict[str, tuple[int, ...]]:
    """Remove the least important filters of each group from `model`, which is changed.

    Args:
        model: Module in evaluation mode.
        example_input: Inputs of one inference.
        pruning: `pruning_ratio` by channel group.
        importance: What says which filters go first, where there are no scores.
        scores: Importance by channel group, shape (channels,), as `importance_scores` gives it; wins over
            `importance`. Of a group that is missing here the channels of lowest index go.

    Returns:
        Indices of the removed channels, ascending, by group; a group that loses none is left out.

    Raises:
        CompressionError: A group does not exist in the model, its scores are not one finite number a channel, or the
            importance needs data and there are no scores.
    """
    if not pruning:
        return {}
    if scores is None and needs_data(importance):
        raise CompressionError(
            f"importance {importance!r} needs training data; give scores, made by importance_scores from batches"
        )
    dependencies = ChannelDependencies(model, example_input)
    check_groups(pruning, dependencies)
    if scores is None:
        scores = group_scores(model, example_input, dependencies, pruning, importance)
    removed = {
        group: least_important(_checked(group, scores, dependencies), ratio, dependencies.unit(group))
        for group, ratio in pruning.items()
    }
    for group, channels in removed.items():
        if channels:
            dependencies.remove(group, channels)
    return {group: channels for group, channels in removed.items() if channels}


def least_important(scores: Tensor, pruning_ratio: float, unit: int = 1) -> tuple[int, ...]:
    """Channels that `pruning_ratio` removes, ascending; of equal scores those of lower index.

    >>> least_important(torch.tensor([3.0, 1.0] * 8), pruning_ratio=0.5)
    (1, 3, 5, 7, 9, 11, 13, 15)
    >>> least_important(torch.tensor([3.0, 1.0, 2.0, 1.0, 1.0, 2.0]), pruning_ratio=0.5, unit=2)
    (2, 3)
    """
    n_removed = len(scores) - n_kept(len(scores), pruning_ratio, unit)
    order = over_units(scores, unit).argsort(stable=True)
    return tuple(sorted(order[:n_removed].tolist()))


def _checked(group: str, scores: Mapping[str, Tensor], dependencies: ChannelDependencies) -> Tensor:
    n_channels = dependencies.n_channels(group)
    found = scores.get(group, torch.zeros(n_channels))
    if found.shape != (n_channels,) or not found.isfinite().all():
        raise CompressionError(
            f"scores of {group!r} must be {n_channels} finite numbers, one a channel, but got shape "
            f"{tuple(found.shape)}{'' if found.isfinite().all() else ' with values that are not finite'}; "
            "make them by importance_scores from this model"
        )
    return found


def global_pruning_ratios(
    scores: Mapping[str, Tensor],
    units: Mapping[str, int],
    macs: Mapping[str, int] | None,
    pruning_ratio: float,
) -> dict[str, float]:
    """Ratios of all groups from one threshold over their importance, so that `pruning_ratio` of all filters go.

    The scores of every group are scaled to mean 1, as in `Torch-Pruning`'s global pruning (Fang et al. 2023, section
    3.3), so that unlike groups can be compared; all groups compete, other than in Isomorphic Pruning (Fang et al.
    2024), where only those of equal structure do. A group loses its filters, the least important ones first, in the
    steps that `n_kept` allows. All steps are put in order of the mean score of their filters and taken from the
    lowest on, until what is removed is nearest to the wanted part; no group goes below the floor of `n_kept`.

    Args:
        scores: Importance by channel group, shape (channels,), >= 0.
        units: Channels that go together as neighbours, by group; 1 where a group is missing.
        macs: Multiply-accumulates by group; if given, `pruning_ratio` of their sum goes instead of filters, each
            channel of a group counting alike.
        pruning_ratio: Fraction to remove, in [0, 1).

    Returns:
        `pruning_ratio` by group for a recipe, > 0, in the order of `scores`; groups that keep everything are left out.

    Raises:
        CompressionError: `pruning_ratio` is not in [0, 1).

    >>> scores = {"a": torch.arange(16.0), "b": torch.ones(16)}
    >>> global_pruning_ratios(scores, {}, None, pruning_ratio=0.25)
    {'a': 0.5}
    """
    if not 0 <= pruning_ratio < 1:
        raise CompressionError(f"pruning_ratio must be in [0, 1), but got {pruning_ratio}; give the part to remove")
    costs = {name: 1.0 if macs is None else macs[name] / len(scores[name]) for name in scores}
    steps = [(score, name, n) for name in scores for score, n in _removal_steps(scores[name], units.get(name, 1))]
    steps.sort(key=lambda step: step[0])
    missing = pruning_ratio * sum(costs[name] * len(scores[name]) for name in scores)
    removed = dict.fromkeys(scores, 0)
    for _, name, n_channels in steps:
        if costs[name] * n_channels >= 2 * missing:
            break
        removed[name] += n_channels
        missing -= costs[name] * n_channels
    return {name: n / len(scores[name]) for name, n in removed.items() if n}


def _removal_steps(scores: Tensor, unit: int) -> list[tuple[float, int]]:
    """Mean score, of scores scaled to mean 1, and number of the channels that go next, as long as any may go."""
    values = to_mean_1(over_units(scores.double(), unit).sort().values)
    step, n_channels, start, highest, steps = _step(unit), len(scores), 0, 0.0, []
    while n_channels - start > step:
        size = (n_channels - start) % step or step
        highest = max(highest, float(values[start : start + size].mean()))
        steps.append((highest, size))
        start += size
    return steps
