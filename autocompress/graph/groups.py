"""Channel groups of a model, and which of them can be pruned: found by trying."""

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.graph.dependencies import OUTPUTS, ChannelDependencies, as_container
from autocompress.graph.heads import first_line, is_close, vary_constants
from autocompress.graph.model_graph import ChannelGroup
from autocompress.task import call, flatten

CHANNEL_STEP = 8  # OpenVINO CPU's cost is a staircase of 8 channels (facts: openvino-cpu.md)
_SAME = 1e-3  # of the largest output, between a model without channels and one that ignores them
_OTHER_VALUES = "the model computes something else without some of its channels than if it ignored them"


def channel_groups(model: nn.Module, example_input: Any, macs: Mapping[str, int]) -> tuple[ChannelGroup, ...]:
    """Channel groups of `model`; those that cannot be pruned carry the reason.

    Which can is found by trying: some channels are removed from a copy, which must then still run, give outputs of
    the same shapes, and compute the same as when all weights that read those channels are zero.

    Args:
        model: Module in evaluation mode; not changed.
        example_input: Inputs of one inference.
        macs: Multiply-accumulates by name of each layer that runs; others are not offered.
    """
    try:
        dependencies = ChannelDependencies(copy.deepcopy(model), example_input)
    except Exception as error:  # the library follows any graph, and may fail in any way
        reason = f"channel dependencies cannot be followed: {type(error).__name__}: {first_line(error)}"
        return tuple(ChannelGroup(name, (name,), 0, reason) for name in macs)
    groups = [_described(dependencies, name) for name in dependencies.groups]
    groups = [group for group in groups if any(macs.get(layer) for layer in group.layers)]
    found = _reasons(model, example_input, [group.name for group in groups if not group.reason])
    return tuple(replace(group, reason=found.get(group.name, group.reason)) for group in groups)


def _described(dependencies: ChannelDependencies, name: str) -> ChannelGroup:
    layers = tuple(dict.fromkeys(part.layer for part in dependencies.slices(name)))
    n_channels, unit, n_parts = (f(name) for f in (dependencies.n_channels, dependencies.unit, dependencies.n_parts))
    reason = dependencies.reason(name)
    if unit == 1 and n_channels <= CHANNEL_STEP:
        where = f" in each of {n_parts} parts" if n_parts > 1 else ""
        reason = f"it has {n_channels} filters{where}, and {CHANNEL_STEP} are the least that are kept"
    return ChannelGroup(name, layers, n_channels, reason, unit)


def _reasons(model: nn.Module, example_input: Any, names: Sequence[str]) -> dict[str, str]:
    """Why each of `names` cannot be pruned, for those that cannot; all together first, then halves."""
    if not names:
        return {}
    reason = _reason(model, example_input, names)
    if not reason:
        return {}
    if len(names) == 1:
        return {names[0]: reason}
    middle = len(names) // 2
    found = _reasons(model, example_input, names[:middle]) | _reasons(model, example_input, names[middle:])
    remaining = [name for name in names if name not in found]
    if len(remaining) == len(names):  # each half works alone
        return _reasons_together(model, example_input, names)
    return found


def _reasons_together(model: nn.Module, example_input: Any, names: Sequence[str]) -> dict[str, str]:
    """Why those of `names` cannot be pruned that fail together with the ones before them."""
    together: list[str] = []
    found = {}
    for name in names:
        reason = _reason(model, example_input, [*together, name])
        if reason:
            found[name] = f"it cannot be pruned together with {together[-1]}: {reason}"
        else:
            together.append(name)
    return found


def _reason(model: nn.Module, example_input: Any, names: Sequence[str]) -> str:
    """Why the groups `names` cannot lose channels; empty if they can."""
    trial = copy.deepcopy(model)
    try:
        vary_constants(trial)
        dependencies = ChannelDependencies(trial, example_input)
        gone = {name: _some_channels(dependencies, name) for name in names}
        norms = {norm for name in names for norm in dependencies.normalizers(name)}
        with _fixed_norms([trial.get_submodule(norm) for norm in norms]) as replay:
            for name, channels in gone.items():
                dependencies.silence(name, channels)
            wanted = _outputs(trial, example_input)
            for name, channels in gone.items():
                n_kept = dependencies.n_channels(name) - len(channels)
                dependencies.remove(name, channels)
                if dependencies.n_channels(name) != n_kept:
                    return f"{len(channels)} of its channels take others with them"
            replay()
            actual = _outputs(trial, example_input)
    except Exception as error:  # a forward with fixed shapes inside may fail in any way
        return f"the model does not run without some of its channels: {first_line(error)}"
    if [tensor.shape for tensor in actual] != [tensor.shape for tensor in wanted]:
        return OUTPUTS
    same = all(is_close(a, w, _SAME) for a, w in zip(actual, wanted, strict=True))
    return "" if same else _OTHER_VALUES


def _some_channels(dependencies: ChannelDependencies, name: str) -> list[int]:
    """Eight channels without any order, or one unit; fewer where not all may go."""
    unit, n_channels = dependencies.unit(name), dependencies.n_channels(name)
    if unit > 1:
        return list(range(unit, 2 * unit))
    return sorted(random.Random(0).sample(range(n_channels), min(CHANNEL_STEP, n_channels - 1)))


@contextmanager
def _fixed_norms(norms: Sequence[nn.Module]) -> Iterator[Any]:
    """In the block, norms divide by one number each call, which they take from the data and later replay.

    What is yielded starts the replay. Without it, a norm over the channels would give other values for those that
    stay as soon as one goes, and nothing could be compared.
    """
    seen: list[Tensor] = []
    replayed: list[Tensor] | None = None

    def replay() -> None:
        nonlocal replayed
        replayed = list(seen)

    def divide(_module: nn.Module, inputs: tuple[Any, ...], _output: Any) -> Tensor:
        x: Tensor = inputs[0]
        if replayed is None:
            seen.append(x.std() + 1e-6)
            return x / seen[-1]
        return x / replayed.pop(0)

    hooks = [norm.register_forward_hook(divide) for norm in norms]
    try:
        yield replay
    finally:
        for hook in hooks:
            hook.remove()


def _outputs(model: nn.Module, example_input: Any) -> list[Tensor]:
    """Outputs that are the same each time, whatever chance the model uses."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return flatten(as_container(call(model, example_input)))
