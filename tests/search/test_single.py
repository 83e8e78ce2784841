"""Whether the claims of a manifest hold on the machine at hand."""

from typing import Any

import pytest

from autocompress.measurement import Interval, Speedup
from autocompress.search.single import _claims
from tests.examples import measurement


def drop(value: float) -> Interval:
    return Interval(value=value, low=value - 0.01, high=value + 0.01)


def speed(value: float) -> Speedup:
    return Speedup(value=value, low=value - 0.02, high=value + 0.02, n_pairs=30)


@pytest.mark.parametrize(
    ("here", "broken"),
    [
        pytest.param({}, set(), id="the same"),
        pytest.param({"accuracy": 0.8995}, set(), id="one sample in two thousand"),
        pytest.param({"accuracy": 0.89}, {"accuracy"}, id="less accurate"),
        pytest.param({"accuracy": 0.91}, {"accuracy"}, id="more accurate: another model or other data"),
        pytest.param({"accuracy_drop": drop(0.02)}, {"accuracy drop"}, id="a larger drop"),
        pytest.param({"speedup": speed(1.9)}, set(), id="slower, as sessions differ"),
        pytest.param({"speedup": speed(1.7)}, {"speed-up"}, id="slower"),
        pytest.param({"speedup": speed(9.0)}, set(), id="faster than claimed"),
        pytest.param({"size_bytes": 1001}, {"size"}, id="a byte more"),
    ],
)
def test_a_claim_holds_or_not(here: dict[str, Any], broken: set[str]) -> None:
    claimed = measurement(0.0, 2.0, speedup=speed(2.0), accuracy_drop=drop(0.0))
    claims = _claims(claimed, claimed.model_copy(update=here))
    assert {claim.what for claim in claims if not claim.holds} == broken
    assert len(claims) == 4
