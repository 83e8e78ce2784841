"""Groups of parameters, and their rates over the steps."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from autocompress.compress import calibrate, compress
from autocompress.compress import parameter_groups as ranges_of
from autocompress.errors import TrainingError
from autocompress.graph import inspect_model
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.train import FinetuneSettings
from autocompress.train.optimizer import Rates, make_optimizer, parameter_groups
from tests.nets import NETS

SETTINGS = FinetuneSettings(20, learning_rate=0.1, range_learning_rate=0.01, weight_decay=0.5, score_travel=40.0)


class Parts(nn.Module):
    """Weights, biases, a range, scores and something frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.frozen = nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)
        self.range, self.scores = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2, 2))
        self.frozen.requires_grad_(False)


def grouped(settings: FinetuneSettings = SETTINGS) -> tuple[Parts, nn.Parameter, torch.optim.Optimizer]:
    parts, adapter = Parts(), nn.Parameter(torch.zeros(2, 2))
    groups = parameter_groups(parts, settings, [parts.range], [parts.scores], [adapter])
    return parts, adapter, make_optimizer(groups)


def test_each_parameter_that_trains_is_in_its_group_once() -> None:
    parts, adapter, optimizer = grouped()
    got = {group["name"]: [id(p) for p in group["params"]] for group in optimizer.param_groups}
    assert got == {
        "weights": [id(parts.layer.weight), id(adapter)],
        "biases": [id(parts.layer.bias), id(parts.norm.weight), id(parts.norm.bias)],
        "ranges": [id(parts.range)],
        "scores": [id(parts.scores)],
    }


def test_only_weights_decay() -> None:
    _, _, optimizer = grouped()
    got = {group["name"]: group["weight_decay"] for group in optimizer.param_groups}
    assert got == {"weights": 0.5, "biases": 0.0, "ranges": 0.0, "scores": 0.0}


def test_nothing_to_train_is_an_error() -> None:
    model = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(TrainingError, match=r"every parameter is frozen; call model.requires_grad_\(True\)"):
        make_optimizer(parameter_groups(model, SETTINGS))


def rates(settings: FinetuneSettings, scale: float = 1.0) -> dict[str, list[float]]:
    parts, _, optimizer = grouped(settings)
    schedule = Rates(parts, optimizer, settings)
    schedule.scale = scale
    found: dict[str, list[float]] = {group["name"]: [] for group in optimizer.param_groups}
    for step in range(settings.n_steps):
        of_weights = schedule.apply(step)
        for group in optimizer.param_groups:
            found[group["name"]].append(group["lr"])
        assert of_weights == found["weights"][-1]
    return found


def test_every_group_goes_from_its_own_peak_along_one_curve() -> None:
    found = rates(replace(SETTINGS, warm_up=0.1, freeze_ranges_at=1.0))
    curve = [0.5, 1.0] + [0.5 * (1 + math.cos(math.pi * k / 18)) for k in range(18)]
    for name, peak in {"weights": 0.1, "biases": 0.1, "ranges": 0.01, "scores": 40 / 20}.items():
        assert found[name] == pytest.approx([peak * share for share in curve])


@pytest.mark.parametrize(("share", "n_moving"), [(0.8, 16), (0.0, 0), (0.51, 11), (1.0, 20)])
def test_ranges_stand_still_from_their_share_of_the_steps_on(share: float, n_moving: int) -> None:
    found = rates(replace(SETTINGS, freeze_ranges_at=share))
    assert [rate > 0 for rate in found["ranges"]] == [step < n_moving for step in range(20)]
    assert all(rate > 0 for rate in found["weights"])


def test_the_scale_is_on_all_rates_at_every_step() -> None:
    full, scaled = rates(SETTINGS), rates(SETTINGS, scale=0.3)
    for name in full:
        assert scaled[name] == pytest.approx([0.3 * rate for rate in full[name]])


def test_a_binary_model_goes_through_its_stages_instead() -> None:
    model, x = NETS["residual"].build(), NETS["residual"].inputs()
    binary = {"first.0": LayerRecipe(weight_bits=1, activation_bits=1)}
    module = compress(model, inspect_model(model, x), Recipe(layers=binary), x).module
    calibrate(module, NETS["residual"].batches())
    settings = replace(SETTINGS, n_steps=18)
    optimizer = make_optimizer(parameter_groups(module, settings, ranges_of(module)[1]))
    schedule = Rates(module, optimizer, settings)
    schedule.scale = 0.3
    got = [schedule.apply(step) for step in range(18)]
    fall = [(1 - k / 6) ** 2.1 for k in range(6)]  # stages of 2, 4, 6 and 6 steps
    assert got == pytest.approx([0.03] * 12 + [0.03 * share for share in fall])
    assert optimizer.param_groups[0]["weight_decay"] == 0.0
