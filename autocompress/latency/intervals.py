"""Intervals of paired ratios whose noise is heavy-tailed, correlated in time, and partly fixed by memory layout."""

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from autocompress.measurement import Speedup

Floats = npt.NDArray[np.float64]
N_RESAMPLES = 200
_NORMAL_97 = 1.959964  # 97.5 % quantile of the normal distribution
TYPICAL_LAYOUT = 0.003  # standard deviation of a log ratio between copies of two models, see `layout_variance`
LOOKING = 1.07  # wider, for one who ends when the interval is narrow ends too often when it is so by luck
LAYOUT_WEIGHT = 1  # copies that `TYPICAL_LAYOUT` counts for


def verdict(speedup: Speedup) -> Literal["faster", "slower", "same"]:
    """What the interval says of the candidate: `same` where it holds 1, a difference within the noise.

    >>> verdict(Speedup(value=1.93, low=1.90, high=1.96, n_pairs=60))
    'faster'
    """
    if speedup.low > 1:
        return "faster"
    return "slower" if speedup.high < 1 else "same"


def relative_half_width(speedup: Speedup) -> float:
    """Half the length of the interval, as a fraction of the value."""
    return (speedup.high - speedup.low) / (2 * speedup.value)


def paired_interval(log_ratios: Floats, copies: npt.NDArray[np.int64], rng: np.random.Generator) -> Speedup:
    """Ratio with its two-sided 95 % interval, from one log ratio a round.

    The value is the mean over copies of the medians over their rounds. Its variance has two parts: noise, by a
    moving-block bootstrap of the median (Künsch 1989, section 2.1), and layout, see `layout_variance`. The half-widths
    of both add up in quadrature, each with the quantile of its own degrees of freedom; `LOOKING` keeps the coverage of
    sessions that end early at 95 % or a little above.

    Args:
        log_ratios: Shape (n,), n >= 2, in the order of time.
        copies: Which pair of compiled copies ran, shape (n,). With a single one the ratio is that of these two copies,
            and layout has no part in it.
        rng: Of the bootstrap.
    """
    names, index = np.unique(copies, return_inverse=True)
    medians = np.array([np.median(log_ratios[index == i]) for i in range(len(names))])
    length = block_length(log_ratios)
    noise = median_error(log_ratios, length, rng)
    width = quantile_97(max(len(log_ratios) / length - 1, 1)) * noise
    if len(names) > 1:
        own_noise = median_error(log_ratios - medians[index], 1, rng)
        layout, n_copies = layout_variance(medians, own_noise), len(names)
        width = math.hypot(width, quantile_97(n_copies - 1 + LAYOUT_WEIGHT) * math.sqrt(layout / n_copies))
    center, width = float(medians.mean()), LOOKING * width
    value, low, high = (math.exp(x) for x in (center, center - width, center + width))
    return Speedup(value=value, low=low, high=high, n_pairs=len(log_ratios))


def widened(speedup: Speedup, error: float) -> Speedup:
    """The interval with a further independent error, the standard deviation of a log ratio.

    >>> narrow = Speedup(value=2.0, low=2.0, high=2.0, n_pairs=30)
    >>> [round(end, 3) for end in (widened(narrow, 0.01).low, widened(narrow, 0.01).high)]
    [1.961, 2.04]
    """
    below, above = (abs(math.log(speedup.value / end)) for end in (speedup.low, speedup.high))
    low, high = (math.exp(sign * math.hypot(part, _NORMAL_97 * error)) for sign, part in ((-1, below), (1, above)))
    return Speedup(value=speedup.value, low=speedup.value * low, high=speedup.value * high, n_pairs=speedup.n_pairs)


def quantile_97(n_free: float) -> float:
    """Student's 97.5 % quantile, by its expansion in 1 / `n_free` (Abramowitz & Stegun 1964, 26.7.5).

    Too small by 5 % at 2 degrees of freedom and by 1 % at 3, exact to 0.2 % from 5 on.
    """
    z = _NORMAL_97
    powers = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + sum(term / n_free**order for order, term in enumerate(powers, start=1))


def layout_variance(medians: Floats, noise: float) -> float:
    """Variance of the log ratio between copies of the same two models, which no number of rounds averages out.

    The variance of `medians` beyond noise is known from few copies only; so it is averaged with what was measured of
    many, weighted by copies (posterior mean of an inverse chi-square prior; Gelman et al. 2013, Bayesian Data Analysis,
    section 2.6). On a 2-core EPYC 24 requests of 8 compilations of one model had a standard deviation of 0.13-0.25 %.

    Args:
        medians: One median log ratio a copy, shape (n_copies,), n_copies >= 2.
        noise: Standard error of their mean by noise alone, from round to round.
    """
    n = len(medians)
    beyond_noise = max(0.0, float(medians.var(ddof=1)) - n * noise**2)
    return ((n - 1) * beyond_noise + LAYOUT_WEIGHT * TYPICAL_LAYOUT**2) / (n - 1 + LAYOUT_WEIGHT)


def median_error(series: Floats, length: int, rng: np.random.Generator, n_resamples: int = N_RESAMPLES) -> float:
    """Standard error of the median of a series whose neighbours may be correlated, by circular moving blocks.

    Args:
        series: Shape (n,), n >= 1, in the order of time.
        length: Of the blocks.
        rng: Of the bootstrap.
        n_resamples: Resampled series.

    Returns:
        Standard deviation of the medians of resampled series.
    """
    n = len(series)
    starts = rng.integers(0, n, (n_resamples, math.ceil(n / length)))
    chosen = (starts[:, :, None] + np.arange(length)).reshape(n_resamples, -1)[:, :n] % n
    return float(np.median(series[chosen], axis=1).std())


def block_length(series: Floats) -> int:
    """Length of bootstrap blocks: the square root of the length of the series, more where it is strongly correlated.

    That is longer than what is best for a known correlation, about n**(1/3), since slow changes that are weak beside
    the noise cannot be seen in a short series but do move its median. The other bound is twice the time in which the
    correlation falls by the factor e; it is found from the signs of the deviations from the median, which heavy tails
    do not disturb, by the arcsine law of normal series (Kedem 1980, Binary Time Series, chapter 4).

    Returns:
        At least 1, at most a quarter of the length of the series.
    """
    n = len(series)
    signs = np.sign(series - np.median(series))
    power = float((signs**2).sum())
    alike = float((signs[1:] * signs[:-1]).sum()) / power if power else 0.0
    correlation = math.sin(math.pi / 2 * min(max(alike, 0.0), 0.99))
    memory = -2 / math.log(correlation) if correlation > 0 else 0.0
    return int(np.clip(math.ceil(max(math.sqrt(n), memory)), 1, max(n // 4, 1)))
