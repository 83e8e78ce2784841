"""A layer in low rank reads like the layer that it stands for."""

import copy

import pytest
import torch
from torch import nn

from autocompress.compress.low_rank import factorize

CASES = [
    pytest.param(nn.Linear(64, 48), (64,), id="Linear"),
    pytest.param(nn.Conv2d(64, 96, 1), (64, 6, 6), id="pointwise"),
    pytest.param(nn.Conv2d(64, 96, 3, stride=2, padding=1), (64, 8, 8), id="spatial"),
    pytest.param(nn.Conv2d(64, 16, 3), (64, 8, 8), id="spatial, one factor left out"),
    pytest.param(nn.Conv1d(64, 32, 5, bias=False), (64, 12), id="one axis, no bias"),
    pytest.param(nn.Conv3d(32, 32, (1, 3, 3)), (32, 4, 5, 5), id="three axes"),
]


@pytest.mark.parametrize(("layer", "shape"), CASES)
def test_the_layer_with_the_product_of_the_factors_computes_what_they_compute(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    factored = factorize(layer, 0.4, shape[1:])
    assert factored is not None
    whole, x = copy.deepcopy(layer), torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole.weight.copy_(factored.weight)
        torch.testing.assert_close(factored(x), whole(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("layer", "shape"), CASES)
def test_sizes_and_bias_are_those_of_the_layer(layer: nn.Module, shape: tuple[int, ...]) -> None:
    factored = copy.deepcopy(factorize(layer, 0.4, shape[1:]))
    names = {"in_features", "out_features", "in_channels", "out_channels", "kernel_size", "stride", "padding"}
    for name in names & set(vars(layer)):
        assert getattr(factored, name) == getattr(layer, name)
    assert (factored.bias is None) == (layer.bias is None)
    assert factored.weight.shape == layer.weight.shape
    with pytest.raises(AttributeError, match="nothing"):
        factored.nothing  # noqa: B018
