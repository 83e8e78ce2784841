"""The loop as a whole: going on, going back, bitwise repetition, accumulation, clipping and watching."""

import csv
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset

from autocompress.compress import CompressedModel, calibrate, compress, parameter_groups
from autocompress.errors import TrainingError
from autocompress.graph import inspect_model
from autocompress.recipe import Distillation, LayerRecipe, Recipe, Sparsification
from autocompress.task import Batch, TensorBatches
from autocompress.train import FinetuneSettings, Objective, Outcome, StepInfo, Teacher, Watch, finetune
from autocompress.train import loop as loop_module
from autocompress.train.checkpoint import read_checkpoint, write_checkpoint
from autocompress.train.loop import CHECKPOINT
from tests.nets import NETS

N_STEPS = 20
SETTINGS = FinetuneSettings(N_STEPS, learning_rate=0.01, range_learning_rate=0.01)
State = dict[str, Tensor]


class StoppedError(Exception):
    """Ends a training, as a signal or a lack of memory would."""


def rows(n: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


class Augmented(Dataset[Any]):
    """Rows with noise from each of the three generators that users draw from."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = rows()
        noise = torch.randn(6) + float(np.random.randn()) + random.gauss(0, 1)  # noqa: NPY002
        return x[index] + 0.1 * noise, y[index]


def plain() -> nn.Module:
    return NETS["mlp"].build()


def dropout() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))


def compressed(name: str, last: bool = False, layer: str = "", **recipe: Any) -> CompressedModel:
    net = NETS[name]
    model, x = net.build(), net.inputs()
    graph = inspect_model(model, x)
    kind = recipe.pop("kind", LayerRecipe(weight_bits=4, activation_bits=8))
    names = [layer] if layer else [info.name for info in graph.layers]
    result = compress(model, graph, Recipe(layers=dict.fromkeys(names, kind), **recipe), x)
    calibrate(result.module, net.batches())
    if last:
        result.module.to(memory_format=torch.channels_last)
    return result


def sparse(**how: Any) -> CompressedModel:
    return compressed("mlp", kind=LayerRecipe(sparsity=0.5), sparsification=Sparsification(**how))


@dataclass(frozen=True)
class Case:
    """What is trained, and on what."""

    build: Callable[[], nn.Module | CompressedModel]
    batches: Callable[[], Iterable[Batch]]


def mlp_batches() -> Iterable[Batch]:
    return TensorBatches(*rows(), batch_size=8, shuffle=True)


def image_batches() -> Iterable[Batch]:
    return NETS["residual"].batches(3)


CASES = {
    "dropout and an augmenting loader": Case(dropout, lambda: DataLoader(Augmented(), batch_size=8, shuffle=True)),
    "plain": Case(plain, mlp_batches),
    "quantized": Case(lambda: compressed("mlp"), mlp_batches),
    "gates": Case(lambda: sparse(method="regularization"), mlp_batches),
    "movement": Case(lambda: sparse(method="movement"), mlp_batches),
    "adaptive": Case(lambda: sparse(schedule="adaptive"), mlp_batches),
    "binary": Case(
        lambda: compressed("residual", layer="first.0", kind=LayerRecipe(weight_bits=1, activation_bits=1)),
        image_batches,
    ),
    "channels_last": Case(lambda: compressed("residual", last=True), image_batches),
}
ALL_CASES = pytest.mark.parametrize("name", CASES)


def train(
    name: str, how: FinetuneSettings = SETTINGS, loss: Any = cross_entropy, teacher: Any = None, **changes: Any
) -> tuple[State, Outcome]:
    """State and outcome of a training of a case that is built anew, as in another process."""
    case = CASES[name]
    model = case.build()
    module = model if isinstance(model, nn.Module) else model.module
    if isinstance(model, CompressedModel):
        changes |= {"ranges": parameter_groups(module)[1], "compression": model.training(how.n_steps)}
    outcome = finetune(module, case.batches(), Objective(loss, teacher=teacher), how, **changes)
    return {key: value.clone() for key, value in module.state_dict().items()}, outcome


@cache
def unbroken(name: str, how: FinetuneSettings = SETTINGS) -> State:
    return train(name, how)[0]


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class At:
    """A loss that does something else at some of its calls, counted from 0."""

    def __init__(self, calls: Iterable[int], instead: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.calls, self.instead, self.n = set(calls), instead, 0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.n += 1
        loss = cross_entropy(outputs, targets)
        return self.instead(loss, outputs) if self.n - 1 in self.calls else loss


def stop(*_: Any) -> Tensor:
    raise StoppedError


def to_nan(loss: Tensor, _: Tensor) -> Tensor:
    return loss * float("nan")


def to_nan_gradients(loss: Tensor, outputs: Tensor) -> Tensor:
    return loss + (0 * outputs).sum().sqrt()


def stopped(name: str, folder: Path, call: int, how: FinetuneSettings = SETTINGS, **changes: Any) -> None:
    with pytest.raises(StoppedError):
        train(name, how, At([call], stop), folder=folder, **changes)


def log_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "training.csv").open() as file:
        return list(csv.DictReader(file))


# going on


@ALL_CASES
def test_a_training_that_is_stopped_twice_ends_in_the_weights_of_an_unbroken_one(name: str, tmp_path: Path) -> None:
    stopped(name, tmp_path, 7)  # six of these steps have a checkpoint
    stopped(name, tmp_path, 7)
    went_on, outcome = train(name, folder=tmp_path)
    assert same(went_on, unbroken(name))
    assert outcome.n_steps == N_STEPS
    assert [int(row["step"]) for row in log_of(tmp_path)] == list(range(1, N_STEPS + 1))
    assert [path.name for path in tmp_path.iterdir()] == ["training.csv"]


@settings(max_examples=12)
@given(call=st.integers(0, 2 * N_STEPS - 1))
def test_a_training_goes_on_from_wherever_it_is_stopped(call: int) -> None:
    name, how = "dropout and an augmenting loader", replace(SETTINGS, accumulate=2)
    with TemporaryDirectory() as folder:
        stopped(name, Path(folder), call, how)
        assert same(train(name, how, folder=Path(folder))[0], unbroken(name, how))


@pytest.mark.parametrize("step", [1, 5, 6, N_STEPS], ids=["first", "end of an epoch", "mid-epoch", "last"])
def test_a_training_goes_on_after_its_watcher_was_interrupted(step: int, tmp_path: Path) -> None:
    def interrupt(info: StepInfo) -> bool:
        if info.step == step:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        train("gates", folder=tmp_path, watch=Watch(interrupt))
    steps: list[int] = []
    went_on, _ = train("gates", folder=tmp_path, watch=Watch(lambda info: steps.append(info.step)))
    assert same(went_on, unbroken("gates"))
    assert steps[0] == max(1, (step - 1) // 2 * 2 + 1)


def test_an_interrupted_training_has_logged_all_its_steps(tmp_path: Path) -> None:
    stopped("plain", tmp_path, 7)
    assert [int(row["step"]) for row in log_of(tmp_path)] == list(range(1, 8))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def edit_nothing(_: Path) -> None:
    return


@pytest.mark.parametrize(
    ("name", "changes", "edit"),
    [
        pytest.param("plain", {"how": replace(SETTINGS, seed=1)}, edit_nothing, id="another seed"),
        pytest.param("plain", {"how": replace(SETTINGS, learning_rate=0.02)}, edit_nothing, id="another rate"),
        pytest.param("plain", {"origin": "1234"}, edit_nothing, id="another origin"),
        pytest.param("quantized", {}, edit_nothing, id="another model"),
        pytest.param("dropout and an augmenting loader", {}, edit_nothing, id="a model of other shapes"),
        pytest.param("plain", {}, cut_off, id="cut off"),
        pytest.param("plain", {}, lambda path: path.write_bytes(b""), id="empty"),
        pytest.param("plain", {}, lambda path: write_checkpoint(path, {}, {}), id="of something else"),
    ],
)
def test_a_checkpoint_of_another_training_is_not_gone_on_with(
    name: str, changes: dict[str, Any], edit: Callable[[Path], None], tmp_path: Path
) -> None:
    stopped("plain", tmp_path, 11)
    edit(tmp_path / CHECKPOINT)
    steps: list[int] = []
    got, _ = train(name, folder=tmp_path, watch=Watch(lambda info: steps.append(info.step)), **changes)
    assert steps == list(range(1, N_STEPS + 1))
    assert same(got, unbroken(name, changes.get("how", SETTINGS)))
    assert [int(row["step"]) for row in log_of(tmp_path)] == steps


def frozen() -> nn.Module:
    model = plain()
    model[0].requires_grad_(False)
    return model


@pytest.mark.parametrize("build", [frozen, lambda: nn.Sequential(plain())], ids=["frozen in part", "other names"])
def test_a_checkpoint_of_a_model_that_differs_a_little_is_not_gone_on_with(build: Any, tmp_path: Path) -> None:
    stopped("plain", tmp_path, 11)
    steps: list[int] = []
    watch = Watch(lambda info: steps.append(info.step))
    finetune(build(), mlp_batches(), Objective(cross_entropy), SETTINGS, folder=tmp_path, watch=watch)
    assert steps[0] == 1


# bitwise repetition


@ALL_CASES
def test_the_same_seed_gives_the_same_weights_to_the_last_bit(name: str) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert same(train(name)[0], unbroken(name))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]  # noqa: NPY002


@pytest.mark.parametrize("name", ["dropout and an augmenting loader", "gates"])
def test_another_seed_gives_other_weights(name: str) -> None:
    assert not same(train(name, replace(SETTINGS, seed=1))[0], unbroken(name))


# going back


@pytest.mark.parametrize("name", ["dropout and an augmenting loader", "gates", "adaptive", "movement", "binary"])
def test_a_rolled_back_training_is_one_that_starts_at_the_checkpoint_with_a_smaller_rate(
    name: str, tmp_path: Path
) -> None:
    got, outcome = train(name, loss=At([9], to_nan), folder=tmp_path / "rolled back")
    folder = tmp_path / "started"
    stopped(name, folder, 9)
    found = read_checkpoint(folder / CHECKPOINT)
    assert found is not None
    assert found.numbers["step"] == 8
    write_checkpoint(folder / CHECKPOINT, found.tensors, found.numbers | {"scale": 0.3, "n_rollbacks": 1})
    expected, _ = train(name, folder=folder)
    assert same(got, expected)
    assert not same(got, unbroken(name))
    assert (outcome.n_steps, outcome.n_rollbacks) == (N_STEPS, 1)


def test_the_log_tells_what_became_of_a_divergence(tmp_path: Path) -> None:
    train("plain", folder=tmp_path / "smooth")
    train("plain", loss=At([9], to_nan), folder=tmp_path / "rolled back")
    smooth, rolled_back = log_of(tmp_path / "smooth"), log_of(tmp_path / "rolled back")
    assert [row["step"] for row in rolled_back] == [row["step"] for row in smooth]
    factors = [float(b["learning_rate"]) / float(a["learning_rate"]) for a, b in zip(smooth, rolled_back, strict=True)]
    assert factors == pytest.approx([1.0] * 8 + [0.3] * 12)


DIVERGING = [
    pytest.param(to_nan, 9, id="a loss that is NaN"),
    pytest.param(lambda loss, _: loss * float("inf"), 9, id="an infinite loss"),
    pytest.param(lambda loss, _: loss * 1e6, 12, id="a loss that explodes"),
    pytest.param(to_nan_gradients, 4, id="a gradient that is NaN"),
    pytest.param(to_nan_gradients, 7, id="a gradient that is NaN just before a checkpoint"),
    pytest.param(to_nan_gradients, N_STEPS - 1, id="a gradient that is NaN in the last step"),
]


@pytest.mark.parametrize(("instead", "call"), DIVERGING)
def test_one_divergence_is_got_over(instead: Any, call: int) -> None:
    state, outcome = train("quantized", loss=At([call], instead))
    assert outcome.n_rollbacks == 1
    assert outcome.n_steps == N_STEPS
    assert all(torch.isfinite(value).all() for value in state.values() if value.is_floating_point())


def test_a_training_that_goes_on_still_knows_its_first_losses(tmp_path: Path) -> None:
    stopped("plain", tmp_path, 11)
    _, outcome = train("plain", loss=At([2], lambda loss, _: loss * 1e6), folder=tmp_path)
    assert outcome.n_rollbacks == 1


def test_a_divergence_in_an_accumulated_batch_is_seen() -> None:
    _, outcome = train("plain", replace(SETTINGS, accumulate=2), At([8], to_nan))
    assert outcome.n_rollbacks == 1


def test_the_second_divergence_is_an_error_that_says_when_and_at_what_rate(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"loss is nan at step 11, for the second time, at a learning rate of 0\.00"
    ):
        train("plain", loss=At([9, 12], to_nan), folder=tmp_path)  # calls 9, 10, 11, 12 are of steps 10, 9, 10, 11


def test_a_loss_that_starts_at_nearly_nothing_may_rise() -> None:
    def small(loss: Tensor, _: Tensor) -> Tensor:
        return 1e-6 * loss

    assert train("plain", loss=At(range(8), small))[1].n_rollbacks == 0


# accumulation and clipping


def doubles(distillation: Distillation | None = None, **how: Any) -> tuple[list[Tensor], Outcome]:
    """A training in 64 bits, in which sums in another order show in the last digits only."""
    x, y = rows(48)
    x, model = x.double(), plain().double()
    size = 8 if how.get("accumulate") else 16
    teacher = Teacher(NETS["mlp"].build(seed=5).double()) if distillation else None
    settings = replace(SETTINGS, **how, **({"distillation": distillation} if distillation else {}))
    outcome = finetune(model, TensorBatches(x, y, batch_size=size), Objective(cross_entropy, teacher=teacher), settings)
    return [p.detach().clone() for p in model.parameters()], outcome


@pytest.mark.parametrize("distillation", [None, Distillation(weight=0.5)], ids=["alone", "with a teacher"])
@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_accumulated_batches_are_one_large_batch(distillation: Any, clip_norm: float | None) -> None:
    large, of_large = doubles(distillation, clip_norm=clip_norm)
    small, of_small = doubles(distillation, clip_norm=clip_norm, accumulate=2)
    for a, b in zip(large, small, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    losses = [[point.loss for point in outcome.course] for outcome in (of_large, of_small)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@contextmanager
def gradients_at_steps() -> Iterator[list[Tensor]]:
    """The whole gradient at each optimizer step of the block, as one vector."""
    seen: list[Tensor] = []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        seen.append(torch.cat([p.grad.flatten() for p in parameters]))

    hook = register_optimizer_step_pre_hook(note)
    try:
        yield seen
    finally:
        hook.remove()


def test_clipping_shortens_the_whole_gradient_to_the_norm() -> None:
    with gradients_at_steps() as free:
        train("plain", replace(SETTINGS, n_steps=1))
    with gradients_at_steps() as clipped:
        train("plain", replace(SETTINGS, n_steps=1, clip_norm=0.01))
    norm = float(free[0].norm())
    assert norm > 0.05
    torch.testing.assert_close(clipped[0], free[0] * 0.01 / norm, rtol=1e-3, atol=0)


def test_a_norm_that_is_never_reached_changes_nothing() -> None:
    assert same(train("quantized", replace(SETTINGS, clip_norm=1e9))[0], unbroken("quantized"))


# watching


@pytest.fixture(
    params=[1, 7], ids=["looking at every step", "looking at every seventh step, as at every tenth on GPUs"]
)
def looks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loop_module.STEPS_UNSEEN, "cpu", request.param)


@pytest.mark.usefixtures("looks")
@pytest.mark.parametrize("name", ["dropout and an augmenting loader", "gates", "channels_last"])
def test_watching_does_not_change_the_training(name: str) -> None:
    scores: dict[int, float | None] = {}
    modes: list[tuple[bool, bool]] = []

    def score(module: nn.Module) -> float:
        modes.append((any(m.training for m in module.modules()), torch.is_grad_enabled()))
        torch.rand(3), np.random.rand(), random.random()  # noqa: NPY002
        module(torch.ones(4, *((3, 8, 8) if name == "channels_last" else (6,))))
        return float(len(modes))

    def note(info: StepInfo) -> bool:
        assert info.n_steps == N_STEPS
        scores[info.step] = info.score
        return False

    state, _ = train(name, watch=Watch(note, score, score_at=(0.01, 0.52, 0.75)))
    assert same(state, unbroken(name))
    assert list(scores) == list(range(1, N_STEPS + 1))
    assert {step: value for step, value in scores.items() if value} == {1: 1.0, 11: 2.0, 15: 3.0}
    assert modes == [(False, False)] * 3


def test_a_watcher_can_give_up(tmp_path: Path) -> None:
    watch = Watch(lambda info: info.step == 7)
    _, outcome = train("gates", folder=tmp_path, watch=watch)
    assert outcome.is_given_up
    assert outcome.n_steps == 7
    assert len(log_of(tmp_path)) == 7
    assert not (tmp_path / CHECKPOINT).exists()


class Reads(TorchDispatchMode):
    """Counts the values that go from tensors to Python, each of which would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["plain", "gates"])
def test_no_step_between_two_looks_reads_a_value(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loop_module.STEPS_UNSEEN, "cpu", 100)
    reads: list[int] = []
    mode = Reads()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        reads.append(mode.n)
        return cross_entropy(outputs, targets)

    with mode:
        train(name, replace(SETTINGS, n_steps=40, clip_norm=1.0), loss)
    assert mode.n > 0
    assert all(reads[step] == reads[step - 1] for step in range(1, 40) if step % 4 and step < 28)
