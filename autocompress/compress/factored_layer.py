"""A layer in low rank: its factors one after the other, which still read like the layer."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.compress.attaching import weight_of

_SIZES = ("in_features", "out_features", "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
_MORE = ("groups", "padding_mode", "transposed")


class FactoredLayer(nn.Sequential):
    """Factors of a Linear layer or a convolution.

    Models read weights and sizes of their layers, for their dtype or for checks; so `weight` is the product of the
    factors' weights, `bias` that of the last, and sizes are those of the layer.

    Args:
        factors: Layers without bias but the last, of at most one kernel larger than 1.
        layer: What they stand for.
    """

    def __init__(self, factors: Iterable[nn.Module], layer: nn.Module) -> None:
        super().__init__(*factors)
        self._sizes = {name: getattr(layer, name) for name in (*_SIZES, *_MORE) if hasattr(layer, name)}

    @property
    def weight(self) -> Tensor:
        """Weight of one layer that computes the same, shape (outputs, inputs, *kernel)."""
        first, *others = [weight_of(factor) for factor in self]
        kernel = first.shape[2:]
        product = first.reshape(*first.shape[:2], -1)
        for weight in others:
            kernel = weight.shape[2:] if math.prod(kernel) == 1 else kernel
            following = weight.reshape(*weight.shape[:2], -1)
            product = torch.einsum("ork,ril->oikl", following, product).flatten(2)
        return product.reshape(*product.shape[:2], *kernel)

    @property
    def bias(self) -> Tensor | None:
        """Bias of the last factor."""
        bias = self[-1].bias
        return bias if isinstance(bias, Tensor) else None

    def __getattr__(self, name: str) -> Any:
        """A size of the layer that this stands for, or what a module has."""
        sizes = self.__dict__.get("_sizes", {})
        return sizes[name] if name in sizes else super().__getattr__(name)
