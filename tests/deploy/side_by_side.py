"""One network with a layer of every kind, each with an input and an output of its own: one conversion tests them all.

As a program, it prints the largest error of each kind at the bits given: `python -m tests.deploy.side_by_side 7`.
"""

import math
import sys
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from autocompress.compress.attaching import attached_input
from autocompress.compress.quantization import InputQuantizer
from autocompress.recipe import LayerRecipe
from tests.deploy.deployed import Deployed, deployed, off_ties, quantized


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(32, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(16, 32, 3), (16, 12)),
    "conv2d": (lambda: nn.Conv2d(16, 32, 3), (16, 6, 6)),
    "conv3d": (lambda: nn.Conv3d(8, 16, 3), (8, 4, 5, 4)),
    "depthwise": (lambda: nn.Conv2d(32, 32, 3, groups=32), (32, 6, 6)),
    "grouped": (lambda: nn.Conv2d(32, 32, 3, groups=4), (32, 6, 6)),
    "transposed1d": (lambda: nn.ConvTranspose1d(16, 32, 2, stride=2), (16, 12)),
    "transposed2d": (lambda: nn.ConvTranspose2d(16, 32, 3, stride=2, padding=1), (16, 6, 6)),
    "transposed_grouped": (lambda: nn.ConvTranspose2d(16, 32, 2, stride=2, groups=4), (16, 6, 6)),
    "linear": (lambda: nn.Linear(64, 32), (64,)),
    "linear3d": (lambda: nn.Linear(64, 32), (7, 64)),
    "attention": (SelfAttention, (7, 32)),
}
MAPS = tuple(f"layers.attention.inner.{name}" for name in ("query", "key", "value", "out_proj"))
TRANSPOSED = ("transposed1d", "transposed2d", "transposed_grouped")


class SideBySide(nn.Module):
    """Reads all numbers from one tensor, since conversion takes longer the more inputs there are.

    Outputs: that of each kind, then the embedded words.
    """

    def __init__(self, kinds: tuple[str, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({kind: KINDS[kind][0]() for kind in kinds})
        self.words = nn.Embedding(24, 32)

    def forward(self, numbers: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        parts = split(numbers, tuple(self.layers))
        return (*(layer(x) for layer, x in zip(self.layers.values(), parts, strict=True)), self.words(tokens))


def split(numbers: Tensor, kinds: tuple[str, ...]) -> list[Tensor]:
    """The input of each kind, from a tensor (samples, all their values)."""
    shapes = [KINDS[kind][1] for kind in kinds]
    parts = numbers.split([math.prod(shape) for shape in shapes], dim=1)
    return [part.reshape(2, *shape) for part, shape in zip(parts, shapes, strict=True)]


def some_inputs(kinds: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Numbers of mixed signs, off centre, so that an asymmetric grid has a zero point of its own; and tokens."""
    n_values = sum(math.prod(KINDS[kind][1]) for kind in kinds)
    numbers = torch.randn(2, n_values, generator=torch.Generator().manual_seed(1)) + 0.5
    return numbers, torch.arange(24).reshape(2, 12)


def layers_of(kind: str) -> tuple[str, ...]:
    """Names of the layers of a kind."""
    return MAPS if kind == "attention" else (f"layers.{kind}",)


@cache
def network(kinds: tuple[str, ...]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SideBySide(kinds).eval()


@cache
def case(
    weight_bits: int,
    weight_scheme: str = "symmetric",
    input_scheme: str = "auto",
    input_bits: int = 8,
    kinds: tuple[str, ...] = tuple(KINDS),
) -> tuple[Deployed, dict[str, float]]:
    """The network with these options, deployed, and the error of each kind on inputs that are not near a tie."""
    layer = LayerRecipe(
        weight_bits=weight_bits,
        activation_bits=input_bits,
        weight_scheme=weight_scheme,
        activation_scheme=input_scheme,
    )
    numbers, tokens = some_inputs(kinds)
    compressed = quantized(network(kinds), (numbers, tokens), layer)
    parts = []
    for kind, part in zip(kinds, split(numbers, kinds), strict=True):
        quantizer = attached_input(compressed.module.get_submodule(layers_of(kind)[0]))
        assert isinstance(quantizer, InputQuantizer)
        parts.append(off_ties(part, quantizer).flatten(1))
    result = deployed(compressed)
    return result, dict(zip([*kinds, "words"], result.errors((torch.cat(parts, dim=1), tokens)), strict=True))


if __name__ == "__main__":
    for name, error in case(int(sys.argv[1]))[1].items():
        print(name, error)
