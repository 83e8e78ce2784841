"""How much worse one model scores than another on the same samples, with a one-sided 95 % bound.

Which interval is used depends on what the score says of single samples: right or wrong, a number, or nothing.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import bdtr
from torch import Tensor

from autocompress.errors import MeasurementError
from autocompress.measure.accuracy import Predictions, score_of, take
from autocompress.measurement import Interval
from autocompress.task import Score, Task, flatten

Numbers = npt.NDArray[np.float64]
N_RESAMPLES = 1000
MIN_RESAMPLES = 100
MAX_SECONDS = 2.0  # for resampling a score that says nothing of single samples
_Z = 1.6448536269514722  # quantile 0.95 of the normal distribution
_TOLERANCE = 1e-6  # between a score and the mean of its values by sample
_FEW = 20  # differences other than 0, up to which they say too little about those not seen
_SMALLEST_SPREAD = 1 / 3  # of a resample, as a share of the sample's
_PORTION = 2_000_000  # indices drawn at once
_MAX_REDRAWN = 10  # resamples without a score that are drawn again, for each resample that is wanted


def accuracy_drop(
    task: Task, baseline: Predictions, candidate: Predictions, seed: int = 0, max_seconds: float = MAX_SECONDS
) -> Interval:
    """How much worse the candidate scores than the baseline on the same samples, positive when worse.

    The interval is the two-sided 90 % one, so that its upper end is the one-sided 95 % bound. Where a score has
    `per_sample` values, those decide: `drop_of_counts` for right and wrong, `drop_of_values` for others. Any other
    score is resampled as a whole. Models whose floating-point outputs are equal to the last bit are one model, without
    a drop and without spread.

    Args:
        task: Gives score and direction.
        baseline: Predictions of the deployed FP32 model.
        candidate: Predictions on the same samples in the same order.
        seed: Of the resampling.
        max_seconds: After these no further resample of a whole score is drawn, but for the first 100.

    Raises:
        MeasurementError: The score fails, is not finite, is not the mean of its values by sample, or the two models
            were not run on the same number of samples.
    """
    if baseline.n_samples != candidate.n_samples:
        counts = f"{baseline.n_samples} and {candidate.n_samples}"
        raise MeasurementError(f"both models must be run on the same samples, but got {counts}; run them again")
    sign = 1.0 if task.higher_is_better else -1.0
    value = sign * (score_of(task, baseline) - score_of(task, candidate))
    before, after = sample_values(task, baseline), sample_values(task, candidate)
    if _is_one_model(baseline, candidate):
        return Interval(value=value, low=value, high=value)
    if before is None or after is None:
        return _drop_of_score(task, (baseline, candidate), value, seed, max_seconds)
    if set(np.unique(np.concatenate([before, after]))) <= {0.0, 1.0}:
        return drop_of_counts(*_discordant(sign * before, sign * after), len(before))
    return drop_of_values(sign * before, sign * after, seed)


def discordant_pairs(task: Task, baseline: Predictions, candidate: Predictions) -> tuple[int, int] | None:
    """On how many samples the candidate is worse than the baseline, and on how many it is better.

    Returns:
        The two counts; None for a score without values by sample.

    Raises:
        MeasurementError: As `sample_values`.
    """
    sign = 1.0 if task.higher_is_better else -1.0
    before, after = sample_values(task, baseline), sample_values(task, candidate)
    return None if before is None or after is None else _discordant(sign * before, sign * after)


def _discordant(before: Numbers, after: Numbers) -> tuple[int, int]:
    return int((after < before).sum()), int((after > before).sum())


def mcnemar_p(n_worse: int, n_better: int) -> float:
    """Exact two-sided p of equal quality, from the samples on which two models differ (McNemar 1947, exact form).

    >>> mcnemar_p(0, 0), mcnemar_p(6, 0)
    (1.0, 0.03125)
    """
    n = n_worse + n_better
    return min(1.0, 2 * float(bdtr(min(n_worse, n_better), n, 0.5)))


def sample_values(task: Task, predictions: Predictions) -> Numbers | None:
    """Values by sample whose mean is the task's score, shape (n_samples,); None where the score gives none.

    Raises:
        MeasurementError: `per_sample` fails, gives another number of values, or their mean is not the score.
    """
    function: Callable[[Any, Any], Any] | None = getattr(task.score, "per_sample", None)
    if function is None:
        return None
    name = f"per_sample of the task's {task.score_name}"
    try:
        values = torch.as_tensor(function(predictions.outputs, predictions.targets)).detach().double().cpu().numpy()
    except Exception as error:  # the user's code
        raise MeasurementError(f"{name} fails: {type(error).__name__}: {error}") from error
    if values.shape != (predictions.n_samples,):
        law = f"{name} must give one value a sample, shape ({predictions.n_samples},)"
        raise MeasurementError(f"{law}, but got shape {values.shape}; leave it out where there is no such value")
    mean, score = float(values.mean()), score_of(task, predictions)
    if not math.isclose(mean, score, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
        raise MeasurementError(
            f"the mean of {name} must be the score, {score:g}, but got {mean:g}; correct one of them"
        )
    return np.asarray(values, dtype=np.float64)


def drop_of_counts(n_worse: int, n_better: int, n_samples: int) -> Interval:
    """Difference of two paired proportions, with its two-sided 90 % interval.

    Wilson's score intervals of the two discordant proportions are combined as Zou & Donner (2008, equation 4: MOVER)
    combine limits, with the correlation of two cells of a multinomial distribution. Exact coverage of each end,
    computed for 20 to 1000 samples and 0 to 40 discordant pairs of each kind, is at least 93 %; intervals of Tango
    (1998), of Newcombe (1998, method 10) and of Bonett & Price (2012) fall to 91, 86 and 91 % where pairs are few.

    Args:
        n_worse: Samples on which only the baseline is right.
        n_better: Samples on which only the candidate is right.
        n_samples: All samples, >= 1.

    >>> round(drop_of_counts(0, 0, 1000).high, 5)
    0.0027
    """
    worse, better = n_worse / n_samples, n_better / n_samples
    correlation = -math.sqrt(worse * better / max((1 - worse) * (1 - better), 1e-12))
    (worse_low, worse_high), (better_low, better_high) = _wilson(n_worse, n_samples), _wilson(n_better, n_samples)
    below = _combined(worse - worse_low, better_high - better, correlation)
    above = _combined(worse_high - worse, better - better_low, correlation)
    value = worse - better
    return Interval(value=value, low=max(-1.0, value - below), high=min(1.0, value + above))


def _combined(a: float, b: float, correlation: float) -> float:
    return math.sqrt(max(a * a - 2 * correlation * a * b + b * b, 0.0))


def _wilson(count: int, n: int) -> tuple[float, float]:
    """Two-sided 90 % interval of a proportion (Wilson 1927)."""
    centre = (count + _Z**2 / 2) / (n + _Z**2)
    half = _Z * math.sqrt(count * (n - count) / n + _Z**2 / 4) / (n + _Z**2)
    return min(centre - half, count / n), max(centre + half, count / n)


def drop_of_values(baseline: Numbers, candidate: Numbers, seed: int = 0) -> Interval:
    """Mean of paired differences with its two-sided 90 % bootstrap-t interval (Efron & Tibshirani 1993, section 12.5).

    Where few differences are not 0, two made-up ones of both signs are added, as large as the range of all values, so
    that samples that were not seen count, as in the interval of Agresti & Min (2005) for proportions.

    Args:
        baseline: Values by sample, higher being better, shape (n_samples,).
        candidate: The same of the candidate.
        seed: Of the resampling.
    """
    differences = baseline - candidate
    value, extended = float(differences.mean()), differences
    if np.count_nonzero(differences) <= _FEW:
        width = float(np.ptp(np.concatenate([baseline, candidate])))
        extended = np.concatenate([differences, [width, -width]])
    error = float(extended.std(ddof=1)) / math.sqrt(len(extended))
    if error == 0.0:
        return Interval(value=value, low=value, high=value)
    low, high = np.quantile(_studentized(extended, np.random.default_rng(seed)), [0.05, 0.95])
    return Interval(value=value, low=value - float(high) * error, high=value - float(low) * error)


def _studentized(x: Numbers, rng: np.random.Generator) -> Numbers:
    """The statistic t of resamples of `x`, shape (N_RESAMPLES,)."""
    n, spread = len(x), x.std(ddof=1)
    found = []
    for size in _sizes(N_RESAMPLES, max(1, _PORTION // n)):
        resampled = x[rng.integers(0, n, (size, n))]
        spreads = np.maximum(resampled.std(axis=1, ddof=1), _SMALLEST_SPREAD * spread)
        found.append((resampled.mean(axis=1) - x.mean()) / spreads * math.sqrt(n))
    return np.concatenate(found)


def _sizes(total: int, at_most: int) -> list[int]:
    return [min(at_most, total - start) for start in range(0, total, at_most)]


def _drop_of_score(
    task: Task, pair: tuple[Predictions, Predictions], value: float, seed: int, max_seconds: float
) -> Interval:
    """Bootstrap over samples of the whole score: normal interval with the spread of the resamples.

    The spread of 100 resamples is known far better than their 95 % quantile (Efron & Tibshirani 1993, section 6.4 and
    13.3). An interval is at least as wide as if `z ** 2` samples more or less were wrong, as Wilson's is, where a wrong
    sample costs what outputs in random order cost.
    """
    rng = np.random.default_rng(seed)
    drops = _resampled(*_prepared(task, pair), rng, max_seconds)
    half = _Z * float(np.std(drops, ddof=1))
    half = max(half, _Z**2 * _cost_of_one(task, pair[0], rng))
    return Interval(value=value, low=value - half, high=value + half)


def _prepared(task: Task, pair: tuple[Predictions, Predictions]) -> tuple[Task, tuple[Predictions, Predictions]]:
    """Task and predictions whose score is the same without the work that the score's `prepare` does.

    Raises:
        MeasurementError: What it gives has not a row for each sample.
    """
    prepare: Callable[[Any, Any], Any] | None = getattr(task.score, "prepare", None)
    if prepare is None:
        return task, pair
    n = pair[0].n_samples
    rows = [prepare(predictions.outputs, predictions.targets) for predictions in pair]
    shapes = [tuple(tensor.shape) for tensor in flatten(rows)]
    if not shapes or any(shape[:1] != (n,) for shape in shapes):
        law = f"prepare of the task's {task.score_name} must give tensors with a row for each of {n} samples"
        raise MeasurementError(f"{law}, but got shapes {sorted(set(shapes))}")
    function: Callable[[Any], float] = task.score.function  # type: ignore[attr-defined]  # as whoever has a `prepare`
    score = Score(lambda rows, _: function(rows), task.higher_is_better, task.score_name)
    nothing = torch.empty(n, 0)
    return replace(task, score=score), (Predictions(rows[0], nothing), Predictions(rows[1], nothing))


def _resampled(
    task: Task, pair: tuple[Predictions, Predictions], rng: np.random.Generator, max_seconds: float
) -> list[float]:
    """Drops of resamples; one without a score, as of a single class, is drawn again."""
    sign = 1.0 if task.higher_is_better else -1.0
    n, drops, n_failed = pair[0].n_samples, list[float](), 0
    start = time.perf_counter()
    while len(drops) < N_RESAMPLES and (len(drops) < MIN_RESAMPLES or time.perf_counter() - start < max_seconds):
        chosen = torch.from_numpy(rng.integers(0, n, n))
        try:
            before, after = (score_of(task, chosen_samples(predictions, chosen)) for predictions in pair)
        except MeasurementError as error:
            n_failed += 1
            if n_failed > _MAX_REDRAWN * (len(drops) + 1):
                law = f"a score must be defined on most random draws of its {n} samples, to know its uncertainty"
                raise MeasurementError(f"{law}, but {error}; give more samples or a Score with per_sample") from None
            continue
        drops.append(sign * (before - after))
    return drops


def chosen_samples(predictions: Predictions, chosen: Tensor) -> Predictions:
    """Samples `chosen` of a split, shape (any,), each as often as it is named."""
    return Predictions(take(predictions.outputs, chosen), take(predictions.targets, chosen))


def _cost_of_one(task: Task, predictions: Predictions, rng: np.random.Generator) -> float:
    """By how much the score changes for each sample that gets the outputs of another; 0 where that has no score."""
    n = predictions.n_samples
    mixed = Predictions(take(predictions.outputs, torch.from_numpy(rng.permutation(n))), predictions.targets)
    try:
        return abs(score_of(task, predictions) - score_of(task, mixed)) / n
    except MeasurementError:
        return 0.0


def _is_one_model(a: Predictions, b: Predictions) -> bool:
    pairs = list(zip(flatten(a.outputs), flatten(b.outputs), strict=True))
    return all(x.is_floating_point() and torch.equal(x, y) for x, y in pairs)
