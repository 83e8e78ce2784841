"""Range estimators."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autocompress.compress.grids import fake_quantize_asymmetric, tune_range
from autocompress.compress.histogram import sampling_step
from autocompress.compress.ranges import OUTLIERS, RANGE_ESTIMATORS, RangeEstimator, range_estimator
from autocompress.errors import CompressionError

OF_ALL_VALUES = ["min_max", "percentile", "mse"]  # neither order nor splitting of the data matters


def ends(name: str, *batches: Tensor, bits: int = 8) -> tuple[float, float]:
    low, high = fed(range_estimator(name, bits), *batches).ends()
    return float(low), float(high)


def fed(estimator: RangeEstimator, *batches: Tensor) -> RangeEstimator:
    for batch in batches:
        estimator.update(batch)
    return estimator


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def laplace(n: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).laplace(size=n)).float()


def squared_error(x: np.ndarray, low: float, high: float, bits: int) -> float:
    """By definition: the nearest level of the grid over a tuned range."""
    steps = 2**bits - 1
    step = (high - low) / steps
    zero = round(-low / step)
    levels = np.clip(np.round(x / step), -zero, steps - zero)
    return float(np.square(x - levels * step).mean())


# --- definitions


def test_min_max_is_the_smallest_and_the_largest_value() -> None:
    batches = [random(50, seed=seed) * (seed + 1) for seed in range(3)]
    everything = torch.cat(batches)
    assert ends("min_max", *batches) == (float(everything.min()), float(everything.max()))


def test_mean_min_max_is_the_mean_over_batches() -> None:
    batches = [random(n, seed=n).numpy() for n in (5, 50, 500)]
    expected = np.mean([b.min() for b in batches]), np.mean([b.max() for b in batches])
    assert ends("mean_min_max", *map(torch.from_numpy, batches)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [3, 9_999, 20_000, 65_536, 200_000])
def test_mean_percentile_is_the_mean_of_trimmed_ends(n: int) -> None:
    batches = [random(n, seed=seed) * (seed + 1) for seed in range(3)]
    samples = [np.sort(batch.numpy()[:: sampling_step(n, 65536)]) for batch in batches]
    k = max(1, int(OUTLIERS * len(samples[0])))
    expected = np.mean([s[k - 1] for s in samples]), np.mean([s[-k] for s in samples])
    assert ends("mean_percentile", *batches) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [3, 9_999, 50_000, 300_000])
def test_percentile_is_the_trimmed_end_of_all_values_up_to_a_bin(n: int) -> None:
    x = laplace(n)
    ordered, k = np.sort(x.numpy()), max(1, int(OUTLIERS * n))
    low, high = ends("percentile", *x.split(n // 3))
    bin_width = (ordered[-1] - ordered[0]) / 1024
    assert ordered[k - 1] - bin_width <= low <= ordered[k - 1]
    assert ordered[-k] <= high <= ordered[-k] + bin_width


def relu_of_normal() -> Tensor:
    return random(4000).relu()


DISTRIBUTIONS = {
    "normal": lambda: random(4000),
    "laplace": lambda: laplace(4000),
    "uniform": lambda: torch.linspace(-1, 3, 4000),
    "after ReLU": relu_of_normal,
    "after GELU": lambda: torch.nn.functional.gelu(2 * random(4000)),
    "negative": lambda: -random(4000).abs() - 0.3,
    "far from zero": lambda: random(4000) * 0.1 + 5,
    "heavy right tail": lambda: random(4000).exp() ** 1.5,
    "one far out": lambda: torch.cat([random(4000), torch.tensor([40.0])]),
    "two values": lambda: torch.tensor([-0.3, 1.0]).repeat(2000),
}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_mse_ends_are_as_good_as_brute_force(name: str, bits: int) -> None:
    x = DISTRIBUTIONS[name]()
    values = x.numpy().astype(np.float64)
    low, high = min(0.0, values.min()), max(0.0, values.max())
    factors = np.linspace(0.02, 1, 50)
    pairs = itertools.product(factors * low if low else [0.0], factors * high if high else [0.0])
    tuned = (tune_range(torch.tensor(float(a)), torch.tensor(float(b)), bits) for a, b in pairs)
    least = min(squared_error(values, float(a), float(b), bits) for a, b in tuned)
    error = squared_error(values, *ends("mse", x, bits=bits), bits)
    bin_error = ((high - low) / 1024) ** 2
    assert error <= 1.02 * least + bin_error / 4


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_mse_ends_are_already_tuned_and_no_worse_in_the_quantizer_than_min_max(name: str, bits: int) -> None:
    x = DISTRIBUTIONS[name]()
    found = fed(range_estimator("mse", bits), x).ends()
    tuned = tune_range(*found, bits)
    assert torch.allclose(torch.stack(tuned), torch.stack(found), rtol=1e-5)
    widest = tune_range(x.min(), x.max(), bits)
    errors = [float((fake_quantize_asymmetric(x, *pair, bits) - x).square().mean()) for pair in (tuned, widest)]
    assert errors[0] <= errors[1] * 1.001 + 1e-12


def best_step(density: np.ndarray, x: np.ndarray, bits: int) -> float:
    """Step of the best grid that has 0.0 on it, for a density given at the points `x`, by trying them all."""
    steps = 2**bits - 1
    errors = {}
    for step, zero in itertools.product(np.arange(0.1, 3, 0.01), range(steps // 2 + 1)):
        levels = np.clip(np.round(x / step), -zero, steps - zero)
        errors[float(step)] = min(errors.get(float(step), np.inf), float(density @ np.square(x - levels * step)))
    return min(errors, key=errors.__getitem__)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("name", ["normal", "laplace"])
def test_mse_clips_at_the_optimum_of_the_density(name: str, bits: int) -> None:
    x = np.linspace(-15, 15, 3001)
    density = np.exp(-(x**2) / 2) if name == "normal" else np.exp(-np.abs(x))
    sample = random(400_000) if name == "normal" else laplace(400_000)
    low, high = ends("mse", sample, bits=bits)
    assert (high - low) / (2**bits - 1) == pytest.approx(best_step(density, x, bits), rel=0.04)


@pytest.mark.parametrize(
    ("sample", "clipping"),
    [pytest.param(random(400_000), 2.55, id="normal"), pytest.param(laplace(400_000), 5.03, id="laplace")],
)
def test_mse_clips_at_4_bits_near_the_published_optimum(sample: Tensor, clipping: float) -> None:
    """In standard deviations or scales: Banner et al. 2019, section 3."""
    low, high = ends("mse", sample, bits=4)
    assert (high - low) / 2 == pytest.approx(clipping, rel=0.04)


def test_mse_at_8_bits_keeps_nearly_all_of_a_uniform_range() -> None:
    assert ends("mse", torch.linspace(-1, 2, 100_000)) == pytest.approx((-1, 2), abs=0.02)


# --- streaming


@pytest.mark.parametrize("name", OF_ALL_VALUES)
@given(values=st.lists(st.floats(-1e8, 1e8, width=32), min_size=1, max_size=30), data=st.data())
@settings(deadline=None, max_examples=25)
def test_order_and_splitting_don_t_matter(name: str, values: list[float], data: st.DataObject) -> None:
    shuffled = torch.tensor(data.draw(st.permutations(values)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    assert ends(name, *shuffled.tensor_split(cuts), bits=4) == ends(name, torch.tensor(values), bits=4)


@pytest.mark.parametrize("name", RANGE_ESTIMATORS)
def test_the_order_of_batches_doesn_t_matter(name: str) -> None:
    batches = [random(100 * (seed + 1), seed=seed) * 3**seed for seed in range(4)]
    assert ends(name, *reversed(batches)) == pytest.approx(ends(name, *batches), rel=1e-6)


@pytest.mark.parametrize("name", RANGE_ESTIMATORS)
def test_memory_doesn_t_grow_with_the_data(name: str) -> None:
    def n_bytes(value: object) -> int:
        if isinstance(value, Tensor):
            return value.nbytes
        return sum(map(n_bytes, vars(value).values())) if type(value).__module__.startswith("autocompress") else 0

    estimator = fed(range_estimator(name, 8), random(10))
    before = n_bytes(estimator)
    assert n_bytes(fed(estimator, *(random(5000, seed=seed) * 10**seed for seed in range(5)))) == before > 0


@pytest.mark.parametrize("name", RANGE_ESTIMATORS)
def test_the_input_is_not_changed(name: str) -> None:
    x = random(3, 4, 5)
    kept = x.clone()
    fed(range_estimator(name, 8, channel_axis=1), x, x).ends()
    assert torch.equal(x, kept)


@pytest.mark.parametrize("name", RANGE_ESTIMATORS)
def test_no_gradient_flows_back(name: str) -> None:
    low, high = fed(range_estimator(name, 8), random(9).requires_grad_()).ends()
    assert not (low.requires_grad or high.requires_grad)


# --- channels


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", RANGE_ESTIMATORS)
def test_per_channel_equals_each_channel_alone(name: str, bits: int, axis: int) -> None:
    scale = torch.tensor([1e-6, 1.0, 1e6, 0.0, 3.0, 1.0]).reshape([-1 if a == axis % 3 else 1 for a in range(3)])
    shape = [6 if a == axis % 3 else 60 for a in range(3)]
    batches = [random(*shape, seed=seed) * scale for seed in range(2)]
    low, high = fed(range_estimator(name, bits, axis), *batches).ends()
    alone = [ends(name, *(batch.select(axis, c) for batch in batches), bits=bits) for c in range(6)]
    assert (low.shape, high.shape) == ((6,), (6,))
    assert torch.equal(torch.stack([low, high], dim=1), torch.tensor(alone))


@pytest.mark.parametrize("name", RANGE_ESTIMATORS)
def test_one_channel_is_still_a_channel(name: str) -> None:
    low, high = fed(range_estimator(name, 8, channel_axis=1), random(5, 1)).ends()
    assert (low.shape, high.shape) == ((1,), (1,))


def test_more_channels_than_one_round_of_the_search_holds() -> None:
    x = random(40, 500) * torch.arange(1, 41)[:, None]
    low, high = fed(range_estimator("mse", 8, channel_axis=0), x).ends()
    assert (float(low[39]), float(high[39])) == ends("mse", x[39])
    assert low.shape == high.shape == (40,)


@pytest.mark.parametrize("name", RANGE_ESTIMATORS)
def test_storage_order_doesn_t_matter(name: str) -> None:
    x = random(8, 16, 30, 30)
    for axis in (None, 1):
        plain, last = (
            fed(range_estimator(name, 8, axis), v).ends() for v in (x, x.to(memory_format=torch.channels_last))
        )
        assert torch.equal(torch.stack(plain), torch.stack(last))


# --- degenerate data


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("value", [0.0, 5.0, -5.0, 1e-30, -1e-40, 2.0**-149, 3e38, -3e38])
@pytest.mark.parametrize("name", RANGE_ESTIMATORS)
def test_one_value_is_an_end(name: str, value: float, bits: int) -> None:
    x = torch.full((100,), value)
    other = 0.0 if name == "mse" else float(x[0])
    low, high = ends(name, x, bits=bits)
    expected = (min(other, float(x[0])), max(other, float(x[0])))
    assert (low, high) == pytest.approx(expected, rel=1e-6, abs=0)


@pytest.mark.parametrize("name", RANGE_ESTIMATORS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_an_end_of_zero_stays_zero(name: str, bits: int) -> None:
    batches = [random(1000, seed=seed).relu() for seed in range(3)]
    assert str(ends(name, *batches, bits=bits)[0]) == "0.0"
    assert ends(name, *(-b for b in batches), bits=bits)[1] == 0.0


@pytest.mark.parametrize("name", RANGE_ESTIMATORS)
def test_a_range_may_grow_by_many_orders(name: str) -> None:
    low, high = ends(name, random(1000) * 1e-8, random(1000), random(1000) * 1e8)
    largest = float(random(1000).abs().max()) * 1e8
    assert -largest * 1.01 <= low < -0.2 * largest
    assert 0.2 * largest < high <= largest * 1.01


@pytest.mark.parametrize("name", RANGE_ESTIMATORS)
def test_the_largest_floats_give_finite_ends(name: str) -> None:
    largest = torch.finfo(torch.float32).max
    low, high = ends(name, torch.tensor([-largest, largest, 1.0]), bits=4)
    assert math.isfinite(low)
    assert math.isfinite(high)
    assert low < -0.7 * largest
    assert high > 0.7 * largest


@pytest.mark.parametrize(
    ("name", "highest"),
    [("min_max", 1e4), ("mean_min_max", 1e4), ("percentile", 1e4 / 1024 + 5), ("mean_percentile", 5.0), ("mse", 1.1e4)],
)
def test_a_single_value_far_out(name: str, highest: float) -> None:
    """Percentiles leave it out; the mean squared error weighs it too much to clip it."""
    x = random(60_000)
    x[123] = 1e4
    assert highest / 4 <= ends(name, x)[1] <= highest


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", RANGE_ESTIMATORS)
def test_other_float_types_are_taken_as_float32(name: str, dtype: torch.dtype) -> None:
    x = random(40, 50).to(dtype)
    low, high = fed(range_estimator(name, 8), x).ends()
    assert (low.dtype, low.shape, high.dtype, high.shape) == (torch.float32, (), torch.float32, ())
    assert (float(low), float(high)) == ends(name, x.float())


@pytest.mark.parametrize("name", RANGE_ESTIMATORS)
def test_an_empty_tensor_is_ignored(name: str) -> None:
    estimator = fed(range_estimator(name, 8), torch.ones(0, 3), torch.ones(2, 3), torch.ones(3, 0))
    assert estimator.n_batches == 1
    assert float(estimator.ends()[1]) == pytest.approx(1.0)


# --- errors


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", RANGE_ESTIMATORS)
def test_values_that_are_not_finite_are_refused(name: str, value: float, axis: int | None) -> None:
    x = random(7, 9)
    x[3, 4] = value
    estimator = range_estimator(name, 8, axis)
    with pytest.raises(CompressionError, match="its input has values that are NaN or infinite in the calibration data"):
        estimator.update(x)
    assert estimator.n_batches == 0


@pytest.mark.parametrize("name", RANGE_ESTIMATORS)
def test_no_data_is_an_error(name: str) -> None:
    with pytest.raises(CompressionError, match="at least one batch"):
        range_estimator(name, 8).ends()


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(
        CompressionError, match="mean_percentile, min_max, mean_min_max, percentile, mse, but got 'max'"
    ):
        range_estimator("max", 8)


def test_a_channel_axis_must_exist() -> None:
    with pytest.raises(CompressionError, match=r"got 2 for an input of shape \(2, 3\); choose one in -2..1"):
        range_estimator("min_max", 8, channel_axis=2).update(torch.ones(2, 3))


def test_the_number_of_channels_must_not_change() -> None:
    with pytest.raises(CompressionError, match="must have 3 channels on axis 1, as the first one had, but got 4"):
        fed(range_estimator("min_max", 8, channel_axis=1), torch.ones(2, 3), torch.ones(2, 4))
