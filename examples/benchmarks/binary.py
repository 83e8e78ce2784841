"""Speed of binary convolutions beside that of 8 bits, both over FP32, on nets of 3x3 convolutions.

python -m examples.benchmarks.binary             # about a minute, writes reports/benchmarks/binary.md
python -m examples.benchmarks.binary --smoke     # the smallest net and few pairs in seconds, writes nothing

The nets are untrained: weights have no say in the speed. What binary weights cost in accuracy is another question.
"""

import datetime
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import openvino
import torch
from torch import Tensor, nn

from autocompress.compress import calibrate, compress
from autocompress.deploy import to_openvino
from autocompress.graph import ModelGraph, inspect_model
from autocompress.latency import LatencySettings, compile_model, paired_latency
from autocompress.measure import default_weight_bits, describe_environment, layer_precisions
from autocompress.measurement import Speedup
from autocompress.recipe import BINARY_BITS, LayerRecipe, Recipe
from autocompress.report.wording import times
from autocompress.space import uniform_recipe
from examples.benchmarks.running import run

TARGET = Path(__file__).parents[2] / "reports" / "benchmarks" / "binary.md"
N_LAYERS = 4
N_CALIBRATION = 16
FLOAT, INTEGER, BINARY = "FP32", "INT8", "binary"
TABLE_HEAD = (
    "| channels | at | FP32, ms | INT8 over FP32 | binary over FP32 | binary over INT8 | kernels of INT8 "
    "| kernels of binary |\n|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Net:
    """Four times a convolution of 3x3, batch norm and ReLU.

    Attributes:
        n_channels: Of every layer and of the input.
        side: Height and width of every layer and of the input.
    """

    n_channels: int
    side: int


NETS = (Net(64, 28), Net(128, 14), Net(256, 14))
SMALLEST = Net(64, 14)
FULL = LatencySettings(min_pairs=60, max_pairs=400, max_seconds=6.0, half_width=0.004)
FEW = LatencySettings(min_pairs=3, max_pairs=3, max_seconds=0.1)


@dataclass(frozen=True)
class Result:
    """What one net gave.

    Attributes:
        net: Which.
        latency_ms: Of FP32, median.
        integer: INT8 over FP32.
        binary: Binary over FP32.
        binary_over_integer: Binary over INT8, measured pair by pair.
        kernels: Precisions that the layers really ran in, with their numbers, by form.
    """

    net: Net
    latency_ms: float
    integer: Speedup
    binary: Speedup
    binary_over_integer: Speedup
    kernels: dict[str, str]


def main() -> None:
    """Run everything, print the tables, write them down."""
    run(benchmark, __doc__, TARGET, smoke="one small net, few pairs, no report")


def benchmark(*, smoke: bool) -> str:
    """Everything, as Markdown."""
    warnings.simplefilter("ignore")
    load_before = os.getloadavg()[0]
    nets, settings = ((SMALLEST,), FEW) if smoke else (NETS, FULL)
    return report([measured(net, settings) for net in nets], load_before)


def measured(net: Net, settings: LatencySettings) -> Result:
    """Deploy `net` in its three forms and time them pair by pair."""
    print(f"... {net.n_channels} channels at {net.side}x{net.side}", file=sys.stderr, flush=True)
    module, samples = untrained(net)
    graph = inspect_model(module, samples[:1], with_groups=False)
    models = {name: deployed(module, graph, recipe, samples) for name, recipe in recipes(graph).items()}
    inputs = [samples[:1].numpy()]
    integer, binary = (paired_latency(models[FLOAT], models[name], inputs, settings) for name in (INTEGER, BINARY))
    return Result(
        net=net,
        latency_ms=integer.baseline_ms,
        integer=integer.speedup,
        binary=binary.speedup,
        binary_over_integer=paired_latency(models[INTEGER], models[BINARY], inputs, settings).speedup,
        kernels={name: kernels(models[name], graph) for name in (INTEGER, BINARY)},
    )


def untrained(net: Net) -> tuple[nn.Module, Tensor]:
    """The module in evaluation mode and samples for calibration; always the same ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [
            part
            for _ in range(N_LAYERS)
            for part in (
                nn.Conv2d(net.n_channels, net.n_channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(net.n_channels),
                nn.ReLU(),
            )
        ]
        return nn.Sequential(*layers).eval(), torch.randn(N_CALIBRATION, net.n_channels, net.side, net.side)


def recipes(graph: ModelGraph) -> dict[str, Recipe]:
    """What the three forms do to every layer, by form."""
    integer = LayerRecipe(weight_bits=default_weight_bits(), activation_bits=8)
    binary = LayerRecipe(weight_bits=BINARY_BITS, activation_bits=BINARY_BITS)
    return {FLOAT: Recipe(), INTEGER: uniform_recipe(graph, integer), BINARY: uniform_recipe(graph, binary)}


def deployed(module: nn.Module, graph: ModelGraph, recipe: Recipe, samples: Tensor) -> openvino.Model:
    """`module` by `recipe`, set up from `samples` and converted."""
    compressed = compress(module, graph, recipe, samples[:1])
    calibrate(compressed.module, [(samples, torch.zeros(len(samples)))])
    with compressed.export_form() as form:
        return to_openvino(form, samples[:1])


def kernels(model: openvino.Model, graph: ModelGraph) -> str:
    """Precisions that the layers really run in, with the number of layers: `4 x u1`."""
    precisions = layer_precisions(compile_model(model, n_threads=1), [layer.name for layer in graph.layers])
    return ", ".join(f"{n} x {precision}" for precision, n in sorted(Counter(precisions.values()).items()))


def report(results: Iterable[Result], load_before: float) -> str:
    """Environment and table, as Markdown."""
    about = (
        f"Nets of {N_LAYERS} times a 3x3 convolution with batch norm and ReLU, untrained: the speed does not depend on "
        "the weights, the accuracy is not measured. Speed-ups are medians of paired runs with 95 % intervals, one "
        "thread, batch 1, float layers in f32; above 1 is faster. The kernels are read back from the compiled model: "
        "`i8` integers, `u1` binary."
    )
    table = "\n".join([TABLE_HEAD, *(_row(result) for result in results)])
    return "\n\n".join(["# Binary convolutions", _environment(load_before), about, table]) + "\n"


def _environment(load_before: float) -> str:
    """Where and how the numbers were made; one thread of our own makes a load of 1."""
    environment = describe_environment(n_threads=1)
    versions = ", ".join(f"{name} {environment.versions[name]}" for name in ("python", "openvino", "torch"))
    command = " ".join(["python -m examples.benchmarks.binary", *sys.argv[1:]])
    return (
        f"CPU {environment.cpu}, {environment.n_cores} cores, load {load_before:.1f} at the start and "
        f"{os.getloadavg()[0]:.1f} at the end; {versions}. {datetime.date.today().isoformat()}, `{command}`."
    )


def _row(result: Result) -> str:
    speedups = (result.integer, result.binary, result.binary_over_integer)
    cells = [
        str(result.net.n_channels),
        f"{result.net.side}x{result.net.side}",
        f"{result.latency_ms:.2f}",
        *(times(speedup) for speedup in speedups),
        *(result.kernels[name] for name in (INTEGER, BINARY)),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
