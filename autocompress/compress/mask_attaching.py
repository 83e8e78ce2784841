"""Putting masks on layers, and finding them again."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autocompress.compress.attaching import attach_weight, attached_weight, chain_of, output_axis, weight_of
from autocompress.compress.gates import Gates, root_mean_square
from autocompress.compress.movement import MovementMask
from autocompress.compress.sparsity import MagnitudeMask, WeightMask, keep_largest, keep_largest_of_all
from autocompress.errors import CompressionError
from autocompress.recipe import Sparsification

Blocks = Mapping[str, tuple[str, int]]


def attach_masks(
    module: nn.Module, sparse: Mapping[str, float], settings: Sparsification, blocks: Blocks | None = None
) -> None:
    """Put a mask on the weight of each sparse layer, at its full sparsity, before a quantizer if there is one.

    A mask sets exactly ``round(sparsity * n)`` of n units to zero, but never all; with scope `global` the layers
    together get the sum of these numbers, wherever the ranking is lowest. Units are weights, or, with structure `rows`,
    rows of Linear layers with their biases; where blocks are given, whole blocks of rows, as attention heads. Layers
    that share one weight share one mask; so do query, key and value of one attention whose heads are units.

    Args:
        module: Changed.
        sparse: Sparsity in (0, 1) by dotted layer name.
        settings: Method, scope, pattern and structure.
        blocks: For structure `rows`, by layer name, a key that layers with the same blocks (heads) share, and the
            number of rows of a block; layers not named go row by row.

    Raises:
        CompressionError: A layer cannot be masked so, or layers that must share a mask have different sparsities.
    """
    blocks = (blocks or {}) if settings.structure == "rows" else {}
    sharing = _by_mask(module, sparse, settings, blocks)
    typical = _typical_magnitude(module, sharing, settings)
    levels = []
    for names in sharing:
        _check_same_sparsity({name: sparse[name] for name in names})
        layers = {name: module.get_submodule(name) for name in names}
        mask = _new_mask(layers, settings, blocks, typical)
        for layer in dict.fromkeys(layers.values()):
            _put_first(layer, mask, with_bias=settings.structure == "rows")
        levels.append((mask, layers[names[0]], sparse[names[0]]))
    set_masks(levels, settings.scope)


def masks(module: nn.Module) -> Iterator[tuple[str, nn.Module, WeightMask]]:
    """Name, layer and mask of each masked weight in `module`; a mask that layers share comes once for each."""
    for name, layer in module.named_modules():
        mask = attached_mask(layer)
        if mask is not None:
            yield name, layer, mask


def attached_mask(layer: nn.Module) -> WeightMask | None:
    """The mask in the chain on the weight of `layer`."""
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    return next((link for link in chain_of(layer) if isinstance(link, WeightMask)), None)


def mask_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Scores of gates and movement masks, each once: trained at a rate of their own and without weight decay."""
    found = {id(p): p for m in module.modules() if isinstance(m, WeightMask) for p in m.parameters()}
    return list(found.values())


def weight_before_mask(layer: nn.Module) -> Tensor:
    """The weight of a masked layer as its mask gets it, without a gradient."""
    chain = chain_of(layer)
    links, originals = list(chain), list(chain.parameters(recurse=False))
    n_before = next(position for position, link in enumerate(links) if isinstance(link, WeightMask))
    with torch.no_grad():
        weight: Tensor = links[0](*originals) if n_before else originals[0].detach()
        for link in links[1:n_before]:
            weight = link(weight)
    return weight


def set_masks(levels: list[tuple[WeightMask, nn.Module, float]], scope: str) -> None:
    """Zero the lowest units.

    Args:
        levels: Masks, each once, with a layer that it is on and a sparsity in [0, 1).
        scope: `local`, each mask by itself; `global`, one ranking of the units of all.
    """
    rankings = [mask.ranking(weight_before_mask(layer)) for mask, layer, _ in levels]
    n_zeros = [mask.n_zero(level) for mask, _, level in levels]
    if scope == "global":
        kept = keep_largest_of_all(rankings, sum(n_zeros)) if levels else []
    else:
        kept = [keep_largest(ranking, n) for ranking, n in zip(rankings, n_zeros, strict=True)]
    for (mask, _, _), keep in zip(levels, kept, strict=True):
        mask.mask.copy_(keep)


@contextmanager
def zeros_written(module: nn.Module) -> Iterator[None]:
    """Inside the block the zeros stand in the weights and biases themselves, and an export holds no masks.

    Masks behind another parametrization, such as weight norm, stay as they are.
    """
    originals = _maskable_originals(module)
    dense = {original: original.data for tensors in originals.values() for original in tensors}
    for mask, tensors in originals.items():
        for original in tensors:
            original.data = mask(original.detach())  # memory of its own, since what is exported may share it
        mask.is_written = True
    try:
        yield
    finally:
        for original, values in dense.items():
            original.data = values
        for mask in originals:
            mask.is_written = False


def _maskable_originals(module: nn.Module) -> dict[WeightMask, list[nn.Parameter]]:
    """Parameters by the mask that is the first to get them; without masks that stand behind other links."""
    found: dict[WeightMask, list[nn.Parameter]] = {}
    behind = set()
    for _, layer, mask in masks(module):
        for tensor in ("weight", "bias"):
            chain = list(chain_of(layer, tensor)) if parametrize.is_parametrized(layer, tensor) else []
            if mask in chain:
                found.setdefault(mask, []).extend(chain_of(layer, tensor).parameters(recurse=False))
                behind |= {mask} if chain[0] is not mask else set()
    return {mask: tensors for mask, tensors in found.items() if mask not in behind}


def _by_mask(
    module: nn.Module, sparse: Mapping[str, float], settings: Sparsification, blocks: Blocks
) -> list[list[str]]:
    """Names of layers that share a mask, together; found before any mask is on, since that hides weights."""
    names: dict[Any, list[str]] = {}
    for name in sparse:
        layer = module.get_submodule(name)
        _check(name, layer, settings, blocks)
        names.setdefault(_key(name, layer, settings, blocks), []).append(name)
    return list(names.values())


def _key(name: str, layer: nn.Module, settings: Sparsification, blocks: Blocks) -> Any:
    if name in blocks:
        return blocks[name][0]
    holder = chain_of(layer) if parametrize.is_parametrized(layer, "weight") else layer
    weights = tuple(id(p) for key, p in holder.named_parameters(recurse=False) if key != "bias")
    return (weights, _input_axis(layer)) if settings.n_of_m else weights


def _check(name: str, layer: nn.Module, settings: Sparsification, blocks: Blocks) -> None:
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.numel() == 0:
        raise CompressionError(f"a sparse layer needs a weight of floats, but {name!r} has none; leave it out")
    if attached_mask(layer) is not None:
        raise CompressionError(f"a weight can have one mask, but {name!r} already has one; compress the plain model")
    if settings.structure == "rows" and not isinstance(layer, nn.Linear):
        kind = type(layer).__name__
        raise CompressionError(f"a structure of rows needs Linear layers, but {name!r} is a {kind}; leave it dense")
    if name in blocks:
        _check_divides(name, len(weight), *blocks[name])


def _check_divides(name: str, n_rows: int, key: str, size: int) -> None:
    if size < 1 or n_rows % size:
        raise CompressionError(
            f"the rows of a head must divide those of its layer, but {key!r} has heads of {size} rows and {name!r} has "
            f"{n_rows} rows; leave it dense"
        )


def _check_same_sparsity(sparse: Mapping[str, float]) -> None:
    first, *others = sparse
    for name in others:
        if sparse[name] != sparse[first]:
            raise CompressionError(
                f"layers that share a weight or heads need the same sparsity, but {first!r} has {sparse[first]} "
                f"and {name!r} has {sparse[name]}; give both the same"
            )


def _typical_magnitude(module: nn.Module, sharing: list[list[str]], settings: Sparsification) -> Tensor | None:
    """What gates of a global scope measure all their weights by; None where each measures its own."""
    if settings.method != "regularization" or settings.scope != "global" or not sharing:
        return None
    return root_mean_square([weight_of(module.get_submodule(names[0])) for names in sharing])


def _new_mask(
    layers: Mapping[str, nn.Module], settings: Sparsification, blocks: Blocks, typical_magnitude: Tensor | None
) -> WeightMask:
    first, layer = next(iter(layers.items()))
    weight = weight_of(layer).detach()
    if settings.method == "magnitude":
        n_groups = int(getattr(layer, "groups", 1)) if output_axis(layer) else 1
        return MagnitudeMask(weight.shape, settings.n_of_m, _input_axis(layer), n_groups)
    if settings.method == "regularization":
        return Gates(weight, typical_magnitude)
    if settings.structure == "weights":
        return MovementMask([weight])
    if first not in blocks:
        return MovementMask([weight], block_size=1)
    _check_same_heads(layers, blocks)
    return MovementMask([weight_of(layer).detach() for layer in layers.values()], blocks[first][1])


def _check_same_heads(layers: Mapping[str, nn.Module], blocks: Blocks) -> None:
    heads = {name: (len(weight_of(layer)), blocks[name][1]) for name, layer in layers.items()}
    if len(set(heads.values())) > 1:
        raise CompressionError(
            "layers that share heads need as many rows and as large heads, but got (rows, rows of a head) of "
            f"{heads}; leave them dense"
        )


def _input_axis(layer: nn.Module) -> int:
    return 1 - output_axis(layer)


def _put_first(layer: nn.Module, mask: WeightMask, with_bias: bool) -> None:
    """Make `mask` the last link before the quantizer, and the first of the bias."""
    if attached_weight(layer) is None:
        attach_weight(layer, mask)
    else:
        chain_of(layer).insert(len(chain_of(layer)) - 1, mask)
    if with_bias and isinstance(layer.bias, nn.Parameter):
        parametrize.register_parametrization(layer, "bias", mask, unsafe=True)
