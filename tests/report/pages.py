"""Records for the tests of `front.html`: large ones, random ones for the rule of the choice, one with evil names."""

import random
from typing import Any

from autocompress.explanation import Decisions, Explanation, Forecast, NetLayer
from autocompress.measurement import Interval, Measurement
from autocompress.pareto import Candidate
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.record import Chosen, StudyRecord
from tests.report.conftest import candidate, measurement, record_of, sensitivity, training

EVIL = "<script>alert(1)</script>"


def large_record(n_candidates: int, n_layers: int) -> StudyRecord:
    """Everything that a page can show: bits, filters, zeros, rank, kernels, trainings, forecasts and decisions."""
    chance = random.Random(11)
    layers = [f"stages.{i // 10}.blocks.{i % 10}.conv" for i in range(n_layers)]
    tried = [_one_of_many(chance, layers, i) for i in range(n_candidates)]
    study: dict[str, Any] = {"task": "large", "n_layers": n_layers}
    return record_of(
        *tried,
        study=study,
        chosen=Chosen(digest=tried[0].digest, meets_wishes=True, reason="the fastest"),
        explanation=_explanation(chance, layers, tried),
    )


def _one_of_many(chance: random.Random, layers: list[str], i: int) -> Candidate:
    made = {name: _treated(chance) for name in layers}
    pruning = {name: chance.choice([0.25, 0.5]) for name in layers[::4]}
    speed = 2 + 6 * chance.random()
    drop = 0.003 * (speed - 2) ** 1.5 + chance.uniform(-0.003, 0.01)
    numbers = measurement(
        speedup=(speed, 0.98 * speed, 1.02 * speed),
        drop=(drop, drop - 0.004, drop + 0.004),
        selection_drop=Interval(value=drop + 0.001, low=drop - 0.003, high=drop + 0.004),
        size_bytes=int(chance.uniform(1e5, 7e5)),
        zipped_bytes=90_000 + i,
        ran_in=dict.fromkeys(layers, "i8"),
        float_layers=(layers[0],),
    )
    return candidate(
        Recipe(layers=made, pruning=pruning), numbers, training=training(150, 2.0, chance.uniform(0.2, 0.9))
    )


def _treated(chance: random.Random) -> LayerRecipe:
    bits = chance.choice([8, 7, 6, 4])
    return LayerRecipe(weight_bits=bits, activation_bits=8, sparsity=chance.choice([0, 0, 0.5]))


def _explanation(chance: random.Random, layers: list[str], tried: list[Candidate]) -> Explanation:
    n = len(layers)
    forecasts = [_forecast(c.digest, c.measurement) for c in tried if c.measurement]
    return Explanation(
        layers=tuple(
            NetLayer(name=name, kind="Conv2d", n_filters=64, group=layers[i - i % 4]) for i, name in enumerate(layers)
        ),
        forecasts=tuple(forecasts),
        sensitivity=tuple(sensitivity(name, chance.uniform(0, 0.01)) for name in layers),
        decisions=tuple(
            Decisions(
                digest=c.digest,
                choices=tuple(chance.randrange(3) for _ in range(n)),
                accuracy_drops=tuple(round(chance.uniform(0, 0.004), 6) for _ in range(n)),
                latencies_ms=tuple(round(chance.uniform(-0.02, 0), 5) for _ in range(n)),
                sizes_bytes=tuple(float(chance.randrange(-9000, 0)) for _ in range(n)),
            )
            for c in tried
        ),
    )


def _forecast(digest: str, m: Measurement) -> Forecast:
    share, drop = 1 / m.speedup.value, m.accuracy_drop.value
    return Forecast(
        digest=digest,
        table_drop=1.5 * drop,
        learned_drop=drop + 0.001,
        drop=drop,
        predicted_latency=1.05 * share,
        latency=share,
        predicted_size=0.5,
        size=0.5,
    )


def random_record(seed: int) -> StudyRecord:
    """A few candidates with ties, with and without a drop for the choice, some of them the identity in disguise."""
    chance = random.Random(seed)
    with_held = chance.random() < 0.7
    return record_of(*(_random_candidate(chance, i, with_held) for i in range(chance.randrange(1, 12))))


def _random_candidate(chance: random.Random, i: int, with_held: bool) -> Candidate:
    speed = round(chance.uniform(0.8, 3.0), chance.choice([0, 1, 3])) or 1.0
    drop, held = (round(chance.uniform(-0.01, 0.04), chance.choice([2, 4])) for _ in range(2))
    numbers = measurement(
        speedup=(speed, speed * 0.9, speed * 1.1),
        drop=(drop, drop - 0.01, drop + chance.choice([0.0, 0.002, 0.01])),
        size_bytes=chance.choice([100_000, 250_000, 250_001]),
        selection_drop=Interval(value=held, low=held - 0.01, high=held + 0.004) if with_held else None,
    )
    recipe = Recipe(pruning={"a": round(0.01 * (i + 1), 2)})
    failed = chance.random() < 0.1
    return candidate(recipe, None if failed else numbers)


def evil_record() -> StudyRecord:
    """A layer, a label, a rung, a task, a score, a unit, a finding and a failure that try to run a script."""
    recipe = Recipe(layers={EVIL: LayerRecipe(weight_bits=8, activation_bits=8)}, pruning={EVIL: 0.5})
    numbers = measurement(speedup=3.0, ran_in={EVIL: EVIL})
    run = candidate(recipe, numbers, label=EVIL, rung=EVIL, training=training(started_from=EVIL))
    failed = candidate(Recipe(pruning={"a": 0.5}), None, failure=EVIL)
    return record_of(
        run,
        failed,
        study={"task": EVIL, "score": EVIL},
        chosen=Chosen(digest=run.digest, meets_wishes=True, reason=EVIL),
        findings=(EVIL,),
        seconds={EVIL: 2.0},
        explanation=Explanation(
            layers=(NetLayer(name=EVIL, kind=EVIL, n_filters=8, group=EVIL),),
            sensitivity=(sensitivity(EVIL, 0.01),),
            decisions=(
                Decisions(
                    digest=run.digest, choices=(1,), accuracy_drops=(0.1,), latencies_ms=(-0.1,), sizes_bytes=(-9.0,)
                ),
            ),
        ),
    )
