"""Distillation of features against its formula in numpy, with widths that pruning changed."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.compress import compress
from autocompress.errors import TrainingError
from autocompress.graph import inspect_model
from autocompress.recipe import Distillation, Recipe
from autocompress.train.distillation import Distiller, feature_distillation
from autocompress.train.features import FeatureDistillation, captured_features
from autocompress.train.teacher import Teacher
from tests.nets import NETS


def values(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 1


def relative(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(((got - wanted) ** 2).mean() / np.var(wanted.astype(np.float64), ddof=1))


def adapter_of(loss: FeatureDistillation) -> tuple[np.ndarray, np.ndarray]:
    (adapter,) = loss.adapters.values()
    return adapter.weight.detach().numpy(), adapter.bias.detach().numpy()


WIDTHS = [  # id, shape of the student's, of the teacher's, known axis, the axis of the channels
    ("rows", (5, 3), (5, 4), None, 1),
    ("image", (2, 3, 4, 5), (2, 6, 4, 5), 1, 1),
    ("image of unknown layer", (2, 3, 4, 5), (2, 6, 4, 5), None, 1),
    ("tokens", (2, 4, 3), (2, 4, 6), -1, 2),
    ("tokens of unknown layer", (2, 4, 3), (2, 4, 6), None, 2),
    ("sequence", (2, 3, 7), (2, 2, 7), 1, 1),
]


@pytest.mark.parametrize(("got", "wanted", "known", "axis"), [pytest.param(*row[1:], id=row[0]) for row in WIDTHS])
def test_an_adapter_maps_the_channels_that_are_left_to_the_teachers(
    got: tuple[int, ...], wanted: tuple[int, ...], known: int | None, axis: int
) -> None:
    student, teacher = {"a.b": values(got)}, {"a.b": values(wanted, 1)}
    loss = FeatureDistillation(student, teacher, {} if known is None else {"a.b": known})
    weight, bias = adapter_of(loss)
    mapped = np.moveaxis(np.moveaxis(student["a.b"].numpy(), axis, -1) @ weight.T + bias, -1, axis)
    assert loss(student, teacher).item() == pytest.approx(relative(mapped, teacher["a.b"].numpy()), rel=1e-4)


def test_an_adapter_of_images_is_a_convolution_of_size_1() -> None:
    student, teacher = {"a": values((2, 3, 4, 5))}, {"a": values((2, 6, 4, 5), 1)}
    loss = FeatureDistillation(student, teacher, {})
    (adapter,) = loss.adapters.values()
    expected = torch.nn.functional.conv2d(student["a"], adapter.weight[:, :, None, None], adapter.bias)
    assert torch.allclose(adapter(student["a"]), expected, atol=1e-5)


def test_layers_are_averaged_and_those_of_unchanged_width_have_no_adapter() -> None:
    student = {"values": values((4, 3)), "b": values((4, 2, 3, 3), 1)}
    teacher = {"values": values((4, 3), 2), "b": values((4, 2, 3, 3), 3)}
    loss = FeatureDistillation(student, teacher, {})
    terms = [relative(student[name].numpy(), teacher[name].numpy()) for name in student]
    assert loss(student, teacher).item() == pytest.approx(sum(terms) / 2, rel=1e-4)
    assert list(loss.parameters()) == []


def test_layers_may_be_called_like_the_methods_of_a_dict() -> None:
    student, teacher = (
        {"values": values((4, 3)), "type": values((4, 2))},
        dict.fromkeys(("values", "type"), values((4, 5))),
    )
    assert len(FeatureDistillation(student, teacher, {}).adapters) == 2


UNLIKE = [  # id, shape of the student's, of the teacher's, known axis
    ("another image", (2, 3, 4, 4), (2, 6, 4, 5), 1),
    ("an image of unknown layer", (2, 3, 4, 4), (2, 6, 4, 5), None),
    ("not the channels", (2, 3, 4, 4), (2, 3, 4, 5), 1),
    ("another number of axes", (2, 3), (2, 3, 1), None),
    ("another batch", (2, 3), (3, 3), None),
]


@pytest.mark.parametrize(("got", "wanted", "known"), [pytest.param(*row[1:], id=row[0]) for row in UNLIKE])
def test_differences_beside_channels_are_refused(
    got: tuple[int, ...], wanted: tuple[int, ...], known: int | None
) -> None:
    axes = {} if known is None else {"a": known}
    with pytest.raises(TrainingError, match=r"layer 'a' may differ .* in the number of channels only, but has shape"):
        FeatureDistillation({"a": values(got)}, {"a": values(wanted)}, axes)


def test_widths_that_change_in_training_are_refused() -> None:
    loss = FeatureDistillation({"a": values((4, 3))}, {"a": values((4, 5))}, {})
    with pytest.raises(TrainingError, match=r"of shape \(4, 5\), .* but has shape \(4, 2\)"):
        loss({"a": values((4, 2))}, {"a": values((4, 5))})


def test_other_batch_sizes_fit_the_same_adapter() -> None:
    loss = FeatureDistillation({"a": values((4, 3))}, {"a": values((4, 5))}, {})
    assert torch.isfinite(loss({"a": values((2, 3))}, {"a": values((2, 5))}))


def test_the_gradient_passes_torchs_own_check() -> None:
    student, teacher = values((2, 3, 2, 2)).double(), {"a": values((2, 4, 2, 2), 1).double()}
    loss = FeatureDistillation({"a": student}, teacher, {})
    assert torch.autograd.gradcheck(lambda x: loss({"a": x}, teacher), student.requires_grad_())


def test_the_gradient_of_an_adapter_is_that_of_finite_differences() -> None:
    student, teacher = {"a": values((5, 3)).double()}, {"a": values((5, 4), 1).double()}
    loss = FeatureDistillation(student, teacher, {})
    loss(student, teacher).backward()
    (adapter,) = loss.adapters.values()
    weight, bias = adapter_of(loss)

    def value(by: float) -> float:
        moved = weight.copy()
        moved[2, 1] += by
        return relative(student["a"].numpy() @ moved.T + bias, teacher["a"].numpy())

    assert float(adapter.weight.grad[2, 1]) == pytest.approx((value(1e-5) - value(-1e-5)) / 2e-5, rel=1e-5)


class Inplace(nn.Module):
    """A layer whose output the next one overwrites."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.LSTM(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.conv(x)).mean(dim=3).permute(2, 0, 1))[0]


def test_captured_is_what_a_layer_gave_even_if_it_is_overwritten() -> None:
    net, x = Inplace(), values((2, 3, 5, 5))
    with captured_features(net, ("conv", "head")) as features:
        out = net(x)
    assert torch.equal(features["conv"], net.conv(x)) and features["conv"].min().item() < 0
    assert torch.equal(features["head"], out)  # the first tensor of a tuple


RESIDUAL = NETS["residual"]
NAMES = ("stem.0", "first.1", "first", "second.1", "head")


def pruned() -> tuple[nn.Module, nn.Module, Tensor]:
    """FP32 model, one that lost half of the filters of the first block, inputs."""
    model, x = RESIDUAL.build(), RESIDUAL.inputs(4)
    return model, compress(model, inspect_model(model, x), Recipe(pruning={"first.0": 0.5}), x).module, x


def test_a_pruned_model_gets_adapters_where_it_lost_filters() -> None:
    model, student, x = pruned()
    loss = feature_distillation(student, Teacher(model, NAMES), (x,), {})
    assert {name: tuple(a.weight.shape) for name, a in loss.adapters.items()} == {
        "/first/1": (32, 16),
        "/first": (32, 16),
    }


def _draw(*_: object) -> None:
    torch.rand(1)


def test_making_adapters_leaves_everything_as_it_was() -> None:
    model, student, x = pruned()
    student.train()
    student.head.eval()
    student.stem.register_forward_pre_hook(_draw)
    torch.manual_seed(3)
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in student.state_dict().items()}
    feature_distillation(student, Teacher(model, NAMES), (x,), {})
    assert torch.equal(torch.get_rng_state(), before)
    assert student.training and student.stem.training and not student.head.training
    assert all(torch.equal(value, state[name]) for name, value in student.state_dict().items())


def test_the_first_weights_of_adapters_are_always_the_same() -> None:
    model, student, x = pruned()
    first, second = (feature_distillation(student, Teacher(model, NAMES), (x,), {}) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    weights = torch.cat([a.weight.flatten() for a in first.adapters.values()])
    assert 0.1 < weights.std().item() < 0.2  # uniform within 1 / sqrt(16): 0.25 / sqrt(3)


def test_a_pruned_model_learns_the_teachers_features() -> None:
    model, student, x = pruned()
    settings = Distillation(weight=0, features=NAMES)
    distiller = Distiller(student, Teacher(model, NAMES), settings, (x,))
    optimizer = torch.optim.Adam([*student.parameters(), *distiller.parameters], lr=1e-2)
    losses = []
    with distiller:
        for _ in range(30):
            distiller.clear()
            student(x)
            loss = distiller.feature_loss()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]


def test_features_may_be_fewer_than_the_teacher_captures() -> None:
    model, student, x = pruned()
    with Distiller(student, Teacher(model, NAMES), Distillation(features=("first",)), (x,)) as distiller:
        student(x)
        assert distiller.features is not None and distiller.features.names == ("first",)
        assert torch.isfinite(distiller.feature_loss())


def test_features_that_the_teacher_does_not_capture_are_refused() -> None:
    model, student, x = pruned()
    with pytest.raises(TrainingError, match=r"must be among those of the teacher, \('head',\), but got \['first'\]"):
        Distiller(student, Teacher(model, ("head",)), Distillation(features=("first",)), (x,))


def test_a_layer_of_the_student_that_does_not_run_is_refused() -> None:
    net = NETS["never_called"].build()
    teacher = Teacher(nn.ModuleDict({"unused": nn.Linear(6, 5)}), ())
    teacher.module.forward = lambda x: teacher.module["unused"](x)  # type: ignore[method-assign]
    teacher = Teacher(teacher.module, ("unused",))
    with pytest.raises(TrainingError, match="'unused' of the compressed model does not"):
        feature_distillation(net, teacher, (NETS["never_called"].inputs(2),), {})
