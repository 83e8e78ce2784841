"""What a recipe is expected to do to the model's accuracy before anything is measured: noise to signal, by kind."""

import math
from collections.abc import Iterable, Iterator
from statistics import NormalDist

from autocompress.recipe import BINARY_BITS, FLOAT_BITS, LayerRecipe

KINDS = (
    "8 bits",
    "7 bits",
    "6 bits",
    "5 bits",
    "4 bits",
    "3 bits",
    "2 bits",
    "binary",
    "sparsity",
    "low rank",
    "pruning",
)

# Least squared error of 2^bits evenly spaced levels on a normal variable of variance 1 (Max 1960, table II, to 5 bits;
# the rest by the same minimization).
_ROUNDING = {
    1: 0.3634, 2: 0.1188, 3: 0.03744, 4: 0.01154, 5: 0.003495, 6: 0.001040, 7: 0.0003043, 8: 0.0000877, FLOAT_BITS: 0.0
}  # fmt: skip
# What a full fine-tune leaves of each kind. 4 bits, 2 bits and pruning were measured (facts: search.md 2.2: .11, .22,
# .17); 8 and 7 bits do so little damage that half of it is noise; the others are put between by likeness.
_LEFT = {
    "8 bits": 0.5, "7 bits": 0.5, "6 bits": 0.3, "5 bits": 0.2, "4 bits": 0.11, "3 bits": 0.16, "2 bits": 0.22,
    "binary": 0.3, "sparsity": 0.15, "low rank": 0.17, "pruning": 0.17,
}  # fmt: skip
_STEPS = 45.0  # training steps in which what can be repaired falls to 1/e (facts: search.md 2.2: 14.8, 9.7, 4.0 points)


def noise_to_signal(layers: Iterable[LayerRecipe], removed: Iterable[float] = ()) -> dict[str, float]:
    """Energy of the errors that choices make relative to that of the signal, by kind of damage, without kinds of 0.

    Relative energies of layers are added, since the noise-to-signal ratio of a network's output is the sum of those of
    its weights and inputs (Lin et al. 2016, section 3.2). A layer with several bit widths counts as the narrowest.

    Args:
        layers: What is done to layers.
        removed: Shares of filters that channel groups lose, each in [0, 1).

    >>> noise_to_signal([LayerRecipe(weight_bits=4, activation_bits=8, sparsity=0.5)], [0.5])
    {'4 bits': 0.0116277, 'sparsity': 0.07132591774425939, 'pruning': 0.25}
    """
    found: dict[str, float] = {}
    of_layers = (part for layer in layers for part in _of_layer(layer))
    for kind, energy in (*of_layers, *(("pruning", pruning_energy(share)) for share in removed)):
        found[kind] = found.get(kind, 0.0) + energy
    return {kind: energy for kind, energy in found.items() if energy > 0}


def _of_layer(layer: LayerRecipe) -> Iterator[tuple[str, float]]:
    narrowest = min(layer.weight_bits, layer.activation_bits)
    if narrowest != FLOAT_BITS:
        kind = "binary" if narrowest == BINARY_BITS else f"{narrowest} bits"
        yield kind, _ROUNDING[layer.weight_bits] + _ROUNDING[layer.activation_bits]
    yield "sparsity", sparsity_energy(layer.sparsity)
    yield "low rank", (1 - layer.rank_ratio) ** 2


def pruning_energy(pruning_ratio: float) -> float:
    """Share of the energy in the least filters, in [0, 1): the ratio squared, as where energies are spread evenly.

    Args:
        pruning_ratio: In [0, 1).
    """
    return pruning_ratio**2


def sparsity_energy(sparsity: float) -> float:
    """Share of a normal weight's energy that is in its `sparsity` smallest values, in [0, 1).

    The integral of x^2 over |x| < t, which is ``sparsity - 2 t density(t)``, with t the quantile of the magnitude.

    >>> round(sparsity_energy(0.5), 3), round(sparsity_energy(0.9), 3)
    (0.071, 0.561)
    """
    normal = NormalDist()
    threshold = normal.inv_cdf((1 + sparsity) / 2)
    return sparsity - 2 * threshold * normal.pdf(threshold)


def left_by_training(kind: str, training_steps: float = math.inf) -> float:
    """Share of the damage of a kind that training leaves as a rule, in (0, 1].

    Falls exponentially from 1 to what a full fine-tune leaves.

    Args:
        kind: One of `KINDS`.
        training_steps: Steps of the fine-tuning, >= 0; infinite for a full one.

    >>> left_by_training("4 bits"), left_by_training("4 bits", training_steps=0)
    (0.11, 1.0)
    """
    return _LEFT[kind] + (1 - _LEFT[kind]) * math.exp(-training_steps / _STEPS)
