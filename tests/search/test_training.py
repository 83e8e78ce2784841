"""Training of one candidate with every method, through its folder: compress, train, save, restore, export, measure."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autocompress import Task, top1_accuracy
from autocompress.errors import RecipeError
from autocompress.graph import inspect_model
from autocompress.latency import LatencySettings
from autocompress.measure import int8_saturates
from autocompress.recipe import LayerRecipe, Recipe, Sparsification
from autocompress.search import training
from autocompress.search.context import EvaluationContext, Rung
from autocompress.search.evaluate import export_candidate, measure_candidate
from autocompress.search.training import TESTED_STEPS, train_candidate
from autocompress.space import preset, uniform_recipe
from autocompress.train import LearningRates
from tests import tiny
from tests.test_mixing import WideEncoder

N_STEPS = 12


def sequences(n: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """One batch; the class is the channel that stands out."""
    x, y = torch.randn(n, 7, 4, generator=torch.Generator().manual_seed(seed)), torch.arange(n) % 4
    x[torch.arange(n), :, y] += 1.0
    return [(x, y)]


def text_task() -> Task:
    torch.manual_seed(0)
    return Task(
        model=WideEncoder().eval(),
        example_input=torch.randn(1, 7, 4),
        train=sequences(64, 1),
        validation=sequences(40, 2),
        test=sequences(40, 3),
        loss=cross_entropy,
        score=top1_accuracy(),
        name="sequences",
    )


def context_of(task: Task, folder: Path) -> EvaluationContext:
    context = EvaluationContext(task, inspect_model(task.model, task.example_input), folder, n_cores=1)
    train_candidate(context, Recipe(), context.baseline_folder, Rung("baseline", 0), 0)
    export_candidate(context, Recipe(), context.baseline_folder)
    return context


def uniform(context: EvaluationContext, layer: dict[str, Any], **whole: Any) -> Recipe:
    recipe = uniform_recipe(context.graph, LayerRecipe(**layer))
    return Recipe(layers=recipe.layers, **whole)


RECIPES = [
    pytest.param({"sparsity": 0.5, "weight_bits": 7, "activation_bits": 8}, {}, id="sparse and quantized"),
    pytest.param({"sparsity": 0.5}, {"sparsification": {"method": "regularization", "scope": "global"}}, id="gates"),
    pytest.param({"sparsity": 0.5}, {"sparsification": {"method": "movement", "schedule": "adaptive"}}, id="movement"),
    pytest.param({"rank_ratio": 0.5, "weight_bits": 7, "activation_bits": 8}, {}, id="low rank and quantized"),
    pytest.param({}, {"pruning": 0.5, "importance": "taylor"}, id="pruned by training data"),
]


@pytest.mark.parametrize(("layer", "whole"), RECIPES)
def test_a_candidate_of_any_method_is_trained_restored_and_measured(
    layer: dict[str, Any], whole: dict[str, Any], tmp_path: Path
) -> None:
    context = context_of(tiny.tiny(), tmp_path)
    if "pruning" in whole:
        whole = {**whole, "pruning": {group.name: whole["pruning"] for group in context.graph.prunable}}
    recipe = uniform(context, layer, **whole)
    folder = tmp_path / recipe.digest()
    train_candidate(context, recipe, folder, Rung("test", N_STEPS), 0)
    export_candidate(context, recipe, folder)
    measured, _ = measure_candidate(context, recipe, folder, "test", LatencySettings(min_pairs=2, max_pairs=2))
    assert measured.agreement > 0.95
    if recipe.sparse:
        frozen = context.restore(recipe, folder).freeze_weights()
        weights = [frozen.get_submodule(name).weight for name in recipe.sparse]
        zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
        assert zeros == pytest.approx(0.5, abs=0.08)  # rounding to a grid makes some more


def test_heads_and_rows_that_training_made_zero_are_removed_before_export(tmp_path: Path) -> None:
    context = context_of(text_task(), tmp_path)
    recipe = preset("jpqd", context.graph)
    folder = tmp_path / recipe.digest()
    train_candidate(context, recipe, folder, Rung("test", N_STEPS), 0)
    export_candidate(context, recipe, folder)
    measured, _ = measure_candidate(context, recipe, folder, "test", LatencySettings(min_pairs=2, max_pairs=2))
    module = context.restore(recipe, folder).module
    attention = module.get_submodule("layer.self_attn")
    assert isinstance(attention, nn.Module)
    assert attention.num_heads == 2  # of 4, 40 % rounded
    assert attention.get_submodule("query").weight.shape == (32, 64)
    assert module.get_submodule("layer.linear1").weight.shape[0] == 80  # of 128
    assert measured.macs < 0.75 * context.graph.macs
    assert measured.agreement > 0.9 or int8_saturates()
    assert set(measured.ran_in) >= {"layer.linear1", "layer.self_attn.query"}


@pytest.mark.parametrize("n_steps", [TESTED_STEPS - 1, TESTED_STEPS])
def test_a_range_test_is_not_made_for_a_few_steps(
    n_steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = LearningRates(quantized=1e-5, reshaped=1e-4)
    monkeypatch.setattr(training, "find_learning_rates", lambda *arguments, **options: found)
    context = context_of(tiny.tiny(), tmp_path)
    recipe = uniform(context, {"weight_bits": 8, "activation_bits": 8})
    trained = train_candidate(context, recipe, tmp_path / "candidate", Rung("test", n_steps), 0)
    assert trained.summary is not None
    assert trained.summary.learning_rate == (found if n_steps == TESTED_STEPS else LearningRates()).quantized


@pytest.mark.parametrize("name", ["int8", "int8-prune50", "int8-sparse70", "jpqd"])
def test_a_preset_names_only_what_the_model_has(name: str) -> None:
    graph = inspect_model(WideEncoder().eval(), torch.randn(1, 7, 4))
    recipe = preset(name, graph)
    assert set(recipe.layers) <= {layer.name for layer in graph.compressible}
    assert set(recipe.pruning) <= {group.name for group in graph.prunable}
    assert not recipe.is_identity


def test_a_preset_that_has_nothing_to_prune_says_so() -> None:
    graph = inspect_model(nn.Conv2d(3, 8, 3), torch.randn(1, 3, 8, 8))
    with pytest.raises(RecipeError, match="jpqd needs attention heads or Linear layers"):
        preset("jpqd", graph)
    with pytest.raises(RecipeError, match="must be one of int8, .*, but got 'jqpd'"):
        preset("jqpd", graph)


def test_settings_of_a_pattern_and_a_structure_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="needs method movement"):
        Sparsification(structure="rows", pattern="2:4")


@pytest.mark.parametrize(("n_steps", "n_adapted"), [pytest.param(3, 1, id="not held"), pytest.param(8, 0, id="held")])
def test_statistics_that_were_held_stay(
    n_steps: int, n_adapted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted: list[int] = []
    monkeypatch.setattr(training, "adapt_batch_norm", lambda *_, **kwargs: adapted.append(1))
    context = context_of(tiny.tiny(), tmp_path)
    recipe = uniform(context, {"weight_bits": 7, "activation_bits": 8})
    train_candidate(context, recipe, tmp_path / "candidate", Rung("short", n_steps), 0)
    assert len(adapted) == n_adapted
