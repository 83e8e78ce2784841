"""How far a deployed model is from its torch module, and what is said about it."""

import pytest
import torch
from torch import Tensor

from autocompress.errors import MeasurementError
from autocompress.measure import Parity, Predictions, agreement, explain_parity, is_suspect, parity

NAN, INF = float("nan"), float("inf")


def of(outputs: Tensor) -> Predictions:
    return Predictions(outputs, torch.zeros(len(outputs)))


def logits(n: int = 200) -> Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(0))


def changed(values: Tensor, *places: tuple[int, ...], to: float) -> Tensor:
    values = values.clone()
    for place in places:
        values[place] = to
    return values


def test_agreement_counts_equal_decisions() -> None:
    x = torch.eye(4).repeat(100, 1)
    y = x.clone()
    y[:40] = y[:40].roll(1, dims=1)
    assert agreement(of(x), of(y)) == pytest.approx(0.9)


@pytest.mark.parametrize(("shift", "agrees"), [(0.09, True), (0.11, False)])
def test_other_outputs_agree_within_a_tenth_of_their_spread(shift: float, agrees: bool) -> None:
    x = torch.randn(500, 3, 2, generator=torch.Generator().manual_seed(0)) * 5
    assert agreement(of(x), of(x + shift * x.std())) == agrees


def test_whole_numbers_agree_where_all_are_equal() -> None:
    x = torch.arange(10)
    assert agreement(of(x), of(changed(x, (3,), to=0))) == pytest.approx(0.9)


def test_the_largest_difference_and_its_sample_are_found() -> None:
    x = logits()
    found = parity(of(x), of(changed(x, (17, 2), to=float(x[17, 2]) - 3)))
    assert found.largest_difference == pytest.approx(3)
    assert found.relative_difference == pytest.approx(3 / float(x.double().std(correction=0)), rel=1e-5)
    assert found.typical_difference == pytest.approx(found.relative_difference / x.numel() ** 0.5, rel=1e-5)
    assert (found.worst_sample, found.n_samples) == (17, 200)


def test_the_worst_sample_is_that_of_the_output_with_the_smallest_spread() -> None:
    small, large = logits() / 1000, logits() * 1000
    pair = [Predictions({"small": a, "large": b}, None) for a, b in ((small, large), (small.clone(), large.clone()))]
    pair[1].outputs["small"][5] += 0.01
    pair[1].outputs["large"][9] += 1
    found = parity(*pair)
    assert (found.worst_sample, found.largest_difference) == (5, pytest.approx(1, rel=1e-3))


@pytest.mark.parametrize("value", [NAN, INF, -INF], ids=str)
def test_outputs_that_are_not_finite_are_found_and_said(value: float) -> None:
    x = logits()
    found = parity(of(x), of(changed(x, (7, 1), (30, 0), to=value)))
    assert (found.n_not_finite, found.worst_sample, found.largest_difference) == (2, 7, 0)
    assert is_suspect(found)
    assert explain_parity(found)[0] == (
        "the deployed model gives NaN or infinity on 2 of 200 samples, first on number 7, torch does not"
    )


def test_what_is_not_finite_in_torch_either_is_not_held_against_the_deployed_model() -> None:
    x = changed(logits(), (3, 0), to=-INF)
    assert parity(of(x), of(x.clone())).n_not_finite == 0


def test_a_sample_of_nan_does_not_agree() -> None:
    x = logits()
    assert agreement(of(x), of(changed(x, (7, int(x[7].argmax())), to=NAN))) == pytest.approx(199 / 200)


def test_outputs_of_other_shapes_are_refused() -> None:
    with pytest.raises(MeasurementError, match=r"same shapes, but got \[\(200, 4\)\] and \[\(200, 3\)\]"):
        parity(of(logits()), of(logits()[:, :3]))


def test_outputs_without_spread_are_compared_in_their_own_unit() -> None:
    x = torch.ones(10, 1)
    assert parity(of(x), of(x + 0.5)).relative_difference == pytest.approx(0.5)


BAD = Parity(0.62, 1.5, 0.3, 0.8, 500, 41)
EXPLAINED = [
    pytest.param({"saturated": ("a", "b"), "is_saturation": True}, "overflow in a, b; give these", id="layers"),
    pytest.param({"is_saturation": True}, "with 7-bit weights both agree", id="saturation without names"),
    pytest.param({"is_saturation": False}, "the conversion to OpenVINO computes something else", id="conversion"),
    pytest.param({"float_layers": ("c",), "is_saturation": False}, "c ran in floating point", id="fall-back"),
    pytest.param({"saturated": tuple("abcdef")}, "overflow in a, b, c, d and 2 more", id="many"),
]


@pytest.mark.parametrize(("known", "said"), EXPLAINED)
def test_the_reason_is_said(known: dict[str, object], said: str) -> None:
    first, second = explain_parity(BAD, **known)  # type: ignore[arg-type]
    assert "agrees with torch on 62.0% of 500 samples" in first and "most on number 41" in first
    assert said in second


def test_where_nothing_was_tried_only_the_size_is_said() -> None:
    assert len(explain_parity(BAD)) == 1


def test_models_that_agree_need_no_sentence() -> None:
    assert explain_parity(Parity(0.995, 1.5, 0.01, 0.8, 500, 41), float_layers=("c",)) == []
