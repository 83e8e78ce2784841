"""On which samples a deployed model is compared with torch, and what that says of torch's score."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autocompress.latency import FINALIST, LatencyProcess, LatencySettings, PairedLatency
from autocompress.measure import Predictions
from autocompress.measurement import Measurement
from autocompress.recipe import Recipe
from autocompress.search import evaluate
from autocompress.search.context import EvaluationContext, Rung, Split
from autocompress.search.evaluate import export_candidate, measure_candidate
from autocompress.search.training import train_candidate
from tests import tiny
from tests.search.test_training import context_of, uniform

FEW_PAIRS = LatencySettings(min_pairs=2, max_pairs=2)
NARROW = {"weight_bits": 2, "activation_bits": 8}


def measured(context: EvaluationContext, recipe: Recipe, split: Split) -> Measurement:
    folder = context.folder / recipe.digest()
    train_candidate(context, recipe, folder, Rung("test", 0), 0)
    export_candidate(context, recipe, folder)
    return measure_candidate(context, recipe, folder, split, FEW_PAIRS)[0]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> EvaluationContext:
    return context_of(tiny.tiny(), tmp_path_factory.mktemp("compared"))


@pytest.mark.parametrize(
    ("split", "n_compared", "expected"),
    [
        pytest.param("validation", 1000, [64, 64, 64], id="few samples: all"),
        pytest.param("validation", 96, [64, 64], id="every second batch"),
        pytest.param("validation", 191, [64, 64], id="never all where there are more"),
        pytest.param("validation", 10, [64], id="at least one batch"),
        pytest.param("test", 10, [64, 64, 22], id="all of the test split"),
    ],
)
def test_torch_runs_on_every_so_many_batches(
    context: EvaluationContext, monkeypatch: pytest.MonkeyPatch, split: Split, n_compared: int, expected: list[int]
) -> None:
    seen: list[int] = []
    predict = evaluate.predict_torch

    def counted(model: Any, batches: list[Any], name: str) -> Any:
        seen.extend(len(inputs) for inputs, _ in batches)
        return predict(model, batches, name)

    monkeypatch.setattr(evaluate, "N_COMPARED", n_compared)
    monkeypatch.setattr(evaluate, "predict_torch", counted)
    found = measured(context, uniform(context, NARROW), split)
    assert seen == expected
    assert found.agreement == 1.0 and found.largest_difference < 0.05  # other rows would differ by more
    assert found.torch_accuracy == found.accuracy
    assert found.n_samples == (192 if split == "validation" else 150)


def test_outputs_that_do_not_come_by_sample_are_compared_on_all_batches() -> None:
    deployed = Predictions(torch.zeros(384, 3), torch.zeros(384))  # two rows for each of 192 samples
    batches, same = evaluate._compared(tiny.tiny(), deployed, "validation")
    assert len(batches) == 3 and same is deployed


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        pytest.param(None, (100, 1000, 8.0, 6), id="as the settings say"),
        pytest.param(6.0, (100, 2000, 16.0, 6), id="double"),
        pytest.param(0.3, (10, 100, 0.8, 2), id="a tenth"),
        pytest.param(0.001, (6, 6, 8e-3 / 3, 2), id="hardly any"),
    ],
)
def test_latency_takes_as_long_as_the_study_wants(
    context: EvaluationContext, seconds: float | None, expected: tuple[float, ...]
) -> None:
    seen: list[LatencySettings] = []

    class Noting(LatencyProcess):
        def compare(self, baseline: Path, candidate: Path, inputs: Any, settings: LatencySettings) -> PairedLatency:
            seen.append(settings)
            return super().compare(baseline, candidate, inputs, FEW_PAIRS)

    with Noting() as timer:
        mine = replace(context, latency_seconds=seconds, _timer=[timer])
        recipe = Recipe()
        folder = mine.folder / recipe.digest()
        train_candidate(mine, recipe, folder, Rung("baseline", 0), 0)
        export_candidate(mine, recipe, folder)
        measure_candidate(mine, recipe, folder, "validation", FINALIST)
    (settings,) = seen
    found = settings.min_pairs, settings.max_pairs, settings.max_seconds, settings.n_copies
    assert found == pytest.approx(expected)
    assert settings.min_seconds <= settings.max_seconds and settings.half_width == FINALIST.half_width
