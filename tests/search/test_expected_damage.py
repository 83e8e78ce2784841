"""Noise to signal of single choices against the definitions, by numerical integration."""

import numpy as np
import pytest

from autocompress.recipe import LayerRecipe
from autocompress.search.expected_damage import KINDS, left_by_training, noise_to_signal, sparsity_energy

X = np.linspace(-8, 8, 80_001)
DENSITY = np.exp(-(X**2) / 2) / np.sqrt(2 * np.pi) * (X[1] - X[0])


def least_rounding_error(bits: int) -> float:
    """Of 2^bits evenly spaced levels on a normal variable, over all widths of the grid."""

    def error(step: float) -> float:
        half = 2 ** (bits - 1)
        rounded = (np.clip(np.floor(X / step), -half, half - 1) + 0.5) * step
        return float(((X - rounded) ** 2 * DENSITY).sum())

    widths = np.linspace(1.5, 9.0, 160) / 2 ** (bits - 1)
    return min(error(step) for step in (widths / 1.0 if bits > 1 else widths))


@pytest.mark.parametrize("bits", range(2, 9))
def test_rounding_energy_is_the_least_squared_error_on_a_normal_variable(bits: int) -> None:
    (energy,) = noise_to_signal([LayerRecipe(weight_bits=bits)]).values()
    assert energy == pytest.approx(least_rounding_error(bits), rel=0.02)


def test_binary_rounding_keeps_the_mean_magnitude() -> None:
    layer = LayerRecipe(weight_bits=1)
    assert noise_to_signal([layer]) == {"binary": pytest.approx(1 - 2 / np.pi, rel=1e-3)}


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9, 0.99])
def test_sparsity_takes_the_energy_of_the_smallest_values(sparsity: float) -> None:
    magnitude = np.abs(X)
    order = magnitude.argsort()
    gone = order[DENSITY[order].cumsum() <= sparsity]
    assert sparsity_energy(sparsity) == pytest.approx(float((X**2 * DENSITY)[gone].sum()), rel=0.01)


KIND_CASES = [
    pytest.param(LayerRecipe(), [], id="float"),
    pytest.param(LayerRecipe(weight_bits=8, activation_bits=8), ["8 bits"], id="int8"),
    pytest.param(LayerRecipe(weight_bits=4, activation_bits=8), ["4 bits"], id="narrow weights"),
    pytest.param(LayerRecipe(weight_bits=8, activation_bits=3), ["3 bits"], id="narrow inputs"),
    pytest.param(LayerRecipe(weight_bits=4), ["4 bits"], id="weights only"),
    pytest.param(LayerRecipe(weight_bits=1, activation_bits=1), ["binary"], id="binary"),
    pytest.param(
        LayerRecipe(weight_bits=8, sparsity=0.5, rank_ratio=0.5), ["8 bits", "sparsity", "low rank"], id="all"
    ),
]


@pytest.mark.parametrize(("layer", "kinds"), KIND_CASES)
def test_kinds_of_a_layer(layer: LayerRecipe, kinds: list[str]) -> None:
    found = noise_to_signal([layer])
    assert list(found) == kinds
    assert all(energy > 0 for energy in found.values())


def test_energies_of_layers_and_groups_add_up() -> None:
    layers = [LayerRecipe(weight_bits=4, activation_bits=4), LayerRecipe(weight_bits=4, activation_bits=4)]
    found = noise_to_signal(layers, [0.5, 0.25, 0.0])
    assert found == {"4 bits": pytest.approx(4 * 0.01154), "pruning": pytest.approx(0.3125)}


@pytest.mark.parametrize("kind", KINDS)
def test_training_leaves_less_the_longer_it_is(kind: str) -> None:
    left = [left_by_training(kind, training_steps=n) for n in (0, 10, 100, 1000)]
    assert left[0] == 1
    assert left == sorted(left, reverse=True)
    assert 0 < left_by_training(kind) <= left[-1] < 1
