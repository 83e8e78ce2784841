"""What is measured: rows of deployed models, accuracy where 8 bits saturate, the price of a training step."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import openvino
import torch
from torch import Tensor, nn

from autocompress.deploy import load_openvino, save_openvino
from autocompress.latency import LatencySettings, PairedLatency, compile_model, paired_latency
from autocompress.latency.protocol import compare
from autocompress.measure import int8_saturates, predict_deployed, score_of
from autocompress.measurement import Speedup
from autocompress.task import call, flatten, split_batch
from autocompress.train import channels_last
from examples.benchmarks.cases import CASES, Case, Scale
from examples.benchmarks.contenders import FLOAT, NNCF_OPENVINO, NNCF_TORCH, OURS, OURS_4, OURS_8, Quantized, contenders

NO_VNNI = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}  # the newest instructions without VNNI, hence with saturation
COMPUTE = ("Convolution", "GroupConvolution", "FullyConnected", "MatMul")


@dataclass(frozen=True)
class Row:
    """One contender on one model.

    Attributes:
        name: Of the contender.
        accuracy: Of the deployed model on the test samples, in [0, 1].
        speedup: Over FP32, paired; None for FP32 itself.
        bin_bytes: Of the `.bin`.
        n_integer: Convolutions and products of matrices that ran with integers.
        n_compute: All of them.
        ptq_seconds: Of quantizing, calibration included.
        export_seconds: Of converting from torch to OpenVINO.
    """

    name: str
    accuracy: float
    speedup: Speedup | None
    bin_bytes: int
    n_integer: int
    n_compute: int
    ptq_seconds: float | None
    export_seconds: float | None


@dataclass(frozen=True)
class Rivalry:
    """How much faster `ours` is than `theirs` on one model, measured pair by pair."""

    ours: str
    theirs: str
    speedup: Speedup


@dataclass(frozen=True)
class CaseResult:
    """Everything about one model.

    Attributes:
        name: Of the case.
        n_test: Samples behind its accuracies.
        latency_ms: Of the FP32 model, median.
        rows: One a contender.
        rivalries: Each of ours against each of NNCF's, and our W4A8 against our W8A8.
        steps: Seconds of a training step over those of the FP32 step, by row name; empty where it is not measured.
        saturated: Accuracy by row name where 8-bit weights saturate; empty before that is measured, or where it
            cannot be.
    """

    name: str
    n_test: int
    latency_ms: float
    rows: list[Row]
    rivalries: list[Rivalry]
    steps: dict[str, Speedup]
    saturated: dict[str, float] = field(default_factory=dict)

    def row(self, name: str) -> Row:
        """The row of the contender `name`."""
        return next(row for row in self.rows if row.name == name)

    def rivalry(self, ours: str, theirs: str) -> Speedup:
        """Speed-up of `ours` over `theirs`."""
        return next(r.speedup for r in self.rivalries if (r.ours, r.theirs) == (ours, theirs))


Say = Callable[[str], None]


def run_case(key: str, scale: Scale, folder: Path, say: Say) -> CaseResult:
    """Quantize, measure and compare everything on one model.

    Args:
        key: Of `CASES`.
        scale: How much.
        folder: Gets `<key>/<row>.xml`.
        say: Told what is done.
    """
    case = CASES[key](scale)
    made = {}
    for name, contender in contenders().items():
        say(f"{case.name}: {name}")
        made[name] = contender(case)
        save_openvino(made[name].model, folder / key, file_stem(name))
    say(f"{case.name}: accuracy and latency")
    models = {name: load_openvino(folder / key / f"{file_stem(name)}.xml") for name in made}
    latency_ms, speedups, rivalries = _latencies(case, models, scale)
    say(f"{case.name}: training steps")
    trained = [name for name in (NNCF_TORCH, OURS_8) if case.trains]
    return CaseResult(
        name=case.name,
        n_test=sum(len(split_batch(batch)[1]) for batch in case.task.test),
        latency_ms=latency_ms,
        rows=[_row(case, name, made[name], models[name], speedups.get(name), folder / key) for name in made],
        rivalries=rivalries,
        steps={name: step_ratio(case, made[name].module, scale) for name in trained},
    )


def _latencies(
    case: Case, models: dict[str, openvino.Model], scale: Scale
) -> tuple[float, dict[str, Speedup], list[Rivalry]]:
    """Milliseconds of FP32, speed-ups over it by row name, and the direct comparisons."""
    settings = LatencySettings(max_seconds=scale.seconds, min_pairs=scale.n_pairs, half_width=0.004)
    arrays = [tensor.numpy() for tensor in flatten(case.calibration_samples[0])]

    def timed(baseline: str, candidate: str) -> PairedLatency:
        return paired_latency(models[baseline], models[candidate], arrays, settings)

    over_float = {name: timed(FLOAT, name) for name in models if name != FLOAT}
    pairs = [(mine, theirs) for mine in OURS for theirs in (NNCF_TORCH, NNCF_OPENVINO)]
    rivalries = [Rivalry(mine, theirs, timed(theirs, mine).speedup) for mine, theirs in [*pairs, (OURS_4, OURS_8)]]
    speedups = {name: paired.speedup for name, paired in over_float.items()}
    return over_float[OURS_8].baseline_ms, speedups, rivalries


def _row(case: Case, name: str, made: Quantized, model: openvino.Model, speedup: Speedup | None, folder: Path) -> Row:
    n_integer, n_compute = integer_layers(model)
    return Row(
        name=name,
        accuracy=deployed_accuracy(case, model),
        speedup=speedup,
        bin_bytes=(folder / f"{file_stem(name)}.bin").stat().st_size,
        n_integer=n_integer,
        n_compute=n_compute,
        ptq_seconds=made.ptq_seconds,
        export_seconds=made.export_seconds,
    )


def file_stem(name: str) -> str:
    """Name of a row as the name of its files."""
    return name.lower().replace(",", "").replace(" ", "-")


def deployed_accuracy(case: Case, model: openvino.Model) -> float:
    """Score of a deployed model on the test samples."""
    with torch.no_grad():
        structure = call(case.task.model, case.task.example_input)
    n_threads = os.cpu_count() or 1
    return score_of(case.task, predict_deployed(model, case.task.test, structure, "test", n_threads))


def integer_layers(model: openvino.Model) -> tuple[int, int]:
    """How many convolutions and products of matrices run with integers on this processor, and how many there are."""
    infos = [node.get_rt_info() for node in compile_model(model, 1).get_runtime_model().get_ops()]
    kernels = [info["primitiveType"].astype(str) for info in infos if info["layerType"].astype(str) in COMPUTE]
    return sum(kernel.lower().endswith(("i8", "u8")) for kernel in kernels), len(kernels)


def saturated_accuracies(keys: list[str], scale: Scale, folder: Path) -> dict[str, dict[str, float]]:
    """Accuracy by case and row name in a process of its own, where the processor seems to have no VNNI.

    Args:
        keys: Of `CASES`, those that `run_case` has run.
        scale: How much.
        folder: Where it left the files.

    Returns:
        Empty where the probe finds no saturation in that process: on a processor without AVX-512, for example.
    """
    request = json.dumps({"keys": keys, "scale": asdict(scale), "folder": str(folder)})
    command = [sys.executable, "-m", __name__, request]
    done = subprocess.run(command, env={**os.environ, **NO_VNNI}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the process without VNNI failed:\n{done.stderr}")
    answer: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return answer


def step_ratio(case: Case, module: nn.Module, scale: Scale) -> Speedup:
    """Seconds of one training step of `module` over those of the FP32 model, interleaved; both channels last.

    Returns:
        Median of the paired ratios and its interval; here above 1 means slower than FP32.
    """
    inputs, targets = split_batch(next(iter(case.task.train)))
    inputs = channels_last(inputs)
    plain, quantized = (_training_step(case, model, inputs, targets) for model in (case.task.model, module))
    settings = LatencySettings(max_seconds=5 * scale.seconds, min_pairs=scale.n_pairs, half_width=0.01)
    return compare(quantized, plain, settings).speedup


def _training_step(case: Case, module: nn.Module, inputs: Any, targets: Tensor) -> Callable[[], None]:
    """One step of AdamW on a copy of `module`."""
    model = copy.deepcopy(module).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        optimizer.zero_grad()
        case.task.loss(call(model, inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _answer(keys: list[str], scale: Scale, folder: Path) -> dict[str, dict[str, float]]:
    """What `saturated_accuracies` returns, in the process that it starts."""
    if not int8_saturates():
        return {}
    return {key: _accuracies(CASES[key](scale), folder / key) for key in keys}


def _accuracies(case: Case, folder: Path) -> dict[str, float]:
    paths = {name: folder / f"{file_stem(name)}.xml" for name in contenders()}
    return {name: deployed_accuracy(case, load_openvino(path)) for name, path in paths.items()}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps(_answer(asked["keys"], Scale(**asked["scale"]), Path(asked["folder"]))))
