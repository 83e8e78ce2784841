"""What autograd keeps of quantized weights: indices of a byte, from which the values come back."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from autocompress.compress import calibrate, compress
from autocompress.compress.attaching import remove_input
from autocompress.compress.grids import GridIndices
from autocompress.graph import inspect_model
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.space import uniform_recipe
from tests.nets import NETS

LAYERS = {
    "conv": (nn.Conv2d(4, 8, 3), (2, 4, 9, 9)),
    "conv channels last": (nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last), (2, 4, 9, 9)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4), (2, 4, 9, 9)),
    "linear": (nn.Linear(16, 8), (5, 16)),
    "linear on sequences": (nn.Linear(16, 8), (5, 7, 16)),
    "transposed": (nn.ConvTranspose2d(4, 8, 2), (2, 4, 9, 9)),
    "conv1d": (nn.Conv1d(4, 8, 3), (2, 4, 9)),
}


def quantized(name: str, low: float = 0.0) -> tuple[nn.Module, Tensor]:
    """The layer behind a ReLU, so that its input needs a gradient, with 8 bits, and an input for it."""
    layer, shape = LAYERS[name]
    model = nn.Sequential(nn.LeakyReLU(negative_slope=0.1 if low else 0.0), layer)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if "last" in name:
        x = x.to(memory_format=torch.channels_last)
    graph = inspect_model(model, x)
    recipe = uniform_recipe(graph, LayerRecipe(weight_bits=8, activation_bits=8))
    module = compress(model, graph, Recipe(layers=recipe.layers), x).module
    calibrate(module, [(x, None)])
    return module.train(), x.requires_grad_()


def gradients(module: nn.Module, x: Tensor) -> list[Tensor]:
    parameters = [x, *module.parameters()]
    return list(torch.autograd.grad(module(x).square().sum(), parameters, allow_unused=True))


@pytest.mark.parametrize("low", [0.0, -1.0], ids=["after a relu", "of both signs"])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_values_that_are_kept(name: str, low: float, monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = quantized(name, low)
    packed = gradients(module, x)
    monkeypatch.setattr("autocompress.compress.grids.GridIndices.holds", lambda *_: False)
    for one, other in zip(packed, gradients(module, x), strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


@pytest.mark.parametrize("name", LAYERS)
def test_the_layer_keeps_bytes_of_its_weight(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = quantized(name)
    found, holds = [], GridIndices.holds

    def noted(kept: GridIndices, tensor: Tensor) -> bool:
        if is_held := holds(kept, tensor):
            found.append(kept.indices)
        return is_held

    monkeypatch.setattr(GridIndices, "holds", noted)
    module(x)
    assert {(indices.numel(), indices.dtype) for indices in found} == {(module[1].weight.numel(), torch.int8)}


def test_a_layer_that_fails_leaves_no_hooks_behind() -> None:
    module, x = quantized("linear")
    seen: list[Any] = []
    with pytest.raises(RuntimeError):
        module(torch.randn(5, 3, requires_grad=True))
    with saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t):
        (x * x).sum()
    assert len(seen) == 2


def test_nothing_is_kept_after_the_layer_has_run() -> None:
    module, x = quantized("conv")
    module(x)
    assert not [m for m in module.modules() if getattr(m, "kept", None)]


def test_a_quantizer_that_is_taken_off_takes_its_hooks_along() -> None:
    module, _ = quantized("conv")
    remove_input(module[1])
    assert not module[1]._forward_hooks and not module[1]._forward_pre_hooks


@pytest.mark.parametrize("name", ["residual", "attention"])
def test_whole_nets_have_the_same_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = NETS[name]
    model, x = net.build(), net.inputs()
    graph = inspect_model(model, x)
    recipe = uniform_recipe(graph, LayerRecipe(weight_bits=8, activation_bits=8))
    module = compress(model, graph, Recipe(layers=recipe.layers), x).module.train()
    calibrate(module, net.batches())
    found = []
    for _ in range(2):
        module.zero_grad()
        torch.manual_seed(0)
        module(net.inputs(4)).square().sum().backward()
        found.append([p.grad.clone() for p in module.parameters() if p.grad is not None])
        monkeypatch.setattr("autocompress.compress.grids.GridIndices.holds", lambda *_: False)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
