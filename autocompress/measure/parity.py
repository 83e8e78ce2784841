"""Whether a deployed model computes what the torch module computes that it was exported from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autocompress.errors import MeasurementError
from autocompress.measure.accuracy import Predictions
from autocompress.task import flatten

ENOUGH_AGREEMENT = 0.99  # less between torch and deployed model is worth a sentence
_ALIKE = 0.1  # standard deviations of the torch output that may lie between two outputs that agree
_SMALLEST = 1e-12
_MANY = 4


@dataclass(frozen=True)
class Parity:
    """How far a deployed model is from its torch module on the same samples.

    Attributes:
        agreement: Fraction of samples on which both decide alike, as `agreement` says, in [0, 1].
        largest_difference: Largest absolute difference of two finite outputs, in units of the outputs.
        typical_difference: Root of the mean squared difference of finite outputs, as a multiple of their standard
            deviation.
        relative_difference: Largest difference as a multiple of the standard deviation of the torch output it is in.
        n_samples: Samples compared.
        worst_sample: Index of the sample with the largest relative difference, or the first that is not finite where
            torch's is.
        n_not_finite: Samples with outputs of the deployed model that are NaN or infinite where torch's are not.
    """

    agreement: float
    largest_difference: float
    typical_difference: float
    relative_difference: float
    n_samples: int
    worst_sample: int
    n_not_finite: int = 0


def parity(torch_predictions: Predictions, deployed: Predictions) -> Parity:
    """Compare both models' outputs.

    Args:
        torch_predictions: Of the torch module; its outputs are what is right.
        deployed: Of the deployed model, on the same samples in the same order.

    Raises:
        MeasurementError: Outputs differ in number or shape.
    """
    pairs = _pairs(torch_predictions, deployed)
    n = torch_predictions.n_samples
    broken = torch.zeros(n, dtype=torch.bool)
    worst, largest, squares = torch.zeros(n, dtype=torch.float64), 0.0, [0.0]
    for x, y in pairs:
        differences, wrong = _differences(x, y)
        rows = differences.amax(dim=1)
        squares.append(float(differences.square().mean()) / _scale(x) ** 2)
        broken |= wrong
        largest = max(largest, float(rows.max()))
        worst = torch.maximum(worst, rows / _scale(x))
    return Parity(
        agreement=agreement(torch_predictions, deployed),
        largest_difference=largest,
        typical_difference=max(squares) ** 0.5,
        relative_difference=float(worst.max()),
        n_samples=n,
        worst_sample=int(broken.nonzero()[0]) if broken.any() else int(worst.argmax()),
        n_not_finite=int(broken.sum()),
    )


def _pairs(a: Predictions, b: Predictions) -> list[tuple[Tensor, Tensor]]:
    """Outputs of both models; what is not by sample is left out.

    Raises:
        MeasurementError: They differ in number or shape.
    """
    ours, theirs = flatten(a.outputs), flatten(b.outputs)
    shapes = [[tuple(x.shape) for x in outputs] for outputs in (ours, theirs)]
    if shapes[0] != shapes[1]:
        law = "torch and deployed model must have outputs of the same shapes"
        raise MeasurementError(f"{law}, but got {shapes[0]} and {shapes[1]}; run both on the same batches")
    return [(x, y) for x, y in zip(ours, theirs, strict=True) if x.dim() and len(x) == a.n_samples and x.numel()]


def _differences(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Absolute differences where both are finite, else 0, shape (n, values); where only `x` is finite, shape (n,)."""
    x, y = (t.double().reshape(len(t), -1) for t in (x, y))
    broken = x.isfinite() & ~y.isfinite()
    return torch.where(x.isfinite() & y.isfinite(), (x - y).abs(), 0.0), broken.any(dim=1)


def _scale(x: Tensor) -> float:
    """Standard deviation of the finite values; 1 for whole numbers and for values that are all alike."""
    values = x.double()[x.isfinite()] if x.is_floating_point() else x.new_zeros(0)
    spread = float(values.std(correction=0)) if len(values) else 0.0
    return spread if spread > _SMALLEST else 1.0


def agreement(a: Predictions, b: Predictions) -> float:
    """Fraction of samples on which two models decide alike, in [0, 1].

    For outputs of shape (n, classes) the largest output is at the same index; for whole numbers all are equal; for
    others no value differs by more than a tenth of the output's standard deviation. A sample with NaN in one output
    only is not alike.
    """
    alike = torch.ones(a.n_samples, dtype=torch.bool)
    for x, y in _pairs(a, b):
        alike &= _decides_alike(x, y)
    return float(alike.double().mean())


def _decides_alike(x: Tensor, y: Tensor) -> Tensor:
    if not x.is_floating_point():
        return (x == y).reshape(len(x), -1).all(dim=1)
    rows = [t.reshape(len(t), -1) for t in (x, y)]
    same_gaps = (rows[0].isnan() == rows[1].isnan()).all(dim=1)
    if x.dim() == 2 and x.shape[1] > 1:
        return same_gaps & (x.argmax(dim=1) == y.argmax(dim=1))
    close = torch.isclose(rows[0], rows[1], rtol=0.0, atol=_ALIKE * _scale(x), equal_nan=True)
    return same_gaps & close.all(dim=1)


def is_suspect(found: Parity) -> bool:
    """Whether the two models differ more than rounding explains."""
    return found.n_not_finite > 0 or found.agreement < ENOUGH_AGREEMENT


def explain_parity(
    found: Parity, *, float_layers: Sequence[str] = (), saturated: Sequence[str] = (), is_saturation: bool | None = None
) -> list[str]:
    """Plain sentences about a difference that is larger than rounding explains; none where there is no such.

    Args:
        found: The comparison.
        float_layers: Layers that should have run on integers, but ran in floating point.
        saturated: Layers in which products of 8-bit numbers overflow, as a bisection found.
        is_saturation: Whether 7-bit weights make the models agree; None where that was not tried.
    """
    if not is_suspect(found):
        return []
    sentences = [_size_of(found)]
    if saturated:
        names = _named(saturated)
        return [*sentences, f"products of 8-bit weights and inputs overflow in {names}; give these layers 7 bits"]
    if is_saturation:
        return [*sentences, "with 7-bit weights both agree, so products of 8 bits overflow; use weight_bits of 7"]
    if float_layers:
        names = _named(float_layers)
        sentences.append(f"{names} ran in floating point instead of integers, which rounds otherwise")
    elif is_saturation is not None:
        sentences.append("7-bit weights don't change that, so the conversion to OpenVINO computes something else")
    return sentences


def _size_of(found: Parity) -> str:
    if found.n_not_finite:
        share = f"on {found.n_not_finite} of {found.n_samples} samples"
        return f"the deployed model gives NaN or infinity {share}, first on number {found.worst_sample}, torch does not"
    return (
        f"the deployed model agrees with torch on {found.agreement:.1%} of {found.n_samples} samples; outputs differ "
        f"by up to {found.largest_difference:.3g}, {found.relative_difference:.2g} standard deviations, most on number "
        f"{found.worst_sample}"
    )


def _named(layers: Sequence[str]) -> str:
    rest = len(layers) - _MANY
    return ", ".join(layers[:_MANY]) + (f" and {rest} more" if rest > 0 else "")
