"""Splits in the graph of `torch_pruning`: which part each reader reads, and whether channels are split at all.

The library guesses the sizes of parts from their readers, and takes the i-th reader for the reader of the i-th part.
Autograd knows both.
"""

from collections.abc import Callable
from typing import Any

_LONGEST_AXES = 64  # torch's limit of axes; a saved axis beyond it counts from the end, as an unsigned -1


class _PartsRead(list[int]):
    """Offsets that, asked for those of the i-th reader, answer with first and end channel of the part that it reads."""

    def __init__(self, offsets: list[int], parts: list[int]) -> None:
        super().__init__(offsets)
        self._pairs = [offsets[part : part + 2] for part in parts]

    def __getitem__(self, index: Any) -> Any:
        return self._pairs[index.start] if isinstance(index, slice) else super().__getitem__(index)


class _NoSaved:
    """Stands for an operation that tells nothing about itself."""


def is_split(node: Any) -> bool:
    """Whether a node of the graph is a split or a chunk."""
    return type(node.module).__name__ == "_SplitOp"


def correct_splits(graph: Any, n_channels: Callable[[Any], int | None]) -> None:
    """Give every split of `graph`, which is changed, its true parts; none where it is not the channels that it splits.

    Args:
        graph: A built `torch_pruning.DependencyGraph`.
        n_channels: Number of channels that come out of a node, as far as the graph knows it.
    """
    for node in graph.module2node.values():
        if is_split(node):
            sizes = _part_sizes(node.grad_fn)
            known = n_channels(node.inputs[0]) if node.inputs else None
            parts = _parts_read(node)
            _forget(node)
            if sizes and sum(sizes) == known and len(parts) == len(node.outputs):
                offsets = [sum(sizes[:index]) for index in range(len(sizes) + 1)]
                node.module.split_sizes, node.module.offsets = sizes, _PartsRead(offsets, parts)
                node.grad_fn = _NoSaved()  # the library maps no channels along other axes than 1
    for node in graph.module2node.values():
        if hasattr(node.module, "concat_sizes"):
            node.module.concat_sizes = None  # inferred again, from the true parts


def _part_sizes(operation: Any) -> list[int]:
    """Sizes of the parts along the axis of the split; empty if autograd did not save them."""
    shape, axis = getattr(operation, "_saved_self_sym_sizes", None), getattr(operation, "_saved_dim", None)
    if shape is None or axis is None:
        return []
    length = shape[axis if axis < _LONGEST_AXES else axis - 2**64]
    if hasattr(operation, "_saved_split_sizes"):
        return [int(size) for size in operation._saved_split_sizes]
    size = operation._saved_split_size
    return [min(size, length - start) for start in range(0, length, size)]


def _parts_read(node: Any) -> list[int]:
    """Part that each reader of a split reads, in the order of the node's outputs."""
    unread: dict[int, list[int]] = {}
    for reader in node.outputs:
        if id(reader) not in unread:
            inputs = getattr(reader.grad_fn, "next_functions", ())
            unread[id(reader)] = [number for operation, number in inputs if operation is node.grad_fn]
    return [unread[id(reader)].pop(0) for reader in node.outputs if unread[id(reader)]]


def _forget(node: Any) -> None:
    node.module.split_sizes = node.module.offsets = None
    for neighbour in (node, *node.inputs, *node.outputs):
        for dependency in neighbour.dependencies:
            if neighbour is node or dependency.target is node:
                dependency.index_mapping[0] = None
