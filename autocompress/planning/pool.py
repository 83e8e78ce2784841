"""Plans worth ranking: exact ones under sampled tables and weights, and small changes of good ones."""

from collections.abc import Collection, Iterator, Sequence
from itertools import islice, product

import numpy as np

from autocompress.planning.planner import cheapest
from autocompress.planning.problem import Floats, Plans, Problem

SLOWEST_WEIGHT, FASTEST_WEIGHT = 0.01, 30.0  # damage paid for the whole latency or size, per drop of the reference


def weight_pairs(problem: Problem, n: int, reach: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Weights of latency and of size, log-uniform, each shape (n,).

    Every fourth pair leaves one of the two out, and so do all where it is no objective.

    Args:
        problem: Names the objectives.
        n: Pairs.
        reach: The drop of the reference point, > 0.
        rng: Chance.
    """
    low, high = float(np.log(SLOWEST_WEIGHT * reach)), float(np.log(FASTEST_WEIGHT * reach))
    latency, size = np.exp(rng.uniform(low, high, (2, n)))
    alone = rng.integers(8, size=n)
    latency[alone == 0], size[alone == 1] = 0.0, 0.0
    if "latency" not in problem.objectives:
        latency[:] = 0.0
    if "size_bytes" not in problem.objectives:
        size[:] = 0.0
    return latency, size


def planned(problem: Problem, tables: Sequence[Floats], n: int, reach: float, rng: np.random.Generator) -> Plans:
    """The best plans under drawn tables, at `n` pairs of weights a draw.

    Args:
        problem: What is planned.
        tables: One table of shape (draws, choices) a unit.
        n: Pairs of weights for each draw.
        reach: See `weight_pairs`.
        rng: Chance.

    Returns:
        Shape (draws * n, units), with repetitions.
    """
    latency, size = weight_pairs(problem, n * len(tables[0]), reach, rng)
    return cheapest(problem, [np.repeat(table, n, axis=0) for table in tables], latency, size)


def mutants(problem: Problem, parents: Plans, n: int, rng: np.random.Generator) -> Plans:
    """Random parents with one to three units changed, few more often than many (EvoPress, Sieberling et al. 2025).

    Args:
        problem: Says how many choices there are.
        parents: Shape (at least 1, units).
        n: How many.
        rng: Chance.

    Returns:
        Shape (n, units); some may equal a parent.
    """
    n_choices = np.array(problem.n_choices)
    children = parents[rng.integers(len(parents), size=n)]
    flips = np.minimum(*rng.integers(1, 4, (2, n)))
    for flip in range(3):
        rows = np.flatnonzero(flips > flip)
        units = rng.integers(len(n_choices), size=len(rows))
        children[rows, units] = rng.integers(n_choices[units])
    return children


def random_plans(problem: Problem, n: int, rng: np.random.Generator) -> Plans:
    """Plans with every choice drawn alike, shape (n, units)."""
    return rng.integers(np.array(problem.n_choices), size=(n, len(problem.units)))


def untaken(plans: Plans, taken: Collection[tuple[int, ...]]) -> Plans:
    """`plans` without repetitions and without those in `taken`, in their order."""
    seen, kept = set(taken), []
    for i, plan in enumerate(map(tuple, plans.tolist())):
        if plan not in seen:
            seen.add(plan)
            kept.append(i)
    return plans[kept]


def all_plans(problem: Problem, taken: Collection[tuple[int, ...]], n: int) -> Plans:
    """The first `n` plans not in `taken`, in the order of counting; shape (at most n, units)."""
    every: Iterator[tuple[int, ...]] = product(*(range(n_choices) for n_choices in problem.n_choices))
    first = list(islice((plan for plan in every if plan not in taken), n))
    return np.array(first, np.int64).reshape(len(first), len(problem.units))
