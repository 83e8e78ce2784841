"""Removal of filters that are zero already, as movement pruning of rows and heads leaves them."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autocompress.compress.importance import batch_norms_behind, over_units, untouched
from autocompress.graph import ChannelDependencies
from autocompress.graph.groups import CHANNEL_STEP
from autocompress.task import call, flatten, like

TOLERANCE = 1e-5


def remove_zero_filters(model: nn.Module, example_input: Any) -> dict[str, int]:
    """Remove the channels that are always zero from `model`, which is changed; its outputs stay as they are.

    A channel goes if in every layer of its group its filter and bias are zero, and so are weight and bias of the batch
    norm that reads the layer, if one does. What is kept of a group is a multiple of 8, or of its unit where channels
    go as neighbours (attention heads), and at least one such step; zero channels of high index stay to fill it up. A
    group goes only if a copy without the channels gives the same outputs in evaluation mode, up to 1e-5 of the largest,
    for the example and for random inputs of its shapes (integers: the example's, shuffled); so channels whose
    activation does not map 0 to 0 stay, and groups that are normalized or fixed in shape.

    Args:
        model: Module without parametrizations; modes and the random state stay as they are.
        example_input: Inputs of one inference.

    Returns:
        How many channels were removed by group, > 0, in the order of the model.
    """
    with untouched(model):
        dependencies = ChannelDependencies(model, example_input)
        groups = [group for group in dependencies.groups if not dependencies.reason(group)]
        layers = [part.layer for group in groups for part in dependencies.slices(group)]
        nonzero = _nonzero_filters(model, layers, batch_norms_behind(model, example_input, layers))
        spare = {group: _spare_channels(dependencies, group, nonzero) for group in groups}
        proof = _Proof.of(model, example_input, {group: channels for group, channels in spare.items() if channels})
        removable = proof.extend([], list(proof.channels))
        for group in removable:
            dependencies.remove(group, proof.channels[group])
    return {group: len(proof.channels[group]) for group in removable}


def _spare_channels(dependencies: ChannelDependencies, group: str, nonzero: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Zero channels of `group` that leave a multiple of its step when they go."""
    unit, n_channels = dependencies.unit(group), dependencies.n_channels(group)
    step = CHANNEL_STEP if unit == 1 else unit
    n_nonzero = torch.zeros(n_channels)
    for part in dependencies.slices(group):
        n_nonzero.index_add_(0, torch.tensor(part.channels), nonzero[part.layer][list(part.filters)].float())
    zero = (over_units(n_nonzero, unit) == 0).nonzero().flatten().tolist()
    n_kept = max(1, -(-(n_channels - len(zero)) // step)) * step
    return tuple(zero[: max(0, n_channels - n_kept)])


def _nonzero_filters(model: nn.Module, layers: Iterable[str], norms: Mapping[str, _BatchNorm]) -> dict[str, Tensor]:
    """Whether each filter of each layer, or the batch norm behind it, gives anything but zeros; shape (filters,)."""
    found = {}
    for name in layers:
        layer, norm = model.get_submodule(name), norms.get(name)
        weight: Tensor = layer.weight  # type: ignore[assignment]
        nonzero = weight.detach().flatten(1).ne(0).any(dim=1)
        for parameter in (layer.bias, *((norm.weight, norm.bias) if norm else ())):
            if isinstance(parameter, Tensor):
                nonzero = nonzero | parameter.detach().ne(0)
        found[name] = nonzero
    return found


@dataclass(frozen=True)
class _Proof:
    """Inputs and outputs of a model, to see by execution which groups can lose their spare channels.

    Attributes:
        model: The module in evaluation mode; never changed.
        probes: Inputs, the example first.
        outputs: Outputs for each probe.
        channels: Spare channels by group.
    """

    model: nn.Module
    probes: tuple[Any, ...]
    outputs: tuple[list[Tensor], ...]
    channels: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, model: nn.Module, example_input: Any, channels: Mapping[str, tuple[int, ...]]) -> "_Proof":
        probes = (example_input, _random_like(example_input)) if channels else ()
        return cls(model, probes, tuple(_outputs(model, probe) for probe in probes), channels)

    def extend(self, proven: Sequence[str], groups: Sequence[str]) -> list[str]:
        """`proven` and those of `groups` that can go together with them; halves are tried where not all can."""
        if not groups or self._holds([*proven, *groups]):
            return [*proven, *groups]
        if len(groups) == 1:
            return list(proven)
        middle = len(groups) // 2
        return self.extend(self.extend(proven, groups[:middle]), groups[middle:])

    def _holds(self, groups: Sequence[str]) -> bool:
        trial = copy.deepcopy(self.model)
        try:
            dependencies = ChannelDependencies(trial, self.probes[0])
            for group in groups:
                dependencies.remove(group, self.channels[group])
            found = [_outputs(trial, probe) for probe in self.probes]
        except Exception:  # a forward with fixed shapes inside may fail in any way
            return False
        return all(map(_equal, found, self.outputs))


def _outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return flatten(call(model, inputs))


def _equal(found: list[Tensor], expected: list[Tensor]) -> bool:
    same_shapes = [t.shape for t in found] == [t.shape for t in expected]
    return bool(expected) and same_shapes and all(map(_close, found, expected))


def _close(found: Tensor, expected: Tensor) -> bool:
    if not expected.is_floating_point() or expected.numel() == 0:
        return torch.equal(found, expected)
    tolerance = TOLERANCE * float(expected.abs().nan_to_num(0.0, posinf=0.0).max())
    return torch.allclose(found, expected, rtol=0, atol=tolerance, equal_nan=True)


def _random_like(example_input: Any) -> Any:
    """Normally distributed numbers of the shapes of `example_input`; integers and booleans are shuffled instead."""
    generator = torch.Generator().manual_seed(0)

    def random(x: Tensor) -> Tensor:
        if x.is_floating_point():
            return torch.randn(x.shape, generator=generator).to(x.dtype)
        return x.flatten()[torch.randperm(x.numel(), generator=generator)].reshape(x.shape)

    return like(example_input, iter([random(x) for x in flatten(example_input)]))
