"""Steps of the loop: accumulation, clipping and watching."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from autocompress.recipe import Distillation
from autocompress.task import TensorBatches
from autocompress.train import Objective, Outcome, StepInfo, Teacher, Watch, finetune
from autocompress.train import loop as loop_module
from autocompress.train.loop import CHECKPOINT
from tests.nets import NETS
from tests.train.loop_cases import N_STEPS, SETTINGS, log_of, plain, rows, same, train, unbroken

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
