"""Intervals of paired ratios: coverage against known truth, and the quantiles and block lengths behind them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t

from autocompress.latency import relative_half_width, verdict
from autocompress.latency.intervals import block_length, layout_variance, median_error, paired_interval, quantile_97
from autocompress.measurement import Speedup

ONE_COPY = np.zeros(400, np.int64)


def correlated(rng: np.random.Generator, n: int, memory: float) -> np.ndarray:
    noise = rng.standard_normal(n)
    for i in range(1, n):
        noise[i] += memory * noise[i - 1]
    return noise


NOISE = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "heavy tails": lambda rng, n: rng.standard_t(2, n),
    "skewed": lambda rng, n: rng.exponential(1, n) - np.log(2),
    "correlated": lambda rng, n: correlated(rng, n, 0.5),
    "two levels": lambda rng, n: rng.choice([-3, 0, 3], n, p=[0.15, 0.7, 0.15]) + 0.5 * rng.standard_normal(n),
}


@pytest.mark.parametrize("n", [60, 200])
@pytest.mark.parametrize("kind", NOISE)
def test_the_interval_holds_the_truth_in_93_of_100(kind: str, n: int) -> None:
    rng = np.random.default_rng(1)
    found = [paired_interval(0.2 + 0.01 * NOISE[kind](rng, n), ONE_COPY[:n], rng) for _ in range(200)]
    assert np.mean([s.low <= np.exp(0.2) <= s.high for s in found]) >= 0.93


@pytest.mark.parametrize("spread", [0.0, 0.002, 0.01], ids=["no layout effect", "a typical one", "a large one"])
def test_the_interval_holds_the_truth_of_all_copies(spread: float) -> None:
    rng, hits = np.random.default_rng(2), []
    copies = np.concatenate([rng.permutation(6) for _ in range(20)])
    for _ in range(200):
        found = paired_interval(spread * rng.standard_normal(6)[copies] + 0.005 * rng.standard_normal(120), copies, rng)
        hits.append(found.low <= 1 <= found.high)
    assert np.mean(hits) >= 0.92


def test_more_rounds_do_not_average_out_how_copies_differ() -> None:
    rng = np.random.default_rng(0)
    effects = np.array([-0.01, 0.01, 0.0])
    few, many = (
        relative_half_width(paired_interval(np.tile(effects, n), np.tile(np.arange(3), n), rng)) for n in (10, 1000)
    )
    assert few == pytest.approx(many, rel=0.2) and many > 0.01


def test_the_value_is_the_median_ratio() -> None:
    ratios = np.array([1.1, 1.3, 9.0])
    assert paired_interval(np.log(ratios), ONE_COPY[:3], np.random.default_rng(0)).value == pytest.approx(1.3)


@given(st.integers(2, 200), st.floats(-3, 3), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_turning_the_ratio_round_turns_the_interval_round(n: int, shift: float, seed: int) -> None:
    log_ratios = shift + 0.1 * np.random.default_rng(seed).standard_normal(n)
    there, back = (paired_interval(x, ONE_COPY[:n], np.random.default_rng(seed)) for x in (log_ratios, -log_ratios))
    assert (there.value * back.value, there.low * back.high) == (pytest.approx(1), pytest.approx(1))
    assert there.low <= there.value <= there.high


@pytest.mark.parametrize("n_free", [3, 4, 5, 8, 20, 100])
def test_the_quantile_is_students(n_free: int) -> None:
    assert quantile_97(n_free) == pytest.approx(t.ppf(0.975, n_free), rel=0.01)


def test_the_error_of_a_median_of_normal_noise_is_what_theory_says() -> None:
    rng = np.random.default_rng(0)
    errors = [median_error(rng.standard_normal(400), 1, rng) for _ in range(50)]
    assert np.mean(errors) == pytest.approx(np.sqrt(np.pi / 2 / 400), rel=0.1)


def test_correlation_makes_blocks_longer_and_the_error_larger() -> None:
    rng = np.random.default_rng(0)
    series = correlated(rng, 400, 0.97)
    length = block_length(series)
    assert length > 1.5 * block_length(rng.standard_normal(400))
    assert median_error(series, length, rng) > 2 * median_error(series, 1, rng)


@pytest.mark.parametrize("series", [np.zeros(5), np.ones(1), np.arange(100.0)], ids=["constant", "single", "rising"])
def test_a_block_is_never_longer_than_a_quarter_of_the_series(series: np.ndarray) -> None:
    assert 1 <= block_length(series) <= max(len(series) // 4, 1)


def test_layout_of_few_copies_is_drawn_towards_what_is_typical() -> None:
    alike, different = np.zeros(2), np.array([-0.02, 0.02])
    assert 0 < layout_variance(alike, noise=0.0) < layout_variance(different, noise=0.0) < different.var(ddof=1)
    assert layout_variance(different, noise=1.0) == layout_variance(alike, noise=0.0)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        pytest.param(1.01, 1.2, "faster", id="above 1"),
        pytest.param(0.8, 0.99, "slower", id="below 1"),
        pytest.param(0.99, 1.2, "same", id="holds 1"),
        pytest.param(1.0, 1.2, "same", id="begins at 1"),
    ],
)
def test_the_verdict_is_by_the_interval_alone(low: float, high: float, expected: str) -> None:
    assert verdict(Speedup(value=1.05, low=low, high=high, n_pairs=30)) == expected
