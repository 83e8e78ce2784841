"""What follows from the rows of a probe: verdicts and the staircase of the channels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.cpu_probe import NO_TIME, CpuProbe, ProbeRow, staircase
from autocompress.measurement import Speedup

COUNTS = (40, 44, 48, 49, 56, 60, 64)


def row(value, low=None, high=None, question="int8", kind="conv3x3", **changes):
    speedup = Speedup(value=value, low=low or value - 0.02, high=high or value + 0.02, n_pairs=40)
    return ProbeRow(
        question=question, kind=kind, shape="s", variant="v", baseline="64 channels", speedup=speedup, **changes
    )


def probe(*rows, **changes):
    fields = {"cpu": "c", "capabilities": (), "openvino": "1", "n_threads": 1, "int8_saturates": False, "rows": rows}
    return CpuProbe(**(fields | changes))


VERDICTS = [  # id, value, low, high, noise floor, verdict
    ("well above 1", 2.0, 1.9, 2.1, 0.0, "faster"),
    ("well below 1", 0.8, 0.78, 0.82, 0.0, "slower"),
    ("close around 1", 1.0, 0.98, 1.02, 0.0, "same"),
    ("above 1, but by nothing that matters", 1.02, 1.01, 1.03, 0.0, "same"),
    ("around 1, but wide", 1.0, 0.9, 1.1, 0.0, "unclear"),
    ("above 1 by less than the noise floor", 1.1, 1.06, 1.14, 0.15, "unclear"),
    ("below 1 by less than the noise floor", 0.9, 0.88, 0.92, 0.15, "unclear"),
    ("close around 1 on a noisy machine", 1.0, 0.98, 1.02, 0.1, "unclear"),
]


@pytest.mark.parametrize(
    ("value", "low", "high", "floor", "verdict"), [pytest.param(*r[1:], id=r[0]) for r in VERDICTS]
)
def test_the_verdict_follows_from_interval_and_noise(value, low, high, floor, verdict) -> None:
    assert row(value, low, high, noise_floor=floor).verdict == verdict


ANSWERS = [  # id, rows, answer
    ("no rows", (), None),
    ("one faster among slower ones", (row(0.8), row(1.5)), True),
    ("all the same or slower", (row(1.0), row(0.8)), False),
    ("noise beside the same", (row(1.0), row(1.0, 0.8, 1.2)), None),
    ("noise that rules out a gain", (row(0.96, 0.9, 1.02),), False),
    ("noise beside faster", (row(1.5), row(1.0, 0.8, 1.2)), True),
]


@pytest.mark.parametrize(("rows", "answer"), [pytest.param(*r[1:], id=r[0]) for r in ANSWERS])
def test_a_gain_is_denied_only_where_every_row_rules_it_out(rows, answer) -> None:
    assert probe(*rows).is_faster("int8", "conv3x3") is answer


def test_rows_of_other_kinds_don_t_answer() -> None:
    assert probe(row(2.0, kind="linear"), row(2.0, question="binary")).is_faster("int8", "conv3x3") is None


@pytest.mark.parametrize("block", [1, 4, 8, 16])
def test_a_staircase_is_recognized(block) -> None:
    latencies = {n: 0.3 + 0.01 * block * ((n + block - 1) // block) for n in COUNTS}
    assert staircase(latencies) == block


@given(st.integers(0, 10_000), st.sampled_from([8, 16]))
def test_a_little_noise_does_not_hide_the_staircase(seed, block) -> None:
    noise = np.random.default_rng(seed).uniform(0.99, 1.01, len(COUNTS))
    latencies = {n: (0.1 + -(-n // block) * block / 70) * e for n, e in zip(COUNTS, noise, strict=True)}
    assert staircase(latencies) in (block, None)


UNTOLD = [  # id, latencies
    ("too few numbers of channels", {n: n / 64 for n in COUNTS[:4]}),
    ("a latency that does not depend on them", dict.fromkeys(COUNTS, 1.0)),
    ("a staircase that goes down", {n: 2 - -(-n // 8) / 8 for n in COUNTS}),
    ("two staircases in one", {n: -(-n // 4) * 4 + -(-n // 8) * 8 for n in COUNTS}),
    ("noise alone", dict(zip(COUNTS, (1.3, 0.7, 1.2, 0.6, 1.4, 0.5, 1.0), strict=True))),
]


@pytest.mark.parametrize("latencies", [pytest.param(r[1], id=r[0]) for r in UNTOLD])
def test_no_staircase_is_told_from(latencies) -> None:
    assert staircase(latencies) is None


def test_the_granularity_comes_from_the_rows_of_that_variant() -> None:
    rows = [
        ProbeRow(
            question="channels",
            kind="conv3x3",
            shape="s",
            variant="FP32",
            baseline="64 channels",
            speedup=Speedup(value=8 / -(-n // 8), low=0.5, high=2.0, n_pairs=40),
            n_channels=n,
        )
        for n in COUNTS[:-1]
    ]
    assert (probe(*rows).granularity("FP32"), probe(*rows).granularity("INT8")) == (8, None)


@pytest.mark.parametrize(("saturates", "bits"), [(True, 7), (False, 8)])
def test_weights_have_the_widest_bits_that_are_exact(saturates, bits) -> None:
    assert probe(int8_saturates=saturates).default_weight_bits == bits


def test_a_comparison_that_cannot_run_here_does_not_make_a_probe_incomplete() -> None:
    assert probe(unanswered={"binary": "no kernel"}).is_complete
    assert not probe(unanswered={"binary": NO_TIME}).is_complete
    assert probe(*[row(2.0)] * 9, unanswered={"binary": NO_TIME}).is_complete
    assert not probe(*[row(2.0)] * 8, unanswered={"binary": NO_TIME}).is_complete


@pytest.mark.parametrize(("n_noisy", "is_clear"), [(1, True), (2, False)])
def test_a_probe_is_clear_when_at_most_a_quarter_is_noise(n_noisy, is_clear) -> None:
    assert probe(*[row(2.0)] * 3, *[row(1.0, 0.5, 2.0)] * n_noisy).is_clear is is_clear


def test_a_probe_survives_json() -> None:
    whole = probe(row(2.0), row(0.9, n_channels=40, is_noisy=True), unanswered={"a": "b"})
    assert CpuProbe.model_validate_json(whole.model_dump_json()) == whole
