"""Filter pruning, sparsity and low rank on the built-in task, and the price of a `compress` call, in one run.

python -m examples.benchmarks.compression           # about 12 minutes, writes reports/benchmarks/compression.md
python -m examples.benchmarks.compression --smoke   # a slice of it in under a minute, writes nothing
"""

import datetime
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

from autocompress.latency import LatencySettings
from autocompress.measure import describe_environment
from autocompress.report.wording import times
from autocompress.tasks.loading import load_task
from examples.benchmarks import compressing, methods
from examples.benchmarks.methods import GATES, GLOBAL, LOCAL, MOVEMENT, PRUNED, Row
from examples.benchmarks.running import run
from examples.benchmarks.verdicts import Verdict

TARGET = Path(__file__).parents[2] / "reports" / "benchmarks" / "compression.md"
N_EPOCHS = 3
QUIET = LatencySettings(min_pairs=100, max_pairs=600, max_seconds=6.0, half_width=0.004)
SMOKE = LatencySettings(min_pairs=3, max_pairs=3, max_seconds=0.1)


def main() -> None:
    """Run everything, print the tables, write them down."""
    run(benchmark, __doc__, TARGET, smoke="two training steps a recipe, no report")


def benchmark(*, smoke: bool) -> str:
    """Everything, as Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        n_epochs, latency = (2 / 157, SMOKE) if smoke else (N_EPOCHS, QUIET)
        rows = methods.run(load_task("fashion"), n_epochs, latency, Path(folder))
    costs = compressing.costs()
    return "\n".join([_heading(), _rows_table(rows), _costs_table(costs), _verdicts(rows, costs)])


def _heading() -> str:
    environment = describe_environment(1)
    packages = ", ".join(f"{name} {version(name)}" for name in ("openvino", "torch", "torch-pruning"))
    saturation = "saturates" if environment.int8_saturates else "is exact"
    return (
        "# Filter pruning, sparsity and low rank\n\n"
        f"CPU {environment.cpu}, {environment.n_cores} cores, load {os.getloadavg()[0]:.1f} at the end; 8-bit "
        f"arithmetic {saturation}; {packages}. {datetime.date.today()}, `python -m examples.benchmarks.compression`.\n"
    )


def _rows_table(rows: list[Row]) -> str:
    head = (
        f"## The built-in task after {N_EPOCHS} epochs with distillation\n\n"
        "Each recipe but INT8, which is only calibrated, trains for the same epochs with the settings of a search; "
        f"{rows[0].measurement.n_samples} test samples. Numbers are those of the deployed models; drops have their "
        "90 % interval, speed-ups are medians of paired runs with 95 % intervals, one thread, batch 1. Each "
        "interval holds for its minute; the machine may have been slower or faster a row later.\n\n"
        "| | accuracy | drop, points | over FP32 | over INT8 | zero weights | bytes | zipped | training, s |\n"
        "|---|---|---|---|---|---|---|---|---|\n"
    )
    return head + "\n".join(_line(row) for row in rows) + "\n"


def _line(row: Row) -> str:
    m = row.measurement
    drop = f"{100 * m.accuracy_drop.value:.2f} [{100 * m.accuracy_drop.low:.2f}, {100 * m.accuracy_drop.high:.2f}]"
    cells = [row.name, f"{100 * m.accuracy:.2f} %", drop, times(m.speedup), times(row.over_int8)]
    cells += [
        f"{100 * row.sparsity:.1f} %",
        f"{m.size_bytes:,}",
        f"{m.zipped_bytes or 0:,}",
        f"{row.train_seconds:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _costs_table(costs: list[compressing.Cost]) -> str:
    head = (
        "## One `compress` call on a network of the size of ResNet-18\n\n"
        "11.7 million parameters, input 64x64; memory is the peak above what the process held before, in units of the "
        "model's parameters, and holds the compressed copy.\n\n| recipe | seconds | memory |\n|---|---|---|\n"
    )
    return head + "\n".join(f"| {c.name} | {c.seconds:.2f} | {c.memory:.2f}x |" for c in costs) + "\n"


def _verdicts(rows: list[Row], costs: list[compressing.Cost]) -> str:
    head = "## Targets\n\n| target | measured | met |\n|---|---|---|\n"
    lines = [f"| {v.target} | {v.measured} | {'yes' if v.met else '**no**'} |" for v in verdicts(rows, costs)]
    return head + "\n".join(lines) + "\n"


def verdicts(rows: list[Row], costs: list[compressing.Cost]) -> list[Verdict]:
    """What was asked for, and what was measured."""
    by_name = {row.name: row for row in rows}
    pruned, sparse = by_name[PRUNED], by_name[GLOBAL]
    case = "fashion"
    others = "; ".join(f"{name}: {_points(by_name[name])}" for name in (LOCAL, GATES, MOVEMENT))
    slowest, largest = max(cost.seconds for cost in costs), max(cost.memory for cost in costs)
    return [
        Verdict("half of the filters + INT8: drop at most 1.5 points", case, _points(pruned), _drop(pruned) <= 0.015),
        Verdict("the same: at least 2x the speed of INT8", case, times(pruned.over_int8), pruned.over_int8.value >= 2),
        Verdict(
            "70 % global magnitude sparsity: drop at most 1 point",
            case,
            f"{_points(sparse)} at {100 * sparse.sparsity:.1f} % ({others})",
            _drop(sparse) <= 0.01,
        ),
        Verdict("a compress call takes under 2 s", "ResNet-18", f"at most {slowest:.2f} s", slowest < 2),
        Verdict("memory at most 3x the model", "ResNet-18", f"at most {largest:.2f}x", largest <= 3),
    ]


def _drop(row: Row) -> float:
    return row.measurement.accuracy_drop.value


def _points(row: Row) -> str:
    return f"{100 * _drop(row):.2f} points"


if __name__ == "__main__":
    main()
