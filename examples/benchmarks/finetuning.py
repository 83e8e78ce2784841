"""Fine-tuning: the price of a step, the accuracy it gives back, sameness to the last bit, and memory, in one run.

python -m examples.benchmarks.finetuning           # about 12 minutes, writes reports/benchmarks/finetuning.md
python -m examples.benchmarks.finetuning --smoke   # a slice of it in under a minute, writes nothing
"""

import datetime
import os
import sys
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from autocompress.measure import describe_environment
from examples.benchmarks import finetuning_tables as tables
from examples.benchmarks.running import run
from examples.benchmarks.training_memory import FASHION, RESNET, Memory, memories
from examples.benchmarks.training_quality import Recovery, Sameness, recoveries, sameness
from examples.benchmarks.training_steps import StepCosts, Turns, nets, step_costs

TARGET = Path(__file__).parents[2] / "reports" / "benchmarks" / "finetuning.md"


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        n_nets: Whose steps are timed.
        turns: How much of each training of these is timed.
        bits: Of weights, whose loss of accuracy is trained away; the first is the one of the target.
        n_steps: Of those trainings.
        n_seeds: Of those trainings.
        n_test: Test images at most; None for all.
        n_repeated_steps: Of the trainings that are to end in the same weights.
        memory_of: Nets whose memory is measured.
    """

    n_nets: int = 2
    turns: Turns = Turns()
    bits: tuple[int, ...] = (4, 3)
    n_steps: int = 150
    n_seeds: int = 3
    n_test: int | None = None
    n_repeated_steps: int = 20
    memory_of: tuple[str, ...] = (FASHION, RESNET)


SMOKE = Scale(
    n_nets=1,
    turns=Turns(seconds=0, n_rounds=2, n_block=4, n_profiled=16),
    bits=(3,),
    n_steps=2,
    n_seeds=1,
    n_test=250,
    n_repeated_steps=2,
    memory_of=(),
)


@dataclass(frozen=True)
class Results:
    """All that was measured."""

    costs: list[StepCosts]
    recoveries: list[Recovery]
    sameness: Sameness
    memories: list[Memory]


def main() -> None:
    """Run everything, print the tables, write them down."""
    run(benchmark, __doc__, TARGET, smoke="one net, two training steps, no report")


def benchmark(*, smoke: bool) -> str:
    """Everything, as Markdown."""
    warnings.simplefilter("ignore")
    load_before = os.getloadavg()[0]
    scale = SMOKE if smoke else Scale()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(scale, Path(folder))
    return report(results, scale, load_before)


def measure(scale: Scale, folder: Path) -> Results:
    """All numbers."""
    costs = []
    for index, net in enumerate(nets()[: scale.n_nets]):
        _say(f"steps of the {net.name}")
        costs.append(step_costs(net, scale.turns, folder / f"net {index}"))
    _say("the same weights again")
    same = sameness(scale.n_repeated_steps, folder / "same")
    _say("memory")
    peaks = memories(scale.memory_of)
    _say("accuracy regained")
    regained = recoveries(scale.bits, scale.n_steps, range(scale.n_seeds), folder / "accuracy", scale.n_test)
    return Results(costs, regained, same, peaks)


def _say(what: str) -> None:
    print(f"... {what}", file=sys.stderr, flush=True)


def report(results: Results, scale: Scale, load_before: float) -> str:
    """Tables and verdicts, as Markdown."""
    parts = [
        "# Fine-tuning",
        _environment(load_before),
        *tables.steps(results.costs, scale.turns),
        *tables.regained(results.recoveries, scale.n_steps),
        *tables.same(results.sameness, scale.n_repeated_steps),
        *tables.memory(results.memories),
        *tables.targets(tables.verdicts(results.costs, results.recoveries, results.sameness, results.memories)),
    ]
    return "\n\n".join(parts) + "\n"


def _environment(load_before: float) -> str:
    """Where and how the numbers were made."""
    environment = describe_environment(torch.get_num_threads())
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning-fabric", "openvino"))
    command = " ".join(["python -m examples.benchmarks.finetuning", *sys.argv[1:]])
    return (
        f"CPU {environment.cpu}, {environment.n_cores} cores, {torch.get_num_threads()} threads, load "
        f"{load_before:.1f} at the start and {os.getloadavg()[0]:.1f} at the end; {packages}. "
        f"{datetime.date.today()}, `{command}`."
    )


if __name__ == "__main__":
    main()
