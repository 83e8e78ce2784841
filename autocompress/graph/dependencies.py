"""Channels that must be removed together, found by `torch_pruning.DependencyGraph`; the one file that imports it."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import lcm
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch_pruning.dependency.shape_infer import infer_out_channels_recursively

from autocompress.errors import GraphError
from autocompress.graph.head_removal import Heads, remove_heads, silence_heads
from autocompress.graph.heads import find_heads
from autocompress.graph.recurrent import RECURRENT, one_operation_each, remove_recurrent_inputs
from autocompress.graph.splits import correct_splits, is_split
from autocompress.task import call, evaluating, flatten

OUTPUTS = "its channels are outputs of the model"
FILTER_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class FilterSlice:
    """Filters of one layer that go when channels of a group go: `filters[i]` belongs to channel `channels[i]`."""

    layer: str
    filters: tuple[int, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True)
class _Group:
    """Slices of one group, the leader first, and how its channels are numbered.

    A group has `n_parts` times as many filters of its leader as channels: with convolutions of 4 groups, or a split
    into 4 parts, channel c is the filters c, c + n, c + 2n and c + 3n.
    """

    root: str
    slices: tuple[FilterSlice, ...]
    n_parts: int = 1
    heads: Heads | None = None
    reason: str = ""
    normalizers: tuple[str, ...] = field(default=())


class _RecurrentPruner(torch_pruning.BasePruningFunc):  # type: ignore[misc]
    """Recurrent layers may lose inputs but keep their outputs."""

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        raise GraphError(f"outputs of a recurrent layer must all stay, but {len(idxs)} of {layer} were to be removed")

    def prune_in_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        remove_recurrent_inputs(layer, idxs)
        return layer

    def get_out_channels(self, layer: Any) -> int:
        return int(layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)

    def get_in_channels(self, layer: Any) -> int:
        return int(layer.input_size)


class ChannelDependencies:
    """The channel groups of one module, and their removal from it.

    A group is either filters, one by one, or the heads of an attention, whose channels go as whole heads: the rows of
    queries, keys and values, together with what else has an entry for each of them.

    Args:
        model: Module in evaluation mode; `remove` changes it, so give a copy that is yours.
        example_input: Inputs of one inference.
    """

    def __init__(self, model: nn.Module, example_input: Any) -> None:
        self._model = model
        self._names = {id(module): name for name, module in reversed(list(model.named_modules()))}
        self._order = {name: index for index, (name, _) in enumerate(model.named_modules())}
        self._outputs: list[Tensor] = []
        with evaluating(model):
            found = find_heads(model, example_input)
            with warnings.catch_warnings(), torch.enable_grad(), _frozen_as_before(model), one_operation_each(model):
                warnings.simplefilter("ignore")
                self._graph = torch_pruning.DependencyGraph().build_dependency(
                    model,
                    example_inputs=example_input,
                    forward_fn=call,
                    output_transform=self._keep_outputs,
                    customized_pruners={kind: _RecurrentPruner() for kind in RECURRENT},
                    verbose=False,
                )
                correct_splits(self._graph, lambda node: infer_out_channels_recursively(self._graph, node, [0]))
                items = list(self._graph.get_all_groups(root_module_types=list(FILTER_LAYERS)))
            items = _distinct([self._of_widest(each) for each in items])
        groups = self._with_heads([self._group(each) for each in items], found)
        self._outputs = []
        self._groups = {g.slices[0].layer: g for g in sorted(groups, key=lambda g: self._order[g.slices[0].layer])}

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups: of each the first layer that loses filters."""
        return tuple(self._groups)

    def slices(self, group: str) -> tuple[FilterSlice, ...]:
        """Which filters of which layers the channels of `group` are; the leader first."""
        return self._groups[group].slices

    def n_channels(self, group: str) -> int:
        """Channels of `group` as the model is now; filters of its leader, as a rule."""
        found = self._groups[group]
        weight: Tensor = self._model.get_submodule(found.root).weight  # type: ignore[assignment]
        return len(weight) // found.n_parts

    def unit(self, group: str) -> int:
        """Neighbouring channels that only go together: the size of a head, 1 where channels go one by one."""
        heads = self._groups[group].heads
        return 1 if heads is None else heads.head_size

    def n_parts(self, group: str) -> int:
        """Filters of the leader for each channel: more than 1 where a convolution or a split cuts channels in parts."""
        return self._groups[group].n_parts

    def reason(self, group: str) -> str:
        """Why `group` cannot be pruned, as far as it is known without trying; empty otherwise."""
        return self._groups[group].reason

    def normalizers(self, group: str) -> tuple[str, ...]:
        """Modules that normalize over the channels of `group`, so that each changes with all others."""
        return self._groups[group].normalizers

    def remove(self, group: str, channels: Sequence[int]) -> None:
        """Remove channels, and all that depends on them, from the model.

        Args:
            group: Name of a group.
            channels: Indices below `n_channels(group)`; where `unit(group)` is above 1, all of each unit that goes.

        Raises:
            GraphError: The channels are not whole units, or the group cannot be pruned.
        """
        found = self._groups[group]
        if found.reason:
            raise GraphError(f"a group must be prunable to lose channels, but {group!r} is not: {found.reason}")
        if found.heads is not None:
            remove_heads(self._model, found.heads, channels)
            return
        items = self._items(found, channels)
        with warnings.catch_warnings(), _frozen_as_before(self._model):
            warnings.simplefilter("ignore")
            items.prune()

    def silence(self, group: str, channels: Sequence[int]) -> None:
        """Set all weights that read `channels` to zero: the model then computes what it should after `remove`.

        Where a norm divides by the spread of its channels, that holds only if it divided by the same number.
        """
        found = self._groups[group]
        if found.heads is not None:
            silence_heads(self._model, found.heads, channels)
            return
        for item in self._items(found, channels):
            if not self._graph.is_out_channel_pruning_fn(item.dep.handler):
                _silence_inputs(item.dep.target.module, list(item.idxs))

    def _keep_outputs(self, outputs: Any) -> list[Tensor]:
        self._outputs = flatten(as_container(outputs))
        return self._outputs

    def _items(self, found: _Group, channels: Sequence[int]) -> Any:
        """What torch_pruning removes with `channels`."""
        module = self._model.get_submodule(found.root)
        n_filters = len(module.weight)  # type: ignore[arg-type]
        step = n_filters // found.n_parts
        filters = sorted(channel + part * step for part in range(found.n_parts) for channel in channels)
        function = self._graph.get_pruner_of_module(module).prune_out_channels
        return self._graph.get_pruning_group(module, function, filters)

    def _of_widest(self, items: Any) -> Any:
        """The group of the layer with the most filters in `items`: of a sum with joined channels, the whole sum."""
        root = items[0].dep.target.module
        widest: Any = max([root, *_filtered(items)], key=lambda layer: len(layer.weight))
        if len(widest.weight) == len(root.weight):
            return items
        function = self._graph.get_pruner_of_module(widest).prune_out_channels
        return self._graph.get_pruning_group(widest, function, list(range(len(widest.weight))))

    def _group(self, items: Any) -> _Group:
        root = self._names[id(items[0].dep.target.module)]
        n_filters = len(self._model.get_submodule(root).weight)  # type: ignore[arg-type]
        n_parts = _n_parts(items)
        step = n_filters // n_parts if n_filters % n_parts == 0 else n_filters
        slices = sorted(self._filter_slices(items, step), key=lambda s: self._order[s.layer])
        return _Group(
            root, tuple(slices), n_filters // step, reason=self._reason(items), normalizers=self._normalizers(items)
        )

    def _reason(self, items: Any) -> str:
        """Why a group cannot be pruned, as far as it is seen without trying."""
        ends = {id(output.grad_fn): output.shape for output in self._outputs}
        for item in items:
            module, node = item.dep.target.module, item.dep.target
            if isinstance(module, nn.Module) and parametrize.is_parametrized(module):
                name = self._names.get(id(module), "")
                return f"the weight of {name} is parametrized, as by weight_norm; make it a plain weight first"
            loses_outputs = self._graph.is_out_channel_pruning_fn(item.dep.handler)
            if loses_outputs and len(item.idxs) in ends.get(id(node.grad_fn), ())[1:]:
                return OUTPUTS
            if loses_outputs and isinstance(module, FILTER_LAYERS) and len(set(item.idxs)) < len(module.weight):
                return f"only some of the filters of {self._names[id(module)]} belong to it"
        return ""

    def _filter_slices(self, items: Any, step: int) -> Iterator[FilterSlice]:
        for item in items:
            module = item.dep.target.module
            removes_filters = self._graph.is_out_channel_pruning_fn(item.dep.handler)
            if removes_filters and isinstance(module, FILTER_LAYERS) and id(module) in self._names:
                channels = tuple(index % step for index in item.root_idxs)
                yield FilterSlice(self._names[id(module)], tuple(item.idxs), channels)

    def _normalizers(self, items: Any) -> tuple[str, ...]:
        owners = {id(p): module for module in self._model.modules() for p in module.parameters(recurse=False)}
        touched = (item.dep.target.module for item in items)
        modules = (owners.get(id(m)) if isinstance(m, nn.Parameter) else m for m in touched)
        names = (self._names.get(id(m), "") for m in modules if m is not None and _normalizes(m))
        return tuple(dict.fromkeys(name for name in names if name))

    def _with_heads(self, groups: list[_Group], found: Sequence[Heads]) -> list[_Group]:
        """`groups` with those of maps to heads replaced by one for each attention."""
        maps = {name for heads in found for name in heads.maps}
        result = []
        for group in groups:
            others = tuple(part for part in group.slices if part.layer not in maps)
            if len(others) == len(group.slices):
                result.append(group)
            elif others:
                tied = next(part.layer for part in group.slices if part.layer in maps)
                result.append(_Group(group.root, others, group.n_parts, reason=f"its filters are tied to {tied}"))
        return result + [_of_heads(heads) for heads in found]


def _of_heads(heads: Heads) -> _Group:
    rows = heads.rows(heads.n_heads)
    pairs = [(row, channel) for channel, its_rows in enumerate(rows) for row in its_rows]
    filters, channels = zip(*pairs, strict=True)
    slices = tuple(FilterSlice(name, filters, channels) for name in heads.maps)
    return _Group(heads.name, slices, 3 if heads.is_fused else 1, heads, heads.reason)


def _distinct(groups: Sequence[Any]) -> list[Any]:
    """`groups` without those whose filters are all in another: sums of joined channels are seen from both sides."""
    ordered = sorted(groups, key=lambda items: -len(items[0].idxs))
    covered: set[int] = set()
    result = []
    for items in ordered:
        if id(items[0].dep.target.module) not in covered:
            result.append(items)
            covered |= {id(layer) for layer in _filtered(items)}
    return result


def _filtered(items: Any) -> Iterator[nn.Module]:
    """Layers of a group that lose filters."""
    graph = items._DG
    for item in items:
        module = item.dep.target.module
        if graph.is_out_channel_pruning_fn(item.dep.handler) and isinstance(module, FILTER_LAYERS):
            yield module


def _n_parts(items: Any) -> int:
    """Parts of equal size that lose the same offsets: by convolutions with groups and by splits."""
    parts = 1
    for item in items:
        module, node = item.dep.target.module, item.dep.target
        if isinstance(module, (*_CONVOLUTIONS, *_TRANSPOSED)) and not _is_depthwise(module):
            parts = lcm(parts, module.groups)
        if is_split(node) and module.offsets is not None and len(set(module.split_sizes)) == 1:
            parts = lcm(parts, len(module.split_sizes))
    return parts


def _is_depthwise(module: Any) -> bool:
    return bool(module.groups == module.in_channels == module.out_channels)


def _normalizes(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.instancenorm._InstanceNorm):
        return False
    return not isinstance(module, FILTER_LAYERS) and "norm" in type(module).__name__.lower()


def _silence_inputs(module: Any, channels: list[int]) -> None:
    """Set the weights of `module` that read `channels` to zero, where it has weights between channels."""
    with torch.no_grad():
        if isinstance(module, nn.Linear):
            module.weight[:, channels] = 0
        elif isinstance(module, RECURRENT):
            for name, weight in module.named_parameters():
                if name.startswith("weight_ih_l0"):
                    weight[:, channels] = 0
        elif isinstance(module, _TRANSPOSED):
            module.weight[channels] = 0
        elif isinstance(module, _CONVOLUTIONS):
            width, n_out = module.in_channels // module.groups, module.out_channels // module.groups
            for channel in channels:
                first = channel // width * n_out
                module.weight[first : first + n_out, channel % width] = 0


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


def as_container(outputs: Any) -> Any:
    """`outputs`, with a mapping-like object such as a ModelOutput turned into a dict."""
    return dict(outputs) if isinstance(outputs, Mapping) else outputs
