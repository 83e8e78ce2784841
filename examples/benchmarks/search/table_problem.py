"""What the planner is told of the small network, from the project's own damage table and cost models, and as JSON."""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.graph import ModelGraph
from autocompress.measure.latency_features import architecture_of
from autocompress.measure.latency_model import LatencyModel
from autocompress.planning.problem import Problem
from autocompress.search.context import EvaluationContext
from autocompress.search.damage import damage_table
from autocompress.search.latency_samples import collect, profile_prior
from autocompress.search.plan_space import PlanSpace, plan_space
from autocompress.search.problem_of import problem_of
from autocompress.search.size_model import SizeModel
from autocompress.space.reading import read_space
from autocompress.task import Task

MAX_DROP, LARGEST_DROP = 0.02, 0.75
LATENCY_SECONDS, DAMAGE_SECONDS = 60.0, 600.0


def space_of(
    graph: ModelGraph, bits: dict[str, tuple[int, ...]], ratios: dict[str, tuple[float, ...]]
) -> tuple[PlanSpace, list[int]]:
    """The space of bits by layer and ratios by channel group, and the places of its units in that order."""
    lines = ["description: the table's", "layers:"]
    lines += [f"  - {{match: {n}, weight_bits: {list(b)}, activation_bits: [8]}}" for n, b in bits.items()]
    lines += ["pruning:", *(f"  - {{match: {n}, pruning_ratio: {list(r)}}}" for n, r in ratios.items())]
    space = plan_space(read_space("\n".join(lines), file="table", name="table").bind(graph), graph)
    names = [unit.name for unit in space.units]
    wanted = [*bits, *(f"filters of {name}" for name in ratios)]
    return space, [names.index(name) for name in wanted]


def measured_problem(
    task: Task, graph: ModelGraph, space: PlanSpace, folder: Path, training_steps: int
) -> tuple[Problem, dict[str, float]]:
    """The problem in the order of the space's units, and the seconds that its parts took.

    Those of damages are of work, those of latencies by the clock.

    Args:
        task: The network.
        graph: Of it.
        space: Its units.
        folder: For samples of latencies.
        training_steps: Steps of a candidate's fine-tuning.
    """
    start = time.process_time()
    context = EvaluationContext(task, graph, folder, n_cores=1)
    damage = damage_table(context, space.isolated, DAMAGE_SECONDS).damages
    seconds = {"damage table": time.process_time() - start}
    start = time.monotonic()
    architecture = architecture_of(task.model, graph, task.example_input)
    latency = LatencyModel(architecture, profile_prior(task, graph, architecture, 1))
    latency.fit(collect(task, graph, folder / "latency", LATENCY_SECONDS))
    seconds["latency model"] = time.monotonic() - start
    problem = problem_of(
        space,
        damage,
        latency,
        SizeModel.measure(task, graph),
        max_drop=MAX_DROP,
        largest_drop=LARGEST_DROP,
        training_steps=training_steps,
    )
    return problem, seconds


def reordered(problem: Problem, order: list[int]) -> Problem:
    """The same problem with its units in another order: `order` holds their present indices."""
    place = {unit: index for index, unit in enumerate(order)}
    costs = tuple(replace(cost, units=tuple(place[unit] for unit in cost.units)) for cost in problem.costs)
    return replace(problem, units=tuple(problem.units[i] for i in order), costs=costs)


def problem_to_json(problem: Problem) -> str:
    """The problem as text, numbers with six digits."""
    return json.dumps(asdict(problem), default=_numbers)


def _numbers(array: Any) -> Any:
    return np.vectorize(lambda x: float(f"{x:.6g}"))(array).tolist()
