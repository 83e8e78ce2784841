"""A training with masks: the order of calls, levels, frozen masks, chance, quantizers behind, every method."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from autocompress.compress.attaching import attach_weight
from autocompress.compress.gates import density_loss
from autocompress.compress.sparsity_training import SparsityTraining, attach_masks, mask_parameters, masks
from autocompress.compress.weight_quantization import weight_quantizer
from autocompress.errors import CompressionError
from autocompress.recipe import LayerRecipe, Sparsification

METHODS = pytest.mark.parametrize("method", ["magnitude", "regularization", "movement"])
SCOPES = pytest.mark.parametrize("scope", ["local", "global"])
SPARSE = {"0": 0.5, "2": 0.7}
N_ZEROS = {"0": 48, "2": 45}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def net() -> nn.Sequential:
    module = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        for k, parameter in enumerate(module.parameters()):
            parameter.copy_(0.3 * random(*parameter.shape, seed=k))
    return module


def masked(settings: Sparsification) -> nn.Sequential:
    module = net()
    attach_masks(module, SPARSE, settings)
    return module


def zeros(module: nn.Module) -> dict[str, int]:
    return {name: int((layer.weight == 0).sum()) for name, layer, _ in masks(module)}


def optimizer_of(module: nn.Module) -> torch.optim.Optimizer:
    scores = mask_parameters(module)
    plain = [p for p in module.parameters() if all(p is not s for s in scores)]
    groups = [{"params": plain}, {"params": scores, "lr": 0.5, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=1e-2)


def train(module: nn.Module, settings: Sparsification, n_steps: int = 20, sparse: Any = SPARSE) -> list[float]:
    """Losses of a training as the docstring of `SparsityTraining` says; the module is in evaluation mode then."""
    torch.manual_seed(0)
    training = SparsityTraining(module, sparse, settings, n_steps)
    optimizer, losses = optimizer_of(module), []
    module.train()
    for step in range(n_steps):
        loss = mse_loss(module(random(8, 6, seed=step)), random(8, 4, seed=100 + step))
        optimizer.zero_grad()
        (loss + training.loss()).backward()
        optimizer.step()
        training.step(loss.item())
        losses.append(loss.item())
    training.finish()
    module.eval()
    return losses


@METHODS
@SCOPES
@pytest.mark.parametrize("schedule", ["polynomial", "exponential", "adaptive", "multistep"])
def test_a_training_ends_with_exactly_the_asked_number_of_zeros(method: str, scope: str, schedule: str) -> None:
    settings = Sparsification(method=method, scope=scope, schedule=schedule)
    module = masked(settings)
    train(module, settings)
    if scope == "local":
        assert zeros(module) == N_ZEROS
    assert sum(zeros(module).values()) == sum(N_ZEROS.values())


def test_rows_of_a_layer_are_trained_as_units() -> None:
    settings = Sparsification(method="movement", structure="rows")
    module = masked(settings)
    train(module, settings)
    assert int((module[0].weight == 0).all(dim=1).sum()) == 8
    assert int((module[0].bias == 0).sum()) == 8


@METHODS
def test_without_steps_nothing_happens(method: str) -> None:
    settings = Sparsification(method=method)
    module = masked(settings).train()
    before = copy.deepcopy(module.state_dict())
    training = SparsityTraining(module, SPARSE, settings, 0)
    training.step(1.0)
    training.finish()
    assert training.loss().item() == 0.0
    assert training.level == pytest.approx((48 + 64 * 0.7) / 160)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert zeros(module) == N_ZEROS


def test_without_sparse_layers_nothing_happens() -> None:
    training = SparsityTraining(net(), {}, Sparsification(), 5)
    training.step()
    training.finish()
    assert (training.level, training.loss().item(), training.scores) == (0.0, 0.0, [])


def test_zeros_rise_by_the_schedule_and_stay_at_the_target() -> None:
    settings = Sparsification(schedule="polynomial", power=1.0, end=0.5)
    module = masked(settings)
    training = SparsityTraining(module, SPARSE, settings, 20)
    seen = [zeros(module)["0"]]
    for _ in range(20):
        training.step()
        seen.append(zeros(module)["0"])
    assert seen == [round(0.05 * k * 96) for k in range(10)] + [48] * 11


def test_the_level_is_the_mean_over_the_weights_of_layers() -> None:
    settings = Sparsification(power=1.0, end=1.0, initial_sparsity=0.6)
    training = SparsityTraining(masked(settings), SPARSE, settings, 10)
    for _ in range(5):
        training.step()
    assert training.level == pytest.approx((96 * 0.5 + 64 * 0.65) / 160)


def test_a_mask_by_magnitude_follows_the_weights_until_the_end_of_the_schedule() -> None:
    settings = Sparsification(schedule="multistep", end=0.5, initial_sparsity=0.4)
    module = masked(settings)
    training = SparsityTraining(module, SPARSE, settings, 8)
    original = module[0].parametrizations.weight.original
    for step in range(8):
        with torch.no_grad():
            original.copy_(random(16, 6, seed=step))
        training.step()
        if step == 3:
            kept = module[0].weight != 0
    assert torch.equal(module[0].weight != 0, kept)
    assert random(16, 6, seed=3).abs()[kept].min() > random(16, 6, seed=3).abs()[~kept].max()


@pytest.mark.parametrize("method", ["regularization", "movement"])
def test_scores_stand_still_once_masks_are_frozen(method: str) -> None:
    settings = Sparsification(method=method, end=0.5)
    module = masked(settings).train()
    training = SparsityTraining(module, SPARSE, settings, 4)
    had_gradients = []
    for step in range(4):
        module.zero_grad()
        (module(random(8, 6, seed=step)).square().mean() + training.loss()).backward()
        had_gradients.append(all(p.grad is not None and p.grad.any() for p in mask_parameters(module)))
        training.step()
    assert had_gradients == [True, True, False, False]
    assert training.is_frozen


def test_frozen_gates_are_those_with_the_highest_scores_and_no_more_random() -> None:
    settings = Sparsification(method="regularization", end=1.0)
    module = masked(settings).train()
    training = SparsityTraining(module, SPARSE, settings, 10)
    scores = module[0].parametrizations.weight[0].scores
    with torch.no_grad():
        scores.copy_(random(16, 6, seed=9))
    training.finish()
    kept = module[0].weight != 0
    assert scores[kept].min() > scores[~kept].max()
    assert torch.equal(module[0].weight, module[0].weight)


def test_gates_are_drawn_once_a_step() -> None:
    settings = Sparsification(method="regularization")
    module = masked(settings).train()
    training = SparsityTraining(module, SPARSE, settings, 10)
    with torch.no_grad():
        module[0].parametrizations.weight[0].scores.zero_()
    first, again = module[0].weight, module[0].weight
    training.step()
    assert torch.equal(first, again)
    assert not torch.equal(first, module[0].weight)


@SCOPES
def test_the_loss_term_follows_the_schedule_of_each_layer(scope: str) -> None:
    settings = Sparsification(method="regularization", scope=scope, power=1.0, end=1.0)
    module = masked(settings)
    training = SparsityTraining(module, SPARSE, settings, 10)
    for _ in range(5):
        training.step()
    gates = [mask for _, _, mask in masks(module)]
    assert training.loss().item() == pytest.approx(density_loss(gates, [0.75, 0.65], scope).item())


@pytest.mark.parametrize("method", ["magnitude", "movement"])
def test_other_methods_have_no_loss_term(method: str) -> None:
    settings = Sparsification(method=method)
    assert SparsityTraining(masked(settings), SPARSE, settings, 10).loss().item() == 0.0


def test_training_brings_gates_to_their_target_density() -> None:
    settings = Sparsification(method="regularization", scope="global", end=1.0)
    module = masked(settings)
    training = SparsityTraining(module, SPARSE, settings, 300)
    optimizer = torch.optim.AdamW(mask_parameters(module), lr=40 / 300, weight_decay=0.0)
    for _ in range(299):
        optimizer.zero_grad()
        training.loss().backward()
        optimizer.step()
        training.step()
    density = torch.cat([torch.sigmoid(scores).flatten() for scores in mask_parameters(module)]).mean().item()
    assert density == pytest.approx(1 - (48 + 44.8) / 160, abs=0.03)


@METHODS
def test_the_same_seed_gives_the_same_training(method: str) -> None:
    settings = Sparsification(method=method)
    runs = [masked(settings) for _ in range(2)]
    losses = [train(module, settings) for module in runs]
    assert losses[0] == losses[1]
    assert torch.equal(runs[0][2].weight, runs[1][2].weight)


@METHODS
def test_quantizers_behind_masks_keep_the_zeros(method: str) -> None:
    settings = Sparsification(method=method)
    module = masked(settings)
    quantizer = weight_quantizer(module[0].weight.detach(), LayerRecipe(weight_bits=4), 0, "mse", False)
    attach_weight(module[0], quantizer)
    train(module, settings)
    (_, _, mask), *_ = masks(module)
    assert int((~mask.mask).sum()) == 48
    assert (module[0].weight[~mask.mask] == 0).all()


@METHODS
def test_a_copy_trains_by_itself(method: str) -> None:
    settings = Sparsification(method=method)
    module = masked(settings)
    before, twin = copy.deepcopy(module.state_dict()), copy.deepcopy(module)
    train(twin, settings)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


@METHODS
def test_a_state_saved_after_training_gives_the_same_weights(method: str) -> None:
    settings = Sparsification(method=method)
    trained, fresh = masked(settings), masked(settings).eval()
    train(trained, settings)
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh[0].weight, trained[0].weight)


def test_a_state_of_gates_saved_in_between_gives_what_evaluation_gives() -> None:
    settings = Sparsification(method="regularization")
    module, fresh = masked(settings), masked(settings).eval()
    training = SparsityTraining(module, SPARSE, settings, 10)
    with torch.no_grad():
        module[0].parametrizations.weight[0].scores.copy_(random(16, 6))
    training.step()
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(fresh[0].weight, module.eval()[0].weight)


def test_a_loop_of_epochs_rises_with_them_and_reaches_the_target() -> None:
    settings = Sparsification(power=1.0, end=1.0)
    module = masked(settings)
    training = SparsityTraining(module, SPARSE, settings, n_steps=10, steps_per_epoch=4)
    seen = []
    for _ in range(3):
        training.epoch_step()
        seen.append(zeros(module)["0"])
    assert seen == [round(96 * 0.2), round(96 * 0.4), 48]


def test_a_loop_of_epochs_draws_gates_at_every_pass() -> None:
    settings = Sparsification(method="regularization")
    module = masked(settings).train()
    SparsityTraining(module, SPARSE, settings, n_steps=10, steps_per_epoch=4)
    with torch.no_grad():
        module[0].parametrizations.weight[0].scores.zero_()
    assert not torch.equal(module[0].weight, module[0].weight)


def test_the_adaptive_schedule_waits_for_the_loss() -> None:
    settings = Sparsification(schedule="adaptive", end=1.0)
    good, bad = (SparsityTraining(masked(settings), SPARSE, settings, 40) for _ in range(2))
    for step in range(20):
        good.step(1.0)
        bad.step(1.0 + step)
    assert (good.level, bad.level) == (pytest.approx(0.58), pytest.approx(0.58 / 10))


def test_the_adaptive_schedule_decides_at_epochs_where_they_are_counted() -> None:
    settings = Sparsification(schedule="adaptive", end=1.0)
    training = SparsityTraining(masked(settings), SPARSE, settings, 40, steps_per_epoch=4)
    for _ in range(2):
        training.epoch_step(1.0)
    assert training.level == pytest.approx(0.58 * 2 / 5)


@METHODS
def test_a_shared_mask_counts_once(method: str) -> None:
    module = nn.Sequential(nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(8, 8))
    module[1].weight = module[0].weight
    sparse, settings = {"0": 0.5, "1": 0.5, "2": 0.25}, Sparsification(method=method, scope="global")
    attach_masks(module, sparse, settings)
    training = SparsityTraining(module, sparse, settings, 10)
    training.finish()
    assert training.level == pytest.approx((96 * 0.5 + 64 * 0.25) / 160)
    assert sum(int((layer.weight == 0).sum()) for layer in (module[0], module[2])) == 64


@pytest.mark.parametrize(
    ("settings", "arguments", "call", "said"),
    [
        pytest.param({"schedule": "adaptive"}, {}, lambda t: t.step(), "needs the training loss", id="no loss"),
        pytest.param({}, {}, lambda t: t.epoch_step(), "steps_per_epoch", id="an epoch without its length"),
    ],
)
def test_wrong_calls_are_refused(settings: Any, arguments: Any, call: Any, said: str) -> None:
    sparsification = Sparsification(**settings)
    training = SparsityTraining(masked(sparsification), SPARSE, sparsification, 10, **arguments)
    with pytest.raises(CompressionError, match=said):
        call(training)


def test_a_layer_without_a_mask_is_refused() -> None:
    with pytest.raises(CompressionError, match="'0' has none; call attach_masks first"):
        SparsityTraining(net(), SPARSE, Sparsification(), 10)
