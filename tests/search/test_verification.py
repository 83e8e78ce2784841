"""Whether the claims of a manifest hold on the machine at hand, of the same kind or of another."""

from typing import Any

import pytest

from autocompress.errors import StudyError
from autocompress.measurement import Environment, Interval, LatencyCheck, Speedup
from autocompress.search.verification import Judge, Verification, differences_of, task_differences
from tests.examples import measurement, record

RAN_IN = {"stem": "i8", "body": "i8", "head": "f32"}


def drop(value: float) -> Interval:
    return Interval(value=value, low=value - 0.01, high=value + 0.01)


def speed(value: float) -> Speedup:
    return Speedup(value=value, low=value - 0.02, high=value + 0.02, n_pairs=30)


CLAIMED = measurement(
    0.0,
    2.0,
    speedup=speed(2.0),
    accuracy_drop=drop(0.0),
    ran_in=RAN_IN,
    float_layers=("head",),
    latency_check=LatencyCheck(p90_ms=1.1, p99_ms=1.2, noise_floor=0.01, busy_share=0.0),
)
FLOAT_BODY = {"ran_in": {**RAN_IN, "body": "f32"}, "float_layers": ("head", "body")}


@pytest.mark.parametrize(
    ("here", "same_kind", "another_kind"),
    [
        pytest.param({}, {}, {}, id="the same"),
        pytest.param({"accuracy": 0.8995}, {}, {}, id="one sample in two thousand"),
        pytest.param({"accuracy": 0.895}, {"score": "fails"}, {}, id="less accurate, within the error"),
        pytest.param({"accuracy": 0.88}, {"score": "fails"}, {"score": "fails"}, id="less accurate"),
        pytest.param({"accuracy": 0.95}, {"score": "fails"}, {}, id="more accurate: another model or other data"),
        pytest.param({"accuracy_drop": drop(0.005)}, {"drop": "fails"}, {}, id="a larger drop, within the error"),
        pytest.param({"accuracy_drop": drop(0.02)}, {"drop": "fails"}, {"drop": "fails"}, id="a larger drop"),
        pytest.param({"speedup": speed(1.9)}, {}, {}, id="slower, as sessions differ"),
        pytest.param({"speedup": speed(1.5)}, {"speed-up": "fails"}, {"speed-up": "not here"}, id="slower"),
        pytest.param({"speedup": speed(0.9)}, {"speed-up": "fails"}, {"speed-up": "fails"}, id="slower than FP32"),
        pytest.param({"speedup": speed(9.0)}, {}, {}, id="faster than claimed"),
        pytest.param({"latency_ms": 1.15}, {}, {}, id="a little later"),
        pytest.param({"latency_ms": 3.0}, {"latency": "not here"}, {"latency": "not here"}, id="a slower machine"),
        pytest.param({"latency_ms": 0.1}, {}, {}, id="a faster machine"),
        pytest.param({"size_bytes": 1001}, {"size": "fails"}, {"size": "fails"}, id="a byte more"),
        pytest.param(FLOAT_BODY, {"kernels": "fails"}, {"kernels": "not here"}, id="a layer in floating point"),
        pytest.param({"ran_in": {**RAN_IN, "head": "bf16"}}, {"kernels": "fails"}, {}, id="another float kernel"),
    ],
)
def test_a_claim_holds_or_not(here: dict[str, Any], same_kind: dict[str, str], another_kind: dict[str, str]) -> None:
    for is_same, wanted in ((True, same_kind), (False, another_kind)):
        claims = Judge(CLAIMED, True, is_same)(CLAIMED.model_copy(update=here))
        assert [claim.what for claim in claims] == ["score", "drop", "speed-up", "latency", "size", "kernels"]
        assert {claim.what: claim.verdict for claim in claims if claim.verdict != "holds"} == wanted
        assert Verification(tuple(claims), (), "test", 500).holds == ("fails" not in wanted.values())


def test_claims_show_both_intervals() -> None:
    here = CLAIMED.model_copy(update={"speedup": speed(1.5), "latency_ms": 2.0, **FLOAT_BODY})
    rows = {claim.what: (claim.claimed, claim.here, claim.why) for claim in Judge(CLAIMED, True, False)(here)}
    assert rows["score"][0] == "0.9000 [0.8900, 0.9100]"
    assert rows["drop"][0] == "0.0000 [-0.0100, 0.0100]"
    assert rows["speed-up"] == ("2.00x [1.98, 2.02]", "1.50x [1.48, 1.52]", "slower than claimed")
    assert rows["latency"] == (
        "1.000 ms, 9 of 10 within 1.100",
        "2.000 ms, 9 of 10 within 1.100",
        "FP32 takes 1.50 times as long here",
    )
    assert rows["kernels"] == (
        "i8 in 2, f32 in 1 layers",
        "f32 in 2, i8 in 1 layers",
        "runs in floating point here: body",
    )


def test_a_score_that_falls_when_it_gets_better_is_judged_the_other_way() -> None:
    worse, better = (CLAIMED.model_copy(update={"accuracy": score}) for score in (0.95, 0.85))
    assert Judge(CLAIMED, False, False)(worse)[0].verdict == "fails"
    assert Judge(CLAIMED, False, False)(better)[0].verdict == "holds"
    skewed = CLAIMED.model_copy(update={"accuracy_drop": Interval(value=0.0, low=-0.01, high=0.03)})
    assert Judge(skewed, False, True)(skewed)[0].claimed == "0.9000 [0.8900, 0.9300]"
    assert Judge(skewed, True, True)(skewed)[0].claimed == "0.9000 [0.8700, 0.9100]"


def test_a_manifest_without_kernels_claims_none() -> None:
    claimed = CLAIMED.model_copy(update={"ran_in": {}, "latency_check": None})
    claims = Judge(claimed, True, True)(CLAIMED)
    assert [claim.what for claim in claims] == ["score", "drop", "speed-up", "latency", "size"]
    assert claims[3].claimed == "1.000 ms"


ENVIRONMENT = record().environment.model_copy(update={"versions": {"openvino": "2026.0", "torch": "2.13"}})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({}, [], id="the same"),
        pytest.param({"n_cores": 64}, [], id="more cores, the same threads"),
        pytest.param({"versions": {"openvino": "2026.0", "torch": "3"}}, [], id="another torch"),
        pytest.param({"cpu": "Z"}, ["processor was 'a CPU', is 'Z' here"], id="processor"),
        pytest.param({"versions": {}}, ["OpenVINO was '2026.0', is 'unknown' here"], id="OpenVINO"),
        pytest.param({"inference_threads": 2}, ["threads was 1, is 2 here"], id="threads"),
        pytest.param({"capabilities": ()}, ["OpenVINO offered INT8 there, not here"], id="something less"),
        pytest.param({"capabilities": ("BF16", "INT8")}, ["OpenVINO offers BF16 here, not there"], id="something more"),
        pytest.param({"int8_saturates": True}, ["8-bit arithmetic saturates here, not there"], id="saturation"),
    ],
)
def test_what_differs_here_is_said(change: dict[str, Any], said: list[str]) -> None:
    here: Environment = ENVIRONMENT.model_copy(update=change)
    assert differences_of(ENVIRONMENT, here) == said


TASK = {"score": "accuracy", "higher_is_better": True, "weights": "ab", "validation": "cd", "example_input": [[1, 3]]}


def test_another_model_or_other_data_are_said() -> None:
    assert task_differences(TASK, TASK) == []
    assert task_differences(TASK, {**TASK, "weights": "x"}) == ["the task's weights of the FP32 model are not the same"]
    assert task_differences(TASK, {**TASK, "validation": "x"}) == ["the task's validation data are not the same"]


@pytest.mark.parametrize("key", ["score", "higher_is_better"])
def test_another_score_cannot_be_compared(key: str) -> None:
    with pytest.raises(StudyError, match=f"the task's {key} was .*, is now 'x', so nothing can be compared"):
        task_differences(TASK, {**TASK, key: "x"})
