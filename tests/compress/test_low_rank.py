"""Layers of low rank compute what the layer computed, and are made only where they are cheaper."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autocompress.compress import low_rank
from autocompress.compress.low_rank import (
    factorize,
    kept_rank,
    svd_factors,
    tucker_factors,
    why_not_low_rank,
)
from autocompress.deploy import to_openvino
from autocompress.errors import CompressionError


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(layer: nn.Module, seed: int = 0) -> Any:
    """The layer with parameters that do not depend on the state of chance."""
    for index, parameter in enumerate(layer.parameters()):
        parameter.data = normal(*parameter.shape, seed=seed + index)
    return layer.eval()


def of_rank(weight: Tensor, rank: int) -> Tensor:
    """`weight`, cut to the first indices of both channel axes and mixed up to its shape again."""
    left, right = normal(weight.shape[0], rank, seed=7), normal(rank, weight.shape[1], seed=8)
    return torch.einsum("os,sr...,ri->oi...", left, weight[:rank, :rank], right) / weight[0].numel()


def kinds(layer: nn.Module) -> list[str]:
    return [type(part).__name__ for part in layer.children()]


@pytest.mark.parametrize(
    ("largest", "ratio", "rank"),
    [
        pytest.param(64, 0.5, 32, id="exact"),
        pytest.param(64, 0.3, 16, id="19.2 rounds down"),
        pytest.param(64, 0.32, 24, id="20.5 rounds up"),
        pytest.param(64, 0.3125, 24, id="20 is a tie, which keeps more"),
        pytest.param(64, 0.001, 8, id="eight at least"),
        pytest.param(64, 1.0, 64, id="all"),
        pytest.param(20, 1.0, 20, id="all, no multiple of eight"),
        pytest.param(23, 0.99, 23, id="never above the largest"),
        pytest.param(5, 0.5, 5, id="fewer than eight stay all"),
    ],
)
def test_rank_kept(largest: int, ratio: float, rank: int) -> None:
    assert kept_rank(largest, ratio) == rank


LAYERS: list[tuple[str, Callable[[], nn.Module], tuple[int, ...], list[str]]] = [
    ("linear", lambda: nn.Linear(40, 48), (3, 40), ["Linear"] * 2),
    ("linear without bias", lambda: nn.Linear(40, 48, bias=False), (40,), ["Linear"] * 2),
    ("linear over three axes", lambda: nn.Linear(40, 48), (2, 3, 40), ["Linear"] * 2),
    ("1x1", lambda: nn.Conv2d(40, 48, 1), (2, 40, 5, 6), ["Conv2d"] * 2),
    ("1x1 with a stride", lambda: nn.Conv2d(40, 48, 1, 2), (2, 40, 5, 6), ["Conv2d"] * 2),
    ("1x1 with padding", lambda: nn.Conv2d(40, 48, 1, 2, 1), (2, 40, 5, 6), ["Conv2d"] * 2),
    (
        "reflected",
        lambda: nn.Conv1d(40, 48, 1, 1, 1, padding_mode="reflect"),
        (2, 40, 5),
        ["Conv1d"] * 2,
    ),
    ("1x1x1", lambda: nn.Conv3d(40, 48, 1, bias=False), (1, 40, 2, 3, 2), ["Conv3d"] * 2),
    ("3x3", lambda: nn.Conv2d(40, 48, 3, padding=1), (2, 40, 5, 6), ["Conv2d"] * 3),
    ("3x3 without bias and batch", lambda: nn.Conv2d(40, 48, 3, bias=False), (40, 5, 6), ["Conv2d"] * 3),
    ("3x3 with strides", lambda: nn.Conv2d(40, 48, 3, (2, 1), (1, 0)), (2, 40, 5, 6), ["Conv2d"] * 3),
    ("dilated", lambda: nn.Conv2d(40, 48, 3, padding=2, dilation=2), (2, 40, 5, 6), ["Conv2d"] * 3),
    ("same", lambda: nn.Conv2d(40, 48, (5, 3), padding="same"), (2, 40, 5, 6), ["Conv2d"] * 3),
    ("valid", lambda: nn.Conv2d(40, 48, (1, 3), padding="valid"), (2, 40, 5, 6), ["Conv2d"] * 3),
    ("circular", lambda: nn.Conv2d(40, 48, 3, padding=1, padding_mode="circular"), (2, 40, 5, 6), ["Conv2d"] * 3),
    ("replicate", lambda: nn.Conv2d(40, 48, 3, padding=1, padding_mode="replicate"), (2, 40, 5, 6), ["Conv2d"] * 3),
    ("1d", lambda: nn.Conv1d(40, 48, 5, 2, 2), (2, 40, 9), ["Conv1d"] * 3),
    ("3d", lambda: nn.Conv3d(40, 48, 3, (1, 2, 1), 1), (1, 40, 3, 4, 3), ["Conv3d"] * 3),
    ("all inputs kept", lambda: nn.Conv2d(6, 48, 3), (2, 6, 5, 6), ["Conv2d"] * 2),
    ("all outputs kept", lambda: nn.Conv2d(48, 6, 3), (2, 48, 5, 6), ["Conv2d"] * 2),
]
layers = pytest.mark.parametrize(("make", "shape", "parts"), [pytest.param(*row, id=name) for name, *row in LAYERS])


@layers
def test_a_layer_of_low_rank_is_factored_without_change(
    make: Callable[[], nn.Module], shape: tuple[int, ...], parts: list[str]
) -> None:
    """Of rank 8 in both channel axes, so that 8 of them lose nothing; the whole of its geometry must be right."""
    layer = made(make())
    layer.weight.data = of_rank(layer.weight.data, 8 if min(layer.weight.shape[:2]) >= 8 else 6)
    factored = factorize(layer, 0.1)
    assert factored is not None and kinds(factored) == parts
    x = normal(*shape, seed=3)
    torch.testing.assert_close(factored(x), layer(x), rtol=1e-4, atol=1e-5)


class SideBySide(nn.Module):
    """Each layer maps an input of its own."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(x) for layer, x in zip(self.layers, inputs, strict=True))


def test_openvino_computes_what_torch_computes() -> None:
    factored = [(factorize(made(make()), 0.3), normal(*shape, seed=3) / 10) for _, make, shape, _ in LAYERS]
    chosen = [(layer, x) for layer, x in factored if layer is not None]
    assert len(chosen) > 12
    model, inputs = SideBySide([layer for layer, _ in chosen]), tuple(x for _, x in chosen)
    compiled = openvino.compile_model(to_openvino(model, inputs), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    outputs = compiled([x.numpy() for x in inputs])
    for index, expected in enumerate(model(*inputs)):
        np.testing.assert_allclose(outputs[index], expected.detach().numpy(), rtol=1e-4, atol=1e-4)


def counted_macs(model: nn.Module, x: Tensor) -> int:
    """By hooks: each output value costs one filter."""
    total = 0

    def hook(layer: Any, _: Any, output: Tensor) -> None:
        nonlocal total
        total += layer.weight[0].numel() * output.numel()

    handles = [m.register_forward_hook(hook) for m in model.modules() if not list(m.children())]
    model(x)
    for handle in handles:
        handle.remove()
    return total


@settings(deadline=None, max_examples=80)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([1, 2, 3, (1, 3)]),
    st.integers(1, 3),
    st.sampled_from([0, 1, 2]),
    st.integers(1, 2),
    st.tuples(st.integers(5, 9), st.integers(5, 9)),
    st.floats(0.05, 1.0),
)
def test_factors_are_made_exactly_where_they_cost_less(
    channels: tuple[int, int],
    kernel: Any,
    stride: int,
    padding: int,
    dilation: int,
    size: tuple[int, int],
    ratio: float,
) -> None:
    layer = made(nn.Conv2d(*channels, kernel, stride, padding, dilation))
    x = torch.zeros(1, channels[0], *size)
    whole = counted_macs(layer, x)
    factored = factorize(layer, ratio, size)
    if factored is not None:
        assert counted_macs(factored, x) < whole
        return
    with pytest.MonkeyPatch.context() as patch:  # the factors that were not made
        patch.setattr(low_rank, "_positions", lambda *_: (0, 10**9))
        forced = factorize(layer, ratio, size)
    if forced is not None:
        assert counted_macs(forced, x) >= whole


@pytest.mark.parametrize("ratio", [0.05, 0.2, 0.4, 0.5, 0.6, 1.0])
@pytest.mark.parametrize("shape", [(64, 64), (128, 32), (20, 9), (9, 20), (7, 7), (1, 50)], ids=str)
def test_linear_layers_are_factored_exactly_where_it_costs_less(shape: tuple[int, int], ratio: float) -> None:
    layer = made(nn.Linear(*shape))
    rank = kept_rank(min(shape), ratio)
    factored = factorize(layer, ratio)
    assert (factored is not None) == (rank * sum(shape) < shape[0] * shape[1])
    if factored is not None:
        assert counted_macs(factored, torch.zeros(3, shape[0])) == 3 * rank * sum(shape)


def test_a_stride_counts_where_the_size_is_not_known() -> None:
    """64 * 48 + 48 * 48 * 9 + 48 * 64 is below 64 * 64 * 9, but with 9 inputs an output it is not."""
    assert factorize(made(nn.Conv2d(64, 64, 3, padding=1)), 0.75) is not None
    assert factorize(made(nn.Conv2d(64, 64, 3, 3, padding=1)), 0.75) is None


@pytest.mark.parametrize(
    ("layer", "shapes"),
    [
        pytest.param(
            nn.Conv2d(8, 12, 2), [(8, 8, 2, 2), (12, 8, 1, 1)], id="no map of all inputs, which would cost it"
        ),
        pytest.param(nn.Conv2d(12, 8, 2), [(8, 12, 1, 1), (8, 8, 2, 2)], id="no map of all outputs"),
        pytest.param(nn.Conv1d(64, 5, 2), [(8, 64, 1), (5, 8, 2)], id="half of rank 10 of 64 inputs"),
        pytest.param(nn.Conv1d(5, 64, 2), [(8, 5, 2), (64, 8, 1)], id="half of rank 10 of 64 outputs"),
    ],
)
def test_shapes_of_factors(layer: nn.Module, shapes: list[tuple[int, ...]]) -> None:
    factored = factorize(layer, 0.5)
    assert factored is not None
    assert [tuple(part.weight.shape) for part in factored] == shapes


@pytest.mark.parametrize("layer", [nn.Linear(20, 17), nn.Conv2d(20, 17, 1), nn.Conv2d(3, 64, 3), nn.Conv1d(3, 500, 7)])
def test_a_ratio_of_one_leaves_a_layer_whole(layer: nn.Module) -> None:
    assert factorize(layer, 1.0) is None


class OwnForward(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class OwnConvolution(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight.sign(), bias)


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def with_own_forward() -> nn.Module:
    layer = nn.Linear(64, 64)
    layer.forward = lambda x: x  # type: ignore[method-assign]
    return layer


def with_hook() -> nn.Module:
    layer = nn.Linear(64, 64)
    layer.register_forward_pre_hook(lambda _, inputs: inputs)
    return layer


def with_parametrization() -> nn.Module:
    layer = nn.Linear(64, 64)
    parametrize.register_parametrization(layer, "weight", Doubled())
    return layer


OWN = "of its own"
WHOLE: list[tuple[str, Callable[[], nn.Module], str]] = [
    ("batch norm", lambda: nn.BatchNorm2d(8), "BatchNorm2d is neither a Linear layer nor a convolution"),
    ("transposed", lambda: nn.ConvTranspose2d(64, 64, 3), "ConvTranspose2d is neither"),
    ("embedding", lambda: nn.Embedding(64, 64), "Embedding is neither"),
    ("grouped", lambda: nn.Conv2d(64, 64, 3, groups=2), "2 groups"),
    ("a forward of the class", lambda: OwnForward(64, 64), OWN),
    ("a convolution of the class", lambda: OwnConvolution(64, 64, 3), OWN),
    ("a forward of the object", with_own_forward, OWN),
    ("a hook", with_hook, OWN),
    ("a parametrization", with_parametrization, OWN),
    ("complex", lambda: nn.Linear(64, 64, dtype=torch.complex64), "torch.complex64"),
]


@pytest.mark.parametrize(("make", "reason"), [pytest.param(make, reason, id=name) for name, make, reason in WHOLE])
def test_what_cannot_be_factored_has_a_reason(make: Callable[[], nn.Module], reason: str) -> None:
    assert reason in why_not_low_rank(make())
    assert factorize(make(), 0.1) is None


@pytest.mark.parametrize("kind", [nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear])
def test_linear_layers_and_subclasses_that_compute_the_same_can_be_factored(kind: type[nn.Linear]) -> None:
    assert why_not_low_rank(kind(64, 64)) == ""
    assert factorize(kind(64, 64), 0.25) is not None


REFUSED: list[tuple[str, Callable[[], Any], str]] = [
    ("a ratio of 0", lambda: factorize(nn.Linear(64, 64), 0.0), r"rank_ratio must be in \(0, 1\], but got 0.0"),
    ("a ratio above 1", lambda: factorize(nn.Linear(64, 64), 1.5), "but got 1.5"),
    ("no number", lambda: factorize(nn.Linear(64, 64), math.nan), "but got nan"),
    ("axes of the size", lambda: factorize(nn.Conv2d(64, 64, 3), 0.5, (8,)), r"must have 2 axes.* but got \(8,\)"),
    ("rank 0", lambda: svd_factors(torch.ones(4, 5), 0), r"rank must be in 1..4.* but got 0"),
    ("a rank too large", lambda: svd_factors(torch.ones(4, 5), 5), r"rank must be in 1..4.* but got 5"),
    ("rank of inputs", lambda: tucker_factors(torch.ones(4, 5, 3), 6, 4), r"rank_in must be in 1..5.* but got 6"),
    ("rank of outputs", lambda: tucker_factors(torch.ones(4, 5, 3), 5, 0), r"rank_out must be in 1..4.* but got 0"),
    ("not finite", lambda: svd_factors(torch.full((4, 5), math.inf), 1), "must be finite"),
]


@pytest.mark.parametrize(("run", "message"), [pytest.param(run, message, id=name) for name, run, message in REFUSED])
def test_bad_input_is_refused(run: Callable[[], Any], message: str) -> None:
    with pytest.raises(CompressionError, match=message):
        run()


@pytest.mark.parametrize("training", [True, False])
def test_factors_are_like_the_layer_and_chance_is_left_alone(training: bool) -> None:
    layer = nn.Conv2d(64, 64, 3, dtype=torch.bfloat16).train(training)
    layer.weight.requires_grad_(False)
    before, weight = torch.random.get_rng_state(), layer.weight.clone()
    factored = factorize(layer, 0.25)
    assert factored is not None
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(layer.weight, weight)
    assert all(part.training == training for part in factored.modules())
    assert all(p.dtype is torch.bfloat16 and p.device == layer.weight.device for p in factored.parameters())
    assert [name for name, p in factored.named_parameters() if p.requires_grad] == ["2.bias"]
    assert factored[2].bias is not layer.bias


@pytest.mark.parametrize("layer", [made(nn.Linear(64, 48)), made(nn.Conv2d(40, 48, 3))], ids=["svd", "tucker"])
def test_the_signs_of_bases_are_fixed_and_twice_the_same_layer_gives_the_same_weights(layer: nn.Module) -> None:
    """Eigenvectors are unique up to their sign, which must not depend on the library that computes them."""
    first, again = factorize(layer, 0.25), factorize(copy.deepcopy(layer), 0.25)
    assert first is not None and again is not None
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    basis = first[-1].weight.flatten(1) if isinstance(layer, nn.Conv2d) else first[-1].weight
    assert all(column[column.abs().argmax()] > 0 for column in basis.T)


def test_gradients_reach_every_factor() -> None:
    factored = factorize(made(nn.Conv2d(64, 64, 3, padding=1)), 0.25)
    assert factored is not None
    factored(normal(2, 64, 5, 5)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in factored.parameters())
