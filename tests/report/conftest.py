"""Records of made-up studies: a full one with failures, and factories for special ones."""

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from autocompress.explanation import (
    Agreement,
    Change,
    ChoiceEffect,
    Decisions,
    Explanation,
    Forecast,
    NetLayer,
    RungCount,
    Trust,
    UnitExplanation,
    UnitSensitivity,
)
from autocompress.measurement import CoursePoint, Environment, Interval, Measurement, Speedup, TrainingSummary
from autocompress.pareto import Candidate
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.record import Chosen, StudyInfo, StudyRecord

LAYERS = ("stem.conv", "layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "layer2.0.conv2", "layer2.0.down", "fc")
SECONDS = {"prepare": 12.0, "finetune": 300.0, "evaluation": 40.5, "latency": 90.0, "other": 7.5, "total": 450.0}


def measurement(**changes: Any) -> Measurement:
    """A measurement of the baseline; give `speedup`, `drop` (each value or value, low, high) and any field."""
    speedup = changes.pop("speedup", 1.0)
    drop = changes.pop("drop", 0.0)
    value, low, high = speedup if isinstance(speedup, tuple) else (speedup, speedup * 0.98, speedup * 1.02)
    middle, bottom, top = drop if isinstance(drop, tuple) else (drop, drop - 0.003, drop + 0.003)
    fields: dict[str, Any] = {
        "accuracy": 0.9 - middle,
        "torch_accuracy": 0.9 - middle,
        "accuracy_drop": Interval(value=middle, low=bottom, high=top),
        "agreement": 0.99,
        "speedup": Speedup(value=value, low=low, high=high, n_pairs=40),
        "latency_ms": 2.0 / value,
        "size_bytes": 800_000,
        "macs": 12_345_678,
        "n_samples": 1000,
    }
    return Measurement(**(fields | changes))


def candidate(recipe: Recipe, measured: Measurement | None, **changes: Any) -> Candidate:
    """A candidate with this measurement, or a failed one."""
    failure = None if measured else "fine-tuning diverged: the loss is not finite"
    fields: dict[str, Any] = {
        "digest": recipe.digest(),
        "recipe": recipe,
        "rung": "short",
        "seconds": {"finetune": 8.0, "latency": 2.0},
        "measurement": measured,
        "failure": failure,
    }
    return Candidate(**(fields | changes))


def quantized(weight_bits: int = 8, activation_bits: int = 8, **pruning: float) -> Recipe:
    """Every layer at these bits, with pruning ratios by group."""
    layer = LayerRecipe(weight_bits=weight_bits, activation_bits=activation_bits)
    return Recipe(layers=dict.fromkeys(LAYERS, layer), pruning=pruning)


def record_of(*candidates: Candidate, **changes: Any) -> StudyRecord:
    """A record of a measured baseline and these candidates."""
    study = {
        "task": "fashion",
        "score": "accuracy",
        "higher_is_better": True,
        "space": "default",
        "max_drop": 0.01,
        "objectives": ("accuracy_drop", "latency", "size_bytes"),
        "sampler": "TPE",
        "seed": 0,
        "n_layers": len(LAYERS),
        "n_parameters": 18,
    }
    baseline = candidate(Recipe(), measurement(), label="fp32", rung="baseline")
    fields: dict[str, Any] = {
        "study": StudyInfo(**(study | changes.pop("study", {}))),
        "environment": Environment(
            cpu="Intel(R) Xeon(R) Processor @ 2.60GHz",
            capabilities=("FP32", "INT8"),
            n_cores=2,
            inference_threads=1,
            int8_saturates=False,
            versions={"openvino": "2026.1.0", "torch": "2.9.0"},
        ),
        "candidates": (baseline, *candidates),
        "seconds": SECONDS,
    }
    return StudyRecord(**(fields | changes))


def training(n_steps: int = 150, first: float = 2.0, last: float = 0.3, **changes: Any) -> TrainingSummary:
    """A training whose loss falls from `first` to `last`, in points of three steps; any field can be given."""
    rate = changes.setdefault("learning_rate", 0.005)
    steps = range(3, (changes.get("stopped_at") or n_steps) + 1, 3)
    course = tuple(
        CoursePoint(
            step=step,
            loss=round(last + (first - last) * math.exp(-5 * (step - 3) / n_steps), 4),
            learning_rate=rate * (1 - step / n_steps) + 1e-9,
        )
        for step in steps
    )
    return TrainingSummary(**({"n_steps": n_steps, "course": course} | changes))


def trained_record() -> StudyRecord:
    """The full record with a training for each candidate but the baseline: longer, given up and rolled back ones."""
    full = full_record()
    chance = random.Random(3)
    first = full.candidates[1].digest
    trained = [full.candidates[0]]
    for i, c in enumerate(full.candidates[1:]):
        is_chosen = full.chosen is not None and c.digest == full.chosen.digest
        changes: dict[str, Any] = {"started_from": first if i % 4 == 3 else "", "n_rollbacks": int(i == 1)}
        if c.failure:
            changes["stopped_at"] = 60 - 6 * (i % 5)
        own = training(450 if is_chosen else 150, 2.2 * chance.uniform(0.6, 1.5), chance.uniform(0.15, 0.5), **changes)
        failure = "its loss stays far above that of the others" if c.failure else None
        trained.append(c.model_copy(update={"training": own, "n_steps": own.n_steps, "failure": failure}))
    return full.model_copy(update={"candidates": tuple(trained)})


def full_record(n_searched: int = 22) -> StudyRecord:
    """About 25 candidates: two anchors, a cloud of searched ones, one that is broken and some that failed."""
    chance = random.Random(7)
    int8 = candidate(quantized(8), measurement(speedup=3.1, drop=0.001, size_bytes=215_000), label="int8")
    int4 = candidate(quantized(4), measurement(speedup=3.15, drop=0.024, size_bytes=120_000), label="int4")
    searched = [_searched(chance, i) for i in range(n_searched)]
    broken = candidate(quantized(2, 2), measurement(speedup=9.8, drop=0.62, size_bytes=70_000))
    keeping = [c for c in searched if c.measurement and c.measurement.accuracy_drop.high <= 0.01]
    best = max(keeping, key=lambda c: c.measurement.speedup.value if c.measurement else 0.0)
    test = measurement(speedup=(4.2, 4.15, 4.26), drop=(0.003, -0.001, 0.008), size_bytes=160_000, n_samples=5000)
    return record_of(
        int8,
        int4,
        *searched,
        broken,
        chosen=Chosen(digest=best.digest, meets_wishes=True, reason="the fastest of 6 candidates", test=test),
        findings=("4-bit weights save bytes but no time on this CPU.", "stem.conv is the most sensitive layer."),
    )


def change(choice: str, drop: float, latency_ms: float, size_bytes: float = 0.0, error: float = 0.001) -> Change:
    """A predicted change with a drop of equal error on both sides."""
    ends = Interval(value=drop, low=drop - error, high=drop + error)
    return Change(choice=choice, accuracy_drop=ends, latency_ms=latency_ms, size_bytes=size_bytes)


def explanation_of(study: StudyRecord) -> Explanation:
    """A made-up explanation of the chosen candidate of a study: one unit a layer, a forecast a measured candidate."""
    units = [
        UnitExplanation(
            unit=name,
            chosen=change("8 bits", 0.0004 * i, -0.1 - 0.02 * i, -20_000.0),
            cheaper=None if i == 3 else change("8 bits, a quarter fewer filters", 0.004 + 0.001 * i, -0.03, -9_000.0),
            gentler=change("float", -0.0004 * i, 0.1 + 0.02 * i, 20_000.0) if i else None,
        )
        for i, name in enumerate(LAYERS)
    ]
    chance = random.Random(5)
    measured = [(c.digest, c.measurement) for c in study.candidates if c.measurement]
    forecasts = [_forecast(chance, digest, m) for digest, m in measured]
    good, fair = Agreement(rank_correlation=0.97, mean_error=0.0021), Agreement(rank_correlation=0.81, mean_error=0.012)
    return Explanation(
        digest=study.chosen.digest if study.chosen else "",
        units=tuple(units),
        forecasts=tuple(forecasts),
        trust=Trust(table_drop=fair, learned_drop=good, latency=good, size=good),
        rungs=(RungCount(rung="predicted", n_reached=3200), RungCount(rung="short", n_reached=24)),
        layers=tuple(NetLayer(name=name, kind="Conv2d", n_filters=64, group=name.split(".")[0]) for name in LAYERS),
        sensitivity=tuple(sensitivity(name, 0.001 * (i + 1)) for i, name in enumerate(LAYERS)),
        decisions=tuple(decisions(digest, [i % 3 for i in range(len(LAYERS))]) for digest, _ in measured),
    )


def sensitivity(unit: str, damage: float) -> UnitSensitivity:
    """Three choices of a unit; `damage` is the drop at 4 bits, in units of the score."""
    effects = [("float", 0.0, 0.0), ("8 bits", 0.1, -0.1), ("4 bits", 1.0, -0.1)]
    return UnitSensitivity(
        unit=unit,
        choices=tuple(
            ChoiceEffect(
                choice=choice,
                table_drop=1.5 * damage * share,
                learned_drop=damage * share,
                latency_ms=ms,
                size_bytes=-1e4 * i,
            )
            for i, (choice, share, ms) in enumerate(effects)
        ),
    )


def decisions(digest: str, choices: list[int]) -> Decisions:
    """What each choice of `sensitivity` gains and costs."""
    return Decisions(
        digest=digest,
        choices=tuple(choices),
        accuracy_drops=tuple(0.0005 * j for j in choices),
        latencies_ms=tuple(-0.05 * j for j in choices),
        sizes_bytes=tuple(-10_000.0 * j for j in choices),
    )


def _forecast(chance: random.Random, digest: str, m: Measurement) -> Forecast:
    share, drop, size = 1 / m.speedup.value, m.accuracy_drop.value, m.size_bytes / 800_000
    return Forecast(
        digest=digest,
        table_drop=1.6 * drop + chance.uniform(0, 0.004),
        learned_drop=drop + chance.uniform(-0.002, 0.002),
        drop=drop,
        predicted_latency=share + chance.uniform(-0.02, 0.02),
        latency=share,
        predicted_size=size,
        size=size,
    )


def _searched(chance: random.Random, i: int) -> Candidate:
    ratio = round(chance.uniform(0.0, 0.8), 3)
    weight_bits = chance.choice([4, 6, 8])
    recipe = quantized(weight_bits, 8, stem=round(0.01 + 0.02 * i, 3), layer1=ratio)
    if i % 7 == 3:
        return candidate(recipe, None, seconds={"finetune": 3.0})
    value = 3.0 + 6.5 * ratio + chance.uniform(-0.4, 0.8)
    middle = -0.005 + 0.045 * ratio**2 + 0.002 * (8 - weight_bits) + chance.uniform(0, 0.008)
    return candidate(
        recipe,
        measurement(
            speedup=(value, value - chance.uniform(0.02, 0.2), value + chance.uniform(0.02, 0.2)),
            drop=(middle, middle - 0.004, middle + 0.005),
            size_bytes=int(800_000 * weight_bits / 32 * (1.05 - ratio)),
            macs=int(12_345_678 * (1 - ratio)),
        ),
    )


@pytest.fixture(name="full")
def _full() -> StudyRecord:
    return full_record()


@pytest.fixture(name="measured")
def _measured() -> Callable[..., Measurement]:
    return measurement


@pytest.fixture(name="make")
def _make() -> Callable[..., Candidate]:
    return candidate


@pytest.fixture(name="record")
def _record() -> Callable[..., StudyRecord]:
    return record_of


@pytest.fixture(name="recipe")
def _recipe() -> Callable[..., Recipe]:
    return quantized


@pytest.fixture(name="trained")
def _trained() -> StudyRecord:
    return trained_record()


@pytest.fixture(name="explained")
def _explained() -> StudyRecord:
    """The full record with a made-up explanation."""
    full = full_record()
    return full.model_copy(update={"explanation": explanation_of(full)})


@pytest.fixture(name="training")
def _training() -> Callable[..., TrainingSummary]:
    return training
