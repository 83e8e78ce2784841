"""The damage table: what it measures, what it leaves out, what it remembers."""

import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax

from autocompress import Score, Task, TensorBatches
from autocompress.compress import calibrate, compress
from autocompress.errors import MeasurementError
from autocompress.graph import inspect_model
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.search import damage as damage_module
from autocompress.search.context import EvaluationContext
from autocompress.search.damage import Damage, affordable_samples, damage_table
from autocompress.search.damage_file import DamageFile
from autocompress.search.plan_space import plan_space
from autocompress.search.sensitivity import Cell, as_rows
from autocompress.space import load_space
from autocompress.task import split_batch
from autocompress.train import adapt_batch_norm
from tests import tiny

INT4 = {name: Recipe(layers={name: LayerRecipe(weight_bits=4, activation_bits=8)}) for name in ("0", "3", "7")}
PRUNED = Recipe(pruning={"3": 0.6})
RECIPES = [*INT4.values(), PRUNED]


def measure_damage(*arguments: Any, **options: Any) -> dict[str, Damage]:
    return damage_table(*arguments, **options).damages


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(damage_module, "_LATEST", [])
    return tmp_path / "cache" / "autocompress"


def context_of(task: Task) -> EvaluationContext:
    return EvaluationContext(task, inspect_model(task.model, task.example_input), Path("nowhere"), n_cores=1)


def by_hand(task: Task, recipe: Recipe) -> tuple[float, float]:
    """Divergence and drop by their definitions, with plain loops over the data."""
    task.train.set_epoch(0)  # type: ignore[attr-defined]
    train = list(task.train)
    graph = inspect_model(task.model, task.example_input)
    teacher = compress(task.model, graph, Recipe(), task.example_input).module
    adapt_batch_norm(teacher, train)
    student = compress(teacher, graph, recipe, task.example_input).module
    if recipe.layers:
        calibrate(student, train, recipe.calibration)
    adapt_batch_norm(student, train)
    kl, worse, n = 0.0, 0, 0
    with torch.no_grad():
        for x, y in (split_batch(batch) for batch in task.validation):
            p, q = (log_softmax(module.eval()(x).double(), dim=1) for module in (teacher, student))
            kl += float((p.exp() * (p - q)).sum())
            worse += int((p.argmax(1) == y).sum()) - int((q.argmax(1) == y).sum())
            n += len(y)
    return kl / n, worse / n


@pytest.mark.parametrize("recipe", [INT4["3"], PRUNED], ids=["4 bits", "filters removed"])
def test_divergence_and_drop_are_those_of_the_definition(recipe: Recipe) -> None:
    found = measure_damage(context_of(tiny.tiny()), [recipe], 60)[recipe.digest()]
    divergence, drop = by_hand(tiny.tiny(), recipe)
    assert found.divergence == pytest.approx(divergence, rel=1e-3, abs=1e-7)
    assert found.drop == pytest.approx(drop)


def test_damages_are_the_same_without_the_cache_of_activations(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damage_module, "_LEAST_SAVED_RUNS", 0.1)
    kept, found = damage_table(context_of(tiny.tiny()), RECIPES, 60), damage_module._LATEST[0]._cache
    assert found is not None and found.n_bytes > 0
    next(cache.glob("damage-*.json")).unlink()
    damage_module._LATEST.clear()
    assert damage_table(context_of(tiny.tiny()), RECIPES, 60, max_bytes=0) == kept


def test_the_empty_recipe_is_the_cost_of_fresh_statistics() -> None:
    found = measure_damage(context_of(tiny.tiny()), [Recipe()], 60)[Recipe().digest()]
    assert 0 < found.divergence < 0.1


def test_what_is_known_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = measure_damage(context_of(tiny.tiny()), RECIPES, 60)
    damage_module._LATEST.clear()
    monkeypatch.setattr(damage_module, "compress", None)
    assert measure_damage(context_of(tiny.tiny()), RECIPES, 0) == first


def test_what_was_measured_on_more_samples_is_known() -> None:
    many = damage_table(context_of(tiny.tiny()), RECIPES[:1], 60, 64).damages
    few = damage_table(context_of(tiny.tiny()), RECIPES[:2], 60, 32).damages
    assert many.items() <= few.items() and len(few) == 2
    assert damage_table(context_of(tiny.tiny()), RECIPES[:2], 0, 64).damages == many
    assert damage_table(context_of(tiny.tiny()), RECIPES[:2], 0, 32).damages == few


@pytest.mark.parametrize("n_samples", [32, 64])
def test_batches_are_cut_to_the_number_of_samples(n_samples: int) -> None:
    task = tiny.tiny()
    inputs, targets = next(iter(replace(task.validation, batch_size=192)))  # type: ignore[type-var]
    cut = replace(task, validation=[(inputs[:n_samples], targets[:n_samples])])
    whole = replace(task, validation=[(inputs, targets)])
    found = [damage_table(context_of(t), [INT4["7"]], 60, n_samples).damages for t in (cut, whole)]
    assert found[0] == found[1] and found[0]


def test_batches_of_any_form_are_cut_where_the_task_has_a_training_step() -> None:
    """A DataLoader gives lists, and a step of one's own makes the whole batch what stands for the targets."""
    task = tiny.tiny()
    batches = [[*batch] for batch in task.train]
    own = replace(task, train=batches, loss=None, training_step=lambda model, b: cross_entropy(model(b[0]), b[1]))
    counts = [affordable_samples(context_of(own), 1, seconds) for seconds in (0.0, 1e6)]
    found = [damage_table(context_of(own), [INT4["7"]], 60, n_samples) for n_samples in (20, *counts)]
    assert counts == [32, 256] and all(table.damages and not table.failures for table in found)


def test_as_many_samples_as_there_is_time_for() -> None:
    context = context_of(tiny.tiny())
    counts = [affordable_samples(context, 100, seconds) for seconds in (0.0, 1e-3, 1.0, 1e6)]
    assert counts == sorted(counts) and counts[0] == 32 and counts[-1] == 256
    assert affordable_samples(context, 0, 1e6) == 256  # nothing to measure is no division by 0


CHANGED: list[tuple[str, Callable[[], Task]]] = [
    ("weights", lambda: tiny.tiny(seed=1)),
    ("validation", lambda: replace(tiny.tiny(), validation=TensorBatches(*tiny.images(192, 9), batch_size=64))),
    ("score", lambda: replace(tiny.tiny(), score=replace(tiny.tiny().score, name="other"))),  # type: ignore[type-var]
]


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in CHANGED])
def test_another_model_data_or_score_has_another_file(make: Callable[[], Task], cache: Path) -> None:
    measure_damage(context_of(tiny.tiny()), [INT4["7"]], 60)
    assert measure_damage(context_of(make()), [INT4["7"]], 0) == {}


@pytest.mark.parametrize("damaged", [b"", b"{", b'{"damages": {"a": {"divergence": -1}}}', b"\xff"])
def test_a_damaged_file_is_no_file(damaged: bytes, tmp_path: Path) -> None:
    file = DamageFile(tmp_path / "damage.json")
    file.path.write_bytes(damaged)
    assert file.read() == ({}, {})
    file.add({"a": Damage(0.5, -0.1, 0.01)}, {"b": "why"})
    assert file.read() == ({"a": Damage(0.5, -0.1, 0.01)}, {"b": "why"})


def test_entries_of_two_processes_add_up(tmp_path: Path) -> None:
    for name in ("a", "b"):
        DamageFile(tmp_path / "deeper" / "damage.json").add({name: Damage(0.5, 0.1, 0.01)}, {})
    assert set(DamageFile(tmp_path / "deeper" / "damage.json").read()[0]) == {"a", "b"}


def test_a_folder_that_cannot_be_written_costs_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(measure_damage(context_of(tiny.tiny()), [INT4["7"]], 60)) == 1


def test_a_recipe_that_fails_is_left_out_with_its_reason() -> None:
    wrong = Recipe(pruning={"7": 0.5})
    table = damage_table(context_of(tiny.tiny()), [wrong, INT4["7"]], 60)
    assert set(table.damages) == {INT4["7"].digest()}
    assert "cannot be" in table.failures[wrong.digest()] and table.knows(wrong)


def test_without_time_nothing_is_measured_and_later_calls_go_on() -> None:
    context = context_of(tiny.tiny())
    assert measure_damage(context, RECIPES, 0) == {}
    some = measure_damage(context, RECIPES[:1], 60)
    assert some.items() <= measure_damage(context, RECIPES, 60).items()


def test_progress_counts_what_is_known() -> None:
    context, seen = context_of(tiny.tiny()), list[tuple[int, int]]()
    measure_damage(context, RECIPES[:1], 60)
    measure_damage(context, RECIPES[:3], 60, on_progress=lambda *counts: seen.append(counts))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_score_without_values_by_sample_has_an_error_too() -> None:
    task = tiny.tiny()
    whole = replace(task, score=Score(task.score.function, name="whole"))  # type: ignore[attr-defined]
    found = measure_damage(context_of(whole), [PRUNED], 60)[PRUNED.digest()]
    assert found.drop_error > 0


def test_a_score_that_is_not_a_number_is_an_error() -> None:
    with pytest.raises(MeasurementError, match="must be a finite number"):
        damage_table(context_of(tiny.nan_score()), [PRUNED], 60)


def test_no_data_is_an_error() -> None:
    with pytest.raises(MeasurementError, match="no batches"):
        measure_damage(context_of(tiny.no_train()), [PRUNED], 60)


def test_the_task_and_chance_are_as_before() -> None:
    task, before = tiny.tiny(), torch.random.get_rng_state()
    weights = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    measure_damage(context_of(task), RECIPES, 60)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in task.model.state_dict().items())


def test_a_table_can_be_sent_to_another_process() -> None:
    table = damage_table(context_of(tiny.tiny()), [PRUNED], 60)
    assert pickle.loads(pickle.dumps(table)) == table


def test_rows_and_columns_hold_every_choice_of_the_space() -> None:
    context = context_of(tiny.tiny())
    space = plan_space(load_space("full").bind(context.graph), context.graph)
    found = as_rows(space, damage_table(context, space.isolated[:2], 60))
    assert found.n_left == len(space.isolated) - 2 == sum(cell == Cell() for cell in found.cells.values())
    assert found.rows == ("0", "3", "7") and found.columns[:3] == ("8 bits", "7 bits", "4 bits")
    assert found.filter_columns == found.columns[3:]
    assert not any(math.isnan(c.damage.divergence) for c in found.cells.values() if c.damage)
