"""Measurements, candidates and records for tests of what is done with them."""

from typing import Any

from autocompress.measurement import Environment, Interval, Measurement, Speedup
from autocompress.pareto import Candidate
from autocompress.recipe import Recipe
from autocompress.record import StudyInfo, StudyRecord


def measurement(drop: float = 0.0, speed: float = 1.0, size: int = 1000, **changes: Any) -> Measurement:
    fields: dict[str, Any] = {
        "accuracy": 0.9 - drop,
        "torch_accuracy": 0.9 - drop,
        "accuracy_drop": Interval(value=drop, low=drop - 0.01, high=drop + 0.01),
        "agreement": 1.0,
        "speedup": Speedup(value=speed, low=speed, high=speed, n_pairs=30),
        "latency_ms": 2.0 / speed,
        "size_bytes": size,
        "macs": 100,
        "n_samples": 500,
    }
    return Measurement(**{**fields, **changes})


def candidate(digest: str, *values: float, recipe: Recipe | None = None, **changes: Any) -> Candidate:
    """A candidate with drop, speed and size; failed if there are none."""
    result = {"measurement": measurement(*values)} if values else {"failure": "it crashed"}  # type: ignore[arg-type]
    return Candidate(digest=digest, recipe=recipe or Recipe(pruning={digest: 0.5}), rung="short", **result, **changes)


def record(*candidates: Candidate, **changes: Any) -> StudyRecord:
    study = StudyInfo(
        task="toy", score="accuracy", higher_is_better=True, space="small", max_drop=0.01,
        objectives=("accuracy_drop", "latency", "size_bytes"), sampler="random", seed=0, n_layers=3, n_parameters=5,
    )  # fmt: skip
    environment = Environment(
        cpu="a CPU",
        capabilities=("INT8",),
        n_cores=2,
        inference_threads=1,
        int8_saturates=False,
        versions={"torch": "2"},
    )
    baseline = candidate("000000000000", 0.0, 1.0, 1000, recipe=Recipe())
    return StudyRecord(study=study, environment=environment, candidates=(baseline, *candidates), **changes)
