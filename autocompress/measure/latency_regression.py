"""Linear regression with Gaussian priors of several widths, by its dual form: cheap where samples are few.

The prior of the unknowns has mean 0 and a standard deviation for each level of columns. With the columns ``Z_l`` of a
level and its standard deviation ``s_l``, the samples have the covariance ``K = sum s_l^2 Z_l Z_l^T + noise``
(Rasmussen & Williams 2006, section 2.1.2); errors of leaving one out are ``[K^-1 r]_i / [K^-1]_ii`` (section 5.4.2,
equation 5.12).
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Columns = Mapping[str, Floats]  # by level, shape (samples, columns)

_ENOUGH = 8  # samples; with fewer the widths are not chosen
N_PASSES = 3
_FREEDOM = 4.0  # degrees of freedom of Student's t
_LARGEST_ERROR = 0.3  # relative; a sample that is off by more counts as this


@dataclass(frozen=True)
class Spread:
    """Standard deviations, relative to the prior means.

    Attributes:
        all: Of what all units of a precision class share.
        kind: Of what units of one kind share.
        unit: Of each unit by itself.
        switches: Of one switch between precisions, relative to the baseline's latency; 0 leaves switches out.
        rest: Of what is in no unit.
        misfit: Of the truth around the sum, relative to the latency.
    """

    all: float = 0.3
    kind: float = 0.2
    unit: float = 0.15
    switches: float = 0.0
    rest: float = 0.5
    misfit: float = 0.02


@dataclass(frozen=True)
class Posterior:
    """What is believed of the unknowns after the samples.

    Attributes:
        spread: Of the prior.
        columns: Of the samples.
        inverse: Inverse of their covariance, shape (samples, samples).
        weights: `inverse` times what the prior mean left of the samples, shape (samples,).
    """

    spread: Spread
    columns: Columns
    inverse: Floats
    weights: Floats

    def coefficients(self, level: str) -> Floats:
        """Expected unknowns of one level, shape (columns,)."""
        result: Floats = getattr(self.spread, level) ** 2 * (self.columns[level].T @ self.weights)
        return result

    def predict(self, columns: Columns, mean: Floats) -> tuple[Floats, Floats]:
        """Expected values and their standard errors, shape (rows,), misfit included.

        Args:
            columns: By level, shape (rows, columns).
            mean: Of the prior, shape (rows,).
        """
        cross = _covariance(columns, self.columns, self.spread)
        value = mean + cross @ self.weights
        own = sum(getattr(self.spread, level) ** 2 * (rows**2).sum(axis=1) for level, rows in columns.items())
        variance = own - ((cross @ self.inverse) * cross).sum(axis=1) + (self.spread.misfit * value) ** 2
        return value, np.sqrt(np.maximum(variance, 0.0))


def condition(
    columns: Columns, mean: Floats, values: Floats, noise: Floats, spread: Spread, n_passes: int = N_PASSES
) -> Posterior:
    """The posterior after samples.

    A sample that the others contradict by several standard errors was disturbed: errors follow Student's t with 4
    degrees of freedom, which is a Gaussian whose variance is raised by what the others say of it, in a few passes
    (Lange, Little & Taylor 1989, section 3).

    Args:
        columns: By level, shape (samples, columns).
        mean: Of the prior, shape (samples,).
        values: What was measured, shape (samples,), > 0.
        noise: Relative standard error of each, shape (samples,).
        spread: Widths of the prior.
        n_passes: How often variances are raised; 0 for Gaussian errors.
    """
    covariance = _covariance(columns, columns, spread)
    variances = (noise**2 + spread.misfit**2) * values**2
    raised = np.ones(len(values))
    for left in range(n_passes, -1, -1):
        inverse = np.asarray(np.linalg.inv(covariance + np.diag(variances * raised)), np.float64)
        weights = inverse @ (values - mean)
        if left:
            errors = weights / np.diag(inverse)  # of leaving each out
            raised = np.maximum(1.0, (_FREEDOM + errors**2 / (1 / np.diag(inverse))) / (_FREEDOM + 1) * raised)
    return Posterior(spread, columns, inverse, weights)


def choose_spread(columns: Columns, mean: Floats, values: Floats, noise: Floats) -> Spread:
    """The widths with the least mean relative error when each sample is left out; the default for few samples."""
    if len(values) < _ENOUGH:
        return Spread()
    errors = {spread: _left_out_error(columns, mean, values, noise, spread) for spread in _candidates()}
    return min(errors, key=lambda spread: errors[spread])


def cross_validate(columns: Columns, mean: Floats, values: Floats, noise: Floats, n_folds: int, seed: int) -> Floats:
    """Predictions of each sample from those in other folds, with widths chosen from them, shape (samples,)."""
    order = np.random.default_rng(seed).permutation(len(values))
    predicted = np.empty(len(values))
    for fold in range(n_folds):
        out = order[fold::n_folds]
        kept = np.setdiff1d(order, out)
        inside = _rows(columns, kept), mean[kept], values[kept], noise[kept]
        posterior = condition(*inside, choose_spread(*inside))
        predicted[out] = posterior.predict(_rows(columns, out), mean[out])[0]
    return predicted


def _rows(columns: Columns, chosen: npt.NDArray[np.int64]) -> dict[str, Floats]:
    return {level: rows[chosen] for level, rows in columns.items()}


def _candidates() -> Iterator[Spread]:
    """From stiff to loose; widths of kinds and units vary together in steps of about two."""
    for kind, unit, switches, misfit in itertools.product(
        (0.1, 0.25, 0.6), (0.03, 0.1, 0.3, 0.8), (0.0, 0.01), (0.005, 0.02, 0.06, 0.12)
    ):
        yield Spread(kind=kind, unit=unit, switches=switches, misfit=misfit)


def _left_out_error(columns: Columns, mean: Floats, values: Floats, noise: Floats, spread: Spread) -> float:
    posterior = condition(columns, mean, values, noise, spread)
    errors = np.abs(posterior.weights / np.diag(posterior.inverse)) / values
    return float(np.minimum(errors, _LARGEST_ERROR).mean())


def _covariance(a: Columns, b: Columns, spread: Spread) -> Floats:
    first = next(iter(a))
    total = np.zeros((len(a[first]), len(b[first])))
    for level in a:
        width = getattr(spread, level)
        if width:
            total += width**2 * (a[level] @ b[level].T)
    return total
