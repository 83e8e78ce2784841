"""Subcommands that look at a model's layers, at this CPU and at finished models, one function each."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from autocompress.errors import BudgetError, TaskError

console = Console()

TaskArgument = Annotated[str, typer.Argument(help="Built-in name, FILE.py:FUNCTION or MODULE:FUNCTION.")]
Threads = Annotated[int, typer.Option(help="Inference threads of every latency.")]


def sensitivity(
    task: TaskArgument = "fashion",
    space: Annotated[str, typer.Option(help="What may be tried: a name that `spaces` lists, or a YAML file.")] = "full",
    budget: Annotated[str, typer.Option(help="Longest time, such as 90s or 2m; what is done is remembered.")] = "2m",
    picture: Annotated[
        Path | None, typer.Option(help="SVG file for a picture of the table, such as sensitivity.svg.")
    ] = None,
) -> None:
    """Show what each single choice costs: one layer or channel group changed, all else FP32, nothing trained.

    Each number is a drop of the score in points with its standard error, on validation samples, paired with the FP32
    model; below it stands how far the outputs move (KL divergence for a classifier), which is known more exactly.
    Layers that lose much are the ones that a search keeps wide; training regains a good part of each drop.

    What was measured is remembered for this model and its data: the same command goes on, and a search uses it.

    For example:

    `autocompress sensitivity my_task.py:task --picture sensitivity.svg`

    `autocompress sensitivity --space sparse --budget 5m`
    """
    from autocompress import terminal
    from autocompress.graph import inspect_model
    from autocompress.report.sensitivity_svg import write_sensitivity_svg
    from autocompress.search.budget import Budget
    from autocompress.search.sensitivity import measure_sensitivity
    from autocompress.space import load_space
    from autocompress.tasks.loading import load_task

    seconds = Budget.parse(budget).seconds
    if seconds is None:
        raise BudgetError(f"the budget of a sensitivity table must be a time such as 90s or 2m, but got {budget}")
    loaded = load_task(task)
    graph = inspect_model(loaded.model, loaded.example_input)
    bound = load_space(space).bind(graph)
    with terminal.SensitivityView(console) as view:
        found = measure_sensitivity(loaded, graph, bound, seconds, view.update)
    terminal.print_sensitivity(console, found)
    if picture:
        subtitle = f"space {space}; drop of the {loaded.score_name} on validation samples"
        title = f"{loaded.name}: what single choices cost"
        write_sensitivity_svg(found.rows, found.columns, terminal.heat_cells(found), title, subtitle, picture)
        console.print(f"wrote {picture}", markup=False, highlight=False, soft_wrap=True)


def measure(
    model: Annotated[Path, typer.Argument(help="Model to measure, .xml or .onnx.")],
    baseline: Annotated[Path, typer.Option(help="Model to compare with, .xml or .onnx.")],
    threads: Threads = 1,
    max_seconds: Annotated[float, typer.Option(help="Longest time for measuring.")] = 10.0,
    half_width: Annotated[
        float, typer.Option(help="Measuring ends when the interval is as narrow: 0.01 is one percent on each side.")
    ] = 0.01,
    rate: Annotated[bool, typer.Option("--throughput", help="Compare inferences a second, too.")] = False,
    shape: Annotated[
        list[str] | None, typer.Option(help="NAME=1x3x224x224 for an input of dynamic shape; may be repeated.")
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option(help=".npz file of real inputs by name; random ones otherwise.")
    ] = None,
) -> None:
    """Compare the latency of two models on this CPU: paired runs, with an interval and a verdict.

    For example: `autocompress measure small.xml --baseline big.onnx --threads 2 --throughput`
    """
    from autocompress import terminal
    from autocompress.deploy import size_bytes, zipped_bytes
    from autocompress.search import two_models

    settings = two_models.comparison_settings(threads, max_seconds, half_width)
    arrays = two_models.common_inputs(baseline, model, two_models.parse_shapes(shape or []), inputs)
    with console.status("measuring latency") as status:
        result = two_models.compare_files(baseline, model, arrays, settings)
        status.update("measuring throughput" if rate else "compressing the files, for their zipped size")
        rates = two_models.compare_throughput(baseline, model, arrays, settings) if rate else None
        sizes, zipped = ((of(model), of(baseline)) for of in (size_bytes, zipped_bytes))
    terminal.print_comparison(console, result, sizes, zipped, settings)
    if rates:
        terminal.print_throughput(console, rates.speedup, rates.model, rates.baseline)


def cpu(
    again: Annotated[bool, typer.Option("--again", help="Measure anew what is known already.")] = False,
    threads: Threads = 1,
    picture: Annotated[
        Path | None, typer.Option(help="SVG file for a picture of the answers, such as cpu.svg.")
    ] = None,
) -> None:
    """Show what this CPU rewards: INT8, fewer bits, sparse or fewer filters; takes a minute, and is then remembered."""
    from autocompress import terminal
    from autocompress.measure import keep_probe, known_probe, probe_cpu
    from autocompress.report.cpu_svg import write_cpu_svg

    probe, remark = None if again else known_probe(threads), ""
    if probe is None:
        with terminal.ProbeView(console) as view:
            probe = probe_cpu(threads, on_progress=view.update)
        if keep_probe(probe) is None:
            remark = "not remembered: this machine was too busy, or the cache folder cannot be written"
    terminal.print_probe(console, probe, remark)
    if picture:
        write_cpu_svg(probe, picture)
        console.print(f"wrote {picture}", markup=False, highlight=False, soft_wrap=True)


def verify(
    chosen: Annotated[Path, typer.Argument(help="A chosen/ folder; nothing else of the study is needed.")],
    task: Annotated[
        str | None, typer.Option(help="The task, where the manifest does not name it or it is elsewhere here.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Inference threads; by default those of the manifest.")] = None,
) -> None:
    """Measure a chosen model again on this machine, and say for each claim of its manifest whether it holds.

    On the same kind of machine the numbers must repeat. On another processor, OpenVINO or number of threads, and what
    differs is said, the score and its drop must hold within their error; a smaller speed-up is then told as `not here`,
    with both intervals, and is a failure only where the model is not faster than FP32 at all.

    The exit code is 1 if a claim fails.

    For example: `autocompress verify deployed/chosen --task my_task.py:task`
    """
    from autocompress import terminal
    from autocompress.search.chosen import Manifest
    from autocompress.search.verification import verify_chosen
    from autocompress.tasks.loading import find_task, load_task

    reference = task or Manifest.read(chosen).task_reference
    if reference is None:
        raise TaskError(f"the manifest in {chosen} names no task; give it with --task FILE.py:FUNCTION")
    loaded = load_task(task) if task else find_task(reference, chosen)
    with console.status("verifying") as status:
        verification = verify_chosen(chosen, loaded, status.update, threads)
    terminal.print_verification(console, verification)
    if not verification.holds:
        raise typer.Exit(1)
