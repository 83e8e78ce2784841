"""Distillation of outputs against its formulas in numpy, and the watching of the student's calls."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autocompress.errors import TrainingError
from autocompress.recipe import Distillation
from autocompress.train.distillation import Calls, Distiller, distillation_loss
from autocompress.train.teacher import Teacher
from tests.nets import NETS


def hinton(student: np.ndarray, teacher: np.ndarray, temperature: float) -> np.ndarray:
    """T^2 KL of each row of logits."""

    def softmax(z: np.ndarray) -> np.ndarray:
        e = np.exp(z / temperature - (z / temperature).max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)

    p, q = softmax(teacher.astype(np.float64)), softmax(student.astype(np.float64))
    return temperature**2 * (p * np.log(p / q)).sum(axis=-1)


def relative(student: np.ndarray, teacher: np.ndarray) -> float:
    return float(((student - teacher) ** 2).mean()) / float(np.var(teacher.astype(np.float64), ddof=1))


def logits(seed: int, shape: tuple[int, ...] = (6, 4)) -> Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def classes(shape: tuple[int, ...], n: int) -> Tensor:
    return torch.randint(0, n, shape, generator=torch.Generator().manual_seed(7))


CLASSES = torch.tensor([0, 1, 2, 3, 0, 1])


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_logits_are_compared_by_the_formula_of_hinton(temperature: float) -> None:
    student, teacher = logits(0), logits(1)
    got = distillation_loss(student, teacher, CLASSES, temperature)
    assert float(got) == pytest.approx(hinton(student.numpy(), teacher.numpy(), temperature).mean(), rel=1e-4)


DENSE = [  # id, shape of outputs, shape of targets, axis of the classes
    ("image and class axis 1", (2, 5, 3, 4), (2, 3, 4), 1),
    ("volume and class axis 1", (2, 5, 2, 3, 4), (2, 2, 3, 4), 1),
    ("sequence and class axis 1", (2, 5, 3), (2, 3), 1),
    ("tokens and class axis last", (2, 3, 5), (2, 3), -1),
    ("image and class axis last", (2, 3, 4, 5), (2, 3, 4), -1),
    ("both fit, as cross_entropy reads it", (2, 5, 5), (2, 5), 1),
]


@pytest.mark.parametrize(("shape", "of_targets", "axis"), [pytest.param(*row[1:], id=row[0]) for row in DENSE])
def test_every_position_that_is_not_ignored_counts_once(
    shape: tuple[int, ...], of_targets: tuple[int, ...], axis: int
) -> None:
    student, teacher, targets = logits(0, shape), logits(1, shape), classes(of_targets, 5)
    targets.view(-1)[1::3] = -100
    terms = hinton(student.movedim(axis, -1).numpy(), teacher.movedim(axis, -1).numpy(), 2.0)
    expected = terms[(targets != -100).numpy()].mean()
    assert float(distillation_loss(student, teacher, targets, 2.0)) == pytest.approx(expected, rel=1e-4)


def test_positions_that_are_all_ignored_have_neither_loss_nor_gradient() -> None:
    student = logits(0).requires_grad_()
    loss = distillation_loss(student, logits(1), torch.full((6,), -100), 2.0)
    loss.backward()
    assert loss.item() == 0 and not student.grad.any()


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        pytest.param(logits(0), logits(2), id="regression"),
        pytest.param(logits(0), None, id="no targets"),
        pytest.param(logits(0), {"labels": CLASSES}, id="a dict"),
        pytest.param(logits(0)[:, :1], CLASSES, id="one column"),
        pytest.param(logits(0)[:, 0], CLASSES.float(), id="a vector"),
        pytest.param(logits(0)[:, 0], CLASSES, id="a vector beside integers"),
        pytest.param(logits(0), CLASSES[:, None], id="targets of another shape"),
        pytest.param(logits(0, (2, 5, 3, 4)), classes((2, 4, 3), 5), id="another image"),
    ],
)
def test_other_outputs_are_compared_in_units_of_the_teachers_variance(outputs: Tensor, targets: Any) -> None:
    teacher = 5 * outputs + 1
    expected = relative(outputs.numpy(), teacher.numpy())
    assert float(distillation_loss(outputs, teacher, targets, 4.0)) == pytest.approx(expected, rel=1e-4)


def test_several_outputs_are_averaged() -> None:
    outputs = {"a": logits(0), "b": (logits(1), torch.arange(3))}  # integers teach nothing
    teacher = {"a": logits(2), "b": (logits(3), torch.arange(3))}
    terms = [relative(logits(s).numpy(), logits(t).numpy()) for s, t in ((0, 2), (1, 3))]
    assert float(distillation_loss(outputs, teacher, CLASSES, 1.0)) == pytest.approx(sum(terms) / 2, rel=1e-4)


def test_scalars_and_empty_tensors_are_left_out() -> None:
    outputs = {"loss": torch.tensor(7.0), "logits": logits(0), "boxes": torch.zeros(0, 4)}
    teacher = [torch.tensor(3.0), logits(1), torch.zeros(0, 4)]
    expected = distillation_loss(logits(0), logits(1), CLASSES, 4.0)
    assert float(distillation_loss(outputs, teacher, CLASSES, 4.0)) == float(expected)


def test_outputs_without_anything_to_compare_have_no_loss() -> None:
    assert float(distillation_loss(torch.arange(3), torch.arange(3), None, 4.0)) == 0


def test_a_single_value_can_be_compared() -> None:
    """The last batch of a regression may hold one sample, whose variance is not defined."""
    got = distillation_loss(torch.tensor([[2.0]]), torch.tensor([[4.0]]), torch.tensor([[3.0]]), 4.0)
    assert float(got) == pytest.approx(0.25)


def test_a_constant_teacher_gives_a_finite_loss() -> None:
    assert torch.isfinite(distillation_loss(logits(0), torch.ones(6, 4), None, 4.0))


@pytest.mark.parametrize("targets", [CLASSES, None], ids=["logits", "values"])
@given(seeds=st.tuples(st.integers(0, 99), st.integers(0, 99)), scale=st.floats(1e-3, 1e3), heat=st.floats(0.5, 20))
def test_the_loss_is_never_negative_and_0_for_equal_outputs(
    targets: Tensor | None, seeds: tuple[int, int], scale: float, heat: float
) -> None:
    student, teacher = (scale * logits(seed).double() for seed in seeds)
    loss = float(distillation_loss(student, teacher, targets, heat))
    assert loss >= -1e-9 and (seeds[0] == seeds[1] or loss > 0)
    assert float(distillation_loss(teacher, teacher, targets, heat)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("targets", [CLASSES, None], ids=["logits", "values"])
def test_half_precision_is_summed_in_single_precision(targets: Tensor | None) -> None:
    student, teacher = logits(0).bfloat16(), logits(1).bfloat16()
    got = distillation_loss(student, teacher, targets, 4.0)
    assert got.dtype == torch.float32
    assert float(got) == float(distillation_loss(student.float(), teacher.float(), targets, 4.0))


@pytest.mark.parametrize("targets", [CLASSES, None], ids=["logits", "values"])
def test_the_gradient_is_that_of_finite_differences(targets: Tensor | None) -> None:
    student, teacher = logits(0).requires_grad_(), logits(1)
    distillation_loss(student, teacher, targets, 2.0).backward()

    def value(row: int, column: int, by: float) -> float:
        moved = student.detach().double().numpy().copy()
        moved[row, column] += by
        theirs = teacher.double().numpy()
        return relative(moved, theirs) if targets is None else float(hinton(moved, theirs, 2.0).mean())

    for row, column in [(0, 0), (3, 2), (5, 3)]:
        slope = (value(row, column, 1e-5) - value(row, column, -1e-5)) / 2e-5
        assert float(student.grad[row, column]) == pytest.approx(slope, abs=1e-4)


@pytest.mark.parametrize("row", [*DENSE, ("values", (2, 3), (9,), 0)], ids=lambda row: row[0])
def test_the_gradient_passes_torchs_own_check(row: tuple[str, tuple[int, ...], tuple[int, ...], int]) -> None:
    student, teacher, targets = logits(0, row[1]).double(), logits(1, row[1]).double(), classes(row[2], 5)
    targets.view(-1)[0] = -100
    assert torch.autograd.gradcheck(lambda x: distillation_loss(x, teacher, targets, 3.0), student.requires_grad_())


def test_gradients_keep_their_size_at_high_temperatures() -> None:
    """At high temperatures the gradient tends to the difference of centred logits over classes: Hinton, equation 4."""
    student, teacher = logits(0).double().requires_grad_(), logits(1).double()
    centred = (student - student.mean(dim=1, keepdim=True)) - (teacher - teacher.mean(dim=1, keepdim=True))
    expected = centred.detach() / 4 / 6  # classes, samples
    for temperature in (1e3, 1e5):
        (got,) = torch.autograd.grad(distillation_loss(student, teacher, CLASSES, temperature), student)
        assert torch.allclose(got, expected, rtol=0.02, atol=1e-3)


UNLIKE = [  # id, outputs, outputs of the teacher, what the message says
    ("another width", logits(0), logits(1)[:, :3], r"\(6, 3\), but got \(6, 4\)"),
    ("same size, another shape", logits(0), logits(1).T, r"\(4, 6\), but got \(6, 4\)"),
    ("broadcastable", logits(0), logits(1)[:1], r"\(1, 4\), but got \(6, 4\)"),
    ("one more", (logits(0), logits(1)), [logits(2)], r"\(6, 4\), but got \(6, 4\) and \(6, 4\)"),
    ("nothing", None, [logits(2)], r"\(6, 4\), but got no tensors"),
]


@pytest.mark.parametrize(("outputs", "teacher", "said"), [pytest.param(*row[1:], id=row[0]) for row in UNLIKE])
def test_outputs_of_another_shape_are_refused(outputs: Any, teacher: Any, said: str) -> None:
    with pytest.raises(TrainingError, match=f"must have the shapes of the FP32 model's, {said}; set distillation we"):
        distillation_loss(outputs, teacher, CLASSES, 4.0)


class Net(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Linear(6, width), nn.ReLU(inplace=True), nn.Linear(width, 4)

    def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
        return self.last(self.act(self.first(x) + shift))


def made(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


STUDENT, TEACHER, X = made(Net, 0), made(Net, 1), logits(2, (6, 6))
OUTPUTS, BOTH = Distillation(), Distillation(features=("first",))
NEITHER = Distillation(weight=0)


def test_calls_hold_what_a_layer_gave_and_what_went_in_and_out() -> None:
    with Calls(STUDENT, ("first",)) as calls:
        out = STUDENT(X, shift=2.0)
    assert calls.calls == []  # nothing is held after the block
    with calls:
        out = STUDENT(X, shift=2.0)
        (call,) = calls.calls
    assert call.args[0] is X and call.kwargs == {"shift": 2.0} and call.outputs is out
    assert torch.equal(call.features["first"], STUDENT.first(X)) and call.features["first"].requires_grad


def test_calls_hold_the_inputs_before_any_other_hook_changed_them() -> None:
    """As the hook of an input quantizer does."""
    net = made(Net, 0)
    net.register_forward_pre_hook(lambda _, args: (args[0].round(),))
    with Calls(net) as calls:
        net(X)
        assert calls.calls[0].args[0] is X


def test_the_last_call_of_a_layer_that_runs_twice_is_held() -> None:
    net = NETS["shared"].build()
    x = NETS["shared"].inputs(3)
    with Calls(net, ("twice",)) as calls:
        net(x)
        once = net.twice(net.stem(x).relu()).relu()
        assert torch.equal(calls.calls[0].features["twice"], net.twice(once))


def test_calls_without_gradients_are_left_out() -> None:
    with Calls(STUDENT, ("first",)) as calls:
        with torch.no_grad():
            STUDENT(X)
        assert calls.calls == []


def test_no_hook_stays_after_an_error_in_the_block() -> None:
    net = Net()
    with pytest.raises(ZeroDivisionError), Calls(net, ("first",)):
        raise ZeroDivisionError
    hooks = [h for m in net.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks)]
    assert hooks == []


def test_a_failed_call_does_not_mix_with_the_next() -> None:
    with Calls(STUDENT) as calls:
        with pytest.raises(RuntimeError):
            STUDENT(X[:, :3])
        STUDENT(X)
        assert calls.calls[-1].args[0] is X


def test_an_unknown_layer_of_the_student_is_refused() -> None:
    with pytest.raises(TrainingError, match="layers of the compressed model, but 'frist' is not one; did you mean fi"):
        Calls(STUDENT, ("frist",))


def test_the_soft_loss_is_a_mean_over_the_calls_since_clear() -> None:
    with Distiller(STUDENT, Teacher(TEACHER), OUTPUTS) as distiller:
        STUDENT(X + 9)
        distiller.clear()
        losses = [distillation_loss(STUDENT(x), TEACHER(x), CLASSES, 4.0) for x in (X, X + 1)]
        assert distiller.soft_loss(CLASSES).item() == pytest.approx(sum(losses).item() / 2, rel=1e-6)


def test_arguments_by_name_reach_the_teacher() -> None:
    with Distiller(STUDENT, Teacher(TEACHER), OUTPUTS) as distiller:
        loss = distillation_loss(STUDENT(X, shift=2.0), TEACHER(X, shift=2.0), CLASSES, 4.0)
        assert distiller.soft_loss(CLASSES).item() == loss.item()


def test_the_teacher_runs_once_for_both_losses() -> None:
    teacher = Teacher(TEACHER, ("first",))
    distiller = Distiller(STUDENT, teacher, BOTH, (X,))
    before = teacher.n_computed
    with distiller:
        STUDENT(X)
        distiller.soft_loss(CLASSES)
        distiller.feature_loss()
    assert teacher.n_computed == before + 1


def test_nothing_runs_where_nothing_is_distilled() -> None:
    teacher = Teacher(TEACHER)
    with Distiller(STUDENT, teacher, NEITHER, (X,)) as distiller:
        STUDENT(X)
        assert distiller.soft_loss(CLASSES).item() == 0 and distiller.feature_loss().item() == 0
    assert teacher.n_computed == 0 and distiller.parameters == []


@pytest.mark.parametrize("term", ["soft", "feature"])
def test_a_step_that_never_calls_the_student_is_refused(term: str) -> None:
    with (
        Distiller(STUDENT, Teacher(TEACHER, ("first",)), BOTH, (X,)) as distiller,
        pytest.raises(TrainingError, match="needs a call of the compressed model with gradients in each"),
    ):
        distiller.soft_loss(CLASSES) if term == "soft" else distiller.feature_loss()


class Overwriting(Net):
    """Scales its input in place."""

    def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
        return super().forward(x.mul_(2), shift)


@pytest.mark.parametrize("which", ["input", "output"])
def test_what_is_overwritten_in_place_is_refused(which: str) -> None:
    student = made(Overwriting if which == "input" else Net, 0)
    with Distiller(student, Teacher(TEACHER), OUTPUTS) as distiller:
        out = student(X.clone())
        if which == "output":
            out.sigmoid_()
        with pytest.raises(TrainingError, match=r"must not be changed in place .* of shape \(6, .\) was"):
            distiller.soft_loss(CLASSES)


def test_a_model_output_of_transformers_can_be_distilled() -> None:
    import transformers

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(**sizes, vocab_size=20, max_position_embeddings=8, num_labels=4)
    student, teacher = (made(lambda: transformers.BertForSequenceClassification(config), seed) for seed in (0, 1))
    words = {"input_ids": classes((6, 5), 20), "labels": CLASSES}  # with labels there is a scalar loss in the output
    settings = Distillation(features=("bert.encoder.layer.0",))
    with Distiller(student, Teacher(teacher, settings.features), settings, (), words) as distiller:
        student.eval()
        teacher.classifier.weight.data *= 100  # so that the losses are not all rounding
        got = student(**words)
        expected = hinton(got.logits.detach().numpy(), teacher.eval()(**words).logits.detach().numpy(), 4.0).mean()
        assert distiller.soft_loss(CLASSES).item() == pytest.approx(expected, rel=1e-3)
        (cross_entropy(got.logits, CLASSES) + distiller.feature_loss()).backward()
