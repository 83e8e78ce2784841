"""Numbers that cannot be wrong in kind."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import ValidationError

from autocompress.measure import Predictions, split_for_choice
from autocompress.measurement import Environment, Interval, Measurement, Speedup
from tests.examples import measurement, record

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({field: value}, id=f"{field} {value}")
        for field, values in {
            "accuracy": (NAN, INF, -INF, None),
            "torch_accuracy": (NAN, INF),
            "agreement": (NAN, -0.1, 1.1),
            "latency_ms": (NAN, 0.0, -1.0, INF),
            "size_bytes": (0, -1, 1.5),
            "zipped_bytes": (0, -1, 1.5),
            "macs": (-1,),
            "n_samples": (0,),
            "unknown": (1,),
        }.items()
        for value in values
    ],
)
def test_a_measurement_refuses_what_is_no_number_of_its_kind(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        measurement(**changes)


@pytest.mark.parametrize("field", ["value", "low", "high"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_intervals_refuse_what_is_not_finite(field: str, value: float) -> None:
    with pytest.raises(ValidationError):
        Interval(**{"value": 0.0, "low": -1.0, "high": 1.0, field: value})
    with pytest.raises(ValidationError):
        Speedup(**{"value": 1.0, "low": 0.9, "high": 1.1, "n_pairs": 3, field: value})


def test_the_ends_of_an_interval_are_ordered_and_its_value_is_free() -> None:
    with pytest.raises(ValidationError, match="low <= high must hold, but got 1.0 and 0.5"):
        Interval(value=0.7, low=1.0, high=0.5)
    assert Interval(value=2.0, low=0.0, high=1.0).value == 2.0
    assert Interval(value=1.0, low=1.0, high=1.0).low == 1.0


def test_the_drop_on_all_samples_is_that_of_both_parts_together() -> None:
    losses = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], 2000, p=[0.02, 0.95, 0.03])
    order = split_for_choice(Predictions(torch.arange(2000), torch.arange(2000)))
    parts = [interval_of(losses[part.targets.numpy()]) for part in order]
    whole, expected = measurement(accuracy_drop=parts[0], selection_drop=parts[1]).whole_drop, interval_of(losses)
    assert whole.value == pytest.approx(expected.value)
    assert (whole.low, whole.high) == pytest.approx((expected.low, expected.high), rel=0.02)
    assert measurement(accuracy_drop=parts[0]).whole_drop == parts[0]


def interval_of(losses: npt.NDArray[np.float64]) -> Interval:
    """Mean with its two-sided 90 % interval, that of a normal distribution."""
    mean, half = float(losses.mean()), 1.645 * float(losses.std()) / len(losses) ** 0.5
    return Interval(value=mean, low=mean - half, high=mean + half)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_speedup_is_positive(value: float) -> None:
    with pytest.raises(ValidationError):
        Speedup(value=value, low=1, high=1, n_pairs=1)


def test_a_measurement_is_frozen_and_survives_json() -> None:
    m = measurement(0.01, 2.0, float_layers=("a", "b"))
    with pytest.raises(ValidationError):
        m.accuracy = 1.0  # type: ignore[misc]
    assert Measurement.model_validate_json(m.model_dump_json()) == m


def test_a_measurement_of_an_older_version_has_no_zipped_size() -> None:
    written = measurement(zipped_bytes=700).model_dump()
    assert Measurement.model_validate(written).zipped_bytes == 700
    del written["zipped_bytes"]
    assert Measurement.model_validate(written).zipped_bytes is None


def test_an_environment_survives_json() -> None:
    environment = record().environment
    assert Environment.model_validate_json(environment.model_dump_json()) == environment
