"""The greedy sampler against the rule that it follows, written out."""

from typing import Any

import numpy as np

from autocompress.search.samplers import make_sampler
from tests.search.plans import MAX_DROP, Layers, World


def greedy_plans(world: World, n: int, **more: Any) -> list[tuple[int, ...]]:
    return world.go(world.started("greedy", **more), n)


def test_greedy_reverts_the_most_damaged_units_until_the_floor_is_met() -> None:
    world = World(Layers(5))
    start = (4,) * 5
    damage = [u.damage[4] @ world.problem.recovery for u in world.problem.units]
    expected = [start]
    for unit in np.argsort(damage)[::-1]:
        if world.drop(expected[-1]) <= MAX_DROP:
            break
        expected.append(tuple(0 if i == unit else c for i, c in enumerate(expected[-1])))
    assert 2 < len(expected) < 6
    assert greedy_plans(world, len(expected), start=start) == expected


def test_greedy_without_a_useful_table_tries_reverts_one_by_one() -> None:
    world = World(Layers(4))
    flat = World(Layers(4))
    for unit in flat.problem.units:
        unit.damage[:] = 0.01
    study = world.study()
    study.sampler = make_sampler("greedy", world.layers, lambda: flat.problem, seed=0, start=(4,) * 4)
    plans = world.go(study, 6, excess=1.0)
    singles = [tuple(0 if i == unit else 4 for i in range(4)) for unit in range(4)]
    assert plans[1:5] == singles
    best = sorted(range(4), key=lambda unit: world.drop(singles[unit]))
    assert plans[5] == tuple(0 if i in best[:2] else 4 for i in range(4))


def test_greedy_walks_on_from_the_last_plan_that_kept_the_accuracy() -> None:
    world = World(Layers(5))
    plans = greedy_plans(world, 12, start=(1,) * 5)
    kept = (1,) * 5
    assert world.drop(kept) <= MAX_DROP
    for plan in plans[1:]:
        assert sum(a != b for a, b in zip(plan, kept, strict=True)) == 1
        kept = plan if world.drop(plan) <= MAX_DROP else kept
    assert kept != (1,) * 5
