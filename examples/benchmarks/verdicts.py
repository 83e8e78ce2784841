"""The targets of the benchmark: what was measured for each, and whether it is met."""

from collections.abc import Iterable
from dataclasses import dataclass

from autocompress.measure import int8_saturates
from autocompress.report.wording import times
from examples.benchmarks.contenders import NNCF, NNCF_OPENVINO, NNCF_TORCH, OURS_4, OURS_7, OURS_8
from examples.benchmarks.measuring import CaseResult

MAX_POINTS_BELOW = 0.2
LEAST_SPEED = 0.97  # of NNCF's: "within 3 %"
LARGEST_W4_SHARE = 0.55
LARGEST_STEP_RATIO = 1.3


@dataclass(frozen=True)
class Verdict:
    """One target on one model.

    Attributes:
        target: What is wanted.
        case: The model.
        measured: What was found, in words.
        met: Whether it is enough.
    """

    target: str
    case: str
    measured: str
    met: bool


def verdicts(results: Iterable[CaseResult]) -> list[Verdict]:
    """Every target on every model to which it applies, target by target."""
    results = list(results)
    checks = (_accuracy, _saturated, _speed, _size, _equal_speed, _seconds, _step, _step_rival)
    found = [check(result) for check in checks for result in results]
    return [verdict for verdict in found if verdict is not None]


def _accuracy(result: CaseResult) -> Verdict:
    """With the weight bits that the probe chooses on this processor."""
    chosen = OURS_7 if int8_saturates() else OURS_8
    mine, theirs = result.row(chosen).accuracy, max(result.row(name).accuracy for name in NNCF)
    return _compared("accuracy at most 0.2 points below NNCF's better", result, mine, theirs, -MAX_POINTS_BELOW)


def _saturated(result: CaseResult) -> Verdict | None:
    """There the probe chooses 7-bit weights."""
    if not result.saturated:
        return None
    mine, theirs = result.saturated[OURS_7], max(result.saturated[name] for name in NNCF)
    return _compared("where weights saturate, accuracy above NNCF's better", result, mine, theirs, 0.0, strict=True)


def _compared(
    target: str, result: CaseResult, mine: float, theirs: float, least: float, *, strict: bool = False
) -> Verdict:
    points = round(100 * (mine - theirs), 6)
    met = points > least if strict else points >= least
    return Verdict(target, result.name, f"{100 * mine:.2f} % against {100 * theirs:.2f} %: {points:+.2f} points", met)


def _speed(result: CaseResult) -> Verdict:
    """Against the faster of NNCF's two models."""
    ratio = min((result.rivalry(OURS_8, name) for name in NNCF), key=lambda speedup: speedup.value)
    met = ratio.value >= LEAST_SPEED
    return Verdict("speed at most 3 % below NNCF's faster", result.name, times(ratio), met)


def _size(result: CaseResult) -> Verdict:
    share = result.row(OURS_4).bin_bytes / result.row(OURS_8).bin_bytes
    return Verdict("W4 `.bin` at most 0.55 of the INT8 `.bin`", result.name, f"{share:.2f}", share <= LARGEST_W4_SHARE)


def _equal_speed(result: CaseResult) -> Verdict:
    ratio = result.rivalry(OURS_4, OURS_8)
    return Verdict("W4 as fast as INT8, within 3 %", result.name, times(ratio), ratio.value >= LEAST_SPEED)


def _seconds(result: CaseResult) -> Verdict:
    mine, theirs = (result.row(name).ptq_seconds or 0.0 for name in (OURS_8, NNCF_TORCH))
    measured = f"{mine:.1f} s against {theirs:.1f} s (on `ov.Model`: {result.row(NNCF_OPENVINO).ptq_seconds:.1f} s)"
    return Verdict("seconds of quantizing not above NNCF's on torch", result.name, measured, mine <= theirs)


def _step(result: CaseResult) -> Verdict | None:
    if not result.steps:
        return None
    ratio = result.steps[OURS_8]
    return Verdict(
        "training step at most 1.3 times FP32's", result.name, times(ratio), ratio.value <= LARGEST_STEP_RATIO
    )


def _step_rival(result: CaseResult) -> Verdict | None:
    """Clearly below: the intervals don't touch."""
    if not result.steps:
        return None
    mine, theirs = result.steps[OURS_8], result.steps[NNCF_TORCH]
    measured = f"{times(mine)} against {times(theirs)}"
    return Verdict("training step clearly below NNCF's", result.name, measured, mine.high < theirs.low)
