"""Our grids and ranges against those of NNCF, which implements the same paper.

Both put the same numbers on the grid. NNCF divides by steps where we multiply by their inverses, and takes the lower
end away first; so values that are in the middle of two steps up to float rounding are left out, where the two may be
one step apart. Where such a tie is exact, both take the even distance from the zero-point. They differ at ranges of
which an end is next to zero, which have a test of their own.
"""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autocompress.compress.grids import (
    activation_limits,
    fake_quantize_asymmetric,
    fake_quantize_symmetric,
    n_steps,
    tune_range,
    weight_limit,
)
from autocompress.compress.quantization import InputQuantizer
from autocompress.compress.weight_quantization import WeightQuantizer, weight_quantizer
from autocompress.recipe import LayerRecipe

pytest.importorskip("nncf")

from nncf.common.quantization.structs import QuantizationScheme, QuantizerConfig, QuantizerGroup
from nncf.common.tensor_statistics.statistics import MinMaxTensorStatistic
from nncf.parameters import CompressWeightsMode
from nncf.quantization.algorithms.weight_compression.config import WeightCompressionConfig
from nncf.quantization.algorithms.weight_compression.weight_lowering import (
    do_integer_dequantization,
    do_integer_quantization,
)
from nncf.quantization.fake_quantize import calculate_quantizer_parameters
from nncf.tensor import Tensor as NncfTensor
from nncf.torch.quantization.reference import ReferenceBackendType, ReferenceQuantize

NNCF = ReferenceQuantize(ReferenceBackendType.TORCH)
BITS = range(2, 9)
SHAPES = [(), (4, 1, 1), (1, 3, 1)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def off_ties(x: Tensor, scale: Tensor) -> Tensor:
    """Where `x` is not within float rounding of the middle between two steps."""
    index = (x / scale).double()
    return (index - index.floor() - 0.5).abs() > 1e-4


def nncf_parameters(low: Tensor, high: Tensor, bits: int, *, symmetric: bool, group: QuantizerGroup) -> tuple[Any, ...]:
    """Lower end, upper end and levels that NNCF gives a tensor of this range."""
    statistics = MinMaxTensorStatistic(min_values=NncfTensor(low.numpy()), max_values=NncfTensor(high.numpy()))
    is_weight = group is QuantizerGroup.WEIGHTS
    scheme = QuantizationScheme.SYMMETRIC if symmetric else QuantizationScheme.ASYMMETRIC
    config = QuantizerConfig(bits, scheme, None, per_channel=low.dim() > 0, narrow_range=is_weight and symmetric)
    found = calculate_quantizer_parameters(statistics, config, group)
    return *(torch.as_tensor(np.asarray(end.data)) for end in (found.input_low, found.input_high)), found.levels


@given(
    st.integers(2, 8),
    st.integers(0, 10**6),
    st.sampled_from([1e-3, 1.0, 1e4]),
    st.sampled_from(SHAPES),
    st.sampled_from(["both", "positive", "negative"]),
)
@settings(max_examples=100)
def test_tuned_ranges_are_equal(bits: int, seed: int, size: float, shape: tuple[int, ...], sign: str) -> None:
    low, high = -size * random(*shape, seed=seed).abs(), size * random(*shape, seed=seed + 1).abs()
    low, high = {"both": (low, high), "positive": (high / 2, high), "negative": (low, low / 2)}[sign]
    ours = tune_range(low, high, bits)
    their_low, their_range = NNCF.tune_range(low.clone().reshape(shape or 1), (high - low).reshape(shape or 1), 2**bits)
    for mine, theirs in zip(ours, (their_low, their_low + their_range), strict=True):
        assert torch.allclose(mine, theirs.reshape(shape), rtol=1e-5, atol=1e-6 * size)


@given(st.integers(2, 8), st.integers(0, 10**6), st.sampled_from([1e-3, 1.0, 1e4]), st.sampled_from(SHAPES))
@settings(max_examples=100)
def test_asymmetric_values_are_equal(bits: int, seed: int, size: float, shape: tuple[int, ...]) -> None:
    x = 2 * size * random(4, 3, 5, seed=seed)
    low, high = (0.5 + torch.rand(shape, generator=torch.Generator().manual_seed(seed + i)) for i in (1, 2))
    low, high = tune_range(-size * low, size * high, bits)
    scale = (high - low) / n_steps(bits)
    theirs = NNCF.forward(x, low, high - low, 2**bits)
    there = off_ties(x, scale)
    assert there.float().mean() > 0.9
    ours = fake_quantize_asymmetric(x, low, high, bits)
    assert torch.equal(((ours - theirs) / scale).round()[there], torch.zeros_like(x)[there])
    assert torch.allclose(ours[there], theirs[there], rtol=1e-4, atol=1e-5 * size)


@pytest.mark.parametrize("bits", BITS)
def test_exact_ties_are_equal(bits: int) -> None:
    low, high = torch.tensor(-float(weight_limit(bits))), torch.tensor(2.0 ** (bits - 1))  # step 1, an odd zero-point
    x = torch.arange(-(2.0**bits), 2.0**bits, 0.5)
    theirs = NNCF.forward(x, low, high - low, 2**bits)
    assert torch.equal(fake_quantize_asymmetric(x, low, high, bits), theirs)
    limit = weight_limit(bits)
    theirs = NNCF.forward(x, low, -2 * low, 2**bits - 1)
    assert torch.equal(fake_quantize_symmetric(x, torch.ones(()), -limit, limit), theirs)


def test_a_range_that_barely_passes_zero_is_where_we_round_to_nearest_and_nncf_does_not() -> None:
    """The paper leaves such a range untuned: zero is beside the end of the grid, and NNCF counts steps from the end."""
    low, high, bits = torch.tensor(-2.2), torch.tensor(0.2), 2
    assert [end.item() for end in tune_range(low, high, bits)] == [low.item(), high.item()]
    x = torch.linspace(-2.0, 0.0, 99)
    step = float(high - low) / 3
    ours = fake_quantize_asymmetric(x, low, high, bits)
    theirs = NNCF.forward(x, low, high - low, 2**bits)
    assert float((ours - x).abs().max()) <= 0.501 * step
    assert 0.7 * step < float((theirs - x).abs().max()) < 0.8 * step


@given(
    st.integers(2, 8),
    st.integers(0, 10**6),
    st.sampled_from([1e-3, 1.0, 1e4]),
    st.sampled_from(SHAPES),
    st.sampled_from(["weights", "signed", "unsigned"]),
)
@settings(max_examples=100)
def test_symmetric_values_are_equal(bits: int, seed: int, size: float, shape: tuple[int, ...], kind: str) -> None:
    """NNCF's scale is the upper end of the range; ours is one step."""
    x = 2 * size * random(4, 3, 5, seed=seed)
    limit = weight_limit(bits)
    lowest, highest = (-limit, limit) if kind == "weights" else activation_limits(bits, signed=kind == "signed")
    top = size * (0.1 + random(*shape, seed=seed + 1).abs())
    low = top * (lowest / highest)
    theirs = NNCF.forward(x, low, top - low, highest - lowest + 1)
    step = top / highest
    ours = fake_quantize_symmetric(x, step, lowest, highest)
    there = off_ties(x, step)
    assert torch.equal(((ours - theirs) / step).round()[there], torch.zeros_like(x)[there])
    assert torch.allclose(ours[there], theirs[there], rtol=1e-4, atol=1e-5 * size)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_asymmetric_gradients_are_equal(bits: int, shape: tuple[int, ...]) -> None:
    """NNCF learns the lower end and the width: its width moves the upper end, its lower end both."""
    x, g = 2 * random(4, 3, 5), random(4, 3, 5, seed=1)
    ends = tune_range(-0.3 - random(*shape, seed=2).abs(), 0.3 + random(*shape, seed=3).abs(), bits)
    inputs = [x.requires_grad_(), *(end.requires_grad_() for end in ends)]
    to_x, to_low, to_high = torch.autograd.grad((fake_quantize_asymmetric(*inputs, bits) * g).sum(), inputs)
    low, high = (end.detach().reshape(shape or (1, 1, 1)) for end in ends)
    theirs = NNCF.backward(g, x.detach(), low, high - low, 2**bits, 0, 2**bits - 1)
    their_x, their_low, their_width = (t.reshape(like.shape) for t, like in zip(theirs, inputs, strict=True))
    assert torch.allclose(to_x, their_x)
    assert torch.allclose(to_high, their_width, atol=1e-4)
    assert torch.allclose(to_low + to_high, their_low, atol=1e-4)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (-0.02, 1.0), (-2.0, 0.3), (0.0, 4.0), (0.5, 4.0)])
def test_an_asymmetric_input_gets_the_grid_that_nncf_gives_it(bits: int, low: float, high: float) -> None:
    """NNCF widens every range by a fraction of 1e-8 and more, which float32 does not see here."""
    quantizer = InputQuantizer(bits)
    quantizer.set_range(low, high)
    ours = [end.detach() for end in quantizer.tuned_range()]
    ends = torch.tensor(low), torch.tensor(high)
    *theirs, levels = nncf_parameters(*ends, bits, symmetric=False, group=QuantizerGroup.ACTIVATIONS)
    assert levels == 2**bits
    assert torch.allclose(torch.stack(ours), torch.stack(theirs), rtol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (-3.0, 3.0), (-0.01, 1.0)])
def test_a_signed_symmetric_input_gets_the_grid_that_nncf_gives_it(bits: int, low: float, high: float) -> None:
    """Where the upper end decides. NNCF takes it alone and clips lower ends below it; ours holds both."""
    quantizer = InputQuantizer(bits, symmetric=True)
    quantizer.set_range(low, high)
    theirs = nncf_parameters(
        torch.tensor(low), torch.tensor(high), bits, symmetric=True, group=QuantizerGroup.ACTIVATIONS
    )
    assert torch.allclose(torch.stack([end.detach() for end in quantizer.tuned_range()]), torch.stack(theirs[:2]))


def ours(weight: Tensor, **layer: Any) -> WeightQuantizer:
    return weight_quantizer(weight, LayerRecipe(**layer), 0, "min_max")


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_weights_of_a_layer_are_equal_with_min_max_ranges(bits: int, scheme: str) -> None:
    weight = random(6, 3, 3, 3) * random(6, seed=1).exp()[:, None, None, None]
    quantizer = ours(weight, weight_bits=bits, weight_scheme=scheme)
    symmetric = scheme == "symmetric"
    ends = (weight.amin(dim=(1, 2, 3), keepdim=True), weight.amax(dim=(1, 2, 3), keepdim=True))
    if symmetric:  # NNCF's statistics of symmetric weights are of their magnitudes
        largest = weight.abs().amax(dim=(1, 2, 3), keepdim=True)
        ends = (-largest, largest)
    low, high, levels = nncf_parameters(*ends, bits, symmetric=symmetric, group=QuantizerGroup.WEIGHTS)
    assert levels == (2**bits - 1 if symmetric else 2**bits)
    scale = (high - low) / (levels - 1)
    assert torch.allclose(quantizer.integers(weight).scale, scale.flatten(), rtol=1e-5)
    there = off_ties(weight, scale)
    got, theirs = quantizer(weight).detach(), NNCF.forward(weight, low, high - low, levels)
    assert torch.allclose(got[there], theirs[there], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("mode", "bits", "group_size"),
    [
        pytest.param(CompressWeightsMode.INT8_ASYM, 8, 0, id="int8 rows"),
        pytest.param(CompressWeightsMode.INT4_ASYM, 4, 0, id="int4 rows"),
        pytest.param(CompressWeightsMode.INT4_ASYM, 4, 8, id="int4 groups"),
    ],
)
def test_compressed_weights_have_the_same_zeros_and_nearly_the_same_steps(
    mode: CompressWeightsMode, bits: int, group_size: int
) -> None:
    """NNCF rounds the zero-point of the untuned range, so that its steps are finer by less than a half in so many."""
    weight = random(6, 32)
    config = WeightCompressionConfig(mode, group_size or -1)
    theirs = do_integer_quantization(NncfTensor(weight.numpy()), config, reduction_axes=(1,))
    mine = ours(weight, weight_bits=bits, weight_scheme="asymmetric", group_size=group_size).integers(weight)
    scale = torch.as_tensor(np.array(theirs.scale.data)).flatten()
    zero = torch.as_tensor(np.array(theirs.zero_point.data)).flatten()
    assert torch.equal(mine.zero, zero.to(torch.int16))
    share = mine.scale / scale - 1
    assert float(share.min()) > -1e-6
    assert float(share.max()) < 0.5 / (mine.zero.minimum(2**bits - 1 - mine.zero).min() - 0.5)
    exact = weight_quantizer(
        weight, LayerRecipe(weight_bits=bits, weight_scheme="asymmetric", group_size=group_size), 0
    )
    rows = (-1, group_size or 32)
    restored = torch.as_tensor(np.array(do_integer_dequantization(theirs).data)).reshape(rows)
    their_error = (restored - weight.reshape(rows)).square().sum()
    assert (exact(weight) - weight).square().sum() < 1.02 * their_error


@pytest.mark.parametrize(
    ("mode", "scheme", "most"),
    [
        pytest.param(CompressWeightsMode.INT4_ASYM, "asymmetric", 0.95, id="asymmetric"),
        pytest.param(CompressWeightsMode.INT4_SYM, "symmetric", 1.1, id="symmetric, where NNCF has one step more"),
    ],
)
def test_the_error_of_our_int4_weights_beside_that_of_nncf(mode: CompressWeightsMode, scheme: str, most: float) -> None:
    weight = random(64, 128)
    theirs = do_integer_quantization(NncfTensor(weight.numpy()), WeightCompressionConfig(mode), reduction_axes=(1,))
    restored = torch.as_tensor(np.array(do_integer_dequantization(theirs).data))
    mine = weight_quantizer(weight, LayerRecipe(weight_bits=4, weight_scheme=scheme), 0)(weight)
    assert (mine - weight).square().sum() < most * (restored - weight).square().sum()
