"""What it costs to measure one candidate: export, parity, accuracy, latency; and to score 10,000 samples.

python -m examples.benchmarks.candidate_cost           # about a minute, writes reports/benchmarks/candidate_cost.md
python -m examples.benchmarks.candidate_cost --smoke   # one candidate, writes nothing
"""

import datetime
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from autocompress.deploy import load_openvino
from autocompress.graph import inspect_model
from autocompress.latency import LatencySettings
from autocompress.measure import describe_environment, score_of
from autocompress.measurement import Measurement
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.report.wording import times
from autocompress.search.context import EvaluationContext, Rung, Seconds
from autocompress.search.evaluate import export_candidate, measure_candidate
from autocompress.search.folder import MODEL
from autocompress.search.training import train_candidate
from autocompress.space import uniform_recipe
from autocompress.tasks.loading import load_task
from examples.benchmarks.running import run

TARGET = Path(__file__).parents[2] / "reports" / "benchmarks" / "candidate_cost.md"
MAX_CANDIDATE_SECONDS, MAX_SCORING_SECONDS = 10.0, 6.0
N_REPEATS = 3
HALF_WIDTH = 0.02


@dataclass(frozen=True)
class Cost:
    """Seconds of one candidate by phase, and what was measured."""

    name: str
    seconds: Seconds
    measurement: Measurement

    @property
    def total(self) -> float:
        """Seconds of all phases together."""
        return sum(self.seconds.values())


def main() -> None:
    """Measure, print the tables, write them down."""
    run(benchmark, __doc__, TARGET, smoke="one candidate, one repetition, no report")


def benchmark(*, smoke: bool) -> str:
    """Everything as Markdown."""
    task = load_task("fashion")
    graph = inspect_model(task.model, task.example_input)
    n_cores = len(os.sched_getaffinity(0))
    integers = uniform_recipe(graph, LayerRecipe(weight_bits=8, activation_bits=8))
    pruned = integers.model_copy(update={"pruning": {group.name: 0.5 for group in graph.prunable}})
    recipes = {"INT8": integers} if smoke else {"INT8": integers, "INT8, half of the filters removed": pruned}
    with tempfile.TemporaryDirectory() as folder:
        context = EvaluationContext(task, graph, Path(folder), n_cores)
        _make(context, Recipe(), context.baseline_folder)
        context.baseline_predictions("validation")  # once a search
        _measure(context, "FP32", Recipe(), context.baseline_folder)  # starts the process for timing, once a search
        costs = [_cost(context, name, recipe, Path(folder) / recipe.digest()) for name, recipe in recipes.items()]
        scoring = [_scoring_seconds(context) for _ in range(1 if smoke else N_REPEATS)]
        context.timer.stop()
    return _text(costs, scoring)


def _make(context: EvaluationContext, recipe: Recipe, folder: Path) -> Seconds:
    train_candidate(context, recipe, folder, Rung("untrained", 0), 0)
    return export_candidate(context, recipe, folder)


def _measure(context: EvaluationContext, name: str, recipe: Recipe, folder: Path) -> Cost:
    measurement, seconds = measure_candidate(
        context, recipe, folder, "validation", LatencySettings(half_width=HALF_WIDTH)
    )
    return Cost(name, seconds, measurement)


def _cost(context: EvaluationContext, name: str, recipe: Recipe, folder: Path) -> Cost:
    exporting = _make(context, recipe, folder)
    found = _measure(context, name, recipe, folder)
    return Cost(name, exporting | found.seconds, found.measurement)


def _scoring_seconds(context: EvaluationContext) -> float:
    """The 5,000 samples of the test split twice, each time from the file to the score."""
    start = time.perf_counter()
    for _ in range(2):
        model = load_openvino(context.baseline_folder / MODEL)
        score_of(context.task, context.predict_deployed(model, "test"))
    return time.perf_counter() - start


def _text(costs: list[Cost], scoring: list[float]) -> str:
    where = describe_environment(1)
    phases = list(costs[0].seconds)
    lines = [
        "# What it costs to measure a candidate",
        "",
        f"`python -m examples.benchmarks.candidate_cost`, {datetime.date.today()}, {where.cpu}, {where.n_cores} cores, "
        f"OpenVINO {where.versions['openvino']}. The fashion net, {costs[0].measurement.n_samples:,} validation "
        f"samples, latency at one thread to ±{HALF_WIDTH:.0%}. Evaluation holds the predictions of the torch and of "
        "the deployed model, their comparison, and the paired drop with its interval.",
        "",
        f"| candidate | {' | '.join(f'{phase}, s' for phase in phases)} | together, s | speed-up | noise floor |",
        f"| --- | {'---: | ' * (len(phases) + 3)}".rstrip(),
    ]
    for cost in costs:
        spent = " | ".join(f"{cost.seconds[phase]:.2f}" for phase in phases)
        m = cost.measurement
        floor = f"{m.latency_check.noise_floor:.1%}" if m.latency_check else ""
        lines.append(f"| {cost.name} | {spent} | {cost.total:.2f} | {times(m.speedup)} | {floor} |")
    slowest, typical = max(cost.total for cost in costs), median(scoring)
    lines += [
        "",
        "| target | measured | met |",
        "| --- | --- | --- |",
        f"| a candidate measured in under {MAX_CANDIDATE_SECONDS:g} s | {slowest:.1f} s | "
        f"{'yes' if slowest < MAX_CANDIDATE_SECONDS else 'no'} |",
        f"| 10,000 samples scored in under {MAX_SCORING_SECONDS:g} s | {typical:.1f} s, median of {len(scoring)} | "
        f"{'yes' if typical < MAX_SCORING_SECONDS else 'no'} |",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
