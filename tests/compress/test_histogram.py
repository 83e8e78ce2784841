"""Histograms of streams."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autocompress.compress.histogram import StreamingHistogram, sampling_step

WIDE = st.floats(-(2.0**60), 2.0**60, width=32)
SPREAD = st.builds(lambda m, e: float(np.float32(m * 10.0**e)), st.floats(-1, 1), st.integers(-8, 8))
VALUES = st.lists(st.one_of(WIDE, SPREAD).map(lambda x: x if abs(x) > 2.0**-60 else 0.0), min_size=1, max_size=40)


def histogram_of(*batches: Tensor, n_bins: int = 64) -> StreamingHistogram:
    histogram = StreamingHistogram(batches[0].shape[0] if batches[0].dim() == 2 else 1, n_bins)
    for batch in batches:
        histogram.update(batch if batch.dim() == 2 else batch[None])
    return histogram


def state(histogram: StreamingHistogram) -> tuple[list[float], ...]:
    return tuple(getattr(histogram, name).flatten().tolist() for name in ("counts", "low", "high", "first", "width"))


def counts_by_definition(values: np.ndarray, histogram: StreamingHistogram, channel: int = 0) -> np.ndarray:
    width, first = float(histogram.width[channel]), int(histogram.first[channel])
    index = [math.floor(float(value) / width) - first for value in values.ravel()]
    return np.bincount(index, minlength=histogram.counts.shape[1])


@given(VALUES)
@settings(deadline=None, max_examples=50)
def test_every_value_is_counted_in_its_bin(values: list[float]) -> None:
    x = torch.tensor(values)
    histogram = histogram_of(x)
    assert histogram.counts[0].tolist() == counts_by_definition(x.numpy(), histogram).tolist()


@given(VALUES)
@settings(deadline=None, max_examples=50)
def test_the_width_is_the_smallest_that_fits(values: list[float]) -> None:
    x = torch.tensor(values)
    histogram = histogram_of(x)
    width = float(histogram.width)
    assert math.frexp(width)[0] == 0.5
    low, high = float(x.min()), float(x.max())
    if width / 2 >= 2.0**-126 and width / 2 > 2.0**-24 * max(-low, high):
        assert math.floor(high / (width / 2)) - math.floor(low / (width / 2)) >= 64


@given(VALUES, st.data())
@settings(deadline=None, max_examples=50)
def test_order_and_splitting_into_batches_change_nothing(values: list[float], data: st.DataObject) -> None:
    shuffled = torch.tensor(data.draw(st.permutations(values)))
    cuts = sorted(data.draw(st.lists(st.integers(1, len(values)), max_size=5)))
    batches = [part for part in shuffled.tensor_split(cuts) if part.numel()]
    assert state(histogram_of(*batches)) == state(histogram_of(torch.tensor(values)))


def test_channels_are_counted_apart() -> None:
    scale = torch.tensor([[1e-8], [1.0], [1e8]])
    batches = [torch.randn(3, 500, generator=torch.Generator().manual_seed(seed)) * scale for seed in range(3)]
    together = histogram_of(*batches)
    for channel in range(3):
        alone = histogram_of(*(batch[channel] for batch in batches))
        assert torch.equal(together.counts[channel], alone.counts[0])
        assert together.width[channel] == alone.width[0]


@pytest.mark.parametrize(
    "scales",
    [
        pytest.param([1e-8, 1.0, 1e8], id="up"),
        pytest.param([1e8, 1e-8], id="down"),
        pytest.param([1e-38, 1e38], id="the whole of float32"),
    ],
)
def test_a_range_that_grows_loses_no_value(scales: list[float]) -> None:
    x = torch.linspace(-1, 2, 1000)
    histogram = histogram_of(*(x * scale for scale in scales))
    assert int(histogram.counts.sum()) == 1000 * len(scales)
    assert (float(histogram.low), float(histogram.high)) == (-np.float32(max(scales)), 2 * np.float32(max(scales)))


def test_extreme_values_have_bins() -> None:
    largest, denormal = torch.finfo(torch.float32).max, 2.0**-149
    histogram = histogram_of(torch.tensor([-largest, -denormal, 0.0, denormal, largest]))
    assert histogram.counts[0].nonzero().flatten().tolist() == [0, 32, 63]  # beside them, -2^-149 is as good as 0
    assert histogram.counts[0, [0, 32, 63]].tolist() == [1, 3, 1]


def test_denormal_values_share_a_bin_on_each_side_of_zero() -> None:
    histogram = histogram_of(torch.tensor([-1e-40, -(2.0**-149), 0.0, 2.0**-149, 1e-40]))
    assert float(histogram.width) == 2.0**-126
    assert histogram.counts[0, :2].tolist() == [2, 3]


def test_a_negative_value_that_underflows_stays_in_the_last_bin() -> None:
    histogram = histogram_of(torch.tensor([-3e38, -1e-45]), n_bins=4)
    assert (histogram.counts[0].sum(), histogram.counts[0, -1]) == (2, 1)


def test_memory_doesn_t_grow_with_the_data() -> None:
    histogram = StreamingHistogram(2)
    sizes = set()
    for seed in range(6):
        histogram.update(torch.randn(2, 10**seed // 2 + 1) * 10**seed)
        sizes.add(sum(value.nbytes for value in vars(histogram).values()))
    assert len(sizes) == 1
    assert sizes.pop() < 2.1 * 2048 * 8


@given(VALUES, st.sampled_from([0.0, 0.01, 0.1, 0.3]))
@settings(deadline=None, max_examples=50)
def test_tails_are_at_most_a_bin_outside_of_the_ranked_values(values: list[float], share: float) -> None:
    histogram = histogram_of(torch.tensor(values))
    (low,), (high,) = (end.tolist() for end in histogram.tails(share))
    ordered, k, width = sorted(values), max(1, int(share * len(values))), float(histogram.width)
    assert ordered[k - 1] - width <= low <= ordered[k - 1]
    assert ordered[-k] <= high <= ordered[-k] + width
    assert ordered[0] <= low
    assert high <= ordered[-1]


def test_of_a_huge_batch_every_k_th_value_counts_k_times() -> None:
    x = torch.ones(1, 5 * 2**20)
    histogram = histogram_of(x)
    assert int(histogram.counts.sum()) == pytest.approx(x.numel(), rel=1e-5)


def test_sampling_a_huge_batch_reads_every_feature() -> None:
    x = torch.zeros(2**13, 2**9)
    x[:, 37] = torch.linspace(0, 1, 2**13)
    histogram = histogram_of(x.reshape(1, -1))
    assert int(histogram.counts[0, 1:].sum()) == pytest.approx(2**13, rel=0.1)


@given(st.integers(1, 10**7), st.integers(1, 10**5))
def test_a_sampling_step_shares_no_divisor_with_the_number_of_values(n: int, n_wanted: int) -> None:
    step = sampling_step(n, n_wanted)
    assert step == 1 or step >= n or math.gcd(step, n) == 1
    assert len(range(0, n, step)) <= n_wanted
