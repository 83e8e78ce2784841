"""How well recipes' latency is predicted on three networks, from three minutes of measuring each.

Every prediction is of a recipe that the model was not fitted to (cross-validation in five folds). Beside it stand what
the same recipes would be predicted to take by profile counters alone, by layers timed one by one, and by MACs.

    python -m examples.benchmarks.latency_model [--smoke]
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from autocompress import Task, TensorBatches
from autocompress.deploy import save_openvino
from autocompress.graph import ModelGraph, inspect_model
from autocompress.latency import LatencyProcess, LatencySettings
from autocompress.measure.latency_features import Architecture, architecture_of
from autocompress.measure.latency_model import LatencyModel, LatencySample, Quality, quality
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.search.evaluate import real_input
from autocompress.search.latency_samples import collect, export_untrained, profile_prior
from autocompress.tasks.fashion import fashion
from examples.benchmarks.compressing import resnet18
from examples.benchmarks.networks import untrained_mobilenet
from examples.benchmarks.running import run

REPORT = Path("reports/benchmarks/latency_model.md")
SECONDS = 180.0
SMOKE_SECONDS = 20.0
MAX_ERROR, MIN_CORRELATION = 0.04, 0.97
N_ISOLATED = 10  # unpruned recipes of mixed precision on which sums of one-layer deltas are tried
INT8 = LayerRecipe(weight_bits=8, activation_bits=8)

Predict = Callable[[Recipe], float]


@dataclass(frozen=True)
class Result:
    """Of one network.

    Attributes:
        name: Of the network.
        n_samples: Recipes that were timed.
        seconds: That profiles and recipes took.
        noise: Median relative standard error of the measured latencies.
        fit_seconds: Of choosing the widths and fitting.
        predict_seconds: Of one prediction.
        fitted: Cross-validated quality of the latency model.
        others: Quality of what stands beside it, by name.
    """

    name: str
    n_samples: int
    seconds: float
    noise: float
    fit_seconds: float
    predict_seconds: float
    fitted: Quality
    others: dict[str, Quality]


def tasks() -> dict[str, Task]:
    """The three networks, with data of their shapes."""
    base = fashion()
    x = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    data = TensorBatches(x, torch.zeros(1, dtype=torch.long), batch_size=1)
    return {
        "fashion": base,
        "ResNet-18 at 128x128": replace(
            base, model=resnet18(), example_input=x, train=data, validation=data, test=data, name="resnet18"
        ),
        "MobileNetV2-style at 28x28": replace(base, model=untrained_mobilenet(), name="mobilenet"),
    }


def measure(name: str, task: Task, folder: Path, seconds: float, *, isolated: bool) -> Result:
    """Everything about one network.

    Args:
        name: Of the network.
        task: Its model and data.
        folder: For samples and models.
        seconds: For profiles and samples together.
        isolated: Whether layers are timed one by one, too, which takes more time.
    """
    graph = inspect_model(task.model, task.example_input)
    architecture = architecture_of(task.model, graph, task.example_input)
    start = time.perf_counter()
    prior = profile_prior(task, graph, architecture, 1)
    samples = collect(task, graph, folder, seconds - (time.perf_counter() - start))
    spent, start = time.perf_counter() - start, time.perf_counter()
    model = LatencyModel(architecture, prior)
    model.fit(samples)
    fit_seconds, start = time.perf_counter() - start, time.perf_counter()
    for sample in samples:
        model.predict(sample.recipe)
    predict_seconds = (time.perf_counter() - start) / len(samples)
    others = {
        "profile counters": judged(LatencyModel(architecture, prior).predict, samples),
        "MACs": judged(by_macs(architecture), samples),
    }
    if isolated:
        unpruned = [s for s in samples if not s.recipe.pruning][:N_ISOLATED]
        one_by_one = isolated_deltas(task, graph, folder)
        others["one-layer deltas, unpruned recipes"] = judged(
            lambda recipe: 1 + sum(one_by_one[layer] for layer in recipe.quantized), unpruned
        )
        others["latency model in sample, the same recipes"] = judged(model.predict, unpruned)
    return Result(
        name=name,
        n_samples=len(samples),
        seconds=spent,
        noise=statistics.median(sample.noise for sample in samples),
        fit_seconds=fit_seconds,
        predict_seconds=predict_seconds,
        fitted=model.cv_error(min(5, len(samples))),
        others=others,
    )


def judged(predict: Predict, samples: Sequence[LatencySample]) -> Quality:
    """Quality of a prediction of samples."""
    predicted = np.array([predict(sample.recipe) for sample in samples])
    return quality(predicted, np.array([sample.latency for sample in samples]))


def by_macs(architecture: Architecture) -> Predict:
    """Latency in proportion to MACs, those of INT8 layers counting half."""
    macs = np.array([unit.macs for unit in architecture.units], np.float64)

    def predict(recipe: Recipe) -> float:
        features = architecture.features(recipe)
        cost = np.where(features.classes == 0, 1.0, 0.5)
        return float((macs * cost * features.terms[:, -1]).sum() / macs.sum())

    return predict


def isolated_deltas(task: Task, graph: ModelGraph, folder: Path) -> dict[str, float]:
    """What INT8 in one layer alone adds to the relative latency, by layer."""
    settings = LatencySettings(min_pairs=32, max_pairs=32, n_copies=3)
    deltas = {}
    with LatencyProcess() as process:
        for layer in graph.compressible:
            model = export_untrained(task, graph, Recipe(layers={layer.name: INT8}))
            path = save_openvino(model, folder / "alone", layer.name)
            timed = process.compare(folder / "baseline.xml", path, real_input(task), settings)
            deltas[layer.name] = 1 / timed.speedup.value - 1
    return deltas


def benchmark(*, smoke: bool) -> str:
    """The report; with `smoke` the first network only, for seconds."""
    chosen = dict(list(tasks().items())[:1]) if smoke else tasks()
    seconds = SMOKE_SECONDS if smoke else SECONDS
    results = []
    for name, task in chosen.items():
        print(f"{name}: measuring for {seconds:.0f} seconds", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(name, task, Path(folder), seconds, isolated=not smoke))
    return f"# Latency model\n\n{_summary(results)}\n{_details(results)}\n{_others(results)}"


def _summary(results: Sequence[Result]) -> str:
    head = (
        "Relative latency of random recipes (INT8 or FP32 by layer, pruning ratio by channel group), one thread, by "
        "cross-validation in five folds.\n\n## Targets\n\n| target | measured | met |\n|---|---|---|\n"
    )
    rows = []
    for r in results:
        error, rank = r.fitted.median_error, r.fitted.rank_correlation
        rows.append(f"| {r.name}: median error at most 4 % | {100 * error:.1f} % | {_met(error <= MAX_ERROR)} |")
        rows.append(f"| {r.name}: rank correlation at least 0.97 | {rank:.3f} | {_met(rank >= MIN_CORRELATION)} |")
        time_met = _met(r.seconds <= SECONDS + 1)
        rows.append(f"| {r.name}: at most 180 s of measuring | {r.seconds:.0f} s | {time_met} |")
    return head + "\n".join(rows) + "\n"


def _met(met: bool) -> str:
    return "yes" if met else "**no**"


def _details(results: Sequence[Result]) -> str:
    head = (
        "## The latency model\n\n| network | recipes | seconds | median error | 90 % of errors below "
        "| rank correlation | standard error of what was measured | fit | one prediction |\n"
        "|---|---|---|---|---|---|---|---|---|\n"
    )
    rows = (
        f"| {r.name} | {r.n_samples} | {r.seconds:.0f} | {100 * r.fitted.median_error:.1f} % "
        f"| {100 * r.fitted.p90_error:.1f} % | {r.fitted.rank_correlation:.3f} | {100 * r.noise:.1f} % "
        f"| {1e3 * r.fit_seconds:.0f} ms | {1e3 * r.predict_seconds:.2f} ms |"
        for r in results
    )
    return head + "\n".join(rows) + "\n"


def _others(results: Sequence[Result]) -> str:
    head = (
        "## What else could be done\n\n| network | prediction | recipes | median error | 90 % of errors below "
        "| rank correlation |\n|---|---|---|---|---|---|\n"
    )
    rows = [
        f"| {r.name} | {name} | {q.n_samples} | {100 * q.median_error:.1f} % | {100 * q.p90_error:.1f} % "
        f"| {q.rank_correlation:.3f} |"
        for r in results
        for name, q in r.others.items()
    ]
    return head + "\n".join(rows) + "\n"


def main() -> None:
    """Run and write the report."""
    run(benchmark, __doc__, REPORT, "the fashion network alone, for 20 seconds; writes nothing")


if __name__ == "__main__":
    main()
