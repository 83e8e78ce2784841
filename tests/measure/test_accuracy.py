"""Accuracy of deployed models, its paired drop and the agreement of two models."""

from dataclasses import replace
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from openvino import opset13 as ops
from torch import Tensor

from autocompress import Score
from autocompress.errors import MeasurementError
from autocompress.measure import Predictions, accuracy_drop, agreement, predict_deployed, score_of
from tests.tiny import tiny


def predictions(n_wrong: int, n: int = 400, seed: int = 0) -> Predictions:
    targets = torch.arange(n) % 4
    outputs = torch.nn.functional.one_hot(targets, 4).float()
    wrong = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:n_wrong]
    outputs[wrong] = outputs[wrong].roll(1, dims=1)
    return Predictions(outputs, targets)


def test_a_drop_is_positive_when_worse() -> None:
    drop = accuracy_drop(tiny(), predictions(20), predictions(60))
    assert drop.value == pytest.approx(0.1)
    assert 0 < drop.low < drop.value < drop.high


def test_a_lower_score_is_a_gain_where_lower_is_better() -> None:
    def error(outputs: Tensor, targets: Tensor) -> float:
        return float((outputs.argmax(1) != targets).double().mean())

    task = replace(tiny(), score=Score(error, higher_is_better=False))
    assert accuracy_drop(task, predictions(20), predictions(60)).value == pytest.approx(0.1)


def test_equal_models_have_no_drop_and_no_spread() -> None:
    drop = accuracy_drop(tiny(), predictions(20), predictions(20))
    assert (drop.value, drop.low, drop.high) == (0, 0, 0)


def test_the_interval_is_that_of_the_paired_difference() -> None:
    a, b = predictions(40, seed=1), predictions(60, seed=2)
    per_sample = [(p.outputs.argmax(1) == p.targets).double() for p in (a, b)]
    difference = (per_sample[0] - per_sample[1]).numpy()
    half = 1.645 * difference.std() / np.sqrt(len(difference))
    drop = accuracy_drop(tiny(), a, b)
    assert (drop.high - drop.low) / 2 == pytest.approx(half, rel=0.15)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_refused(value: float) -> None:
    task = replace(tiny(), score=Score(lambda *_: value))
    with pytest.raises(MeasurementError, match="must be a finite number, but got (nan|inf)"):
        score_of(task, predictions(1))


def test_a_score_that_raises_is_one_sentence() -> None:
    def broken(*_: Any) -> float:
        raise KeyError("logits")

    with pytest.raises(MeasurementError, match="fails: KeyError"):
        score_of(replace(tiny(), score=Score(broken)), predictions(1))


def test_agreement_counts_equal_decisions() -> None:
    assert agreement(predictions(0), predictions(40)) == pytest.approx(0.9)


def _ir(batch_fixed: bool) -> openvino.Model:
    """Doubles its input of shape (2, 3); with a Reshape that fixes the batch, or without."""
    x = ops.parameter([2, 3], np.float32, name="x")
    y = ops.reshape(x, ops.constant(np.array([2, 3])), False) if batch_fixed else x
    return openvino.Model([ops.multiply(y, ops.constant(np.float32(2)))], [x], "twice")


@pytest.mark.parametrize("batch_fixed", [False, True])
def test_a_last_batch_of_odd_size_is_predicted_whole(batch_fixed: bool) -> None:
    x = torch.arange(21, dtype=torch.float32).reshape(7, 3)
    batches = [(x[:4], torch.zeros(4)), (x[4:], torch.zeros(3))]
    found = predict_deployed(_ir(batch_fixed), batches, torch.zeros(1, 3), "validation", 1)
    assert torch.equal(found.outputs, 2 * x)
    assert found.n_samples == 7


def test_data_without_batches_is_refused() -> None:
    with pytest.raises(MeasurementError, match="validation data has no batches"):
        predict_deployed(_ir(False), [], torch.zeros(1, 3), "validation", 1)
