"""From isolated measurements to what each choice does to the accuracy: linked, filled up and made monotone."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from autocompress.search.plan_unit import PlanUnit

Floats = npt.NDArray[np.float64]

USUAL_SLOPE = 0.6  # drop for one nat of divergence before training (facts: search.md 2.2: .49 to .69)
_PER_ENERGY = 1.5  # damage of a unit of noise to signal, in largest drops, where nothing was measured
_LINK_ERROR = 0.35  # relative; how far drops are from the line as a rule
_MOST = 5.0  # largest drops that the damage of one choice is cut at
_LEAST_RATIO, _MOST_RATIO = 1e-3, 1e3  # of measured to expected damage
_FEWEST = 5  # entries that a slope is fitted to
_LEAST_DIVERGENCE = 1e-9  # less is rounding, and says nothing of the slope


class Isolated(Protocol):
    """What one choice alone does to the FP32 model: see `damage.Damage`."""

    @property
    def divergence(self) -> float:
        """From the FP32 model's outputs, >= 0."""

    @property
    def drop(self) -> float:
        """Of the score, absolute."""

    @property
    def drop_error(self) -> float:
        """Standard error of the drop, >= 0."""


def damage_tables(
    units: Sequence[PlanUnit], measured: Mapping[str, Isolated], kinds: Sequence[str], largest_drop: float
) -> list[Floats]:
    """Damage of each unit's choices by kind, in drops before they saturate.

    A measured choice has `linked_damage`. Damage of others in proportion to their noise to signal: by the ratio of
    measured to expected damage, interpolated between the unit's measured choices over the logarithm of the expected
    one; in a unit without any, by the median ratio of the kind over other units, else of all kinds, else 1. A choice
    does at least the damage of every choice that is gentler along all knobs. What a choice does is divided among its
    kinds as expected.

    Args:
        units: Of the plan.
        measured: By digest of the recipe that changes only that; entries that are not finite count as missing.
        kinds: Names of the columns.
        largest_drop: Drop of a model that only guesses, > 0.

    Returns:
        One array a unit, shape (choices, kinds), >= 0.
    """
    finite = {d: e for d, e in measured.items() if math.isfinite(e.divergence + e.drop + e.drop_error)}
    slope = drop_per_divergence(list(finite.values()), largest_drop)
    found = [_known_ratios(unit, finite, slope, largest_drop) for unit in units]
    ratios = _ratios_of_kinds(units, found, largest_drop)
    return [_of_unit(unit, known, ratios, kinds, largest_drop) for unit, known in zip(units, found, strict=True)]


def unsaturated(drop: float, largest_drop: float) -> float:
    """The damage that has a drop: the inverse of `Problem.drop_of`, drops below 0 as they are."""
    share = min(drop / largest_drop, 0.99)
    return -largest_drop * math.log1p(-share) if share > 0 else drop


def drop_per_divergence(entries: Iterable[Isolated], largest_drop: float) -> float:
    """Slope of damage over divergence, from drops and divergences of the same choices.

    The line through the origin with the least sum of absolute errors, which is the weighted median of the ratios; each
    error is in units of its standard deviation, that of the drop and a share of the line itself.

    Args:
        entries: Measured choices.
        largest_drop: Drop of a model that only guesses, > 0.

    Returns:
        The slope, > 0; `USUAL_SLOPE` where entries are fewer than 5, or say too little.
    """
    used = [entry for entry in entries if entry.divergence > _LEAST_DIVERGENCE]
    if len(used) < _FEWEST:
        return USUAL_SLOPE
    x = np.array([entry.divergence for entry in used])
    y = np.array([unsaturated(entry.drop, largest_drop) for entry in used])
    errors = np.array([_error(entry, largest_drop) for entry in used])
    slope = USUAL_SLOPE
    for _ in range(3):  # the errors depend on the slope
        weights = x / np.hypot(errors, _LINK_ERROR * slope * x)
        slope = max(_weighted_median(y / x, weights), 1e-3)
    standard_error = 1 / float(np.sqrt((weights**2).sum()))
    return slope if standard_error < USUAL_SLOPE / 2 and slope > standard_error else USUAL_SLOPE


def _error(entry: Isolated, largest_drop: float) -> float:
    """Standard error of the unsaturated drop: that of the drop times the slope of `unsaturated` there."""
    return max(entry.drop_error, 1e-6) / (1 - min(max(entry.drop / largest_drop, 0.0), 0.99))


def _weighted_median(values: Floats, weights: Floats) -> float:
    order = values.argsort()
    shares = weights[order].cumsum() / weights.sum()
    return float(values[order][np.searchsorted(shares, 0.5)])


def linked_damage(entry: Isolated, slope: float, largest_drop: float) -> float:
    """Damage of one choice, >= 0: slope times divergence and the drop itself, each by how sure it is.

    The mean with weights of one over the squared errors; the line is off by a third of itself, the drop by its
    standard error. So a drop lost in noise has no say in small damages.

    Args:
        entry: What was measured.
        slope: Of `drop_per_divergence`.
        largest_drop: Drop of a model that only guesses, > 0.
    """
    by_line = slope * max(entry.divergence, 0.0)
    precisions = [1 / error**2 for error in (max(_LINK_ERROR * by_line, 1e-6), _error(entry, largest_drop))]
    values = by_line, unsaturated(entry.drop, largest_drop)
    mean = sum(value * weight for value, weight in zip(values, precisions, strict=True)) / sum(precisions)
    return min(max(mean, 0.0), _MOST * largest_drop)


def _known_ratios(
    unit: PlanUnit, measured: Mapping[str, Isolated], slope: float, largest_drop: float
) -> dict[int, float]:
    """Ratio of measured to expected damage by choice, of those that were measured and do any."""
    ratios = {}
    for index, option in enumerate(unit.options):
        if option.energy > 0 and option.digest in measured:
            damage = linked_damage(measured[option.digest], slope, largest_drop)
            ratio = damage / (_PER_ENERGY * largest_drop * option.energy)
            ratios[index] = min(max(ratio, _LEAST_RATIO), _MOST_RATIO)
    return ratios


def _ratios_of_kinds(
    units: Sequence[PlanUnit], found: Sequence[Mapping[int, float]], largest_drop: float
) -> dict[str, float]:
    """Median ratio by kind over all measured choices that have it, and that of all under ``""``."""
    lists: dict[str, list[float]] = {"": []}
    for unit, ratios in zip(units, found, strict=True):
        for index, ratio in ratios.items():
            for kind in ("", *unit.options[index].energies):
                lists.setdefault(kind, []).append(ratio)
    return {kind: float(np.median(values)) if values else 1.0 for kind, values in lists.items()}


def _of_unit(
    unit: PlanUnit, known: Mapping[int, float], ratios: Mapping[str, float], kinds: Sequence[str], largest_drop: float
) -> Floats:
    parts = np.array([[option.energies.get(kind, 0.0) for kind in kinds] for option in unit.options])
    parts = _PER_ENERGY * largest_drop * parts
    expected = parts.sum(axis=1)
    if known:
        parts = parts * _interpolated(expected, known)[:, None]
    else:
        parts = parts * np.array([ratios.get(kind, ratios[""]) for kind in kinds])
    totals = np.minimum(parts.sum(axis=1), _MOST * largest_drop)
    totals = np.where(unit.is_gentler, totals[:, None], 0.0).max(axis=0)
    shares = parts / np.maximum(parts.sum(axis=1, keepdims=True), 1e-300)
    damages: Floats = shares * totals[:, None]
    return damages


def _interpolated(expected: Floats, known: Mapping[int, float]) -> Floats:
    """Ratio of each choice, shape (choices,): geometric between known ones, constant beyond them."""
    order = sorted(known, key=lambda index: expected[index])
    at = np.log(expected[order])
    logs = np.interp(np.log(np.maximum(expected, 1e-300)), at, np.log([known[index] for index in order]))
    logs[list(known)] = np.log(list(known.values()))
    ratios: Floats = np.exp(logs)
    return ratios
