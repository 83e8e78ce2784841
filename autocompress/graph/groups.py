"""Channels that must be removed together, found by `torch_pruning.DependencyGraph`; the one file that imports it."""

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import nn

from autocompress.graph.model_graph import ChannelGroup
from autocompress.task import call, flatten

CHANNEL_STEP = 8  # OpenVINO CPU's cost is a staircase of 8 channels (facts: openvino-cpu.md)
_FILTER_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class FilterSlice:
    """Filters of one layer that go when channels of a group go: `filters[i]` belongs to channel `channels[i]`."""

    layer: str
    filters: tuple[int, ...]
    channels: tuple[int, ...]


class ChannelDependencies:
    """The channel groups of one module, and their removal from it.

    Args:
        model: Module in evaluation mode; `remove` changes it, so give a copy that is yours.
        example_input: Inputs of one inference.
    """

    def __init__(self, model: nn.Module, example_input: Any) -> None:
        self._model = model
        self._names = {id(module): name for name, module in model.named_modules()}
        with warnings.catch_warnings(), torch.enable_grad(), _frozen_as_before(model):
            warnings.simplefilter("ignore")
            self._graph = torch_pruning.DependencyGraph().build_dependency(
                model,
                example_inputs=example_input,
                forward_fn=call,
                output_transform=lambda outputs: flatten(_as_container(outputs)),
                verbose=False,
            )
            groups = list(self._graph.get_all_groups(root_module_types=list(_FILTER_LAYERS)))
        order = {name: index for index, name in enumerate(self._names.values())}
        self._slices: dict[str, tuple[FilterSlice, ...]] = {}
        self._modules: dict[str, nn.Module] = {}
        for group in groups:
            slices = sorted(self._filter_slices(group), key=lambda s: order[s.layer])
            if slices:
                leader = slices[0].layer
                self._slices[leader] = tuple(slices)
                self._modules[leader] = model.get_submodule(leader)
        self._slices = dict(sorted(self._slices.items(), key=lambda pair: order[pair[0]]))

    def _filter_slices(self, group: Any) -> list[FilterSlice]:
        found = []
        for item in group:
            module = item.dep.target.module
            removes_filters = self._graph.is_out_channel_pruning_fn(item.dep.handler)
            if removes_filters and isinstance(module, _FILTER_LAYERS) and id(module) in self._names:
                found.append(FilterSlice(self._names[id(module)], tuple(item.idxs), tuple(item.root_idxs)))
        return found

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups: of each the first layer that loses filters."""
        return tuple(self._slices)

    def slices(self, group: str) -> tuple[FilterSlice, ...]:
        """Which filters of which layers the channels of `group` are; the leader first."""
        return self._slices[group]

    def n_channels(self, group: str) -> int:
        """Channels of `group`: filters of its leader."""
        weight: torch.Tensor = self._modules[group].weight  # type: ignore[assignment]
        return len(weight)

    def remove(self, group: str, channels: Sequence[int]) -> None:
        """Remove the filters of the leader at indices `channels`, and all that depends on them, from the model."""
        module = self._modules[group]
        function = self._graph.get_pruner_of_module(module).prune_out_channels
        with warnings.catch_warnings(), _frozen_as_before(self._model):
            warnings.simplefilter("ignore")
            self._graph.get_pruning_group(module, function, list(channels)).prune()


@contextmanager
def _frozen_as_before(model: nn.Module) -> Iterator[None]:
    """Every parameter wants gradients in the block, as the autograd graph is what is followed; afterwards as before."""
    frozen = {name for name, p in model.named_parameters() if p.is_floating_point() and not p.requires_grad}
    try:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad or name in frozen)
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name not in frozen)


def _as_container(outputs: Any) -> Any:
    """`outputs`, with a mapping-like object such as a ModelOutput turned into a dict."""
    return dict(outputs) if isinstance(outputs, Mapping) else outputs


def channel_groups(model: nn.Module, example_input: Any, macs: Mapping[str, int]) -> tuple[ChannelGroup, ...]:
    """Channel groups of `model`; those that cannot be pruned carry the reason.

    Which can is found by trying: eight channels are removed from a copy, which must then still run and give
    outputs of the same shapes.

    Args:
        model: Module in evaluation mode; not changed.
        example_input: Inputs of one inference.
        macs: Multiply-accumulates by name of each layer that runs; others are not offered.
    """
    try:
        dependencies = ChannelDependencies(copy.deepcopy(model), example_input)
    except Exception as error:  # the library follows any graph, and may fail in any way
        reason = f"channel dependencies cannot be followed: {type(error).__name__}: {_first_line(error)}"
        return tuple(ChannelGroup(name, (name,), 0, reason) for name in macs)
    shapes = _output_shapes(model, example_input)
    groups = []
    for name in dependencies.groups:
        layers = tuple(s.layer for s in dependencies.slices(name))
        if not any(macs.get(layer) for layer in layers):
            continue
        n_channels = dependencies.n_channels(name)
        reason = _static_reason(model, layers, n_channels)
        groups.append(ChannelGroup(name, layers, n_channels, reason))
    open_groups = [g.name for g in groups if not g.reason]
    if _removable(model, example_input, open_groups, shapes) == "":
        return tuple(groups)
    return tuple(
        g
        if g.reason
        else ChannelGroup(g.name, g.layers, g.n_channels, _removable(model, example_input, [g.name], shapes))
        for g in groups
    )


def _static_reason(model: nn.Module, layers: tuple[str, ...], n_channels: int) -> str:
    if n_channels <= CHANNEL_STEP:
        return f"it has {n_channels} filters, and {CHANNEL_STEP} are the least that are kept"
    for name in layers:
        groups = getattr(model.get_submodule(name), "groups", 1)
        if groups not in (1, n_channels):
            return f"{name} is a convolution of {groups} groups"
    return ""


def _removable(model: nn.Module, example_input: Any, names: Sequence[str], shapes: list[torch.Size]) -> str:
    """Why the groups `names` cannot lose channels; empty if they can."""
    trial = copy.deepcopy(model)
    try:
        dependencies = ChannelDependencies(trial, example_input)
        for name in names:
            dependencies.remove(name, range(min(CHANNEL_STEP, dependencies.n_channels(name) - 1)))
        pruned = _output_shapes(trial, example_input)
    except Exception as error:  # a forward with fixed shapes inside may fail in any way
        return f"the model does not run without some of its channels: {_first_line(error)}"
    return "" if pruned == shapes else "its channels are outputs of the model"


def _output_shapes(model: nn.Module, example_input: Any) -> list[torch.Size]:
    with torch.no_grad():
        return [tensor.shape for tensor in flatten(_as_container(call(model, example_input)))]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
