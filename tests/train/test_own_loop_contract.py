"""What a training loop of one's own must do, what it leaves behind, and what is said of one that does it not."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.errors import TrainingError
from autocompress.recipe import Distillation
from autocompress.train import Teacher, TrainingBudget
from tests.train.test_own_loop import (
    BATCHES,
    GATES,
    INT8,
    N_STEPS,
    budget_of,
    fit,
    hooks_of,
    model_of,
    net,
    rows_of,
    same,
    steps_only,
)

Fit = Callable[[nn.Module, TrainingBudget], None]


def noisy(model: nn.Module, budget: TrainingBudget) -> None:
    """Draws from all three global generators."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(budget.n_steps):
        x = torch.randn(8, 1, 8, 8) + random.random() + float(np.random.rand())  # noqa: NPY002
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        budget.scheduler.step()


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before() -> None:
    found = []
    for seed, disturbance in ((1, 5), (1, 6), (2, 5)):
        compressed = model_of(INT8)
        torch.manual_seed(disturbance)
        random.seed(disturbance)
        np.random.seed(disturbance)  # noqa: NPY002
        budget_of(compressed, seed=seed).run(noisy)
        found.append(compressed)
    assert same(found[0], found[1]) and not same(found[0], found[2])


@pytest.mark.parametrize("raises", [False, True], ids=["a loop that ends", "a loop that raises"])
def test_a_loop_leaves_the_global_generators_as_they_were(raises: bool) -> None:
    def draws(model: nn.Module, budget: TrainingBudget) -> None:
        noisy(model, budget)
        if raises:
            raise RuntimeError("no more")

    def drawn() -> tuple[float, float, float]:
        return torch.rand(1).item(), random.random(), float(np.random.rand())  # noqa: NPY002

    def seed() -> None:
        torch.manual_seed(4)
        random.seed(4)
        np.random.seed(4)  # noqa: NPY002

    budget = budget_of(model_of(INT8))
    seed()
    wanted = drawn()
    seed()
    if raises:
        with pytest.raises(RuntimeError, match="no more"):
            budget.run(draws)
    else:
        budget.run(draws)
    assert drawn() == wanted


def never_steps(model: nn.Module, budget: TrainingBudget) -> None:
    pass


def leaves_nan(model: nn.Module, budget: TrainingBudget) -> None:
    steps_only(budget, 2)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))


def forgets_the_term(model: nn.Module, budget: TrainingBudget) -> None:
    model(next(iter(BATCHES))[0])
    budget.scheduler.step()


def runs_no_model(model: nn.Module, budget: TrainingBudget) -> None:
    budget.compression_loss()


@pytest.mark.parametrize(
    ("loop", "said"),
    [
        pytest.param(never_steps, r"must call budget.scheduler.step\(\).*but it did neither", id="no step"),
        pytest.param(leaves_nan, "weights are not finite after the task's fit", id="NaN weights"),
        pytest.param(forgets_the_term, r"must add budget.compression_loss\(\)", id="no compression loss"),
        pytest.param(runs_no_model, "needs a call of the compressed model", id="no forward"),
    ],
)
@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_a_loop_that_breaks_the_contract_ends_in_one_sentence(loop: Fit, said: str, sparsity: float) -> None:
    compressed = model_of({**INT8, "sparsity": sparsity})
    n_hooks, budget = hooks_of(compressed.module), None
    is_taught = loop in (forgets_the_term, runs_no_model)
    budget = budget_of(compressed, teacher=Teacher(net()), distillation=Distillation(weight=0.9 * is_taught))
    with pytest.raises(TrainingError, match=said) as caught:
        budget.run(loop)
    assert "\n" not in str(caught.value)
    assert hooks_of(compressed.module) == n_hooks and not compressed.module.training


def test_gates_whose_term_is_forgotten_are_noticed() -> None:
    budget = budget_of(model_of({"sparsity": 0.5}, sparsification=GATES))
    with pytest.raises(TrainingError, match=r"must add budget.compression_loss\(\)"):
        budget.run(forgets_the_term)


def test_a_loop_without_any_term_need_not_ask_for_it() -> None:
    budget = budget_of(model_of({"sparsity": 0.5}), n_steps=1)
    assert budget.run(forgets_the_term).n_steps == 1


def test_an_error_of_the_loop_is_passed_on_and_leaves_no_hooks(tmp_path: Path) -> None:
    def raises(model: nn.Module, budget: TrainingBudget) -> None:
        fit(model, budget)
        raise ValueError("out of data")

    compressed, teacher = model_of({"sparsity": 0.5}), net()
    n_hooks = hooks_of(compressed.module)
    budget = budget_of(compressed, teacher=Teacher(teacher), distillation=Distillation(), log=tmp_path / "log.csv")
    with pytest.raises(ValueError, match="out of data"):
        budget.run(raises)
    assert hooks_of(compressed.module) == n_hooks and not compressed.module.training
    assert len(rows_of(tmp_path / "log.csv")) == N_STEPS


def test_a_loop_that_freezes_the_model_in_the_end_changes_nothing_else() -> None:
    def freezes(model: nn.Module, budget: TrainingBudget) -> None:
        fit(model, budget)
        model.requires_grad_(False)

    free, frozen = model_of({"sparsity": 0.5, **INT8}), model_of({"sparsity": 0.5, **INT8})
    budget_of(free).run(fit)
    budget_of(frozen).run(freezes)
    assert same(free, frozen)


def test_calls_that_nobody_asked_the_loss_of_are_forgotten_after_a_step() -> None:
    """Or memory would grow with every batch on which the loop asks only now and then."""
    compressed = model_of(INT8)
    taught = Teacher(net())
    x, y = next(iter(BATCHES))
    with budget_of(compressed, teacher=taught, distillation=Distillation()) as budget:
        compressed.module(x)
        budget.compression_loss(y)
        for _ in range(3):
            compressed.module(x)
            budget.scheduler.step()
        compressed.module(x)
        n_before = taught.n_computed
        budget.compression_loss(y)
    assert taught.n_computed == n_before + 1


def test_features_are_refused_since_they_need_the_loop_of_autocompress() -> None:
    settings = Distillation(features=("3",))
    compressed = model_of(INT8)
    with pytest.raises(TrainingError, match=r"features \('3',\); take them out"):
        budget_of(compressed, teacher=Teacher(net(), ("3",)), distillation=settings)
    budget_of(compressed, distillation=settings)  # nobody teaches, so nothing is left out


def test_a_training_of_no_steps_is_over_at_once() -> None:
    compressed = model_of({"sparsity": 0.5})
    budget = budget_of(compressed, n_steps=0)
    assert budget.is_over and budget.run(never_steps).n_steps == 0
