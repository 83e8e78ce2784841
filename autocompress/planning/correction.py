"""What trials teach about the damage table: a Bayesian linear correction that stays a sum over units.

The damage after training of choice c at unit u is ``w[u, c]``, and a plan's damage is their sum, so the best plan can
be found exactly for the mean table as for every table drawn from the posterior.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from autocompress.errors import StudyError
from autocompress.planning.problem import Floats, Plans, Problem

KIND_SPREAD = 0.7  # standard deviation of a kind's recovery, as a share of what is expected of it
UNIT_SPREAD = 0.3  # the same for one unit's deviation from its kind
LEAST_SHARE = 0.05  # no damage is corrected to less than this share of what is expected of it
LEAST_MISFIT = 5e-4  # of the largest drop: what no table explains of a plan without damage
ENOUGH_TO_JUDGE = 6  # observations from which on they decide how far the table is trusted
SCALES = tuple(2.0**k for k in range(-3, 8))  # of the whole table, for damages in other units than expected
SCALE_SPREAD = 1.0  # standard deviation of the logarithm of the scale, before anything is observed


@dataclass(frozen=True)
class Observation:
    """A plan that was tried.

    Args:
        plan: A choice for each unit.
        drop: Measured accuracy drop.
        drop_error: Standard error of the drop, >= 0.
        latency: Measured share of the baseline's latency; None: the prediction holds.
        size: Measured share of the baseline's size; None: the prediction holds.

    Raises:
        StudyError: A number is not finite or the error is negative.
    """

    plan: tuple[int, ...]
    drop: float
    drop_error: float
    latency: float | None = None
    size: float | None = None

    def __post_init__(self) -> None:
        for name in ("drop", "drop_error", "latency", "size"):
            value = getattr(self, name)
            if value is not None and not np.isfinite(value):
                raise StudyError(f"{name} of an observed plan must be finite, but got {value}; leave failed plans out")
        if self.drop_error < 0:
            raise StudyError(f"drop_error of an observed plan must be at least 0, but got {self.drop_error}")


@dataclass(frozen=True)
class Trust:
    """How far a damage table may be off.

    Args:
        entry: Standard deviation of one entry, as a share of its expected damage.
        unknown: The same as a share of the typical entry.
        misfit: Standard deviation of a plan's damage around the sum of its entries, as a share of it.
    """

    entry: float
    unknown: float
    misfit: float


TRUSTED = Trust(entry=0.5, unknown=0.0, misfit=0.12)
LEVELS = (
    Trust(entry=0.25, unknown=0.0, misfit=0.02),
    Trust(entry=0.5, unknown=0.0, misfit=0.02),
    Trust(entry=0.5, unknown=0.0, misfit=0.06),
    TRUSTED,
    Trust(entry=1.0, unknown=0.0, misfit=0.02),
    Trust(entry=1.0, unknown=0.1, misfit=0.2),
    Trust(entry=1.5, unknown=0.5, misfit=0.35),
    Trust(entry=2.0, unknown=1.5, misfit=0.5),
)


class Correction:
    """The posterior of the damage table, given what was observed.

    The model of facts/search.md section 4.5, a Bayesian linear regression (Rasmussen & Williams 2006, section 2.1):
    ``w[u, c] = sum_t damage[u, c, t] (m_t + d_{u,t}) + e_{u,c}`` with ``m_t ~ N(recovery_t, (.7 recovery_t)^2)``,
    ``d_{u,t} ~ N(0, (.3 recovery_t)^2)`` and `e` of the spread that `trust` gives. A plan's damage is the sum of its
    entries plus an independent misfit; a measured drop adds the error of its measurement.
    All recoveries are multiplied by one scale, with a log-normal prior around 1. Scale and level of trust are those
    under which the observations are likeliest (section 5.4 there), the scale first.

    Args:
        problem: Units with their isolated damages.
        observations: Trials so far, any number.
        learn: False leaves the prior as it is: random coefficients, as in SPDY (Frantar & Alistarh 2022, section 3.2).

    Attributes:
        trust: The level of trust in the table.
        scale: Of the whole table.

    Raises:
        StudyError: An observed plan does not fit the problem.
    """

    def __init__(self, problem: Problem, observations: Sequence[Observation], learn: bool = True) -> None:
        check_plans(problem, [o.plan for o in observations])
        self._problem = problem
        self._observed = np.array([o.drop for o in observations], np.float64)
        self._prepare()
        self._expect(1.0)
        plans = np.array([o.plan for o in observations], np.int64).reshape(len(observations), len(problem.units))
        self._index = plans + self._offsets[:-1]
        self._learns = learn and len(observations) > 0
        self.trust = TRUSTED
        if self._learns:
            self._fit(plans, np.array([o.drop_error for o in observations]))
        self._mean = self._expected.copy()
        if self._learns:
            self._mean += self._covariance @ self._solved

    def tables(self) -> list[Floats]:
        """Posterior mean of the damage after training, one table of shape (choices,) a unit."""
        return self._split(np.maximum(self._mean, self._least))

    def draw_tables(self, n: int, rng: np.random.Generator) -> list[Floats]:
        """Damage after training, drawn from the posterior, one table of shape (n, choices) a unit."""
        return self._split(self._draws(n, rng))

    def drops(self, plans: Plans) -> Floats:
        """Accuracy drop at the mean damage, shape (n,), of plans of shape (n, units)."""
        return self._problem.drop_of(np.maximum(self._mean, self._least)[plans + self._offsets[:-1]].sum(axis=1))

    def drop_draws(self, plans: Plans, n: int, rng: np.random.Generator) -> Floats:
        """Accuracy drops drawn from the posterior, misfit included: shape (n, plans)."""
        draws, index = self._draws(n, rng), plans + self._offsets[:-1]
        damage = np.stack([draw[index].sum(axis=1) for draw in draws])
        damage *= 1 + self.trust.misfit * rng.standard_normal(damage.shape)
        return self._problem.drop_of(damage)

    def denoised(self) -> Floats:
        """What the observed plans really drop, shape (observations,).

        The posterior mean of the entries' sum plus the misfit: it lies between the measured drop and the model's.
        """
        if not self._learns:
            return self._observed.copy()
        noise = self._noise * self._solved
        return self._drops_with_sign(self._measured - noise)

    def left_out(self) -> Floats:
        """Drop of each observed plan as the other observations predict it, shape (observations,).

        Closed form of Rasmussen & Williams 2006, equation 5.12.
        """
        if not self._learns:
            return self._drops_with_sign(self._expected[self._index].sum(axis=1))
        precision = cho_solve(self._factor, np.eye(len(self._measured)))
        return self._drops_with_sign(self._measured - self._solved / np.diag(precision))

    def multipliers(self) -> Floats:
        """Share of each kind of damage that training leaves at each unit, posterior mean, shape (units, kinds)."""
        recovery = self._recovery
        means = np.tile(recovery, (len(self._problem.units), 1))
        if self._learns:
            totals = self._by_unit.sum(axis=1)
            means += (KIND_SPREAD * recovery) ** 2 * (self._solved @ totals)
            means += (UNIT_SPREAD * recovery) ** 2 * np.einsum("i,iut->ut", self._solved, self._by_unit)
        clipped: Floats = np.maximum(means, LEAST_SHARE * recovery)
        return clipped

    def _prepare(self) -> None:
        units = self._problem.units
        self._isolated = np.concatenate([unit.damage for unit in units])
        self._offsets = np.concatenate([[0], np.cumsum(self._problem.n_choices)]).astype(np.int64)
        self._unit_of = np.repeat(np.arange(len(units)), self._problem.n_choices)

    def _expect(self, scale: float) -> None:
        """Take the prior of a table that is multiplied by `scale`."""
        self.scale, self._recovery = scale, self._problem.recovery * scale
        self._expected = self._isolated @ self._recovery
        self._least = LEAST_SHARE * self._expected
        damaging = self._expected[self._expected > 0]
        self._typical = float(np.median(damaging)) if len(damaging) else 0.0

    def _fit(self, plans: Plans, errors: Floats) -> None:
        problem = self._problem
        self._by_unit = np.stack([u.damage[plans[:, i]] for i, u in enumerate(problem.units)], axis=1)
        self._measured = problem.damage_of(self._observed)
        slope = 1 / (1 - np.clip(self._observed / problem.largest_drop, 0.0, 0.99))
        self._noise = (errors * slope) ** 2
        smooth, (relative, absolute) = self._smooth_kernel(), self._entry_kernels()
        totals = self._expected[self._index].sum(axis=1)

        def fit(scale: float, trust: Trust) -> _Fit:
            kernel = smooth + trust.entry**2 * relative + trust.unknown**2 * absolute
            return _Fit.of(scale**2 * kernel, self._spread(trust, scale * totals), self._measured - scale * totals)

        surprise = [0.5 * (np.log(scale) / SCALE_SPREAD) ** 2 for scale in SCALES]
        likely = [fit(s, TRUSTED).evidence - penalty for s, penalty in zip(SCALES, surprise, strict=True)]
        self._expect(SCALES[int(np.argmax(likely))])
        fits = [fit(self.scale, trust) for trust in self._levels()]
        best = int(np.argmax([found.evidence for found in fits]))
        self.trust, chosen = self._levels()[best], fits[best]
        self._factor, self._solved = chosen.factor, chosen.solved
        self._misfit = self._spread(self.trust, self.scale * totals)
        self._covariance = self._cross_covariance(plans)

    def _levels(self) -> tuple[Trust, ...]:
        return LEVELS if len(self._observed) >= ENOUGH_TO_JUDGE else (TRUSTED,)

    def _spread(self, trust: Trust, expected: Floats) -> Floats:
        """Variance of what is observed around the sums of entries, of which `expected` are expected."""
        size = 0.5 * (np.maximum(self._measured, 0.0) + expected)
        misfit: Floats = (trust.misfit * size) ** 2 + (LEAST_MISFIT * self._problem.largest_drop) ** 2
        return misfit + self._noise

    def _entry_variance(self, trust: Trust) -> Floats:
        variance: Floats = (trust.entry * self._expected) ** 2 + (trust.unknown * self._typical) ** 2
        return variance

    def _smooth_kernel(self) -> Floats:
        """Covariance of the observed damages by kinds and units' deviations, shape (observations, observations)."""
        scaled = self._by_unit * self._recovery
        totals, flat = scaled.sum(axis=1), scaled.reshape(len(scaled), -1)
        kernel: Floats = KIND_SPREAD**2 * totals @ totals.T + UNIT_SPREAD**2 * flat @ flat.T
        return kernel

    def _entry_kernels(self) -> tuple[Floats, Floats]:
        """Covariance by entries that plans share, for spreads of 1: of an entry's expected damage, of the typical one.

        Each of shape (observations, observations).
        """
        expected = self._expected[self._index].T ** 2
        relative, absolute = np.zeros((2, len(self._index), len(self._index)))
        for entries, of_entry in zip(self._index.T, expected, strict=True):
            same = entries[:, None] == entries
            relative += same * of_entry
            absolute += same * self._typical**2
        return relative, absolute

    def _cross_covariance(self, plans: Plans) -> Floats:
        """Covariance of every entry of the table with the observed damages, shape (entries, observations)."""
        recovery = self._recovery
        scaled, observed = self._isolated * recovery, self._by_unit * recovery
        covariance: Floats = KIND_SPREAD**2 * scaled @ observed.sum(axis=1).T
        rows, variance = np.arange(len(plans)), self._entry_variance(self.trust)
        for unit, (start, end) in enumerate(zip(self._offsets[:-1], self._offsets[1:], strict=True)):
            covariance[start:end] += UNIT_SPREAD**2 * scaled[start:end] @ observed[:, unit].T
            covariance[self._index[:, unit], rows] += variance[self._index[:, unit]]
        return covariance

    def _draws(self, n: int, rng: np.random.Generator) -> Floats:
        """Tables side by side, drawn from the posterior, shape (n, entries).

        Matheron's rule: a draw of the prior, plus what it lacks of the observations (Wilson et al. 2020, equation 9).
        """
        recovery = self._recovery
        kinds = recovery * (1 + KIND_SPREAD * rng.standard_normal((n, 1, len(recovery))))
        shape = (n, len(self._problem.units), len(recovery))
        coefficients = kinds + recovery * UNIT_SPREAD * rng.standard_normal(shape)
        draws = np.einsum("et,net->ne", self._isolated, coefficients[:, self._unit_of])
        draws += np.sqrt(self._entry_variance(self.trust)) * rng.standard_normal(draws.shape)
        if self._learns:
            noise = np.sqrt(self._misfit) * rng.standard_normal((n, len(self._measured)))
            lacking = self._measured - np.stack([draw[self._index].sum(axis=1) for draw in draws]) - noise
            draws += cho_solve(self._factor, lacking.T).T @ self._covariance.T
        clipped: Floats = np.maximum(draws, self._least)
        return clipped

    def _drops_with_sign(self, damage: Floats) -> Floats:
        drops: Floats = np.where(damage < 0, damage, self._problem.drop_of(damage))
        return drops

    def _split(self, entries: Floats) -> list[Floats]:
        return np.split(entries, self._offsets[1:-1], axis=-1)


@dataclass(frozen=True)
class _Fit:
    factor: tuple[Floats, bool]
    solved: Floats
    evidence: float

    @classmethod
    def of(cls, kernel: Floats, spread: Floats, residuals: Floats) -> "_Fit":
        """Regression with the log marginal likelihood (Rasmussen & Williams 2006, equation 2.30)."""
        factor = cho_factor(kernel + np.diag(spread), lower=True)
        solved: Floats = cho_solve(factor, residuals)
        evidence = -0.5 * residuals @ solved - np.log(np.diag(factor[0])).sum()
        return cls(factor, solved, float(evidence))


def check_plans(problem: Problem, plans: Sequence[Sequence[int]]) -> None:
    """Raise `StudyError` for a plan that is not one choice for each unit of `problem`."""
    wrong = next((plan for plan, fits in zip(plans, fitting(problem, plans), strict=True) if not fits), None)
    if wrong is not None:
        raise StudyError(f"a plan must be one choice for each of {len(problem.units)} units, but got {tuple(wrong)}")


def fitting(problem: Problem, plans: Iterable[Sequence[int]]) -> list[bool]:
    """Which of `plans` are one choice for each unit of `problem`."""
    n_choices = problem.n_choices
    return [len(p) == len(n_choices) and all(0 <= c < n for c, n in zip(p, n_choices, strict=True)) for p in plans]
