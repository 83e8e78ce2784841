"""A training loop of one's own: what the budget gives it, and what it must do."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autocompress.compress import CompressedModel, calibrate, compress, parameter_groups
from autocompress.errors import CompressionError, TrainingError
from autocompress.graph import inspect_model
from autocompress.recipe import Distillation, LayerRecipe, Recipe, Sparsification
from autocompress.space import uniform_recipe
from autocompress.task import TensorBatches
from autocompress.train import StepInfo, Teacher, TrainingBudget, Watch
from tests import tiny

N_STEPS = 8
BATCHES = TensorBatches(*tiny.images(64, 1), batch_size=16)  # 4 an epoch
INT8 = {"weight_bits": 8, "activation_bits": 8}
GATES = Sparsification(method="regularization")


def net() -> nn.Module:
    torch.manual_seed(0)
    return tiny.net().eval()


def model_of(layer: dict[str, Any], **whole: Any) -> CompressedModel:
    model, x = net(), torch.zeros(1, 1, 8, 8)
    graph = inspect_model(model, x)
    layers = uniform_recipe(graph, LayerRecipe(**layer)).layers
    if layer.get("weight_bits") == 1:
        layers = {name: kept for name, kept in layers.items() if name == "3"}
    compressed = compress(model, graph, Recipe(layers=layers, **whole), x)
    calibrate(compressed.module, BATCHES)
    return compressed


def budget_of(compressed: CompressedModel, n_steps: int = N_STEPS, **changes: Any) -> TrainingBudget:
    arguments = {
        "ranges": parameter_groups(compressed.module)[1],
        "compression": compressed.training(n_steps, changes.get("steps_per_epoch")),
        "distillation": Distillation(weight=0),
    }
    return TrainingBudget(compressed.module, n_steps, **{**arguments, **changes})


def fit(model: nn.Module, budget: TrainingBudget) -> None:
    """A plain loop that tells its steps and losses."""
    optimizer = torch.optim.SGD(budget.parameter_groups(0.01), lr=0.01)
    while not budget.is_over:
        for x, y in BATCHES:
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            (loss + budget.compression_loss(y)).backward()
            optimizer.step()
            budget.scheduler.step(loss)


def steps_only(budget: TrainingBudget, n: int) -> None:
    for _ in range(n):
        budget.scheduler.step()


def sparsities(compressed: CompressedModel) -> list[float]:
    frozen = compressed.freeze_weights()
    weights = [frozen.get_submodule(name).weight for name in compressed.layers]
    return [float((weight == 0).double().mean()) for weight in weights]  # type: ignore[union-attr,operator]


def same(a: CompressedModel, b: CompressedModel) -> bool:
    left, right = a.state(), b.state()
    return all(torch.equal(left[key], right[key]) for key in left)


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("weight", [0.25, 0.9, 1.0])
def test_the_compression_loss_is_that_of_the_methods_and_the_share_of_distillation(weight: float) -> None:
    compressed, teacher = model_of({"sparsity": 0.5, **INT8}, sparsification=GATES), net()
    settings, training = Distillation(weight=weight, temperature=3.0), compressed.training(N_STEPS)
    x, y = next(iter(BATCHES))
    with budget_of(compressed, teacher=Teacher(teacher), distillation=settings, compression=training) as budget:
        outputs = compressed.module(x)
        found = budget.compression_loss(y)
    p, q = (values.detach().double().div(3.0).softmax(dim=1).numpy() for values in (teacher(x), outputs))
    divergence = 9.0 * float((p * np.log(p / q)).sum(axis=1).mean())  # T^2 KL(teacher || student)
    share = min(weight, 0.99)
    assert found.item() == pytest.approx(float(training_loss(compressed)) + share / (1 - share) * divergence, rel=1e-4)


def training_loss(compressed: CompressedModel) -> Tensor:
    """Term of the gates before the first step, from a training of its own."""
    return compressed.training(N_STEPS).loss().detach()


@pytest.mark.parametrize(
    ("layer", "changes"),
    [
        pytest.param(INT8, {}, id="quantized only"),
        pytest.param({"sparsity": 0.5}, {}, id="magnitude"),
        pytest.param(INT8, {"distillation": Distillation()}, id="distillation without a teacher"),
        pytest.param(INT8, {"teacher": Teacher(nn.Identity())}, id="a teacher of weight 0"),
        pytest.param(INT8, {"compression": None}, id="no methods"),
    ],
)
def test_the_compression_loss_is_0_where_nothing_has_a_term(layer: dict[str, Any], changes: dict[str, Any]) -> None:
    compressed = model_of(layer)
    with budget_of(compressed, **changes) as budget:
        compressed.module(next(iter(BATCHES))[0])
        assert budget.compression_loss().item() == 0


def test_gates_and_distillation_get_gradients_by_the_compression_loss() -> None:
    compressed = model_of({"sparsity": 0.5}, sparsification=GATES)
    with budget_of(compressed, teacher=Teacher(net()), distillation=Distillation()) as budget:
        outputs = compressed.module(next(iter(BATCHES))[0])
        (0.0 * outputs.sum() + budget.compression_loss()).backward()
    named = dict(compressed.module.named_parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for name, p in named.items() if "scores" in name)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for name, p in named.items() if "scores" not in name)


def by_steps(budget: TrainingBudget) -> None:
    steps_only(budget, 4)


def by_epochs(budget: TrainingBudget) -> None:
    budget.scheduler.epoch_step()


def by_both(budget: TrainingBudget) -> None:
    steps_only(budget, 4)
    budget.scheduler.epoch_step()


@pytest.mark.parametrize("tell", [by_steps, by_epochs, by_both], ids=["steps", "epochs", "both"])
def test_masks_rise_alike_whoever_counts(tell: Callable[[TrainingBudget], None]) -> None:
    compressed = model_of({"sparsity": 0.6}, sparsification=Sparsification(end=1.0))
    with budget_of(compressed, n_steps=16, steps_per_epoch=4) as budget:
        levels = []
        for epoch in range(4):
            tell(budget)
            levels.append(np.mean(sparsities(compressed)))
            assert (budget.n_done, budget.is_over) == (4 * (epoch + 1), epoch == 3)
    wanted = [0.6 * (1 - (1 - share) ** 3) for share in (0.25, 0.5, 0.75, 1.0)]  # Zhu & Gupta 2017, equation 1
    assert levels == pytest.approx(wanted, abs=0.01)


def test_epochs_that_nobody_counts_in_steps_are_refused() -> None:
    compressed = model_of(INT8)
    said = "epoch_step needs steps_per_epoch, but got None"
    with budget_of(compressed, compression=None) as budget, pytest.raises(TrainingError, match=said):
        budget.scheduler.epoch_step()


def test_the_last_steps_are_finished_even_if_the_loop_ends_early() -> None:
    compressed = model_of({"sparsity": 0.6})
    with budget_of(compressed) as budget:
        budget.scheduler.step()
        assert max(sparsities(compressed)) < 0.5
    assert sparsities(compressed) == pytest.approx([0.6] * 3, abs=0.01)


def test_an_adaptive_schedule_asks_for_the_loss() -> None:
    compressed = model_of({"sparsity": 0.6}, sparsification=Sparsification(schedule="adaptive"))
    with budget_of(compressed) as budget:
        budget.scheduler.step(1.0)
        with pytest.raises(CompressionError, match="adaptive schedule needs the training loss, but got None"):
            budget.scheduler.step()


def test_stages_of_binary_layers_are_switched_step_by_step() -> None:
    compressed = model_of({"weight_bits": 1, "activation_bits": 1})
    switched = {m.binarizes: m for m in compressed.module.modules() if hasattr(m, "binarizes")}
    seen = []
    with budget_of(compressed, n_steps=9) as budget:
        for _ in range(9):
            seen.append((switched["activations"].enabled, switched["weights"].enabled))
            budget.scheduler.step()
    assert seen == [(False, False)] + 2 * [(True, False)] + 6 * [(True, True)]  # 1, 2, 3 and 3 ninths


@pytest.mark.parametrize("sparsification", [Sparsification(), GATES, Sparsification(method="movement")])
def test_groups_hold_every_trainable_parameter_once(sparsification: Sparsification) -> None:
    compressed = model_of({"sparsity": 0.5, **INT8}, sparsification=sparsification)
    compressed.module.get_submodule("1").weight.requires_grad_(False)  # type: ignore[operator,union-attr]
    groups = budget_of(compressed).parameter_groups(0.1, weight_decay=0.02)
    held = [id(p) for group in groups for p in group["params"]]
    wanted = [id(p) for p in compressed.module.parameters() if p.requires_grad]
    assert sorted(held) == sorted(wanted)
    assert {group["name"]: group["weight_decay"] for group in groups if group["weight_decay"]} == {"weights": 0.02}


def test_a_frozen_model_has_no_groups_but_a_sentence() -> None:
    compressed = model_of(INT8)
    compressed.module.requires_grad_(False)
    with pytest.raises(TrainingError, match="every parameter is frozen"):
        budget_of(compressed).parameter_groups(0.1)


def test_a_told_loss_is_logged_with_its_parts(tmp_path: Path) -> None:
    path = tmp_path / "training.csv"
    compressed = model_of({"sparsity": 0.5}, sparsification=GATES)
    budget = budget_of(compressed, log=path, teacher=Teacher(net()), distillation=Distillation())
    outcome = budget.run(fit)
    rows = rows_of(path)
    assert [int(row["step"]) for row in rows] == list(range(1, N_STEPS + 1))
    assert all(float(row["distillation_loss"]) > 0 for row in rows)
    assert float(rows[0]["compression_loss"]) > 0 and float(rows[-1]["compression_loss"]) == 0  # frozen by then
    assert [point.loss for point in outcome.course] == pytest.approx([float(row["loss"]) for row in rows])


def test_a_log_of_a_loop_that_was_cut_off_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "training.csv"
    with budget_of(model_of(INT8), log=path) as budget:
        for _ in range(5):
            budget.scheduler.step(1.0)
    with budget_of(model_of(INT8), log=path, steps_per_epoch=4) as budget:
        budget.scheduler.epoch_step(2.0)
    assert [(row["step"], row["loss"]) for row in rows_of(path)] == [("4", "2.0")]


def test_steps_without_a_loss_are_not_logged_but_watched(tmp_path: Path) -> None:
    seen: list[StepInfo] = []
    watch = Watch(on_step=lambda info: bool(seen.append(info)))
    with budget_of(model_of(INT8), log=tmp_path / "training.csv", watch=watch) as budget:
        steps_only(budget, 3)
    assert [info.step for info in seen] == [1, 2, 3] and all(np.isnan(info.loss) for info in seen)
    assert rows_of(tmp_path / "training.csv") == []


@pytest.mark.parametrize("loss", [torch.zeros(3), torch.zeros(2, 1)], ids=["vector", "matrix"])
def test_a_told_loss_of_several_numbers_is_refused(loss: Tensor) -> None:
    with budget_of(model_of(INT8)) as budget, pytest.raises(TrainingError, match="must be one number, but got shape"):
        budget.scheduler.step(loss)


def test_interim_scores_are_taken_when_due_and_end_the_loop() -> None:
    scored: list[tuple[int, bool, float]] = []
    compressed = model_of(INT8)
    budget = budget_of(
        compressed,
        n_steps=12,
        steps_per_epoch=4,
        watch=Watch(
            on_step=lambda info: info.score == 2.0,
            score=lambda module: scored.append((budget.n_done, module.training, torch.rand(1).item())) or len(scored),
            score_at=(0.25, 0.5),
        ),
    )

    def epochs(model: nn.Module, budget: TrainingBudget) -> None:
        torch.manual_seed(3)
        while not budget.is_over:
            budget.scheduler.epoch_step()
        assert torch.equal(torch.rand(2), torch.rand(2, generator=torch.Generator().manual_seed(3)))

    outcome = budget.run(epochs)
    assert [(step, training) for step, training, _ in scored] == [(4, False), (8, False)]
    assert outcome.is_given_up and outcome.n_steps == 8


def test_a_loop_that_does_not_ask_whether_it_is_over_was_not_given_up() -> None:
    budget = budget_of(model_of(INT8), watch=Watch(on_step=lambda info: True))
    assert not budget.run(lambda model, budget: steps_only(budget, N_STEPS)).is_given_up


def test_the_module_trains_inside_and_evaluates_afterwards() -> None:
    compressed, teacher = model_of(INT8), net().train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    n_hooks = hooks_of(compressed.module)
    with budget_of(compressed, teacher=Teacher(teacher), distillation=Distillation()):
        assert all(m.training for m in compressed.module.modules()) and not teacher.training
        assert hooks_of(compressed.module) > n_hooks
        compressed.module(next(iter(BATCHES))[0])
    assert not any(m.training for m in compressed.module.modules()) and all(m.training for m in teacher.modules())
    assert hooks_of(compressed.module) == n_hooks and hooks_of(teacher) == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


def test_a_whole_loop_trains_the_module_and_leaves_the_teacher_alone() -> None:
    compressed, teacher = model_of({"sparsity": 0.5, **INT8}), net()
    before, taught = compressed.state(), {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    outcome = budget_of(compressed, teacher=Teacher(teacher), distillation=Distillation()).run(fit)
    assert outcome.n_steps == N_STEPS and not outcome.is_given_up
    assert any(not torch.equal(before[key], tensor) for key, tensor in compressed.state().items())
    assert all(torch.equal(taught[key], tensor) for key, tensor in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())
