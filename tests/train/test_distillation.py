"""The distillation loss against its formula in numpy, and its gradient against finite differences."""

import numpy as np
import pytest
import torch

from autocompress.train.distillation import distillation_loss


def hinton(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    def softmax(z: np.ndarray) -> np.ndarray:
        e = np.exp(z / temperature - (z / temperature).max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    p, q = softmax(teacher), softmax(student)
    return float(temperature**2 * (p * np.log(p / q)).sum(axis=1).mean())


def logits(seed: int) -> torch.Tensor:
    return 3 * torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))


CLASSES = torch.tensor([0, 1, 2, 3, 0, 1])


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_logits_are_compared_by_the_formula_of_hinton(temperature: float) -> None:
    student, teacher = logits(0), logits(1)
    got = distillation_loss(student, teacher, CLASSES, temperature)
    assert float(got) == pytest.approx(hinton(student.numpy(), teacher.numpy(), temperature), rel=1e-4)


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        pytest.param(logits(0), logits(2), id="regression"),
        pytest.param(logits(0)[:, :1], CLASSES, id="one column"),
        pytest.param(logits(0)[:, 0], CLASSES.float(), id="a vector"),
        pytest.param(logits(0), CLASSES[:, None], id="targets of another shape"),
    ],
)
def test_other_outputs_are_compared_in_units_of_the_teachers_variance(
    outputs: torch.Tensor, targets: torch.Tensor
) -> None:
    teacher = 5 * outputs + 1
    expected = float(((outputs - teacher) ** 2).mean()) / float(np.var(teacher.numpy(), ddof=1))
    assert float(distillation_loss(outputs, teacher, targets, 4.0)) == pytest.approx(expected, rel=1e-4)


def test_several_outputs_are_averaged() -> None:
    outputs = {"a": logits(0), "b": (logits(1), torch.arange(3))}  # integers teach nothing
    teacher = {"a": logits(2), "b": (logits(3), torch.arange(3))}
    terms = [distillation_loss(logits(s), logits(t), None, 1.0) for s, t in ((0, 2), (1, 3))]
    assert float(distillation_loss(outputs, teacher, CLASSES, 1.0)) == pytest.approx(float(sum(terms)) / 2)


@pytest.mark.parametrize("targets", [CLASSES, None], ids=["logits", "values"])
def test_equal_outputs_have_no_loss(targets: torch.Tensor | None) -> None:
    assert float(distillation_loss(logits(0), logits(0), targets, 4.0)) == pytest.approx(0, abs=1e-6)


def test_a_single_value_can_be_compared() -> None:
    """The last batch of a regression may hold one sample, whose variance is not defined."""
    got = distillation_loss(torch.tensor([[2.0]]), torch.tensor([[4.0]]), torch.tensor([[3.0]]), 4.0)
    assert float(got) == pytest.approx(0.25)


@pytest.mark.parametrize("targets", [CLASSES, None], ids=["logits", "values"])
def test_the_gradient_is_that_of_finite_differences(targets: torch.Tensor | None) -> None:
    student, teacher = logits(0).requires_grad_(), logits(1)
    distillation_loss(student, teacher, targets, 2.0).backward()

    def value(row: int, column: int, by: float) -> float:
        moved = student.detach().double().clone()
        moved[row, column] += by
        if targets is None:
            return float((moved - teacher).square().mean() / teacher.double().var())
        return hinton(moved.numpy(), teacher.double().numpy(), 2.0)

    for row, column in [(0, 0), (3, 2), (5, 3)]:
        slope = (value(row, column, 1e-5) - value(row, column, -1e-5)) / 2e-5
        assert float(student.grad[row, column]) == pytest.approx(slope, abs=1e-4)
