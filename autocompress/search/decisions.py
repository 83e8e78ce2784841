"""What every choice of every unit does alone, and what the decisions of each candidate gain and cost."""

from collections.abc import Sequence

import numpy as np

from autocompress.explanation import ChoiceEffect, Decisions, NetLayer, UnitSensitivity
from autocompress.graph import Layer, ModelGraph
from autocompress.planning.problem import Floats, Problem

_DIGITS = 4  # significant ones that the record keeps: predictions are no better

Baseline = tuple[float, float]  # latency in milliseconds, size in bytes


def net_layers(graph: ModelGraph) -> tuple[NetLayer, ...]:
    """Every layer of a model with the channel group that its filters belong to, in the order of the model."""
    group_of = {name: group.name for group in graph.prunable for name in group.layers}
    return tuple(
        NetLayer(name=layer.name, kind=layer.kind, n_filters=_n_filters(layer), group=group_of.get(layer.name, ""))
        for layer in graph.layers
    )


def sensitivity_of(problem: Problem, tables: Sequence[Floats], baseline: Baseline) -> tuple[UnitSensitivity, ...]:
    """What each choice of each unit does where all others keep their gentlest choice.

    Args:
        problem: What the search knew of the model.
        tables: Expected damage of each choice after all that was measured, one table of shape (choices,) a unit.
        baseline: Latency in milliseconds and size in bytes of the FP32 model.
    """
    flips = [(i, j) for i, n in enumerate(problem.n_choices) for j in range(n)]
    plans = np.zeros((len(flips) + 1, len(problem.units)), np.int64)
    for row, (unit, choice) in enumerate(flips, start=1):
        plans[row, unit] = choice
    latencies = baseline[0] * (problem.latencies(plans)[1:] - problem.latencies(plans[:1]))
    sizes = baseline[1] * (problem.sizes(plans)[1:] - problem.sizes(plans[:1]))
    table = problem.drop_of(np.concatenate([unit.damage @ problem.recovery for unit in problem.units]))
    learned = problem.drop_of(np.concatenate(tables))
    columns = [_rounded(values) for values in (table, learned, latencies, sizes)]
    effects: list[list[ChoiceEffect]] = [[] for _ in problem.units]
    for (unit, choice), *values in zip(flips, *columns, strict=True):
        effects[unit].append(_effect(problem.units[unit].choices[choice], values))
    return tuple(UnitSensitivity(unit=u.name, choices=tuple(e)) for u, e in zip(problem.units, effects, strict=True))


def decisions_of(
    problem: Problem, tables: Sequence[Floats], plans: Sequence[tuple[str, Sequence[int]]], baseline: Baseline
) -> tuple[Decisions, ...]:
    """What each decision of each plan adds over the gentlest choice of its unit, all others as in the plan.

    Args:
        problem: What the search knew of the model.
        tables: As in `sensitivity_of`.
        plans: Digest and an index for each unit.
        baseline: As in `sensitivity_of`.
    """
    return tuple(_decisions(problem, tables, digest, tuple(plan), baseline) for digest, plan in plans)


def _decisions(
    problem: Problem, tables: Sequence[Floats], digest: str, plan: tuple[int, ...], baseline: Baseline
) -> Decisions:
    gentler = np.tile(np.array(plan, np.int64), (len(plan) + 1, 1))
    gentler[np.arange(1, len(plan) + 1), np.arange(len(plan))] = 0
    own = np.array([table[choice] for table, choice in zip(tables, plan, strict=True)])
    gentlest = np.array([table[0] for table in tables])
    drops = problem.drop_of(own.sum()) - problem.drop_of(own.sum() - own + gentlest)
    latencies, sizes = problem.latencies(gentler), problem.sizes(gentler)
    return Decisions(
        digest=digest,
        choices=plan,
        accuracy_drops=tuple(_rounded(drops)),
        latencies_ms=tuple(_rounded(baseline[0] * (latencies[0] - latencies[1:]))),
        sizes_bytes=tuple(_rounded(baseline[1] * (sizes[0] - sizes[1:]))),
    )


def _effect(choice: str, values: Sequence[float]) -> ChoiceEffect:
    table, learned, latency, size = values
    return ChoiceEffect(choice=choice, table_drop=table, learned_drop=learned, latency_ms=latency, size_bytes=size)


def _n_filters(layer: Layer) -> int:
    """Outputs of a layer; transposed convolutions have them on the second axis of the weight."""
    axis = 1 if "Transpose" in layer.kind else 0
    return layer.weight_shape[axis] if len(layer.weight_shape) > axis else 0


def _rounded(values: Floats) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") + 0.0 for value in values.tolist()]
