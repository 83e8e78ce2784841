"""What a search plans with: measured once, corrected by candidates, explained; a failure or no time is said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autocompress.graph import inspect_model
from autocompress.measurement import Interval
from autocompress.pareto import Candidate
from autocompress.processes import WorkFailedError
from autocompress.recipe import Recipe
from autocompress.search.budget import Budget
from autocompress.search.clock import SearchClock
from autocompress.search.context import EvaluationContext
from autocompress.search.engine import Engine
from autocompress.space import anchors, load_space
from tests.examples import candidate, measurement
from tests.search.test_identity import configuration
from tests.tiny import tiny


class Here:
    """A worker that works in this process."""

    def __init__(self, folder: Path) -> None:
        task = tiny()
        self.context = EvaluationContext(task, inspect_model(task.model, task.example_input), folder, n_cores=1)

    def call(self, work: Callable[..., Any], *arguments: Any, deadline: float | None = None) -> Any:
        return work(self.context, *arguments)


class Failing(Here):
    """A worker in which everything fails."""

    def call(self, work: Callable[..., Any], *arguments: Any, deadline: float | None = None) -> Any:
        raise WorkFailedError("its process died")


def engine_with(worker: Here, **changes: Any) -> Engine:
    bound = load_space("full").bind(worker.context.graph)
    asked = configuration(**{"sampler": "bayesdp", "finetune_steps": 50, "max_drop": 0.05, **changes})
    baseline = measurement(0.0, 1.0, 10_000)
    return Engine(bound, worker.context.graph, asked, baseline, worker, lambda phase: None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    engine = engine_with(Here(tmp_path_factory.mktemp("engine")))
    engine.prepare(SearchClock(Budget(n_trials=20)))
    return engine


def test_a_prepared_engine_has_a_problem_of_measured_choices(ready: Engine) -> None:
    problem = ready.problem()
    assert ready.is_ready and ready.plans and not ready.findings
    assert len(problem.units) == len(ready.space.units)
    assert any(unit.damage.max() > 0 for unit in problem.units)
    assert {"damage table", "latency model"} <= set(ready.take_seconds()) and not ready.take_seconds()


def test_measured_latencies_move_predictions_towards_them(tmp_path: Path) -> None:
    ready = engine_with(Here(tmp_path))
    ready.prepare(SearchClock(Budget(seconds=60)))  # too short for a latency model of this machine, which may be busy
    recipe = anchors(ready.space.bound, tiny_graph())["int8"]
    plan = np.array([ready.space.plan_of(recipe)])
    before = float(ready.problem().latencies(plan)[0])
    slow = candidate("slow", 0.0, 0.5, recipe=recipe).model_copy(update={"measurement": measurement(0.0, 0.5)})
    ready.learn([slow])
    after = float(ready.problem().latencies(plan)[0])
    assert before < after <= 2.2
    ready.learn([slow])
    assert float(ready.problem().latencies(plan)[0]) == after


def tiny_graph() -> Any:
    task = tiny()
    return inspect_model(task.model, task.example_input)


def test_the_choice_is_explained_even_where_no_plan_would_want_it(ready: Engine) -> None:
    recipes = anchors(ready.space.bound, tiny_graph())
    found = [candidate("base", 0.0, 1.0, recipe=Recipe())]
    found += [candidate(label, 0.01, 2.0, recipe=r) for label, r in recipes.items() if label != "fp32"]
    drops = {c.digest: Interval(value=0.01, low=0.0, high=0.02) for c in found[1:]}
    for c in found[1:]:
        explained = ready.explanation(found, c.digest, drops)
        assert explained and explained.digest == c.digest and explained.units
        assert [layer.name for layer in explained.layers] == [layer.name for layer in tiny_graph().layers]
        assert [unit.unit for unit in explained.sensitivity] == [unit.unit for unit in explained.units]
        assert [d.digest for d in explained.decisions] == [f.digest for f in explained.forecasts]


def test_a_failure_is_said_and_recipes_are_drawn_at_random(tmp_path: Path) -> None:
    engine = engine_with(Failing(tmp_path))
    engine.prepare(SearchClock(Budget(n_trials=20)))
    assert engine.is_ready and not engine.plans
    assert "drawn at random: its process died" in engine.findings[0]
    assert type(engine.sampler({})).__name__ == "OptunaSampler"
    assert engine.explanation([candidate("base", 0.0, 1.0, recipe=Recipe())], "base", {}) is None


def test_no_time_for_the_damage_table_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nothing known"))
    engine = engine_with(Here(tmp_path))
    engine.prepare(SearchClock(Budget(seconds=30)))
    assert engine.is_ready and "no time for the damage table" in engine.findings[0]
    assert engine.problem().units


def test_damages_that_are_known_need_no_time(ready: Engine, tmp_path: Path) -> None:
    engine = engine_with(Here(tmp_path))
    engine.prepare(SearchClock(Budget(seconds=30)))
    assert ready.is_ready and not engine.findings  # that something is missing would be one


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp", "random"])
def test_samplers_that_do_not_plan_are_ready_at_once(tmp_path: Path, sampler: str) -> None:
    engine = engine_with(Failing(tmp_path), sampler=sampler)
    assert engine.is_ready and engine.planning_seconds(SearchClock(Budget(n_trials=3))) >= 0
    assert engine.sampler({}) is not None


def test_a_failed_candidate_teaches_nothing(ready: Engine) -> None:
    before = ready.problem()
    failed: Candidate = candidate("failed")
    ready.learn([failed])
    plans = np.zeros((1, len(before.units)), np.int64)
    assert ready.problem().latencies(plans) == before.latencies(plans)
