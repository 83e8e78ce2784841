"""What a training step minimizes, and what reads the inputs of a step."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autocompress.errors import TaskError, TrainingError
from autocompress.recipe import Distillation
from autocompress.task import call
from autocompress.train import Objective, Teacher
from autocompress.train.objective import BatchLoss, StepInputs, call_arguments, loss_after, targets_of

X, Y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


class Named(nn.Module):
    """A classifier that is called by name, and computes its loss itself where it is given labels."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.config = SimpleNamespace(scale=2.0)
        self.n_runs = 0

    def forward(self, values: Tensor, *, labels: Tensor | None = None) -> dict[str, Tensor]:
        self.n_runs += 1
        logits = self.head(values)
        return {"logits": logits} if labels is None else {"loss": cross_entropy(logits, labels), "logits": logits}


def linear(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(4, 3)


def step(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return cross_entropy(model(x), y)


def test_a_training_step_goes_before_a_loss() -> None:
    objective = Objective(lambda outputs, targets: 1 / 0, step)
    model = linear()
    assert objective.of(model, (X, Y)).item() == cross_entropy(model(X), Y).item()


@pytest.mark.parametrize("batch", [{"x": X, "y": Y}, [X, Y, Y], X, "a line of text"], ids=lambda b: type(b).__name__)
def test_a_training_step_reads_batches_of_any_form(batch: Any) -> None:
    model, seen = linear(), []
    objective = Objective(training_step=lambda m, b: seen.append(b) or m(X).mean())
    assert objective.of(model, batch).requires_grad and seen[0] is batch


def returns(value: Any) -> Callable[..., Any]:
    return lambda *_: value


WEIGHT = torch.ones(3, requires_grad=True)
VALUES = [
    pytest.param(None, "must be a scalar tensor, but got NoneType", id="None"),
    pytest.param(0.5, "must be a scalar tensor, but got float", id="a number"),
    pytest.param({"loss": WEIGHT.sum()}, "must be a scalar tensor, but got dict", id="a dict"),
    pytest.param((WEIGHT.sum(), 0), "must be a scalar tensor, but got tuple", id="a tuple"),
    pytest.param(WEIGHT, r"must be a scalar tensor, but got shape \(3,\)", id="a vector"),
    pytest.param(WEIGHT[:1], r"must be a scalar tensor, but got shape \(1,\)", id="a vector of one"),
    pytest.param(torch.tensor(1.0), "must depend on the model's parameters", id="no gradient"),
]


@pytest.mark.parametrize(("value", "said"), VALUES)
@pytest.mark.parametrize("way", ["loss", "training_step"])
def test_a_loss_that_cannot_be_minimized_is_said(way: str, value: Any, said: str) -> None:
    who = "the task's loss" if way == "loss" else "what training_step returns"
    with pytest.raises(TrainingError, match=f"^{who} {said}") as caught:
        Objective(**{way: returns(value)}).of(linear(), (X, Y))
    assert "\n" not in str(caught.value)


def test_a_batch_for_a_loss_must_be_a_pair() -> None:
    with pytest.raises(TaskError, match=r"a batch of train must be a pair \(inputs, targets\), but got a dict"):
        Objective(cross_entropy).of(linear(), {"x": X})


def test_an_objective_needs_something_to_minimize() -> None:
    with pytest.raises(TrainingError, match="needs a loss.* or a training_step.*, but got none"):
        Objective(teacher=Teacher(linear()))


class Fixed:
    """A method with a constant term."""

    scores: list[nn.Parameter] = []
    needs_loss = False

    def loss(self) -> Tensor:
        return torch.tensor(0.5)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("way", ["loss", "training_step"])
def test_the_terms_add_up_by_their_weights(way: str, weight: float) -> None:
    model, teacher = linear(0), linear(1)
    objective = Objective(**{way: cross_entropy if way == "loss" else step}, teacher=Teacher(teacher))
    settings = Distillation(weight=weight, temperature=2.0)
    loss = BatchLoss(objective, settings, Fixed(), model, None)  # type: ignore[arg-type]
    with loss.watching():
        terms = loss.of(model, (X, Y))
    p, q = (m(X).detach().double().div(2.0).softmax(dim=1) for m in (teacher, model))
    soft = 4.0 * float((p * (p / q).log()).sum(dim=1).mean())
    hard = -float(model(X).detach().double().log_softmax(dim=1)[torch.arange(6), Y].mean())
    assert terms.value.item() == pytest.approx((1 - weight) * hard + weight * soft, rel=1e-5)
    assert terms.total.item() == pytest.approx(terms.value.item() + 0.5)
    assert terms.detached().total.requires_grad is False
    if weight:
        assert terms.distillation is not None and terms.distillation.item() == pytest.approx(weight * soft, rel=1e-5)


@pytest.mark.parametrize(
    ("inputs", "args", "kwargs"),
    [
        pytest.param(X, (X,), {}, id="tensor"),
        pytest.param((X, Y), (X, Y), {}, id="tuple"),
        pytest.param([X, Y], (X, Y), {}, id="list"),
        pytest.param({"values": X}, (), {"values": X}, id="dict"),
    ],
)
def test_inputs_become_arguments(inputs: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    found_args, found_kwargs = call_arguments((inputs, Y))
    assert all(a is b for a, b in zip(found_args, args, strict=True))
    assert found_kwargs.keys() == kwargs.keys() and all(found_kwargs[key] is kwargs[key] for key in kwargs)


def test_targets_are_those_of_a_pair() -> None:
    assert targets_of((X, Y)) is Y and targets_of([X, Y]) is Y
    assert targets_of({"x": X, "y": Y}) is None and targets_of((X, Y, Y)) is None


STEPS = [
    pytest.param(lambda m, b: m(b["x"]), ["values"], id="positional"),
    pytest.param(lambda m, b: m(values=b["x"]), ["values"], id="by name"),
    pytest.param(lambda m, b: m(b["x"], labels=b["y"])["loss"], ["values", "labels"], id="both"),
    pytest.param(lambda m, b: m(**{"values": b["x"], "labels": b["y"]})["loss"], ["values", "labels"], id="dict"),
]


@pytest.mark.parametrize(("training_step", "names"), STEPS)
def test_inputs_of_a_step_are_what_it_calls_the_model_with(training_step: Any, names: list[str]) -> None:
    model, batch = Named().train(), {"x": X, "y": Y}
    pairs = StepInputs([batch, batch], training_step, model)
    for _ in range(2):
        found = list(pairs)
        assert len(found) == 2 and all(whole is batch for _, whole in found)
        inputs = found[0][0]
        assert inputs is X if isinstance(inputs, Tensor) else list(inputs) == names and inputs["values"] is X
    assert model.n_runs == 0 and model.training and not model._forward_pre_hooks
    assert torch.equal(call(model, inputs)["logits"], model(X)["logits"])


def test_a_step_that_does_not_call_its_model_is_said() -> None:
    other = linear()
    with pytest.raises(TrainingError, match="training_step must call the model that it is given"):
        list(StepInputs([(X, Y)], lambda _, batch: step(other, batch), linear()))


def test_a_step_that_fails_before_its_call_fails_as_it_is() -> None:
    model = linear()
    with pytest.raises(KeyError):
        list(StepInputs([{}], lambda m, b: m(b["missing"]), model))
    assert not model._forward_pre_hooks


def test_a_step_as_a_loss_of_outputs_gives_its_value_and_gradients() -> None:
    model = Named()
    outputs = model(X, labels=Y)
    loss = loss_after(lambda m, b: m.config.scale * m(b["x"], labels=b["y"])["loss"] + m.head.bias.sum() * 0, model)
    value = loss(outputs, {"x": X, "y": Y})
    assert value.item() == 2 * outputs["loss"].item() and model.n_runs == 1
    (gradient,) = torch.autograd.grad(value, model.head.weight)
    (wanted,) = torch.autograd.grad(2 * cross_entropy(model.head(X), Y), model.head.weight)
    torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("n_calls", [0, 2])
def test_a_step_that_calls_several_times_is_no_loss_of_outputs(n_calls: int) -> None:
    def several(model: nn.Module, batch: Any) -> Tensor:
        return sum((model(batch[0]).mean() for _ in range(n_calls)), WEIGHT.sum())

    model = linear()
    with pytest.raises(TrainingError, match=f"calls the model once a batch, but it called it {n_calls} times"):
        loss_after(several, model)(model(X), (X, Y))
