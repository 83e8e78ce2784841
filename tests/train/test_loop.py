"""The loop as a whole: going on, going back, and bitwise repetition."""

import random
from collections.abc import Callable
from dataclasses import replace
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

from autocompress.errors import TrainingError
from autocompress.train import Objective, StepInfo, Watch, finetune
from autocompress.train.checkpoint import read_checkpoint, write_checkpoint
from autocompress.train.loop import CHECKPOINT
from tests.train.loop_cases import (
    ALL_CASES,
    N_STEPS,
    SETTINGS,
    At,
    log_of,
    mlp_batches,
    plain,
    same,
    stopped,
    to_nan,
    to_nan_gradients,
    train,
    unbroken,
)

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
