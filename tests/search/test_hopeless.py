"""Trainings that cannot come near the floor are given up, others are not."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autocompress import Score, Task
from autocompress.latency import LatencySettings
from autocompress.recipe import LayerRecipe, Recipe, Sparsification
from autocompress.search import hopeless
from autocompress.search.context import EvaluationContext, Rung
from autocompress.search.evaluate import export_candidate, measure_candidate
from autocompress.search.hopeless import MARGINS, MIN_STEPS, InterimScore, watch_for_hopeless
from autocompress.search.training import RATES, train_candidate
from autocompress.space import preset
from autocompress.task import Fit
from autocompress.train import StepInfo, TrainingBudget, Watch
from tests import tiny
from tests.search.test_training import context_of, text_task, uniform

N_STEPS = 40
FLOOR = 0.01


class Fixed:
    """An interim score whose baseline is known."""

    def __init__(self, baseline: float, higher_is_better: bool) -> None:
        self.baseline, self._sign = baseline, 1 if higher_is_better else -1

    def __call__(self, module: nn.Module) -> float:
        raise AssertionError

    def drop(self, score: float) -> float:
        return self._sign * (self.baseline - score)


def watch_of(
    monkeypatch: pytest.MonkeyPatch, baseline: float, floor: float = FLOOR, higher_is_better: bool = True, **parts: int
) -> Watch:
    monkeypatch.setattr(hopeless, "InterimScore", lambda context: Fixed(baseline, higher_is_better))
    context = replace(bare_context(), max_drop=floor)
    return watch_for_hopeless(context, **{"n_steps": 100, **parts})


def bare_context() -> EvaluationContext:
    task = tiny.tiny()
    return EvaluationContext(task, None, Path("nowhere"), n_cores=1)  # type: ignore[arg-type]  # no graph is needed


def gives_up(watch: Watch, step: int, score: float | None, n_steps: int = 100) -> bool:
    assert watch.on_step is not None
    return bool(watch.on_step(StepInfo(step, n_steps, 1.0, 0.1, score)))


DECISIONS = [  # baseline 0.9, floor 0.01: the allowed drop is 0.01 + 0.06 * 0.9 = 0.064, 4 times that 0.256
    pytest.param(50, 0.65, True, False, id="half way, just inside four times"),
    pytest.param(50, 0.64, True, True, id="half way, just outside"),
    pytest.param(74, 0.65, True, False, id="before three quarters"),
    pytest.param(75, 0.65, True, True, id="at three quarters 2.5 times count, 0.16"),
    pytest.param(75, 0.75, True, False, id="at three quarters, just inside"),
    pytest.param(100, 0.73, True, True, id="in the end"),
    pytest.param(50, 0.99, True, False, id="better than the baseline"),
    pytest.param(50, math.nan, True, True, id="no number"),
    pytest.param(50, math.inf, True, False, id="infinitely good"),
    pytest.param(50, -math.inf, True, True, id="infinitely bad"),
    pytest.param(50, None, True, False, id="no score at this step"),
    pytest.param(50, 1.15, False, False, id="an error, just inside"),
    pytest.param(50, 1.16, False, True, id="an error, just outside"),
    pytest.param(50, 0.10, False, False, id="an error that fell"),
]


@pytest.mark.parametrize(("step", "score", "higher_is_better", "wanted"), DECISIONS)
def test_a_training_is_hopeless_beyond_the_margin(
    step: int, score: float | None, higher_is_better: bool, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = watch_of(monkeypatch, 0.9, higher_is_better=higher_is_better)
    assert gives_up(watch, step, score) is wanted


@given(
    n=st.integers(MIN_STEPS, 10_000),
    share=st.floats(0.05, 0.95),
    second=st.booleans(),
)
def test_no_score_is_due_before_two_fifths_of_all_steps(n: int, share: float, second: bool) -> None:
    first_part = max(1, min(n - 1, round(share * n)))
    before, steps = (first_part, n - first_part) if second else (0, first_part)
    with pytest.MonkeyPatch.context() as patch:
        watch = watch_of(patch, 0.9, n_steps=steps, n_before=before, n_in_all=n)
    due = [before + max(1, math.ceil(at * steps)) for at in watch.score_at]
    assert all(step >= 0.4 * n for step in due)
    assert not any(gives_up(watch, step - before, 0.9, steps) for step in due)
    assert sorted(due) == due and len(due) <= len(MARGINS)


def test_both_parts_of_a_training_together_are_scored_as_one() -> None:
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for before, steps in ((0, 70), (70, 30)):
            watch = watch_of(patch, 0.9, n_steps=steps, n_before=before, n_in_all=100)
            found += [before + math.ceil(round(at * steps, 6)) for at in watch.score_at]
    assert found == [50, 75]


@pytest.mark.parametrize(
    ("floor", "n_steps", "baseline"),
    [
        pytest.param(None, 100, 0.9, id="no floor"),
        pytest.param(FLOOR, MIN_STEPS - 1, 0.9, id="a short training"),
        pytest.param(FLOOR, 100, math.nan, id="a baseline without a score"),
    ],
)
def test_nothing_is_watched_where_nothing_can_be_said(
    floor: float | None, n_steps: int, baseline: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = watch_of(monkeypatch, baseline, floor, n_steps=n_steps)  # type: ignore[arg-type]
    assert watch == Watch()


def batches_of(n_batches: int) -> list[tuple[Tensor, Tensor]]:
    x, y = tiny.images(200 * n_batches, 2)
    return list(zip(x.split(200), y.split(200), strict=True))


def test_the_interim_score_reads_the_first_samples_and_changes_nothing() -> None:
    task = replace(tiny.tiny(), validation=batches_of(5))
    context = EvaluationContext(task, None, Path("nowhere"), n_cores=1)  # type: ignore[arg-type]
    interim = InterimScore(context)
    model = tiny.tiny().model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    score = interim(model)
    outputs = tiny.tiny().model(torch.cat([x for x, _ in batches_of(5)[:3]]))  # 600 samples, the first above 500
    targets = torch.cat([y for _, y in batches_of(5)[:3]])
    expected = float((outputs.argmax(1) == targets).double().mean())
    assert interim.baseline == pytest.approx(expected, abs=1e-9) and score == pytest.approx(expected, abs=0.02)
    assert model.training and all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_running_statistics_that_lag_behind_are_no_reason_to_give_up() -> None:
    context = EvaluationContext(tiny.tiny(), None, Path("nowhere"), n_cores=1)  # type: ignore[arg-type]
    interim, model = InterimScore(context), tiny.tiny().model
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    norm.running_mean, norm.running_var = norm.running_mean + 5.0, norm.running_var * 9.0  # type: ignore[operator]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert interim._score(model) < interim.baseline - 0.1
    assert interim(model) == pytest.approx(interim.baseline, abs=0.02)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_a_worse_score_is_a_drop_whatever_the_direction(higher_is_better: bool) -> None:
    score = Score(lambda outputs, targets: 0.5, higher_is_better)
    context = EvaluationContext(replace(tiny.tiny(), score=score), None, Path("nowhere"), n_cores=1)  # type: ignore[arg-type]
    worse = 0.3 if higher_is_better else 0.7
    assert InterimScore(context).drop(worse) == pytest.approx(0.2)


def test_a_score_that_fails_or_is_no_number_is_nan() -> None:
    for task in (tiny.nan_score(), replace(tiny.tiny(), score=Score(lambda o, t: 1 / 0))):
        context = EvaluationContext(task, None, Path("nowhere"), n_cores=1)  # type: ignore[arg-type]
        assert math.isnan(InterimScore(context).baseline)


def forgetting(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Makes the model worse: it learns the wrong classes."""
    return cross_entropy(model(batch[0]), (batch[1] + 1) % tiny.N_CLASSES)


def forgetting_loop(model: nn.Module, budget: TrainingBudget) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    while not budget.is_over:
        for batch in tiny.tiny().train:
            optimizer.zero_grad()
            (forgetting(model, batch) + budget.compression_loss()).backward()
            optimizer.step()
            budget.scheduler.step()
            if budget.is_over:
                break


@pytest.mark.parametrize("fit", [forgetting_loop, None], ids=["a loop of one's own", "the default loop"])
def test_what_is_given_up_is_measured_all_the_same(fit: Fit | None, tmp_path: Path) -> None:
    context = context_of(replace(tiny.tiny(), training_step=forgetting, fit=fit), tmp_path)
    context = with_rate(replace(context, max_drop=0.0), 0.01)
    int8 = uniform(context, {"weight_bits": 8, "activation_bits": 8})
    recipe = Recipe(layers=int8.layers, distillation={"weight": 0.0})
    trained = train_candidate(context, recipe, tmp_path / "candidate", Rung("test", N_STEPS), 0)
    export_candidate(context, recipe, tmp_path / "candidate")
    latency = LatencySettings(min_pairs=2, max_pairs=2)
    measured, _ = measure_candidate(context, recipe, tmp_path / "candidate", "validation", latency)
    assert trained.summary is not None and trained.summary.stopped_at in (20, 30)
    assert measured.accuracy_drop.value > 0.15


def with_rate(context: EvaluationContext, rate: float) -> EvaluationContext:
    """The context with learning rates that need not be found."""
    context.cache.mkdir(parents=True, exist_ok=True)
    (context.cache / RATES).write_text(json.dumps({"quantized": rate, "reshaped": rate, "max_seconds": 60.0}))
    return context


def test_a_training_that_holds_the_score_is_not_given_up(tmp_path: Path) -> None:
    context = with_rate(replace(context_of(tiny.tiny(), tmp_path), max_drop=0.0), 1e-4)
    recipe = uniform(context, {"weight_bits": 8, "activation_bits": 8})
    trained = train_candidate(context, recipe, tmp_path / "candidate", Rung("test", N_STEPS), 0)
    assert trained.summary is not None and trained.summary.stopped_at is None
    assert trained.summary.course[-1].step == N_STEPS


def always_wrong(outputs: Tensor, targets: Tensor) -> float:
    """Good once, for the baseline, then bad."""
    _said.append(1)
    return 0.9 if len(_said) == 1 else 0.0


_said: list[int] = []


def test_a_model_that_loses_rows_is_not_trained_on_after_it_was_given_up(tmp_path: Path) -> None:
    _said.clear()
    task: Task = text_task()
    context = context_of(task, tmp_path)
    recipe = preset("jpqd", context.graph)
    assert recipe.sparsification == Sparsification(method="movement", structure="rows")
    context = replace(with_rate(context, 1e-4), task=replace(task, score=Score(always_wrong)), max_drop=0.0)
    trained = train_candidate(context, recipe, tmp_path / "candidate", Rung("test", N_STEPS), 0)
    assert trained.summary is not None and trained.summary.stopped_at == 20  # of 28 with masks and 12 without
    assert context.restore(recipe, tmp_path / "candidate").layers["layer.linear1"] == LayerRecipe(
        weight_bits=8, activation_bits=8
    )
