"""Timing: do the intervals hold the truth, how narrow are they, and does the measuring process grow, in one run.

python -m examples.benchmarks.timing           # about 18 minutes, writes reports/benchmarks/timing.md
python -m examples.benchmarks.timing --smoke   # a slice of it in under a minute, writes nothing

Everything but memory is measured twice: with the machine as it is, which should be idle, and with another process that
multiplies matrices on one thread all the time.
"""

import datetime
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import openvino
import psutil
from openvino import opset13 as ops

from autocompress.deploy import to_openvino
from autocompress.latency import (
    LatencyProcess,
    LatencySettings,
    compile_model,
    paired_latency,
    random_inputs,
    relative_half_width,
)
from autocompress.latency.load import LoadWatch
from autocompress.latency.models import runner
from autocompress.latency.rounds import measure
from autocompress.measure import describe_environment
from autocompress.measurement import Speedup
from autocompress.tasks.fashion import fashion
from examples.benchmarks.finetuning_tables import targets
from examples.benchmarks.running import run
from examples.benchmarks.verdicts import Verdict

TARGET = Path(__file__).parents[2] / "reports" / "benchmarks" / "timing.md"
SETTINGS = LatencySettings(max_seconds=2.5, max_pairs=1000, half_width=0.01)
BRIEF = LatencySettings(min_pairs=3, max_pairs=3, max_seconds=0.1, n_copies=2)
COUNTS = ((3, 2), (5, 4), (4, 1), (2, 3))  # of the same inference, whose ratio is that of these numbers
BUSY_CODE = "import numpy\na = numpy.ones((400, 400))\nwhile True: a @ a"
LEAST_COVERED, LEAST_KNOWN, LARGEST_HALF_WIDTH, LONGEST_SECONDS, LARGEST_GROWTH = 0.93, 0.9, 0.01, 5.0, 100.0


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        n_sessions: Of every kind on a quiet machine and again on a busy one, all models together.
        n_compiled: Compile-and-measure rounds in one process.
        settings: Of the sessions.
    """

    n_sessions: int = 100
    n_compiled: int = 200
    settings: LatencySettings = SETTINGS


SMOKE = Scale(n_sessions=3, n_compiled=4, settings=replace(BRIEF, max_pairs=10, min_pairs=10))


@dataclass(frozen=True)
class Timed:
    """One session.

    Attributes:
        truth: The ratio that it should have found.
        speedup: The ratio that it found.
        seconds: It took, compiling included.
        busy_share: Of the cores, taken by others.
    """

    truth: float
    speedup: Speedup
    seconds: float
    busy_share: float

    @property
    def covers(self) -> bool:
        """Whether the interval holds the truth."""
        return self.speedup.low <= self.truth <= self.speedup.high


def main() -> None:
    """Run everything, print the tables, write them down."""
    run(benchmark, __doc__, TARGET, smoke="three sessions of a kind, no report")


def benchmark(*, smoke: bool) -> str:
    """Everything, as Markdown."""
    scale, load_before = SMOKE if smoke else Scale(), os.getloadavg()[0]
    models = {"small": convolutions(3, 16, 32), "fashion net": _fashion(), "large": convolutions(12, 64, 40)}
    quiet = _sessions(models, scale, "idle")
    with busy_process():
        busy = _sessions(models, scale, "busy")
    growth = memory_growth(models["fashion net"], scale.n_compiled)
    found = [*verdicts(quiet, "idle", with_width=True), *verdicts(busy, "busy", with_width=False), _grown(growth)]
    return "\n\n".join(
        ["# Timing", _environment(load_before), *_table("idle", quiet), *_table("busy", busy), *targets(found), ""]
    )


def convolutions(n: int, n_channels: int, size: int) -> openvino.Model:
    """`n` convolutions of 3x3 after one another on images of `size` x `size`."""
    rng = np.random.default_rng(0)
    first = last = ops.parameter([1, n_channels, size, size], np.float32)
    for _ in range(n):
        weight = rng.standard_normal((n_channels, n_channels, 3, 3)) / np.sqrt(4.5 * n_channels)
        last = ops.relu(ops.convolution(last, ops.constant(weight.astype(np.float32)), [1, 1], [1, 1], [1, 1], [1, 1]))
    return openvino.Model([last], [first], "convolutions")


def _fashion() -> openvino.Model:
    task = fashion()
    return to_openvino(task.model, task.example_input)


@contextmanager
def busy_process() -> Iterator[None]:
    """Another process that keeps one core busy meanwhile."""
    one_thread = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    process = subprocess.Popen([sys.executable, "-c", BUSY_CODE], env=os.environ | one_thread)
    try:
        time.sleep(1)
        yield
    finally:
        process.kill()
        process.wait()


def _sessions(models: dict[str, openvino.Model], scale: Scale, when: str) -> dict[str, list[Timed]]:
    """Sessions by what was compared; models and ratios take turns, so that all see the same times of the machine."""
    found: dict[str, list[Timed]] = {}
    for index in range(scale.n_sessions):
        if index % 10 == 0:
            print(f"... {when}, session {index}", file=sys.stderr, flush=True)
        settings = replace(scale.settings, seed=index)
        name = list(models)[index % len(models)]
        found.setdefault(f"{name} against itself", []).append(_itself(models[name], settings))
        n, m = COUNTS[index % len(COUNTS)]
        found.setdefault(f"{n} against {m} inferences", []).append(_known(models["small"], n, m, settings))
    return found


def _itself(model: openvino.Model, settings: LatencySettings) -> Timed:
    start = time.perf_counter()
    paired = paired_latency(model, model, random_inputs(model), settings)
    return Timed(1.0, paired.speedup, time.perf_counter() - start, paired.check.busy_share)


def _known(model: openvino.Model, n: int, m: int, settings: LatencySettings) -> Timed:
    """Running the same model `n` times against `m` times, by copies of it that are compiled for themselves."""
    start, inputs = time.perf_counter(), random_inputs(model)

    def repeated(count: int) -> Callable[[], object]:
        infer = runner(compile_model(model, settings.n_threads), inputs)
        return lambda: [infer() for _ in range(count)]

    runs = [[repeated(count) for _ in range(settings.n_copies)] for count in (n, m)]
    session = measure(runs, settings, LoadWatch(pin=True), stopwatch=time.thread_time)
    return Timed(n / m, session.speedup(0, 1), time.perf_counter() - start, session.busy_share)


def memory_growth(model: openvino.Model, n_rounds: int) -> float:
    """Megabytes by which the measuring process grows from its fourth comparison on; each compiles both models again."""
    inputs = random_inputs(model)
    with tempfile.TemporaryDirectory() as folder, LatencyProcess() as process:
        path = Path(folder) / "model.xml"
        openvino.save_model(model, path)
        for index in range(n_rounds):
            process.compare(path, path, inputs, BRIEF)
            if index == min(3, n_rounds // 2):
                before = _resident()
        return (_resident() - before) / 1e6


def _resident() -> int:
    """Bytes in memory of the processes that this one has started."""
    return sum(int(child.memory_info().rss) for child in psutil.Process().children(recursive=True))


def _table(when: str, found: dict[str, list[Timed]]) -> list[str]:
    """One row a comparison."""
    rows = [f"| {name} | {_row(sessions)} |" for name, sessions in found.items()]
    head = "| compared | sessions | hold the truth | median half-width | median error | median seconds | others had |"
    return [f"## {when.capitalize()}", "\n".join([head, "|" + "---|" * 7, *rows])]


def _row(sessions: list[Timed]) -> str:
    errors = [abs(s.speedup.value / s.truth - 1) for s in sessions]
    return " | ".join(
        [
            str(len(sessions)),
            str(sum(s.covers for s in sessions)),
            _percent(half_width(sessions)),
            _percent(float(np.median(errors))),
            f"{np.median([s.seconds for s in sessions]):.1f}",
            f"{100 * np.median([s.busy_share for s in sessions]):.0f} %",
        ]
    )


def half_width(sessions: list[Timed]) -> float:
    """Median relative half-width."""
    return float(np.median([relative_half_width(s.speedup) for s in sessions]))


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def verdicts(found: dict[str, list[Timed]], when: str, *, with_width: bool) -> list[Verdict]:
    """What was asked for of the intervals, and what was measured."""
    itself = [s for sessions in found.values() for s in sessions if s.truth == 1]
    known = [s for sessions in found.values() for s in sessions if s.truth != 1]
    kinds = (("A/A interval holds 1", itself, LEAST_COVERED), ("interval holds the known ratio", known, LEAST_KNOWN))
    made = []
    for name, sessions, least in kinds:
        n = sum(s.covers for s in sessions)
        measured = f"{n} of {len(sessions)}"
        made.append(Verdict(f"{name} in at least {100 * least:.0f} of 100", when, measured, n >= least * len(sessions)))
    if with_width:
        width, seconds = half_width(itself), float(np.median([s.seconds for s in itself]))
        met = width <= LARGEST_HALF_WIDTH and seconds <= LONGEST_SECONDS
        made.append(
            Verdict("half-width at most 1 % within 5 s", when, f"{_percent(width)} in {seconds:.1f} s, medians", met)
        )
    return made


def _grown(megabytes: float) -> Verdict:
    measured, met = f"{megabytes:+.0f} MB", megabytes < LARGEST_GROWTH
    return Verdict("memory of the measuring process grows by less than 100 MB", "fashion net", measured, met)


def _environment(load_before: float) -> str:
    """Where and how the numbers were made."""
    environment = describe_environment(1)
    command = " ".join(["python -m examples.benchmarks.timing", *sys.argv[1:]])
    return (
        f"CPU {environment.cpu}, {environment.n_cores} cores, one thread, load {load_before:.1f} at the start; "
        f"openvino {environment.versions['openvino']}. {datetime.date.today()}, `{command}`."
    )


if __name__ == "__main__":
    main()
