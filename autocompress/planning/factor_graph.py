"""The factor graph of a problem's costs, made as small as it gets without a change of any plan's cost.

An axis of a cost that makes no difference is dropped, and choices of a unit that cost the same together with every
choice of other units form one *class*: only the cheapest choice of a class can be in the best plan. So 36 choices of
which a neighbour only sees the data type are two classes. Then the order in which units are eliminated is chosen.
"""

import weakref
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from math import inf, prod

import numpy as np

from autocompress.planning.problem import Floats, Plans, Problem

Scope = tuple[int, ...]

_BLOCK_SHARE = 0.3  # of the entries that one elimination may have, for each of the many that a descent does


@dataclass(frozen=True)
class Factor:
    """What a few units cost together.

    Attributes:
        scope: Its units, rising, at least two.
        values: Latency and size by class, shape (classes of the first, of the second, ..., 2).
    """

    scope: Scope
    values: Floats


@dataclass(frozen=True)
class Block:
    """Units that can be planned exactly together where all others are fixed.

    Attributes:
        order: The units in the order of their elimination.
        n_entries: Entries of the table that eliminates each, for one row of a batch.
    """

    order: tuple[int, ...]
    n_entries: tuple[int, ...]


@dataclass(frozen=True)
class FactorGraph:
    """Costs by classes of choices.

    Attributes:
        class_of: Class of each choice, by unit; shape (choices,), all of 0 to classes - 1.
        own: Latency and size of each choice by itself, by unit; shape (choices, 2).
        factors: What units cost together; no two of the same scope.
        blocks: One with all units, or, where its tables would be too large, several that overlap; each unit is in one
            of them.
    """

    class_of: tuple[Plans, ...]
    own: tuple[Floats, ...]
    factors: tuple[Factor, ...]
    blocks: tuple[Block, ...]


_KEPT: dict[tuple[int, bool, bool, int], FactorGraph] = {}  # by identity of a living problem


def graph_of(problem: Problem, counts: tuple[bool, bool], most_entries: int) -> FactorGraph:
    """The factor graph of `problem`, worked out once as long as the problem lives.

    Args:
        problem: Its arrays must not be changed later.
        counts: Whether latency and whether size have a price; what has none is not in the graph.
        most_entries: Most entries of all tables of an elimination together, for one row of a batch.
    """
    key = (id(problem), *counts, most_entries)
    if key not in _KEPT:
        _KEPT[key] = _build(problem, counts, most_entries)
        weakref.finalize(problem, _KEPT.pop, key, None)
    return _KEPT[key]


def _build(problem: Problem, counts: tuple[bool, bool], most_entries: int) -> FactorGraph:
    own = [np.zeros((n, 2)) for n in problem.n_choices]
    joint = _joint_costs(problem, counts, own)
    class_of = [_classes(unit, n, joint) for unit, n in enumerate(problem.n_choices)]
    firsts = [np.unique(classes, return_index=True)[1] for classes in class_of]
    factors = tuple(Factor(s, values[np.ix_(*(firsts[unit] for unit in s))]) for s, values in joint.items())
    blocks = _blocks(tuple(map(len, firsts)), list(joint), most_entries)
    return FactorGraph(tuple(class_of), tuple(own), factors, blocks)


def _joint_costs(problem: Problem, counts: tuple[bool, bool], own: list[Floats]) -> dict[Scope, Floats]:
    """Costs of at least two units by their units, in rising order; those of one unit are added to `own`."""
    joint: dict[Scope, Floats] = {}
    for cost in problem.costs:
        axes = sorted(range(len(cost.units)), key=lambda axis: cost.units[axis])
        values = np.stack([cost.latency, cost.size], axis=-1) * np.array(counts) + 0.0  # no -0.0
        scope, values = _needed(tuple(sorted(cost.units)), values.transpose(*axes, len(axes)))
        if len(scope) == 1:
            own[scope[0]] += values
        elif scope:
            joint[scope] = joint[scope] + values if scope in joint else values
    return joint


def _needed(scope: Scope, values: Floats) -> tuple[Scope, Floats]:
    """The cost without the axes along which it does not change."""
    for axis in reversed(range(len(scope))):
        first = values.take([0], axis)
        if (values == first).all():
            scope, values = scope[:axis] + scope[axis + 1 :], first.squeeze(axis)
    return scope, values


def _classes(unit: int, n_choices: int, joint: Mapping[Scope, Floats]) -> Plans:
    """Class of each choice of `unit`: the same where all its joint costs are; numbered by first appearance."""
    parts = [np.moveaxis(v, s.index(unit), 0).reshape(n_choices, -1) for s, v in joint.items() if unit in s]
    if not parts:
        return np.zeros(n_choices, np.int64)
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(row.tobytes(), len(seen)) for row in np.concatenate(parts, axis=1)], np.int64)


def _blocks(n_classes: tuple[int, ...], scopes: list[Scope], most_entries: int) -> tuple[Block, ...]:
    """One block by the better of two greedy rules, or several smaller ones.

    Min-weight takes the unit whose table is smallest, min-fill the one that connects the fewest pairs of units anew
    (Koller and Friedman 2009, section 9.4.3).
    """
    whole = min((_block(n_classes, scopes, by_fill=rule) for rule in (False, True)), key=lambda b: sum(b.n_entries))
    if sum(whole.n_entries) <= most_entries:
        return (whole,)
    most_of_table = _BLOCK_SHARE * most_entries / len(n_classes)
    blocks: list[Block] = []
    covered: set[int] = set()
    while len(covered) < len(n_classes):
        blocks.append(_block(n_classes, scopes, most_of_table=most_of_table, covered=covered))
        covered.update(blocks[-1].order)
    return tuple(blocks)


def _block(
    n_classes: tuple[int, ...],
    scopes: Iterable[Scope],
    *,
    by_fill: bool = False,
    most_of_table: float = inf,
    covered: Collection[int] = (),
) -> Block:
    """A greedy order of elimination; where no table is small enough, the unit of the largest is left out (fixed).

    Units that are `covered` by other blocks are left out first, so at least one other unit gets into the block.
    """
    neighbours: dict[int, set[int]] = {unit: set() for unit in range(len(n_classes))}
    for scope in scopes:
        _connect(neighbours, scope)

    def price(unit: int) -> tuple[int, int, int]:
        around = neighbours[unit]
        fill = sum(b not in neighbours[a] for a, b in combinations(around, 2)) if by_fill else 0
        return fill, prod((n_classes[other] for other in around), start=n_classes[unit]), unit

    prices = {unit: price(unit) for unit in neighbours}
    found: list[tuple[int, int]] = []
    while prices:
        _, entries, unit = min(prices.values())
        fits = entries <= most_of_table or not neighbours[unit]
        if not fits:
            unit = max(prices, key=lambda other: (other in covered, prices[other]))
        del prices[unit]
        around = neighbours.pop(unit)
        for other in around:
            neighbours[other].discard(unit)
        if fits:
            _connect(neighbours, around)
            found.append((unit, entries))
        touched = around.union(*(neighbours[other] for other in around)) if by_fill else around
        prices.update((other, price(other)) for other in touched)
    return Block(tuple(unit for unit, _ in found), tuple(entries for _, entries in found))


def _connect(neighbours: Mapping[int, set[int]], units: Iterable[int]) -> None:
    """Make `units` neighbours of each other."""
    units = set(units)
    for unit in units:
        neighbours[unit] |= units - {unit}
