"""What is known of a model's latency before any recipe of it is timed."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from autocompress.errors import MeasurementError
from autocompress.measure.latency_features import BINARY, CLASSES, FLOAT, INTEGER, WEIGHT_ONLY, Architecture, Floats

_INTEGER_SHARE, _BINARY_SHARE = 0.55, 0.4  # of float latency (facts: openvino-cpu.md), where no profile says better
_REST_SHARE = 0.1  # of the baseline's latency that no unit accounts for, where no profile says better
_LEAST_SHARE = 0.01  # of an average unit's latency: no unit is taken for free


@dataclass(frozen=True)
class Prior:
    """What is known of a model's latency before any recipe is timed, relative to the FP32 baseline.

    Attributes:
        units: Latency by unit and precision class, shape (units, 4), > 0.
        rest: Latency that is in no unit.
    """

    units: Floats
    rest: float


def prior_from_macs(architecture: Architecture) -> Prior:
    """Every multiply-accumulate takes as long as every other one of its class."""
    macs = np.array([unit.macs for unit in architecture.units], np.float64)
    return _prior((1 - _REST_SHARE) * macs / macs.sum(), {}, architecture, _REST_SHARE)


def prior_from_profiles(
    architecture: Architecture, float_ms: Mapping[str, float], integer_ms: Mapping[str, float]
) -> Prior:
    """Every unit takes as long as the processor's counters say.

    Args:
        architecture: Of the model.
        float_ms: Milliseconds by layer of the FP32 model, those of everything else under ``""``.
        integer_ms: The same of the model whose layers all run on integers.

    Raises:
        MeasurementError: The FP32 model's times are not above 0 in sum.
    """
    total = sum(float_ms.values())
    if not total > 0:
        raise MeasurementError(f"a profile's times must be above 0 ms in sum, but got {total}; profile the model again")
    macs = np.array([unit.macs for unit in architecture.units], np.float64)
    found = np.array([float_ms.get(unit.name, 0.0) for unit in architecture.units]) / total
    missing = found <= 0  # fused into another node: a share of the rest by its work
    found[missing] = macs[missing] / macs.sum() * (1 - _REST_SHARE)
    integer = {name: ms / total for name, ms in integer_ms.items() if ms > 0}
    return _prior(found, integer, architecture, max(0.01, 1 - found.sum()))


def _prior(float_units: Floats, integer: Mapping[str, float], architecture: Architecture, rest: float) -> Prior:
    least = float_units.sum() / len(float_units) / 100
    units = np.repeat(np.maximum(float_units, least)[:, None], len(CLASSES), axis=1)
    names = [unit.name for unit in architecture.units]
    units[:, INTEGER] = [
        max(integer.get(name, _INTEGER_SHARE * time), least) for name, time in zip(names, units[:, FLOAT], strict=True)
    ]
    units[:, BINARY] = _BINARY_SHARE * units[:, FLOAT]
    units[:, WEIGHT_ONLY] = units[:, FLOAT]
    return Prior(units, rest)
