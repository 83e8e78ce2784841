"""Removing whole heads from an attention, whoever wrote its module."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.errors import GraphError

Place = tuple[str, str]  # dotted name of a module below the attention, and name of its attribute or tensor


@dataclass(frozen=True)
class Heads:
    """The heads of one attention.

    Args:
        owner: Dotted name of the module that has the maps and counts the heads.
        maps: Names of the layers whose rows are heads, in the order of the model: for queries, keys and values, or
            the one for all three.
        output: Name of the layer whose columns are heads.
        n_heads: Heads, >= 1.
        head_size: Rows of a head in each of queries, keys and values, >= 1.
        layout: Order of rows in a map for all three: `thirds`, all queries first, or `interleaved`, head by head.
        counts: Attributes that count heads, to be changed.
        sizes: Attributes that count rows, to be changed.
        per_head: Tensors with an axis of heads, and the axis.
        per_row: Tensors with an axis of rows, and the axis.
        reason: Why the heads cannot be removed, a clause without a full stop; empty if they can.
    """

    owner: str
    maps: tuple[str, ...]
    output: str
    n_heads: int
    head_size: int
    layout: str = "thirds"
    counts: tuple[Place, ...] = ()
    sizes: tuple[Place, ...] = ()
    per_head: tuple[tuple[Place, int], ...] = ()
    per_row: tuple[tuple[Place, int], ...] = ()
    reason: str = ""

    @property
    def name(self) -> str:
        """Name of the first map."""
        return self.maps[0]

    @property
    def is_fused(self) -> bool:
        """Whether one layer makes queries, keys and values."""
        return len(self.maps) == 1

    def rows(self, n_heads: int) -> list[list[int]]:
        """Rows of each map, in the order of the layer, that belong to each channel, of `n_heads` heads.

        Returns:
            A list for each channel, `n_heads * head_size` in all; one row, or three of a fused map.
        """
        inner = n_heads * self.head_size
        if not self.is_fused:
            return [[channel] for channel in range(inner)]
        if self.layout == "thirds":
            return [[channel + part * inner for part in range(3)] for channel in range(inner)]
        size = self.head_size
        return [[c // size * 3 * size + part * size + c % size for part in range(3)] for c in range(inner)]


def silence_heads(model: nn.Module, heads: Heads, channels: Collection[int], scope: str = "") -> None:
    """Set the columns of the output layer that read `channels` to zero.

    Args:
        model: The module that the names are of, or the part of it called `scope`; changed.
        heads: What `find_heads` found.
        channels: Columns of the output layer.
        scope: Dotted name of `model` in the module that the names are of.
    """
    weight: Tensor = _below(model, heads.output, scope).weight  # type: ignore[assignment]
    with torch.no_grad():
        weight[:, list(channels)] = 0


def remove_heads(model: nn.Module, heads: Heads, channels: Collection[int], scope: str = "") -> None:
    """Remove whole heads from `model`, which is changed.

    Args:
        model: The module that the names are of, or the part of it called `scope`.
        heads: What `find_heads` found; the heads there are now are counted anew.
        channels: All channels of the heads to be removed; `head_size` neighbours are a head.
        scope: Dotted name of `model` in the module that the names are of.

    Raises:
        GraphError: The channels are not whole heads, or are all heads.
    """
    output: Any = _below(model, heads.output, scope)
    owner = _below(model, heads.owner, scope)
    n_before = output.in_features // heads.head_size
    gone = _whole_heads(heads, channels, n_before)
    kept = [channel for channel in range(output.in_features) if channel // heads.head_size not in gone]
    rows = heads.rows(n_before)
    for name in heads.maps:
        _keep_rows(_below(model, name, scope), sorted(row for channel in kept for row in rows[channel]))
    output.weight = _kept(output.weight, 1, kept)
    output.in_features = len(kept)
    kept_heads = [head for head in range(n_before) if head not in gone]
    for ((path, name), axis), index in [(t, kept_heads) for t in heads.per_head] + [(t, kept) for t in heads.per_row]:
        module = owner.get_submodule(path)
        setattr(module, name, _kept(getattr(module, name), axis, index))
    for places, number in ((heads.counts, len(kept_heads)), (heads.sizes, len(kept))):
        for path, name in places:
            setattr(owner.get_submodule(path), name, number)


def _whole_heads(heads: Heads, channels: Collection[int], n_heads: int) -> set[int]:
    gone = {channel // heads.head_size for channel in channels}
    if len(set(channels)) != len(gone) * heads.head_size or not gone <= set(range(n_heads)):
        law = f"channels of {heads.name} must be removed as whole heads of {heads.head_size} neighbours"
        raise GraphError(f"{law} below {n_heads * heads.head_size}, but got {sorted(channels)}")
    if len(gone) == n_heads:
        raise GraphError(f"at least one head of {heads.name} must stay, but all {n_heads} were to be removed")
    return gone


def _below(model: nn.Module, name: str, scope: str) -> nn.Module:
    return model.get_submodule(name[len(scope) + 1 :] if scope else name)


def _keep_rows(layer: Any, rows: list[int]) -> None:
    layer.weight = _kept(layer.weight, 0, rows)
    layer.out_features = len(rows)
    if layer.bias is not None:
        layer.bias = _kept(layer.bias, 0, rows)


def _kept(tensor: Tensor, axis: int, index: list[int]) -> Tensor:
    """Some of a tensor along an axis; a parameter, with its gradient, stays a parameter."""
    chosen = torch.tensor(index, device=tensor.device)
    kept = tensor.detach().index_select(axis, chosen)
    if not isinstance(tensor, nn.Parameter):
        return kept
    parameter = nn.Parameter(kept, tensor.requires_grad)
    if tensor.grad is not None:
        parameter.grad = tensor.grad.index_select(axis, chosen)
    return parameter
