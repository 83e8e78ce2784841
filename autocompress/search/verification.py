"""Whether what the manifest of a chosen model claims holds on the machine at hand, of the same kind or of another."""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from autocompress.errors import StudyError
from autocompress.graph import inspect_model
from autocompress.latency import FINALIST
from autocompress.measure import describe_environment
from autocompress.measurement import Environment, Interval, Measurement
from autocompress.recipe import Recipe
from autocompress.search.chosen import Manifest
from autocompress.search.context import Split
from autocompress.search.evaluate import measure_candidate
from autocompress.search.identity import task_identity
from autocompress.search.single import OnPhase, worker_with_baseline
from autocompress.task import Task

Verdict = Literal["holds", "not here", "fails"]
SPEEDUP, LATENCY = "speed-up", "latency"
ATTEMPTS = 3  # a neighbour on the same machine can spoil one measurement of the speed-up
SPEEDUP_SHARE = 0.9  # two sessions on one machine differ by more than one session's interval (facts: openvino-cpu.md)
REPEATS = 0.001  # of the score: as near the same model comes on the same samples, on the same kind of machine
_SOME = 4


@dataclass(frozen=True)
class Claim:
    """A number of the manifest beside the same number here, as text.

    Attributes:
        what: Which number.
        claimed: In the manifest, with its interval.
        here: As measured on this machine.
        verdict: `holds`; `not here` for what another machine may do otherwise; `fails` for what must hold anywhere.
        why: What speaks against it, else empty.
    """

    what: str
    claimed: str
    here: str
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True)
class Verification:
    """What came of measuring a chosen model again.

    Attributes:
        claims: Each number.
        differences: How this machine, its software or the task differ from those of the manifest, as sentences.
        split: Data on which the score was measured, `test` or `validation`.
        n_samples: How many.
    """

    claims: tuple[Claim, ...]
    differences: tuple[str, ...]
    split: str
    n_samples: int

    @property
    def holds(self) -> bool:
        """Whether no claim fails; what does not hold on this kind of machine alone is no failure."""
        return all(claim.verdict != "fails" for claim in self.claims)


def verify_chosen(
    folder: Path, task: Task, on_phase: OnPhase = lambda _: None, threads: int | None = None
) -> Verification:
    """Measure the model in a `chosen/` folder again on this machine, and compare with its manifest.

    Where only the claimed speed-up is missed on the same kind of machine it is measured again, three times in all.

    Args:
        folder: The `chosen/` folder; its files must be those of the manifest, and nothing else of the study is needed.
        task: The task that it was made for.
        on_phase: Told what is being done.
        threads: Inference threads; by default those of the manifest, or as many as there are cores here.

    Raises:
        StudyError: Manifest or files are missing or differ, or the task has another score.
        MeasurementError: There are not so many threads here.
    """
    manifest = Manifest.read(folder)
    claimed = manifest.chosen.test or manifest.candidate.measurement
    if claimed is None:
        raise StudyError(f"the manifest in {folder} claims nothing: its candidate was not measured; choose another one")
    here = _environment_here(manifest.environment, threads)
    differences = [*task_differences(manifest.task, task_identity(task)), *differences_of(manifest.environment, here)]
    split: Split = "test" if manifest.chosen.test else "validation"
    judge = Judge(claimed, bool(manifest.task["higher_is_better"]), is_same_kind=not differences)
    measured = _measured(folder, task, manifest.candidate.recipe, split, here.inference_threads, judge, on_phase)
    return Verification(tuple(judge(measured)), tuple(differences), split, measured.n_samples)


def _environment_here(claimed: Environment, threads: int | None) -> Environment:
    one = describe_environment(1 if threads is None else threads)
    if threads is not None:
        return one
    return one.model_copy(update={"inference_threads": min(claimed.inference_threads, one.n_cores)})


def _measured(
    folder: Path,
    task: Task,
    recipe: Recipe,
    split: Split,
    n_threads: int,
    judge: Callable[[Measurement], list[Claim]],
    on_phase: OnPhase,
) -> Measurement:
    graph = inspect_model(task.model, task.example_input)
    with TemporaryDirectory(prefix="autocompress-verify-") as work:
        copied = Path(work) / "copied"
        shutil.copytree(folder, copied)
        with worker_with_baseline(task, graph, Path(work), on_phase, n_threads) as worker:
            for attempt in range(ATTEMPTS):
                on_phase(f"measuring on the {split} split" + (", once more" if attempt else ""))
                measured, _ = worker.call(measure_candidate, recipe, copied, split, FINALIST)
                if {claim.what for claim in judge(measured) if claim.verdict == "fails"} != {SPEEDUP}:
                    break
    return measured


def differences_of(claimed: Environment, here: Environment) -> list[str]:
    """What of a machine bears on speed or arithmetic and is not as it was, a sentence each."""
    found = [
        f"{what} was {there!r}, is {this!r} here"
        for what, there, this in (
            ("processor", claimed.cpu, here.cpu),
            ("OpenVINO", claimed.versions.get("openvino", "unknown"), here.versions.get("openvino", "unknown")),
            ("threads", claimed.inference_threads, here.inference_threads),
        )
        if there != this
    ]
    lost = sorted({*claimed.capabilities} - {*here.capabilities})
    gained = sorted({*here.capabilities} - {*claimed.capabilities})
    found += [f"OpenVINO offered {', '.join(lost)} there, not here"] if lost else []
    found += [f"OpenVINO offers {', '.join(gained)} here, not there"] if gained else []
    if claimed.int8_saturates != here.int8_saturates:
        where = ("here", "not there") if here.int8_saturates else ("there", "not here")
        found.append(f"8-bit arithmetic saturates {where[0]}, {where[1]}")
    return found


def task_differences(claimed: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What of the task bears on the numbers and is not as it was, a sentence each.

    Raises:
        StudyError: The score is another one, so that nothing can be compared.
    """
    for key in ("score", "higher_is_better"):
        if claimed.get(key) != here.get(key):
            raise StudyError(
                f"the task's {key} was {claimed.get(key)!r}, is now {here.get(key)!r}, so nothing can be compared; "
                "give the task that the model was made for with --task"
            )
    words = {"weights": "weights of the FP32 model", "validation": "validation data", "example_input": "example input"}
    return [f"the task's {words[key]} are not the same" for key in words if claimed.get(key) != here.get(key)]


class Judge:
    """Says for each number of a manifest whether it holds.

    On the same kind of machine numbers must repeat: the score and its drop within `REPEATS`, the speed-up to nine
    tenths, the kernels layer by layer. Elsewhere the arithmetic may round otherwise, so that the score must lie within
    its error, or above; a lower speed-up is not a failure there unless the model is not faster than FP32 at all.
    A latency in milliseconds is that of a machine, and never fails by itself.

    Args:
        claimed: The measurement in the manifest.
        higher_is_better: Direction of the score.
        is_same_kind: Whether machine, software and task are those of the manifest.
    """

    def __init__(self, claimed: Measurement, higher_is_better: bool, is_same_kind: bool) -> None:
        self._claimed, self._sign, self._is_same_kind = claimed, 1.0 if higher_is_better else -1.0, is_same_kind

    def __call__(self, here: Measurement) -> list[Claim]:
        """One claim a number; that of the kernels only where the manifest names them."""
        claims = [self._score(here), self._drop(here), self._speedup(here), self._latency(here), self._size(here)]
        return [*claims, self._kernels(here)] if self._claimed.ran_in else claims

    def _score(self, here: Measurement) -> Claim:
        lost = self._sign * (self._claimed.accuracy - here.accuracy)
        return Claim(
            "score",
            _interval_words(self._claimed.accuracy, _around(self._claimed, self._sign)),
            _interval_words(here.accuracy, _around(here, self._sign)),
            *self._loss_verdict(lost),
        )

    def _drop(self, here: Measurement) -> Claim:
        claimed = self._claimed.accuracy_drop
        return Claim(
            "drop",
            _interval_words(claimed.value, claimed),
            _interval_words(here.accuracy_drop.value, here.accuracy_drop),
            *self._loss_verdict(here.accuracy_drop.value - claimed.value),
        )

    def _loss_verdict(self, lost: float) -> tuple[Verdict, str]:
        """Of a score or a drop that is worse here by `lost`."""
        repeats = REPEATS * max(1.0, abs(self._claimed.accuracy))
        if self._is_same_kind:
            return ("holds", "") if abs(lost) <= repeats else ("fails", f"differs by {abs(lost):.4f}")
        drop = self._claimed.accuracy_drop
        allowed = max(repeats, drop.high - drop.value)
        return ("holds", "") if lost <= allowed else ("fails", f"worse by {lost:.4f}, its error is {allowed:.4f}")

    def _speedup(self, here: Measurement) -> Claim:
        a, b = self._claimed.speedup, here.speedup
        verdict: Verdict = "holds"
        why = ""
        if b.high < SPEEDUP_SHARE * a.low:
            is_faster = b.low > 1 or a.low <= 1
            verdict = "fails" if self._is_same_kind or not is_faster else "not here"
            why = "slower than claimed" if is_faster else "not faster than FP32 here"
        there, this = (f"{s.value:.2f}x [{s.low:.2f}, {s.high:.2f}]" for s in (a, b))
        return Claim(SPEEDUP, there, this, verdict, why)

    def _latency(self, here: Measurement) -> Claim:
        there = self._claimed
        is_slower = SPEEDUP_SHARE * here.latency_ms > max(there.latency_ms, _p90(there))
        machine = (here.latency_ms * here.speedup.value) / (there.latency_ms * there.speedup.value)
        why = f"FP32 takes {machine:.2f} times as long here" if is_slower else ""
        return Claim(LATENCY, _latency_words(there), _latency_words(here), "not here" if is_slower else "holds", why)

    def _size(self, here: Measurement) -> Claim:
        a, b = self._claimed.size_bytes, here.size_bytes
        return Claim("size", f"{a} bytes", f"{b} bytes", "holds" if a == b else "fails")

    def _kernels(self, here: Measurement) -> Claim:
        there, this = self._claimed.ran_in, here.ran_in
        changed = [name for name in there if this.get(name) != there[name]]
        worse = [name for name in here.float_layers if name not in self._claimed.float_layers]
        names = ", ".join((worse or changed)[:_SOME]) + (", …" if len(worse or changed) > _SOME else "")
        verdict: Verdict = "holds"
        if worse or (changed and self._is_same_kind):
            verdict = "fails" if self._is_same_kind else "not here"
        words = "runs in floating point here: " if worse else "other kernels for "
        return Claim("kernels", _count(there), _count(this), verdict, f"{words}{names}" if verdict != "holds" else "")


def _around(m: Measurement, sign: float) -> Interval:
    """Interval of the score that goes with the drop's, the baseline's score being taken as known."""
    drop = m.accuracy_drop
    ends = sorted(m.accuracy - sign * (end - drop.value) for end in (drop.low, drop.high))
    return Interval(value=m.accuracy, low=ends[0], high=ends[1])


def _interval_words(value: float, interval: Interval) -> str:
    return f"{value:.4f} [{interval.low:.4f}, {interval.high:.4f}]"


def _p90(m: Measurement) -> float:
    return m.latency_check.p90_ms if m.latency_check else m.latency_ms


def _latency_words(m: Measurement) -> str:
    tail = f", 9 of 10 within {_p90(m):.3f}" if m.latency_check else ""
    return f"{m.latency_ms:.3f} ms{tail}"


def _count(ran_in: Mapping[str, str]) -> str:
    """Such as `i8 in 11 layers, f32 in 1`."""
    counts = Counter(ran_in.values()).most_common()
    return ", ".join(f"{kind} in {n}" for kind, n in counts) + (" layers" if counts else "none found")
