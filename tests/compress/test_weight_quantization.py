"""Quantizers of weights: their forms mean the same, and initial steps are the best of the tried ones."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.compress import compress
from autocompress.compress.quantization import lsq_gradient_scale
from autocompress.compress.weight_quantization import (
    AsymmetricWeights,
    SymmetricWeights,
    WeightLayout,
    WeightQuantizer,
    asymmetric_ends,
    symmetric_scale,
    weight_quantizer,
)
from autocompress.errors import CompressionError
from autocompress.graph import inspect_model
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.space import uniform_recipe
from tests.nets import NETS

BITS = range(2, 9)
FACTORS = [1.0 - 0.025 * k for k in range(29)]
SCHEMES = pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantizer_of(
    weight: Tensor, axis: int = 0, ranges: str = "mse", lsq: bool = False, **layer: Any
) -> WeightQuantizer:
    return weight_quantizer(weight, LayerRecipe(**{"weight_bits": 4, **layer}), axis, ranges, lsq)


def moved(quantizer: WeightQuantizer, seed: int) -> WeightQuantizer:
    """With its steps and ranges moved as by training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in quantizer.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return quantizer


def dequantized(quantizer: WeightQuantizer, weight: Tensor) -> Tensor:
    """The weight again, from its integers alone, slice by slice."""
    integer = quantizer.integers(weight)
    rows = integer.layout.rows(integer.indices)
    axis = integer.layout.channel_axis
    slices = [rows] if axis is None else list(rows.unbind(axis))
    restored = [s * (i - z) for i, s, z in zip(slices, integer.scale, integer.zero, strict=True)]
    return (restored[0] if axis is None else torch.stack(restored, axis)).reshape(weight.shape)


kinds = st.one_of(
    st.tuples(st.just("per_tensor"), st.integers(0, 1), st.just(0), st.sampled_from([(1, 1), (3, 5), (4, 3, 2, 2)])),
    st.tuples(
        st.just("per_channel"),
        st.integers(0, 1),
        st.just(0),
        st.sampled_from([(1, 4), (6, 1), (3, 5), (4, 2, 3), (4, 1, 3, 3), (2, 3, 2, 2, 2)]),
    ),
    st.tuples(st.just("per_channel"), st.just(0), st.sampled_from([1, 2, 4]), st.sampled_from([(1, 4), (3, 8)])),
)


@given(
    bits=st.integers(2, 8),
    scheme=st.sampled_from(["symmetric", "asymmetric"]),
    kind=kinds,
    size=st.sampled_from([1e-12, 1e-3, 1.0, 1e12]),
    ranges=st.sampled_from(["mse", "min_max"]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=150)
def test_both_forms_and_the_integers_mean_the_same(
    bits: int, scheme: str, kind: tuple[str, int, int, tuple[int, ...]], size: float, ranges: str, seed: int
) -> None:
    granularity, axis, group_size, shape = kind
    weight = size * random(*shape, seed=seed)
    weight.view(-1)[0] = 0.0
    layer = {"weight_scheme": scheme, "weight_granularity": granularity, "group_size": group_size}
    quantizer = moved(quantizer_of(weight, axis, ranges, weight_bits=bits, **layer), seed)
    training = quantizer(weight).detach()
    quantizer.start_export()
    assert torch.equal(quantizer(weight), training)
    quantizer.end_export()
    assert torch.equal(quantizer(weight), training)
    assert training.view(-1)[0] == 0.0
    integer = quantizer.integers(weight)
    limit = 2 ** (bits - 1) - 1
    lowest, highest = (-limit, limit) if scheme == "symmetric" else (0, 2**bits - 1)
    assert integer.indices.shape == weight.shape
    assert integer.indices.min() >= lowest
    assert integer.indices.max() <= highest
    assert bool((integer.zero >= lowest).all() and (integer.zero <= highest).all())
    assert bool((integer.scale > 0).all())
    assert torch.equal(dequantized(quantizer, weight), training)
    assert torch.equal(quantizer(training), training)  # quantizing twice is quantizing once


@SCHEMES
@pytest.mark.parametrize("bits", BITS)
def test_every_index_is_used(scheme: str, bits: int) -> None:
    weight = torch.linspace(-1.0, 1.0, 2001).repeat(2, 1)
    quantizer = quantizer_of(weight, ranges="min_max", weight_bits=bits, weight_scheme=scheme)
    indices = quantizer.integers(2 * weight).indices  # beyond the range, as after training
    limit = 2 ** (bits - 1) - 1
    expected = range(-limit, limit + 1) if scheme == "symmetric" else range(2**bits)
    assert set(indices.flatten().tolist()) == set(expected)


@SCHEMES
@pytest.mark.parametrize(
    ("layer", "axis", "n_steps"),
    [
        pytest.param({"weight_granularity": "per_tensor"}, 0, 1, id="tensor"),
        pytest.param({}, 0, 4, id="axis 0"),
        pytest.param({}, 1, 6, id="axis 1"),
        pytest.param({"group_size": 2}, 0, 12, id="groups"),
    ],
)
def test_weights_that_share_a_step_are_quantized_as_if_alone(
    scheme: str, layer: dict[str, Any], axis: int, n_steps: int
) -> None:
    weight = random(4, 6) * torch.tensor([[0.01], [1.0], [5.0], [100.0]])
    quantizer = quantizer_of(weight, axis, weight_scheme=scheme, **layer)
    assert len(quantizer.integers(weight).scale) == n_steps
    if n_steps == 1:
        pieces = [weight]
    else:
        pieces = list(weight.reshape(12, 2)) if "group_size" in layer else list(weight.unbind(axis))
    alone = [quantizer_of(p, weight_scheme=scheme, weight_granularity="per_tensor")(p) for p in pieces]
    got = quantizer(weight)
    got = list(got.reshape(12, 2)) if "group_size" in layer else [got] if n_steps == 1 else list(got.unbind(axis))
    assert all(torch.equal(a, b) for a, b in zip(got, alone, strict=True))


@SCHEMES
@pytest.mark.parametrize("ranges", ["mse", "min_max"])
@pytest.mark.parametrize("value", [0.0, 0.3, -0.3, 1e-30], ids=["zeros", "constant", "negative constant", "denormal"])
def test_a_channel_of_one_value_stays_that_value(scheme: str, ranges: str, value: float) -> None:
    weight = random(5, 3, 3, 3)
    weight[2] = value
    quantizer = quantizer_of(weight, ranges=ranges, weight_scheme=scheme)
    got = quantizer(weight)
    assert got.isfinite().all()
    assert torch.allclose(got[2], weight[2], rtol=1e-6, atol=1e-8)
    others = [0, 1, 3, 4]
    assert torch.equal(got[others], quantizer_of(weight[others], ranges=ranges, weight_scheme=scheme)(weight[others]))
    got.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in quantizer.parameters())


@SCHEMES
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_refused_with_the_name_of_its_layer(scheme: str, value: float) -> None:
    net = NETS["mlp"]
    model, x = net.build(), net.inputs()
    with torch.no_grad():
        model[2].weight[3, 1] = value
    recipe = Recipe(layers={"2": LayerRecipe(weight_bits=8, weight_scheme=scheme)})
    with pytest.raises(CompressionError, match="layer '2': its weights have values that are NaN or infinite"):
        compress(model, inspect_model(model, x), recipe, x)


@pytest.mark.parametrize(("shape", "size"), [((4, 6), 4), ((4, 6), 12), ((4, 4, 3, 3), 4)])
def test_groups_that_don_t_fill_a_row_are_refused(shape: tuple[int, ...], size: int) -> None:
    with pytest.raises(CompressionError, match=f"group_size must divide .* got {size} for a weight of shape"):
        quantizer_of(random(*shape), group_size=size)


def error_by_hand(row: list[float], factor: float, bits: int, scheme: str) -> float:
    """Squared error of a row on the grid over its range times `factor`; zero-points as the NNCF paper tunes them."""
    if scheme == "symmetric":
        limit = 2 ** (bits - 1) - 1
        step = max(abs(w) for w in row) * factor / limit
        return sum((w - min(max(round(w / step), -limit), limit) * step) ** 2 for w in row)
    n = 2**bits - 1
    low, high = min(*row, 0.0) * factor, max(*row, 0.0) * factor
    zero = round(-low * n / (high - low))
    step = (high - low) / n if zero in (0, n) else max(-low / zero, high / (n - zero))
    return sum((w - min(max(round(w / step), -zero), n - zero) * step) ** 2 for w in row)


def factors(weight: Tensor, bits: int, scheme: str, ranges: str = "mse") -> list[float]:
    """By how much each row's range was shrunk."""
    if scheme == "symmetric":
        largest = weight.abs().amax(dim=1) / (2 ** (bits - 1) - 1)
        return (symmetric_scale(weight, bits, ranges) / largest).tolist()
    low, high = asymmetric_ends(weight, bits, ranges)
    return ((high - low) / (weight.amax(dim=1).clamp(min=0) - weight.amin(dim=1).clamp(max=0))).tolist()


@SCHEMES
@given(st.integers(0, 10**6), st.integers(2, 8), st.sampled_from(["normal", "heavy", "uniform", "shifted"]))
@settings(max_examples=40)
def test_the_initial_range_is_the_best_of_the_tried_ones(scheme: str, seed: int, bits: int, kind: str) -> None:
    weight = random(3, 12, seed=seed)
    weight = {"normal": weight, "heavy": weight**5, "uniform": weight.clamp(-1, 0.9), "shifted": weight + 1.5}[kind]
    for row, factor in zip(weight.tolist(), factors(weight, bits, scheme), strict=True):
        errors = [error_by_hand(row, tried, bits, scheme) for tried in FACTORS]
        chosen = min(range(29), key=lambda k: abs(FACTORS[k] - factor))
        assert factor == pytest.approx(FACTORS[chosen], rel=1e-4)
        slack = 1e-4 * sum(w * w for w in row) * 4.0**-bits  # of float32
        assert errors[chosen] <= min(errors) * (1 + 1e-3) + slack
        assert errors[chosen] <= errors[0] * (1 + 1e-3) + slack


@SCHEMES
def test_clipping_pays_at_few_bits(scheme: str) -> None:
    weight = random(8, 200)
    assert all(factor < 0.9 for factor in factors(weight, 3, scheme))
    assert all(factor > 0.9 for factor in factors(weight, 8, scheme))


@SCHEMES
@pytest.mark.parametrize("bits", BITS)
def test_min_max_clips_nothing(scheme: str, bits: int) -> None:
    weight = random(4, 30)
    assert factors(weight, bits, scheme, "min_max") == pytest.approx([1.0] * 4, rel=1e-6)
    quantizer = quantizer_of(weight, ranges="min_max", weight_bits=bits, weight_scheme=scheme)
    half_steps = quantizer.integers(weight).scale[:, None] / 2
    assert bool(((quantizer(weight) - weight).abs() <= half_steps * 1.001).all())


@pytest.mark.parametrize("name", ["grouped", "depthwise", "upsampling", "volume", "conv1d", "tied", "encoder"])
@SCHEMES
def test_the_steps_of_a_layer_are_those_of_its_output_channels(name: str, scheme: str) -> None:
    net = NETS[name]
    model, x = net.build(), net.inputs()
    graph = inspect_model(model, x)
    recipe = uniform_recipe(graph, LayerRecipe(weight_bits=4, weight_scheme=scheme))
    result = compress(model, graph, recipe, x)
    for layer, integer in result.integer_weights().items():
        module = result.module.get_submodule(layer)
        transposed = isinstance(module, nn.ConvTranspose2d)
        assert integer.layout == WeightLayout(1 if transposed else 0)
        assert len(integer.scale) == module.weight.shape[1 if transposed else 0]


def test_tied_weights_have_one_quantizer_and_one_set_of_steps() -> None:
    net = NETS["tied"]
    model, x = net.build(), net.inputs()
    graph = inspect_model(model, x)
    module = compress(model, graph, uniform_recipe(graph, LayerRecipe(weight_bits=4)), x).module
    assert module.out.parametrizations.weight[0] is module.words.parametrizations.weight[0]
    assert module.out.parametrizations.weight.original is module.words.parametrizations.weight.original
    assert torch.equal(module.out.weight, module.words.weight)
    other = Recipe(layers={"out": LayerRecipe(weight_bits=4), "words": LayerRecipe(weight_bits=8)})
    module = compress(model, graph, other, x).module
    assert [module.get_submodule(name).parametrizations.weight[0].bits for name in ("out", "words")] == [4, 8]


def test_a_layer_that_is_called_twice_has_one_quantizer() -> None:
    net = NETS["shared"]
    model, x = net.build(), net.inputs()
    graph = inspect_model(model, x)
    result = compress(model, graph, uniform_recipe(graph, LayerRecipe(weight_bits=4, activation_bits=8)), x)
    quantizers = [m for m in result.module.modules() if isinstance(m, WeightQuantizer)]
    assert len(quantizers) == len(result.recipe.layers) == 3


@SCHEMES
def test_lsq_scales_only_the_gradients_of_the_steps(scheme: str) -> None:
    weight = random(3, 20).requires_grad_()
    plain, scaled = (quantizer_of(weight.detach(), weight_scheme=scheme, lsq=lsq) for lsq in (False, True))
    assert scaled.gradient_scale == lsq_gradient_scale(20, 4)
    values = [q(weight) for q in (plain, scaled)]
    assert torch.equal(*values)
    g = random(3, 20, seed=1)
    of_plain, of_scaled = (
        torch.autograd.grad((value * g).sum(), [weight, *q.parameters()])
        for value, q in zip(values, (plain, scaled), strict=True)
    )
    assert torch.equal(of_plain[0], of_scaled[0])
    for one, other in zip(of_plain[1:], of_scaled[1:], strict=True):
        assert torch.allclose(other, one / math.sqrt(20 * 7), rtol=1e-5)


@SCHEMES
@pytest.mark.parametrize("layer", [{}, {"group_size": 10}, {"weight_granularity": "per_tensor"}], ids=str)
def test_a_trained_step_moves_towards_the_better_one(scheme: str, layer: dict[str, Any]) -> None:
    weight = random(4, 50)
    quantizer = quantizer_of(weight, weight_bits=3, weight_scheme=scheme, **layer)
    assert isinstance(quantizer, SymmetricWeights if scheme == "symmetric" else AsymmetricWeights)
    with torch.no_grad():
        for parameter in quantizer.parameters():
            parameter += 0.7  # far too coarse
    errors = []
    for _ in range(20):
        error = (quantizer(weight) - weight).square().sum()
        gradients = torch.autograd.grad(error, list(quantizer.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(quantizer.parameters(), gradients, strict=True):
                parameter -= 0.05 * gradient.sign()
        errors.append(error.item())
    assert errors[-1] < 0.6 * errors[0]
