"""How large a learning rate a model bears."""

import copy
import itertools
import math
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, mse_loss

from autocompress.errors import TrainingError
from autocompress.task import TensorBatches
from autocompress.train.range_test import SWEEPS, LearningRates
from autocompress.train.range_test import find_learning_rates as find_in_time

BATCHES = [(torch.zeros(1), torch.zeros(1))] * 3
BEYOND = 1000.0
find_learning_rates = partial(find_in_time, max_seconds=600)


class OneWeight(nn.Module):
    """A weight of 1, of two dimensions as those of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1))


class Small(nn.Module):
    """A regression net whose weights are `factor` times as small as usual, and its outputs not."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.layers = nn.ModuleList([nn.Linear(4, 32), nn.Linear(32, 32), nn.Linear(32, 1)])
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.div_(factor)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.relu(self.factor * layer(x))
        return self.factor * self.layers[-1](x)


def cliff(width: float, beyond: Callable[[Tensor], Tensor] = lambda w: BEYOND + 0 * w) -> Callable[..., Tensor]:
    """A loss of slope -1 around a weight of 1, and something else where the weight is more than `width` away."""

    def loss_of(model: nn.Module, _batch: Any) -> Tensor:
        weight = model.weight.sum()
        return 2 - weight if abs(weight.item() - 1) < width else beyond(weight)

    return loss_of


def refuse(_weight: Tensor) -> Tensor:
    raise ValueError("not a number that I know")


def borne_at_cliff(width: float, n_steps: int = 25) -> float:
    """The last rate before the one whose step ends behind the cliff; a step of Adam on a slope is the rate itself."""
    for lowest, highest in SWEEPS:
        rates = [lowest * (highest / lowest) ** (step / (n_steps - 1)) for step in range(n_steps)]
        travel = list(itertools.accumulate(rates))
        last_step = next((step for step, distance in enumerate(travel) if distance > width), n_steps)
        if last_step > 0:
            return rates[last_step - 1]
    return 0.0


def rate_to_learn_with(borne: float) -> float:
    return min(borne / 2, math.sqrt(2.5e-3 * borne))


def trained(factor: float) -> tuple[Small, TensorBatches]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(512, 4, generator=generator)
    y = (3 * (6 * x[:, :1]).sin() * x[:, 1:2] + x[:, 2:3]) / 1.3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, batches = Small(factor), TensorBatches(x, y - y.mean(), shuffle=True)
    learn(model, batches, 3e-3 / factor, n_epochs=50)
    return model, batches


def learn(model: nn.Module, batches: TensorBatches, rate: float, n_epochs: int) -> float:
    """Train with a cosine; returns the mean squared error."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_epochs * len(batches))
    for _ in range(n_epochs):
        for x, y in batches:
            optimizer.zero_grad()
            mse_loss(model(x), y).backward()
            optimizer.step()
            scheduler.step()
    with torch.no_grad():
        return mse_loss(model(batches.inputs), batches.targets).item()


def squared_error(model: nn.Module, batch: Any) -> Tensor:
    return mse_loss(model(batch[0]), batch[1])


@pytest.fixture(scope="module")
def small() -> tuple[Small, TensorBatches]:
    return trained(30)


@pytest.mark.parametrize("n_steps", [12, 25])
@pytest.mark.parametrize("width", [2e-5, 4e-5, 1.2e-4, 3e-3, 0.1])
def test_the_rate_before_the_one_that_harms_is_borne(width: float, n_steps: int) -> None:
    borne = borne_at_cliff(width, n_steps)
    found = find_learning_rates(OneWeight(), BATCHES, cliff(width), n_steps=n_steps)
    assert found.reshaped == pytest.approx(rate_to_learn_with(borne), rel=1e-3)
    assert found.quantized == pytest.approx(found.reshaped / 10)


@pytest.mark.parametrize(
    "beyond",
    [
        pytest.param(lambda w: w * math.nan, id="nan"),
        pytest.param(lambda w: w * math.inf, id="infinite"),
        pytest.param(refuse, id="an error"),
    ],
)
def test_whatever_lies_behind_the_cliff_ends_the_test(beyond: Callable[[Tensor], Tensor]) -> None:
    expected = find_learning_rates(OneWeight(), BATCHES, cliff(0.01))
    assert find_learning_rates(OneWeight(), BATCHES, cliff(0.01, beyond)) != LearningRates()
    assert find_learning_rates(OneWeight(), BATCHES, cliff(0.01, beyond)) == expected


def test_nothing_is_run_after_the_harm() -> None:
    weights = []

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        weights.append(model.weight.item())
        return cliff(0.01)(model, batch)

    find_learning_rates(OneWeight(), BATCHES, loss_of)
    assert [abs(weight - 1) > 0.01 for weight in weights].count(True) == 2  # without any knowledge, and at the harm
    assert abs(weights[-1] - 1) > 0.01


def test_a_model_that_bears_everything_gets_a_rate_that_suits_most() -> None:
    found = find_learning_rates(OneWeight(), BATCHES, cliff(1e9))
    assert found.reshaped == pytest.approx(rate_to_learn_with(SWEEPS[0][1]))


def test_harm_is_measured_by_what_the_model_knows() -> None:
    """The same rise of the loss is nothing to a model that could lose a hundred times as much."""

    def loss_of(step: float) -> Callable[..., Tensor]:
        return cliff(0.01, lambda w: (100.0 if w < 0.5 else step) + 0 * w)

    assert find_learning_rates(OneWeight(), BATCHES, loss_of(30)).reshaped < 5e-3
    assert find_learning_rates(OneWeight(), BATCHES, loss_of(20)).reshaped > 1e-2


def test_chance_in_the_loss_is_the_same_for_both_models() -> None:
    harm = cliff(0.01, lambda w: 1e6 + 0 * w)

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        return harm(model, batch) + 6e5 * (dropout(torch.ones(3), training=model.training).mean() - 1)

    assert find_learning_rates(OneWeight(), BATCHES, loss_of) == find_learning_rates(OneWeight(), BATCHES, harm)


def test_the_model_runs_as_in_training() -> None:
    modes = []

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        modes.append(model.training)
        return cliff(0.01)(model, batch)

    find_learning_rates(OneWeight().eval(), BATCHES, loss_of)
    assert all(modes)


def test_small_weights_get_a_small_rate(small: tuple[Small, TensorBatches]) -> None:
    rates = [find_learning_rates(*pair, squared_error).reshaped for pair in (small, trained(1))]
    assert rates[0] < rates[1] / 3


def test_a_damaged_model_learns_again_at_the_rate_found_and_dies_at_a_larger_one(
    small: tuple[Small, TensorBatches],
) -> None:
    model, batches = small
    variance = batches.targets.var().item()
    rate = find_learning_rates(model, batches, squared_error).reshaped
    assert error_after_damage(model, batches, rate) < 0.2 * variance
    assert error_after_damage(model, batches, 2e-2) > 0.5 * variance


def error_after_damage(model: Small, batches: TensorBatches, rate: float) -> float:
    damaged = copy.deepcopy(model)
    with torch.no_grad():
        damaged.layers[1].weight[::2] = 0
    return learn(damaged, batches, rate, n_epochs=10)


def test_the_model_and_the_generators_stay_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 1)).eval()
    batches = TensorBatches(torch.randn(16, 2), torch.randn(16, 1), batch_size=4, shuffle=True)
    before, chance = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    python_state, numpy_state = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    find_learning_rates(model, batches, squared_error, n_steps=5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(chance, torch.get_rng_state())
    assert python_state == random.getstate()
    assert (numpy_state == np.random.get_state()[1]).all()  # noqa: NPY002


def test_equal_seeds_find_equal_rates(small: tuple[Small, TensorBatches]) -> None:
    assert find_learning_rates(*small, squared_error, seed=3) == find_learning_rates(*small, squared_error, seed=3)


def test_gradients_switched_off_outside_do_not_matter() -> None:
    with torch.no_grad():
        assert find_learning_rates(OneWeight(), BATCHES, cliff(0.01)) != LearningRates()


def test_weights_that_are_normed_can_be_tested() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 1)))
    batches = [(torch.ones(4, 2), torch.ones(4, 1))]
    assert find_learning_rates(model, batches, squared_error) != LearningRates()


@pytest.mark.parametrize(
    "loss_of",
    [
        pytest.param(lambda m, b: m.weight.sum() * math.nan, id="nan"),
        pytest.param(lambda m, b: m.weight.sum() * math.inf, id="infinite"),
        pytest.param(lambda m, b: m.weight.sum() * 0, id="always zero"),
    ],
)
def test_a_loss_that_says_nothing_gives_the_defaults(loss_of: Callable[..., Tensor]) -> None:
    assert find_learning_rates(OneWeight(), BATCHES, loss_of) == LearningRates()


def test_the_defaults_are_cautious() -> None:
    assert LearningRates() == LearningRates(quantized=2e-4, reshaped=1e-3)


class Clock:
    """A second passes between any two looks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1
        return self.seconds


@pytest.mark.parametrize(
    ("max_seconds", "n_steps_taken"),
    [pytest.param(0, 1, id="none"), pytest.param(15, 15, id="little"), pytest.param(24, 24, id="nearly enough")],
)
def test_time_that_runs_out_leaves_what_was_borne(
    max_seconds: float, n_steps_taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", Clock())
    found = find_learning_rates(OneWeight(), BATCHES, cliff(1e9), max_seconds=max_seconds)
    lowest, highest = SWEEPS[0]
    borne = lowest * (highest / lowest) ** ((n_steps_taken - 1) / 24)
    reshaped = rate_to_learn_with(borne)
    expected = LearningRates(reshaped / 10, reshaped) if reshaped > 1e-3 else LearningRates()
    assert (found.quantized, found.reshaped) == pytest.approx((expected.quantized, expected.reshaped))


def frozen() -> OneWeight:
    model = OneWeight()
    model.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("model", "batches", "loss_of", "n_steps", "message"),
    [
        pytest.param(OneWeight(), [], cliff(1), 40, "no batches", id="no batches"),
        pytest.param(frozen(), BATCHES, cliff(1), 40, "every parameter is frozen", id="frozen"),
        pytest.param(OneWeight(), BATCHES, lambda m, b: m.weight, 40, r"scalar.*\(1, 1\)", id="matrix"),
        pytest.param(OneWeight(), BATCHES, lambda m, b: None, 40, "scalar.*NoneType", id="none"),
        pytest.param(OneWeight(), BATCHES, lambda m, b: torch.ones(()), 40, "without a gradient", id="constant"),
        pytest.param(OneWeight(), BATCHES, cliff(1), 1, "n_steps of at least 2, but got 1", id="one step"),
    ],
)
def test_bad_input_is_named(model: Any, batches: Any, loss_of: Any, n_steps: int, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        find_learning_rates(model, batches, loss_of, n_steps=n_steps)


def test_an_error_of_the_user_that_has_nothing_to_do_with_the_rate_is_shown() -> None:
    def loss_of(_model: nn.Module, _batch: Any) -> Tensor:
        raise KeyError("boxes")

    with pytest.raises(KeyError, match="boxes"):
        find_learning_rates(OneWeight(), BATCHES, loss_of)
