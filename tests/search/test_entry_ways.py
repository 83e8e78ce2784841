"""The three ways to say how to train, each through whole candidates: a loss, a training step, a loop of one's own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autocompress import Task
from autocompress.compress import importance_scores
from autocompress.errors import AutocompressError, TaskError, TrainingError
from autocompress.latency import LatencySettings
from autocompress.measurement import Measurement
from autocompress.recipe import Recipe
from autocompress.search import training
from autocompress.search.chosen import Manifest
from autocompress.search.context import EvaluationContext, Rung
from autocompress.search.evaluate import export_candidate, measure_candidate
from autocompress.search.training import Trained, seconds_a_step, train_candidate
from autocompress.search.training_data import filter_scores
from autocompress.train import TrainingBudget
from tests import tiny
from tests.detector import detector
from tests.search.test_training import context_of, uniform
from tests.studies import study_of

FEW_PAIRS = LatencySettings(min_pairs=2, max_pairs=2)
NARROW = {"weight_bits": 3, "activation_bits": 4}
INT8 = {"weight_bits": 8, "activation_bits": 8}
Fit = Callable[[nn.Module, TrainingBudget], None]


def whole(context: EvaluationContext, recipe: Recipe, n_steps: int, seed: int = 0) -> tuple[Trained, Measurement]:
    """Train, export and measure one candidate."""
    folder = context.folder / f"{recipe.digest()}-{n_steps}"
    trained = train_candidate(context, recipe, folder, Rung("test", n_steps), seed)
    export_candidate(context, recipe, folder)
    return trained, measure_candidate(context, recipe, folder, "test", FEW_PAIRS)[0]


@pytest.fixture(scope="module")
def found_boxes(tmp_path_factory: pytest.TempPathFactory) -> EvaluationContext:
    return context_of(detector(), tmp_path_factory.mktemp("boxes"))


def test_a_detector_with_two_losses_gets_its_score_back(found_boxes: EvaluationContext) -> None:
    recipe = uniform(found_boxes, NARROW)
    assert recipe.distillation.weight == 0.9  # of two maps, not logits
    _, before = whole(found_boxes, recipe, 0)
    trained, after = whole(found_boxes, recipe, 40)
    baseline = after.accuracy + after.accuracy_drop.value
    assert baseline > 0.7 and before.accuracy_drop.value > 0.08
    assert after.accuracy_drop.value < 0.3 * before.accuracy_drop.value
    assert after.torch_accuracy == pytest.approx(after.accuracy, abs=0.01)
    assert trained.summary is not None and trained.summary.course[-1].loss < trained.summary.course[0].loss


def test_a_detector_learns_from_its_teacher_alone(found_boxes: EvaluationContext) -> None:
    recipe = uniform(found_boxes, NARROW)
    only_teacher = recipe.model_copy(update={"distillation": recipe.distillation.model_copy(update={"weight": 1.0})})
    drops = [whole(found_boxes, only_teacher, n)[1].accuracy_drop.value for n in (0, 30)]
    assert drops[1] < 0.5 * drops[0]


class PlainLoop:
    """A loop of one's own: SGD with momentum and a rate that falls by its own schedule.

    Args:
        told: What the scheduler is told of: `step`, `epoch` or `both`.
        accumulate: Batches a step.
    """

    def __init__(self, told: str = "step", accumulate: int = 1) -> None:
        self._told, self._accumulate = told, accumulate

    def __call__(self, model: nn.Module, budget: TrainingBudget) -> None:
        optimizer = torch.optim.SGD(budget.parameter_groups(5e-3), lr=5e-3, momentum=0.9)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / budget.n_steps))
        while not budget.is_over:
            losses = []
            for index, (x, y) in enumerate(tiny.tiny().train):
                loss = cross_entropy(model(x), y)
                ((loss + budget.compression_loss(y)) / self._accumulate).backward()
                losses.append(loss.item())
                if (index + 1) % self._accumulate == 0:
                    optimizer.step()
                    optimizer.zero_grad()
                    schedule.step()
                    if self._told != "epoch":
                        budget.scheduler.step(loss)
            if self._told != "step":
                budget.scheduler.epoch_step(float(np.mean(losses)))


def with_fit(fit: Fit, **changes: Any) -> Task:
    return replace(tiny.tiny(), loss=None, fit=fit, **changes)


LOOPS = [
    pytest.param(PlainLoop(), 12, id="steps"),
    pytest.param(PlainLoop("epoch"), 12, id="epochs"),
    pytest.param(PlainLoop("both"), 12, id="both"),
    pytest.param(PlainLoop(accumulate=2), 12, id="accumulated"),
    pytest.param(PlainLoop("epoch"), 10, id="more steps than told"),
]


@pytest.mark.parametrize(("fit", "n_steps"), LOOPS)
def test_a_loop_of_ones_own_trains_candidates(fit: Fit, n_steps: int, tmp_path: Path) -> None:
    context = context_of(with_fit(fit), tmp_path)
    recipe = uniform(context, {**INT8, "sparsity": 0.5})
    trained, measured = whole(context, recipe, n_steps)
    assert measured.agreement > 0.95 and measured.accuracy_drop.value < 0.1
    frozen = context.restore(recipe, context.folder / f"{recipe.digest()}-{n_steps}").freeze_weights()
    weights = [frozen.get_submodule(name).weight for name in recipe.sparse]
    assert [float((w == 0).double().mean()) for w in weights] == pytest.approx([0.5] * len(weights), abs=0.08)
    assert trained.summary is not None and trained.summary.stopped_at is None
    assert trained.summary.course[-1].step == 12 and trained.summary.learning_rate == 0


def test_the_same_seed_gives_the_same_candidate_whatever_was_trained_before(tmp_path: Path) -> None:
    """By each way in; the data is shuffled, and the epoch that its loader was left at must not matter."""
    for task in (tiny.tiny(), with_fit(PlainLoop())):
        context = context_of(task, tmp_path / str(task.fit is None))
        recipe = uniform(context, {**INT8, "sparsity": 0.5})
        states = []
        for attempt in range(2):
            folder = context.folder / f"attempt-{attempt}"
            train_candidate(context, recipe, folder, Rung("test", 7), seed=3)
            states.append(context.restore(recipe, folder).state())
            torch.rand(5)
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


class Clock:
    """Goes on by a second a step of the loop."""

    def __init__(self, told: str) -> None:
        self.now, self._told = 0.0, told

    def perf_counter(self) -> float:
        return self.now

    def __call__(self, model: nn.Module, budget: TrainingBudget) -> None:
        budget.compression_loss(model(torch.zeros(2, 1, 8, 8)).argmax(dim=1))
        while not budget.is_over:
            for _ in range(budget.steps_per_epoch or 1):
                self.now += 1.0
                if self._told == "step":
                    budget.scheduler.step()
            if self._told == "epoch":
                budget.scheduler.epoch_step()


@pytest.mark.parametrize("told", ["step", "epoch"])
def test_the_time_of_a_step_is_found_in_a_loop_of_ones_own(
    told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(told)
    context = context_of(with_fit(clock), tmp_path)
    monkeypatch.setattr(training, "time", clock)
    assert seconds_a_step(context, uniform(context, INT8)) == 1.0


def rows(n: int, seed: int) -> list[dict[str, Tensor]]:
    """Two batches that are no pairs."""
    x, y = tiny.images(n, seed)
    return [{"pixels": a, "labels": b} for a, b in zip(x.split(n // 2), y.split(n // 2), strict=True)]


def step_of_rows(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return cross_entropy(model(batch["pixels"]), batch["labels"])


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="l1"),
        pytest.param({"importance": "taylor"}, id="taylor"),
        pytest.param({"importance": "activation"}, id="activation"),
        pytest.param({"calibration": {"rounding": "gptq", "bias_correction": True}}, id="gptq"),
    ],
)
def test_batches_of_any_form_are_calibrated_pruned_and_trained(changes: dict[str, Any], tmp_path: Path) -> None:
    task = replace(tiny.tiny(), loss=None, training_step=step_of_rows, train=rows(128, 1))
    context = context_of(task, tmp_path)
    pruning = {group.name: 0.25 for group in context.graph.prunable}
    _, measured = whole(context, uniform(context, INT8, pruning=pruning, **changes), 6)
    assert measured.agreement > 0.95 and measured.accuracy_drop.value < 0.3


def test_importance_by_a_training_step_is_that_by_its_loss(tmp_path: Path) -> None:
    task = replace(tiny.tiny(), loss=None, training_step=step_of_rows, train=rows(128, 1))
    context = context_of(task, tmp_path)
    groups = [group.name for group in context.graph.prunable]
    recipe = Recipe(pruning=dict.fromkeys(groups, 0.5), importance="taylor")
    found = filter_scores(context, recipe)
    pairs = [(batch["pixels"], batch["labels"]) for batch in rows(128, 1)]
    wanted = importance_scores(task.model, task.example_input, "taylor", groups, pairs, cross_entropy)
    assert found is not None and found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_importance_by_loss_needs_more_than_a_loop_of_ones_own(tmp_path: Path) -> None:
    context = context_of(with_fit(PlainLoop()), tmp_path)
    pruning = {group.name: 0.5 for group in context.graph.prunable}
    recipe = Recipe(pruning=pruning, importance="taylor")
    with pytest.raises(TrainingError, match="importance taylor needs the task's loss or training_step"):
        whole(context, recipe, 4)
    whole(context, Recipe(pruning=pruning, importance="activation"), 4)
    whole(context_of(replace(with_fit(PlainLoop()), loss=cross_entropy), tmp_path / "with a loss"), recipe, 4)


def raises(model: nn.Module, budget: TrainingBudget) -> None:
    raise RuntimeError("my loader broke")


def never_steps(model: nn.Module, budget: TrainingBudget) -> None:
    pass


def silent(model: nn.Module, budget: TrainingBudget) -> None:
    """Tells steps without losses."""
    while not budget.is_over:
        (model(torch.zeros(2, 1, 8, 8)).mean() + budget.compression_loss()).backward()
        budget.scheduler.step()


def leaves_nan(model: nn.Module, budget: TrainingBudget) -> None:
    silent(model, budget)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))


def no_loss(model: nn.Module, batch: Any) -> None:
    model(batch[0])


def no_gradient(model: nn.Module, batch: Any) -> Tensor:
    return model(batch[0]).mean().detach()


def vector_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs, targets, reduction="none")


def threes() -> list[tuple[Tensor, Tensor, int]]:
    return [(*tiny.images(32, 1), 0)]


BAD = [  # what is wrong with the task, the error, what it says
    pytest.param({"loss": vector_loss}, TrainingError, r"the task's loss must be a scalar.*\(32,\)", id="vector"),
    pytest.param({"training_step": no_loss}, TrainingError, "training_step returns.*NoneType", id="None"),
    pytest.param({"training_step": no_gradient}, TrainingError, "without a gradient", id="no gradient"),
    pytest.param({"train": threes()}, TaskError, r"must be a pair \(inputs, targets\), but got a tuple", id="no pair"),
    pytest.param({"train": tiny.NoBatches()}, AutocompressError, "at least one", id="no batches"),
    pytest.param({"fit": never_steps}, TrainingError, "it did neither", id="a fit that never steps"),
    pytest.param({"fit": leaves_nan}, TrainingError, "weights are not finite", id="a fit that leaves NaN"),
    pytest.param({"fit": raises}, RuntimeError, "my loader broke", id="a fit that raises"),
]


@pytest.mark.parametrize(("changes", "error", "said"), BAD)
def test_a_task_that_cannot_train_says_so_in_one_sentence(
    changes: dict[str, Any], error: type[Exception], said: str, tmp_path: Path
) -> None:
    context = context_of(replace(tiny.tiny(), **changes), tmp_path)
    with pytest.raises(error, match=said) as caught:
        whole(context, uniform(context, INT8), 4)
    assert "\n" not in str(caught.value)


def test_a_task_without_any_way_to_train_is_refused() -> None:
    with pytest.raises(TaskError, match="give a loss, a training_step or a fit, but got none of them"):
        replace(tiny.tiny(), loss=None)


@pytest.mark.parametrize("way", ["training_step", "fit", "failing"])
@pytest.mark.slow
def test_whole_searches_by_each_way(way: str, tmp_path: Path) -> None:
    tasks = {"training_step": detector, "fit": lambda: with_fit(PlainLoop()), "failing": lambda: with_fit(never_steps)}
    record = study_of(tasks[way](), tmp_path, max_drop=1.0).optimize("3trials")
    failures = [c.failure for c in record.candidates]
    assert len(failures) == 4 and failures[0] is None and record.chosen is not None
    if way == "failing":
        assert all("it did neither" in str(failure) for failure in failures[1:])
    else:
        assert failures == [None] * 4
        assert all(c.training is not None and c.training.course for c in record.candidates[1:])
    assert Manifest.read(tmp_path / "chosen").chosen.test
