"""The fine-tuning loop."""

import copy
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autocompress.compress import CompressedModel, calibrate, compress, parameter_groups
from autocompress.errors import TaskError, TrainingError
from autocompress.graph import inspect_model
from autocompress.recipe import Distillation, LayerRecipe, Recipe
from autocompress.space import uniform_recipe
from autocompress.task import TensorBatches, call, flatten
from autocompress.train import (
    FinetuneSettings,
    Objective,
    Outcome,
    StepInfo,
    Teacher,
    Watch,
    adapt_batch_norm,
    finetune,
)
from autocompress.train.batch_norm import N_HELD, running_norms
from tests.nets import NETS

SETTINGS = FinetuneSettings(n_steps=3, learning_rate=0.01)


def compressed(name: str = "residual", bits: int = 4) -> CompressedModel:
    net = NETS[name]
    model, x = net.build(), net.inputs()
    graph = inspect_model(model, x)
    layers = uniform_recipe(graph, LayerRecipe(weight_bits=bits, activation_bits=8)).layers
    result = compress(model, graph, Recipe(layers=layers), x)
    calibrate(result.module, net.batches())
    return result


def square(outputs: Any, _targets: Any) -> Tensor:
    return torch.stack([o.square().mean() for o in flatten(outputs)]).sum()


def train(
    model: CompressedModel, name: str = "residual", settings: FinetuneSettings = SETTINGS, **changes: Any
) -> Outcome:
    net = NETS[name]
    teacher, batches, loss = (changes.pop(key, None) for key in ("teacher", "batches", "loss"))
    objective = Objective(loss or square, teacher=Teacher(teacher or net.build()))
    batches = net.batches() if batches is None else batches
    ranges = parameter_groups(model.module)[1]
    return finetune(model.module, batches, objective, settings, ranges=ranges, **changes)


def noting(note: Any) -> Watch:
    return Watch(on_step=lambda info: bool(note(info)))


def same(a: CompressedModel, b: CompressedModel) -> bool:
    left, right = a.state(), b.state()
    return all(torch.equal(left[key], right[key]) for key in left)


def dropout_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))


@pytest.mark.parametrize("name", [n for n in NETS if n != "no_layers"])
def test_every_net_trains(name: str) -> None:
    model = compressed(name)
    before = model.state()
    train(model, name)
    assert not model.module.training
    after = model.state()
    assert all(torch.isfinite(t).all() for t in after.values() if t.is_floating_point())
    assert any(not torch.equal(before[key], after[key]) for key in before)


def test_weights_steps_and_ranges_are_all_trained() -> None:
    model = compressed()
    before = model.state()
    train(model)
    unchanged = {k for k, v in model.state().items() if torch.equal(v, before[k])}
    zero_ends = {k for k in before if k.endswith("log_low")}  # inputs after ReLU have their end at 0
    assert {k for k in unchanged if "initial" not in k} <= zero_ends
    assert not all(k in unchanged for k in before if k.endswith("log_high"))


def test_the_same_seed_gives_the_same_weights_to_the_last_bit() -> None:
    torch.manual_seed(0)
    start = dropout_net().state_dict()
    states = []
    for seed, disturbance in ((1, 5), (1, 6), (2, 5)):
        model, teacher = dropout_net(), dropout_net()
        model.load_state_dict(start)
        teacher.load_state_dict(start)
        torch.manual_seed(disturbance)
        settings = FinetuneSettings(n_steps=5, seed=seed)
        finetune(model, NETS["mlp"].batches(), Objective(cross_entropy, teacher=Teacher(teacher)), settings)
        states.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(states[0], states[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(states[0], states[2], strict=True))


def test_ranges_stay_as_they_are_in_the_last_part_and_can_be_trained_again() -> None:
    model = compressed()
    ranges = parameter_groups(model.module)[1]
    seen: list[tuple[list[float], bool]] = []
    look = noting(lambda _: seen.append(([float(p.detach().sum()) for p in ranges], ranges[0].requires_grad)))
    train(model, settings=FinetuneSettings(10, 0.01, range_learning_rate=0.1, freeze_ranges_at=0.5), watch=look)
    values = [value for value, _ in seen]
    assert values[3] != values[4] and values[4] == values[5] == values[9]
    assert [learns for _, learns in seen] == [True] * 5 + [False] * 5
    assert all(p.requires_grad for p in ranges)


def test_batch_norms_keep_fresh_statistics_in_the_last_part() -> None:
    model, batches = compressed(), NETS["residual"].batches(1)
    norms = running_norms(model.module)
    then: list[dict[str, Tensor]] = []
    modes: list[tuple[bool, bool]] = []

    def look(info: StepInfo) -> None:
        modes.append((model.module.training, norms[0].training))
        if info.step == 6:
            then.append(model.state())

    outcome = train(model, settings=FinetuneSettings(8, 0.01), batches=batches, watch=noting(look))
    assert modes == [(True, True)] * 6 + [(True, False)] * 2
    assert outcome.holds_statistics and len(norms) > 0
    again = compressed()
    again.load_state(then[0])
    adapt_batch_norm(again.module, batches * N_HELD, N_HELD)
    for held, expected in zip(norms, running_norms(again.module), strict=True):
        torch.testing.assert_close(held.running_mean, expected.running_mean)
        torch.testing.assert_close(held.running_var, expected.running_var)


@pytest.mark.parametrize(
    ("n_steps", "share", "holds"),
    [
        pytest.param(8, 0.75, True, id="two steps"),
        pytest.param(8, 1.0, False, id="never"),
        pytest.param(8, 0.0, True, id="from the start"),
        pytest.param(3, 0.75, False, id="too short"),
    ],
)
def test_statistics_are_held_where_steps_are_left_for_it(n_steps: int, share: float, holds: bool) -> None:
    settings = FinetuneSettings(n_steps, 0.01, hold_statistics_at=share)
    assert train(compressed(), settings=settings).holds_statistics == holds


def test_a_training_that_is_given_up_before_holds_nothing() -> None:
    watch = Watch(on_step=lambda info: info.step == 6)
    assert not train(compressed(), settings=FinetuneSettings(8, 0.01), watch=watch).holds_statistics


def test_a_net_without_batch_norms_holds_nothing() -> None:
    assert not train(compressed("mlp"), "mlp", FinetuneSettings(8, 0.01), loss=cross_entropy).holds_statistics


def test_what_holds_statistics_stays_nearer_to_its_teacher_where_batches_are_small() -> None:
    """Statistics of few samples differ from those of many, and so does a model that was trained with them."""
    torch.manual_seed(0)
    x = torch.randn(64, 6) * torch.linspace(0.2, 3.0, 64)[:, None]
    teacher = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    adapt_batch_norm(teacher, [(x, None)])
    batches = [(x[i : i + 4], torch.zeros(4, 3)) for i in range(0, 64, 4)]
    errors = []
    for share in (0.5, 1.0):
        student = copy.deepcopy(teacher)
        objective = Objective(square, teacher=Teacher(copy.deepcopy(teacher)))
        settings = FinetuneSettings(64, 0.01, distillation=Distillation(weight=1.0), hold_statistics_at=share)
        if not finetune(student, batches, objective, settings).holds_statistics:
            adapt_batch_norm(student, batches, N_HELD)
        with torch.no_grad():
            errors.append(float((student.eval()(x) - teacher.eval()(x)).square().mean()))
    assert errors[0] < 0.5 * errors[1]


def test_global_random_state_is_left_as_it_was() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    train(compressed())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]  # noqa: NPY002


class Unreadable:
    def __iter__(self) -> Iterator[Any]:
        raise AssertionError


def test_no_steps_change_nothing_and_read_nothing() -> None:
    model, untouched = compressed(), compressed()
    model.module.train()
    train(model, settings=FinetuneSettings(n_steps=0), batches=Unreadable())
    assert same(model, untouched)
    assert not model.module.training


def test_exactly_the_asked_steps_are_taken() -> None:
    steps: list[int] = []
    read: list[int] = []

    class Counting:
        def __iter__(self) -> Iterator[Any]:
            for index, batch in enumerate(NETS["residual"].batches(3)):
                read.append(index)
                yield batch

    train(
        compressed(),
        settings=FinetuneSettings(n_steps=7, hold_statistics_at=1.0),
        batches=Counting(),
        watch=noting(lambda info: steps.append(info.step)),
    )
    assert steps == [1, 2, 3, 4, 5, 6, 7]
    assert read == [0, 1, 2, 0, 1, 2, 0]


def test_every_epoch_is_announced() -> None:
    class Watched(TensorBatches):
        epochs: list[int] = []  # noqa: RUF012

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

    x, y = NETS["residual"].batches(1)[0]
    settings = FinetuneSettings(n_steps=5, hold_statistics_at=1.0)
    train(compressed(), settings=settings, batches=Watched(x, y, batch_size=4), loss=cross_entropy)
    assert Watched.epochs == [0, 1, 2]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        pytest.param(lambda o, t: o.mean(dim=0), r"must be a scalar tensor, but got shape \(5,\)", id="a vector"),
        pytest.param(lambda o, t: 0.5, "must be a scalar tensor, but got float", id="a number"),
        pytest.param(lambda o, t: o.sum() * float("nan"), "the training loss is nan", id="NaN"),
        pytest.param(lambda o, t: o.sum().abs() * float("inf"), "the training loss is inf", id="infinite"),
    ],
)
def test_a_bad_loss_is_an_error(loss: Any, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        train(compressed(), loss=loss)


def test_no_data_is_an_error() -> None:
    with pytest.raises(TrainingError, match="has no batches"):
        train(compressed(), batches=[])


def test_a_batch_that_is_no_pair_is_an_error() -> None:
    with pytest.raises(TaskError, match="batch of train must be a pair"):
        train(compressed(), batches=[torch.ones(3, 3, 8, 8)])


def test_a_model_that_is_wholly_frozen_is_an_error() -> None:
    model = NETS["frozen"].build()
    with pytest.raises(TrainingError, match="every parameter is frozen"):
        finetune(model, NETS["frozen"].batches(), Objective(square), SETTINGS)


@pytest.mark.parametrize("training", [False, True], ids=["evaluating", "training"])
def test_the_teacher_is_not_changed(training: bool) -> None:
    teacher = NETS["residual"].build().train(training)
    teacher.head.eval()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    train(compressed(), teacher=teacher)
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert teacher.training == training
    assert teacher.stem.training == training
    assert not teacher.head.training
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("distillation", [0.0, 0.9, 1.0])
def test_training_lowers_the_loss(distillation: float) -> None:
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    teacher = NETS["mlp"].build()
    finetune(teacher, [(x, y)], Objective(cross_entropy), FinetuneSettings(100, learning_rate=0.02))
    graph = inspect_model(teacher, x[:1])
    layers = uniform_recipe(graph, LayerRecipe(weight_bits=3, activation_bits=4)).layers
    model = compress(teacher, graph, Recipe(layers=layers), x[:1])
    calibrate(model.module, [(x, y)])

    def loss() -> float:
        with torch.no_grad():
            return float(cross_entropy(model.module(x), y))

    before = loss()
    settings = FinetuneSettings(60, 0.01, range_learning_rate=0.01, distillation=Distillation(weight=distillation))
    objective = Objective(cross_entropy, teacher=Teacher(teacher))
    finetune(model.module, [(x, y)], objective, settings, ranges=parameter_groups(model.module)[1])
    assert loss() < 0.7 * before


def test_the_total_is_a_weighted_sum() -> None:
    values: dict[float, float] = {}
    for share in (0.0, 0.25, 1.0):
        settings = FinetuneSettings(n_steps=1, distillation=Distillation(weight=share))
        train(
            compressed(), settings=settings, watch=noting(lambda info, share=share: values.update({share: info.loss}))
        )
    assert values[0.25] == pytest.approx(0.75 * values[0.0] + 0.25 * values[1.0], rel=1e-5)
    assert values[0.0] != pytest.approx(values[1.0], rel=0.01)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_images_are_laid_out_as_the_weights_are(last: bool) -> None:
    seen: list[bool] = []
    model = compressed()
    if last:
        model.module.to(memory_format=torch.channels_last)
    model.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].is_contiguous()))
    train(model)
    assert seen == [not last] * 3


@pytest.mark.parametrize("name", ["dict", "two_in_two_out"])
def test_inputs_by_name_and_by_position_reach_the_model(name: str) -> None:
    net, model = NETS[name], compressed(name)
    train(model, name, settings=FinetuneSettings(n_steps=1))
    with torch.no_grad():
        assert flatten(call(model.module, net.inputs(2)))[0].isfinite().all()
