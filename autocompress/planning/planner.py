"""The plan of least damage for given prices of latency and size, exactly.

Minimizes ``sum of the units' damages + latency weight * latency + size weight * size``, where latency and size are sums
over small groups of units: a factor graph (`factor_graph`). Units are eliminated one after the other (min-sum bucket
elimination, Dechter 1999, section 4; the Viterbi algorithm where the graph is a chain), for many prices and many tables
of damage at once. Where the graph is so dense that the tables would be too large, the plan comes from a descent, in
which large blocks of units are planned exactly given all others, in turn; it is then only locally best.

Inside, the batch is the last axis of every array, so that each step is one pass over neighbouring numbers.
"""

from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np

from autocompress.errors import StudyError
from autocompress.planning.factor_graph import Block, Factor, FactorGraph, Scope, graph_of
from autocompress.planning.problem import Floats, Plans, Problem

MOST_ENTRIES = 400_000  # of all tables of an elimination together: about 0.3 s for a batch of 120 on one slow core
_NUMBERS_AT_ONCE = 1 << 19  # of the largest table, with the batch: 4 MB
_MESSAGES_AT_ONCE = 1 << 23  # of all tables, with the batch: 64 MB
_MOST_SWEEPS = 100  # of a descent, which takes 3 to 10
_ROUNDING = 1e-12  # a smaller share of a plan's cost is no gain, so that a descent ends
_UNIFORM = (0.0, 0.5, 1.0)  # starts of a descent with the same choice everywhere, from the gentlest to the hardest
_N_STARTS = 2 + len(_UNIFORM)


def cheapest(
    problem: Problem,
    tables: Sequence[Floats],
    latency_weights: Floats,
    size_weights: Floats,
    *,
    most_entries: int = MOST_ENTRIES,
) -> Plans:
    """For each row of the batch the plan that minimizes damage + weighted latency + weighted size.

    Args:
        problem: Units and costs. What is worked out of them is kept as long as the problem lives, so its arrays must
            not be changed.
        tables: Damage of each unit's choices, one array of shape (batch, choices) a unit; an entry may be infinite,
            which forbids the choice where another is possible.
        latency_weights: Damage that the baseline's latency is worth, shape (batch,), finite.
        size_weights: Damage that the baseline's size is worth, shape (batch,), finite.
        most_entries: Most entries of all tables of the elimination together, for one row of the batch.

    Returns:
        Plans, shape (batch, units). They are exact or, where the tables would have more than `most_entries`, such that
        no change of one unit alone makes a plan cheaper. The same input gives the same plans, also among ties.

    Raises:
        StudyError: Shapes don't fit the problem, a damage is not a number, or a weight is not finite.
    """
    weights = np.stack([latency_weights, size_weights]).astype(np.float64)
    _check(problem, tables, weights)
    graph = graph_of(problem, (bool(weights[0].any()), bool(weights[1].any())), most_entries)
    plans = np.empty((weights.shape[1], len(problem.units)), np.int64)
    step = _rows_at_once(graph)
    for start in range(0, len(plans), step):
        rows = slice(start, start + step)
        plans[rows] = _plans(graph, [table[rows].T for table in tables], weights[:, rows]).T
    return plans


def _check(problem: Problem, tables: Sequence[Floats], weights: Floats) -> None:
    n = weights.shape[1]
    shapes = [(n, n_choices) for n_choices in problem.n_choices]
    if [table.shape for table in tables] != shapes:
        raise StudyError("damages must be one table of (batch, choices) a unit, but the shapes differ from that")
    if any(np.isnan(table).any() for table in tables) or not np.isfinite(weights).all():
        raise StudyError("damages must be numbers and weights finite to plan with them, but some are not")


def _rows_at_once(graph: FactorGraph) -> int:
    """Rows of the batch whose arrays stay below some 200 MB."""
    largest = max(max(block.n_entries) for block in graph.blocks)
    total = max(sum(block.n_entries) for block in graph.blocks) + sum(map(len, graph.class_of))
    rows = min(_NUMBERS_AT_ONCE // largest, _MESSAGES_AT_ONCE // total)
    return max(1, rows if len(graph.blocks) == 1 else rows // _N_STARTS)


def _plans(graph: FactorGraph, damages: Sequence[Floats], weights: Floats) -> Plans:
    """The plans, shape (units, batch), for damages of shape (choices, batch) and weights of shape (2, batch)."""
    own = [damage + _price(costs, weights) for damage, costs in zip(damages, graph.own, strict=True)]
    best = [_best_of_classes(costs, class_of) for costs, class_of in zip(own, graph.class_of, strict=True)]
    if len(graph.blocks) == 1:
        nothing = np.zeros((len(own), weights.shape[1]), np.int64)
        classes = _eliminate(graph, graph.blocks[0], best, weights, nothing)
    else:
        classes = _descend(graph, best, weights)
    taken = [class_of[:, None] == chosen for class_of, chosen in zip(graph.class_of, classes, strict=True)]
    return np.stack([np.where(t, costs, np.inf).argmin(axis=0) for t, costs in zip(taken, own, strict=True)])


def _price(values: Floats, weights: Floats) -> Floats:
    """Weighted sum of latency and size; values of shape (..., 2) become (..., batch).

    By elements rather than as a product of matrices, so that a row's rounding does not depend on the other rows.
    """
    cost: Floats = values[..., :1] * weights[0]
    if values[..., 1:].any():  # few costs have a size of their own, and each pass takes time
        cost += values[..., 1:] * weights[1]
    return cost


def _best_of_classes(costs: Floats, class_of: Plans) -> Floats:
    """Least cost in each class; costs of shape (choices, batch) become (classes, batch)."""
    by_class = np.argsort(class_of, kind="stable")
    starts = np.flatnonzero(np.diff(class_of[by_class], prepend=-1))
    best: Floats = np.minimum.reduceat(costs[by_class], starts, axis=0)
    return best


def _eliminate(graph: FactorGraph, block: Block, own: Sequence[Floats], weights: Floats, classes: Plans) -> Plans:
    """Classes with those of `block` replaced by the best, the others fixed: eliminate forwards, look up backwards.

    Args:
        graph: Costs of classes together.
        block: Units to plan.
        own: Cost of each unit's classes by themselves, shape (classes, batch).
        weights: Shape (2, batch).
        classes: Class of each unit, shape (units, batch); those of the block are not read.

    Returns:
        Shape (units, batch).
    """
    rank = {unit: i for i, unit in enumerate(block.order)}
    buckets: dict[int, list[tuple[Scope, Floats]]] = {unit: [((unit,), own[unit])] for unit in block.order}
    factors: dict[int, list[Factor]] = {unit: [] for unit in block.order}
    for factor in graph.factors:
        if free := [unit for unit in factor.scope if unit in rank]:
            factors[min(free, key=rank.__getitem__)].append(factor)
    for unit, bucket in buckets.items():
        parts = [(tuple(sorted((u for u in f.scope if u in rank), key=rank.__getitem__)), f) for f in factors[unit]]
        terms = [(free, _priced(f, free, classes, weights)) for free, f in parts]
        scope, best = _minimum(bucket + terms, rank)
        if scope:
            buckets[scope[0]].append((scope, best))
    classes = classes.copy()
    for unit in reversed(block.order):
        at_choice = [_at(values, scope, classes) for scope, values in buckets[unit]]
        at_choice += [_priced(f, (unit,), classes, weights) for f in factors[unit]]
        classes[unit] = reduce(np.add, at_choice).argmin(axis=0)
    return classes


def _minimum(terms: Sequence[tuple[Scope, Floats]], rank: Mapping[int, int]) -> tuple[Scope, Floats]:
    """Sum of the terms, minimized over the first unit, with the units that are left.

    Args:
        terms: Scope, and costs of shape (classes of its units, batch); all scopes begin with the same unit.
        rank: Where a unit comes in the elimination; every scope rises in it.
    """
    scope = tuple(sorted(set().union(*(s for s, _ in terms)), key=rank.__getitem__))
    aligned = []
    for known, values in terms:
        lengths = dict(zip(known, values.shape, strict=False))
        aligned.append(values.reshape(*(lengths.get(unit, 1) for unit in scope), values.shape[-1]))
    total = reduce(np.add, sorted(aligned, key=lambda values: values.size))
    return scope[1:], total.min(axis=0)


def _at(values: Floats, scope: Scope, classes: Plans) -> Floats:
    """Costs of the first unit's classes where the others are as chosen, shape (classes, batch)."""
    chosen: Floats = values[(slice(None), *(classes[unit] for unit in scope[1:]), np.arange(values.shape[-1]))]
    return chosen


def _priced(factor: Factor, free: Scope, classes: Plans, weights: Floats) -> Floats:
    """Weighted cost where all units but those of `free` are as chosen, shape (classes of free units, batch)."""
    fixed = [unit for unit in factor.scope if unit not in free]
    values = factor.values.transpose(*(factor.scope.index(unit) for unit in (*free, *fixed)), len(factor.scope))
    if not fixed:
        return _price(np.ascontiguousarray(values), weights)
    chosen = values[(..., *(classes[unit] for unit in fixed), slice(None))]
    cost: Floats = chosen[..., 0] * weights[0] + chosen[..., 1] * weights[1]
    return cost


def _descend(graph: FactorGraph, own: Sequence[Floats], weights: Floats) -> Plans:
    """Class of each unit, shape (units, batch): each block in turn until nothing gets cheaper.

    The first sweep begins at several starts; of these the best goes on.
    """
    n, starts = weights.shape[1], _starts(graph, own, weights)
    many = [np.tile(costs, len(starts)) for costs in own]
    classes, totals = _sweep(graph, many, np.tile(weights, len(starts)), np.concatenate(starts, axis=1))
    best = totals.reshape(-1, n).argmin(axis=0) * n + np.arange(n)
    classes, totals = classes[:, best], totals[best]
    for _ in range(_MOST_SWEEPS):
        before = totals
        classes, totals = _sweep(graph, own, weights, classes)
        if (totals == before).all():
            break
    return classes


def _sweep(graph: FactorGraph, own: Sequence[Floats], weights: Floats, classes: Plans) -> tuple[Plans, Floats]:
    """Each block once, given all others; the classes and what they cost, shape (batch,)."""
    totals = _totals(graph, own, weights, classes)
    for block in graph.blocks:
        changed = _eliminate(graph, block, own, weights, classes)
        found = _totals(graph, own, weights, changed)
        better = found + _ROUNDING * np.abs(found) < totals
        classes, totals = np.where(better, changed, classes), np.where(better, found, totals)
    return classes, totals


def _starts(graph: FactorGraph, own: Sequence[Floats], weights: Floats) -> list[Plans]:
    """Where a descent begins: best alone, best with the mean of what others add, and the same choice everywhere."""
    mean = list(own)
    for factor in graph.factors:
        for axis, unit in enumerate(factor.scope):
            others = tuple(a for a in range(len(factor.scope)) if a != axis)
            mean[unit] = mean[unit] + _price(factor.values.mean(axis=others), weights)
    best = [np.stack([costs.argmin(axis=0) for costs in tables]) for tables in (own, mean)]
    uniform = [np.array([c[round(share * (len(c) - 1))] for c in graph.class_of]) for share in _UNIFORM]
    return best + [np.repeat(start[:, None], weights.shape[1], axis=1) for start in uniform]


def _totals(graph: FactorGraph, own: Sequence[Floats], weights: Floats, classes: Plans) -> Floats:
    """Cost of each plan of classes, shape (batch,)."""
    rows = np.arange(classes.shape[1])
    parts = [costs[classes[unit], rows] for unit, costs in enumerate(own)]
    at_choice = [f.values[tuple(classes[unit] for unit in f.scope)].T for f in graph.factors]
    parts += [latency_and_size[0] * weights[0] + latency_and_size[1] * weights[1] for latency_and_size in at_choice]
    return reduce(np.add, parts)
