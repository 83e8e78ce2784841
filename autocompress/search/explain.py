"""Why each unit of the chosen model is what it is, and how predictions compare with what was measured."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd

from autocompress.errors import StudyError
from autocompress.explanation import (
    Agreement,
    Change,
    Explanation,
    Forecast,
    NetLayer,
    RungCount,
    Trust,
    UnitExplanation,
)
from autocompress.measurement import Interval
from autocompress.planning.problem import Floats, Problem, Unit, sum_of
from autocompress.search.decisions import decisions_of, sensitivity_of

N_DRAWS = 400
SMALLEST_SHARE = 1e-4  # of the baseline; less time or size than this is no difference
SMALLEST_DROP = 5e-5  # half of the last digit that reports show
MIN_RANKED = 3


class Predictor(Protocol):
    """What is believed of damages after training; `planning.correction.Correction` is one."""

    def tables(self) -> list[Floats]:
        """Expected damage of each choice, one table of shape (choices,) a unit."""

    def draw_tables(self, n: int, rng: np.random.Generator) -> list[Floats]:
        """Damages drawn together, one table of shape (n, choices) a unit; row i of all tables is one possible truth."""

    def left_out(self) -> Floats:
        """Drop of each observed plan as the other observations predict it, shape (observations,)."""


class Measured(NamedTuple):
    """A measured candidate: its plan, its accuracy drop, and its latency and size as shares of the baseline's."""

    digest: str
    plan: tuple[int, ...]
    drop: float
    latency: float
    size: float


class _Added(NamedTuple):
    """What each choice of one unit would add to the chosen plan.

    Attributes:
        drop: Expected, in units of the score, shape (choices,).
        drop_draws: Possible truths, shape (draws, choices).
        latency: Share of the baseline's, shape (choices,).
        size: The same of its bytes.
    """

    drop: Floats
    drop_draws: Floats
    latency: Floats
    size: Floats


def explain(
    problem: Problem,
    correction: Predictor,
    plan: Sequence[int] | None,
    *,
    baseline_ms: float,
    baseline_bytes: float,
    measured: Sequence[tuple[str, Sequence[int], float, float, float]] = (),
    rungs: Mapping[str, int] | None = None,
    layers: Sequence[NetLayer] = (),
    seed: int = 0,
) -> Explanation:
    """Explain the chosen plan unit by unit, and compare predictions with measurements.

    Every alternative changes one unit and leaves all others as chosen. Its added drop is the difference of the drops at
    the expected damages; the 5 % and 95 % quantiles of the differences over joint draws are the ends of its interval.

    Args:
        problem: What the search knew of the model.
        correction: What it believes of damages after all that was measured.
        plan: The chosen plan, an index for each unit; None where the chosen recipe is none of the plans.
        baseline_ms: Latency of the baseline, milliseconds, > 0.
        baseline_bytes: Size of the baseline, > 0.
        measured: As `Measured`: digest, plan, drop in units of the score, latency and size as shares; these are what
            `correction` observed, in the same order.
        rungs: How many candidates reached each rung, from the cheapest rung to the dearest.
        layers: All layers in the order of the model.
        seed: Of the draws.

    Raises:
        StudyError: A plan does not fit the units, or `correction` observed other plans than `measured`.
    """
    rows = [Measured(digest, _checked(problem, one), *values) for digest, one, *values in measured]
    chosen = None if plan is None else _checked(problem, plan)
    baseline = (baseline_ms, baseline_bytes)
    forecasts = _forecasts(problem, correction, rows)
    return Explanation(
        digest=next((row.digest for row in rows if row.plan == chosen), ""),
        units=() if chosen is None else _units(problem, _added(problem, correction, chosen, seed), chosen, baseline),
        forecasts=forecasts,
        trust=_trust(forecasts) if forecasts else None,
        rungs=tuple(RungCount(rung=name, n_reached=n) for name, n in (rungs or {}).items()),
        layers=tuple(layers),
        sensitivity=sensitivity_of(problem, correction.tables(), baseline),
        decisions=decisions_of(problem, correction.tables(), [(row.digest, row.plan) for row in rows], baseline),
    )


def _checked(problem: Problem, plan: Sequence[int]) -> tuple[int, ...]:
    indices = tuple(int(index) for index in plan)
    sizes = problem.n_choices
    if len(indices) != len(sizes) or not all(0 <= i < n for i, n in zip(indices, sizes, strict=True)):
        raise StudyError(
            f"a plan to explain must have an index below {list(sizes)} for each unit, but got {list(indices)}; "
            "explain a candidate of this study"
        )
    return indices


def _added(problem: Problem, correction: Predictor, plan: tuple[int, ...], seed: int) -> list[_Added]:
    """What each choice of each unit would add to `plan`."""
    flips = [(*plan[:i], j, *plan[i + 1 :]) for i, n in enumerate(problem.n_choices) for j in range(n)]
    plans = np.array([plan, *flips], np.int64)
    latencies, sizes = problem.latencies(plans), problem.sizes(plans)
    ends = np.cumsum(problem.n_choices)[:-1]
    costs = (np.split(values[1:] - values[0], ends) for values in (latencies, sizes))
    means = _added_drops(problem, [table[None] for table in correction.tables()], plan)
    draws = _added_drops(problem, correction.draw_tables(N_DRAWS, np.random.default_rng(seed)), plan)
    return [_Added(mean[0], *rest) for mean, *rest in zip(means, draws, *costs, strict=True)]


def _added_drops(problem: Problem, tables: Sequence[Floats], plan: tuple[int, ...]) -> list[Floats]:
    """Drop that each choice adds to `plan` under damage tables of shape (n, choices); the same shapes."""
    own = [table[:, [choice]] for table, choice in zip(tables, plan, strict=True)]
    total = sum_of(own)
    base = problem.drop_of(total)
    return [problem.drop_of(total - mine + table) - base for mine, table in zip(own, tables, strict=True)]


def _units(
    problem: Problem, added: Sequence[_Added], plan: tuple[int, ...], baseline: tuple[float, float]
) -> tuple[UnitExplanation, ...]:
    return tuple(
        UnitExplanation(
            unit=unit.name,
            chosen=_back(_change(unit.choices[0], what, 0, baseline), unit.choices[choice]),
            cheaper=_optional(unit, what, _cheaper(what.drop, what.latency, what.size), baseline),
            gentler=_optional(unit, what, _gentler(what.drop, what.latency), baseline),
        )
        for unit, what, choice in zip(problem.units, added, plan, strict=True)
    )


def _optional(unit: Unit, added: _Added, choice: int | None, baseline: tuple[float, float]) -> Change | None:
    return None if choice is None else _change(unit.choices[choice], added, choice, baseline)


def _change(name: str, added: _Added, choice: int, baseline: tuple[float, float]) -> Change:
    """From the chosen plan to `choice`."""
    low, high = np.quantile(added.drop_draws[:, choice], (0.05, 0.95))
    return Change(
        choice=name,
        accuracy_drop=Interval(value=float(added.drop[choice]), low=float(low), high=float(high)),
        latency_ms=float(added.latency[choice]) * baseline[0],
        size_bytes=float(added.size[choice]) * baseline[1],
    )


def _back(change: Change, name: str) -> Change:
    """The change the other way round, to the choice `name`."""
    drop = change.accuracy_drop
    return Change(
        choice=name,
        accuracy_drop=Interval(value=0.0 - drop.value, low=0.0 - drop.high, high=0.0 - drop.low),
        latency_ms=0.0 - change.latency_ms,
        size_bytes=0.0 - change.size_bytes,
    )


def _cheaper(drop: Floats, latency: Floats, size: Floats) -> int | None:
    """The faster choice of least drop; where none is faster, the smaller one that is not slower; None without either.

    Of equal ones the one that saves more.
    """
    for saved, allowed in ((latency, np.ones(len(latency), bool)), (size, latency < SMALLEST_SHARE)):
        found = np.flatnonzero((saved < -SMALLEST_SHARE) & allowed)
        if found.size:
            return int(min(found, key=lambda j: (drop[j], saved[j], j)))
    return None


def _gentler(drop: Floats, latency: Floats) -> int | None:
    """The choice of less drop that takes the least time, of equal ones the one of least drop; None without one."""
    found = np.flatnonzero(drop < -SMALLEST_DROP)
    return int(min(found, key=lambda j: (latency[j], drop[j], j))) if found.size else None


def _forecasts(problem: Problem, correction: Predictor, rows: Sequence[Measured]) -> tuple[Forecast, ...]:
    if not rows:
        return ()
    learned = correction.left_out()
    if len(learned) != len(rows):
        raise StudyError(f"the correction must have observed the {len(rows)} measured plans, but it has {len(learned)}")
    plans = np.array([row.plan for row in rows], np.int64)
    table = problem.drop_of(problem.damages(plans) @ problem.recovery)
    predicted = (table, learned, problem.latencies(plans), problem.sizes(plans))
    return tuple(_forecast(row, *map(float, values)) for row, *values in zip(rows, *predicted, strict=True))


def _forecast(row: Measured, table_drop: float, learned_drop: float, latency: float, size: float) -> Forecast:
    return Forecast(
        digest=row.digest,
        table_drop=table_drop,
        learned_drop=learned_drop,
        drop=row.drop,
        predicted_latency=latency,
        latency=row.latency,
        predicted_size=size,
        size=row.size,
    )


def _trust(forecasts: Sequence[Forecast]) -> Trust:
    drops = [f.drop for f in forecasts]
    return Trust(
        table_drop=_agreement([f.table_drop for f in forecasts], drops),
        learned_drop=_agreement([f.learned_drop for f in forecasts], drops),
        latency=_agreement([f.predicted_latency for f in forecasts], [f.latency for f in forecasts]),
        size=_agreement([f.predicted_size for f in forecasts], [f.size for f in forecasts]),
    )


def _agreement(predicted: Sequence[float], measured: Sequence[float]) -> Agreement:
    """Spearman's rank correlation with ties at their mean rank, and the mean absolute difference."""
    error = float(np.mean(np.abs(np.subtract(predicted, measured))))
    can_rank = len(predicted) >= MIN_RANKED and len(set(predicted)) > 1 and len(set(measured)) > 1
    ranks = [pd.Series(values).rank() for values in (predicted, measured)]
    rank = float(np.clip(ranks[0].corr(ranks[1]), -1.0, 1.0)) if can_rank else None
    return Agreement(rank_correlation=rank, mean_error=error)
