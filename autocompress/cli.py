"""The command line: one function a subcommand; those that only look at things are in `commands`."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from autocompress.commands import TaskArgument, Threads, cpu, measure, sensitivity, verify
from autocompress.errors import AutocompressError, StudyError

if TYPE_CHECKING:  # at run time each command imports what it needs, so that --help is quick
    from autocompress.graph import ModelGraph
    from autocompress.search.layer_costs import LayerCosts
    from autocompress.study import Study
    from autocompress.task import Task

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Find the fastest OpenVINO CPU model that keeps your accuracy.

    TASK is a built-in name (`fashion`), `path/to/file.py:function` or `module:function`; the function returns an
    `autocompress.Task` (model, data, loss, score).

    Start with `autocompress search --budget 3m`.""",
)
console = Console()

StudyArgument = Annotated[Path, typer.Argument(help="Folder of a study, as given to search --out.")]
MaxDrop = Annotated[
    float | None,
    typer.Option(help="Largest accuracy drop, in units of the score: 0.01 is one point of an accuracy."),
]
MaxLatency = Annotated[float | None, typer.Option(help="Largest median latency of the choice, milliseconds.")]
MaxSize = Annotated[int | None, typer.Option(help="Largest size of its model.xml and model.bin, bytes.")]
TargetSpeedup = Annotated[float | None, typer.Option(help="Least speed-up of the choice over FP32.")]
Device = Annotated[str, typer.Option(help="Where to train: auto (a GPU where there is one), cpu or cuda.")]
Devices = Annotated[
    int, typer.Option(help="Processes that train together, each on its own GPU or on a part of the cores.")
]
Precision = Annotated[str, typer.Option(help="Of the training: 32, or bf16 or 16 (GPU only) mixed with 32 bits.")]


@app.command()
def search(
    task: TaskArgument = "fashion",
    budget: Annotated[str, typer.Option(help="Time (90s, 10m, 2h) or trials (40trials), counted from now.")] = "5m",
    max_drop: Annotated[
        float, typer.Option(help="Accuracy floor: largest drop in units of the score (0.01 = 1 point).")
    ] = 0.01,
    space: Annotated[str, typer.Option(help="What may be tried: a name that `spaces` lists, or a YAML file.")] = "full",
    out: Annotated[
        Path, typer.Option(help="Folder of the study; the same command with the same folder resumes.")
    ] = Path("study"),
    seed: Annotated[int, typer.Option(help="Seed of search and training.")] = 0,
    max_latency_ms: MaxLatency = None,
    max_size_bytes: MaxSize = None,
    target_speedup: TargetSpeedup = None,
    sampler: Annotated[
        str,
        typer.Option(help="What proposes recipes: bayesdp (plans and learns), spdy, tpe, nsga2, gp, random or greedy."),
    ] = "bayesdp",
    finetune_steps: Annotated[
        int | None, typer.Option(help="Training steps a candidate; by default as many as suit the budget.")
    ] = None,
    latency_seconds: Annotated[
        float | None,
        typer.Option(help="For timing one candidate, 3 by default; more on a noisy machine, less for a quick look."),
    ] = None,
    threads: Threads = 1,
    device: Device = "auto",
    devices: Devices = 1,
    precision: Precision = "32",
) -> None:
    """Search for the fastest model within the accuracy floor; ends with the budget, always with a result.

    The folder gets `chosen/` (model.xml, model.bin, model.onnx, manifest.json), `report.md`, `front.html` and
    `candidates.json`. Ctrl-C ends early and keeps the best so far; the same command goes on with it.

    For example:

    `autocompress search --budget 3m` (the embedded demo)

    `autocompress search my_task.py:task --budget 30m --max-drop 0.005 --out runs/mine`

    `autocompress search my_task.py:task --budget 40trials --space int8 --out runs/int8`
    """
    start = time.monotonic()  # imports and loading the task count too
    from autocompress import terminal
    from autocompress.search.budget import Budget
    from autocompress.study import create_study
    from autocompress.tasks.loading import load_task
    from autocompress.train import make_hardware

    parsed, hardware = Budget.parse(budget), make_hardware(device, devices, precision)
    study = create_study(
        load_task(task),
        out=out,
        space=space,
        max_drop=max_drop,
        max_latency_ms=max_latency_ms,
        max_size_bytes=max_size_bytes,
        target_speedup=target_speedup,
        sampler=sampler,
        seed=seed,
        finetune_steps=finetune_steps,
        latency_seconds=latency_seconds,
        threads=threads,
        task_reference=task,
    )
    with terminal.SearchView(console, str(parsed)) as view:
        record = study.optimize(parsed, view.update, start, hardware)
    terminal.print_summary(console, record, out)


@app.command()
def inspect(
    task: TaskArgument = "fashion",
    space: Annotated[str, typer.Option(help="Search space to bind: a name or a YAML file.")] = "full",
    timing: Annotated[
        bool, typer.Option(help="Time the layers, also on integers and with half of the filters; takes some seconds.")
    ] = True,
    threads: Threads = 1,
    picture: Annotated[
        Path | None, typer.Option(help="SVG file for a picture of the times, such as layers.svg.")
    ] = None,
) -> None:
    """Show a task's layers with their time, what INT8 or half of the filters would save, and what may be tried.

    Channel groups, what stays as it is and why, and the size of the search space are shown too.

    For example: `autocompress inspect my_task.py:task --picture layers.svg`
    """
    from autocompress import terminal
    from autocompress.graph import inspect_model
    from autocompress.measure import describe_environment, known_probe
    from autocompress.pareto import DEFAULT_OBJECTIVES
    from autocompress.report.layer_svg import write_layer_svg
    from autocompress.space import left_out, load_space
    from autocompress.tasks.loading import load_task

    if picture and not timing:
        raise typer.BadParameter("a picture shows times; leave --no-timing out", param_hint="--picture")
    loaded = load_task(task)
    graph = inspect_model(loaded.model, loaded.example_input)
    bound, environment = load_space(space).bind(graph), describe_environment(threads)
    costs, why_not = _costs(loaded, graph, threads) if timing else (None, "")
    _, buys = left_out(bound, graph, DEFAULT_OBJECTIVES, known_probe(threads), environment.int8_saturates)
    terminal.print_graph(console, graph, bound, environment, costs, buys)
    if why_not:
        console.print(f"the layers were not timed: {why_not}", markup=False, highlight=False, soft_wrap=True)
    if picture and costs:
        where = f"{environment.cpu}, {terminal.threads_words(threads)}, {'; '.join(terminal.gains(costs))}"
        write_layer_svg(terminal.layer_bars(graph, costs), f"{loaded.name}: where the time goes", where, picture)
        console.print(f"wrote {picture}", markup=False, highlight=False, soft_wrap=True)


def _costs(task: "Task", graph: "ModelGraph", n_threads: int) -> "tuple[LayerCosts | None, str]":
    """Times of the layers, or why there are none."""
    from autocompress.search.layer_costs import layer_costs

    try:
        with console.status("timing") as status:
            return layer_costs(task, graph, n_threads, status.update), ""
    except AutocompressError as error:
        return None, str(error)


@app.command()
def report(
    studies: Annotated[
        list[Path], typer.Argument(metavar="STUDY...", help="Folder of a study; several are compared on one page.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the comparison of several studies.", show_default="current folder")
    ] = None,
) -> None:
    """Make report.md, its pictures and front.html again from the study's candidates.json; no training, no measuring.

    Several studies, such as of other models, CPUs or samplers, are compared instead: comparison.html, comparison.md and
    comparison.svg show their fronts, choices and searches side by side, and say what does not compare.

    For example: `autocompress report runs/bayesdp runs/tpe --out runs`
    """
    from autocompress.report import compare, render

    if len(studies) > 1:
        written = ", ".join(str(file) for file in compare(studies, out or Path()))
    elif out is not None:
        raise StudyError(
            f"--out is for the comparison of several studies; the report of {studies[0]} goes there itself"
        )
    else:
        render(studies[0])
        written = f"{studies[0] / 'report.md'}, its pictures, and {studies[0] / 'front.html'}"
    console.print(f"wrote {written}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def choose(
    study: StudyArgument,
    max_drop: MaxDrop = None,
    max_latency_ms: MaxLatency = None,
    max_size_bytes: MaxSize = None,
    target_speedup: TargetSpeedup = None,
    digest: Annotated[
        str | None, typer.Option(help="The candidate with this digest, or with the only one that starts so.")
    ] = None,
    full_finetune: Annotated[
        bool, typer.Option("--full-finetune", help="Train it longer first; the better of before and after stays.")
    ] = False,
    task: Annotated[str | None, typer.Option(help="The task, where the study does not name it.")] = None,
    device: Device = "auto",
    devices: Devices = 1,
    precision: Precision = "32",
) -> None:
    """Choose another candidate of a study and put it into chosen/, at once: the fastest that keeps the bounds given.

    It is then confirmed on the test split and exported to ONNX, which takes some seconds more; Ctrl-C leaves that out.
    Nothing is trained without `--full-finetune`. Without bounds the floor is that of the search.

    For example:

    `autocompress choose runs/mine --max-drop 0.02 --max-latency-ms 0.5`

    `autocompress choose runs/mine --digest 634010f8 --full-finetune`
    """
    from autocompress.search.placing import open_folder, place, wishes_for

    folder, configuration = open_folder(study)
    bounds: dict[str, Any] = {
        "max_drop": max_drop,
        "max_latency_ms": max_latency_ms,
        "max_size_bytes": max_size_bytes,
        "target_speedup": target_speedup,
        "digest": digest,
    }
    reference = task or configuration.task_reference
    if full_finetune and reference is None:
        raise StudyError(f"{study} names no task, which a training needs; give it with --task FILE.py:FUNCTION")
    wishes = wishes_for(folder, configuration, **bounds)
    with folder.locked():
        choice = place(folder, configuration, wishes)
    place_line = f"{folder.chosen} holds {choice.candidate.name}: {choice.reason}"
    console.print(place_line, markup=False, highlight=False, soft_wrap=True)

    from autocompress import terminal
    from autocompress.train import make_hardware

    hardware = make_hardware(device, devices, precision)
    loaded, why_not = _with_task(study, reference)
    if why_not and full_finetune:
        raise StudyError(f"{choice.candidate.name} cannot be trained: {why_not}")
    with terminal.ChoiceView(console) as view:
        loaded.choose(**bounds, full_finetune=full_finetune, on_progress=view.update, hardware=hardware)
    terminal.print_choice(console, loaded.record, folder.chosen, why_not)


def _with_task(path: Path, reference: str | None) -> "tuple[Study, str]":
    """The study, with its task where that is to be had; and why it is not, else an empty string."""
    from autocompress.study import load_study
    from autocompress.tasks.loading import load_task

    if reference is None:
        return load_study(path), "the study names no task; give it with --task FILE.py:FUNCTION"
    try:
        return load_study(path, load_task(reference)), ""
    except AutocompressError as error:
        return load_study(path), str(error)


@app.command()
def compress(
    task: TaskArgument,
    recipe: Annotated[
        str,
        typer.Option(
            help="Recipe YAML, for example a study's chosen/recipe.yaml, or a preset: int8, int8-prune50, "
            "int8-sparse70, or jpqd (prunes, quantizes and distils transformers in one training)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the deployed model.")],
    steps: Annotated[int, typer.Option(min=0, help="Training steps.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    threads: Threads = 1,
    device: Device = "auto",
    devices: Devices = 1,
    precision: Precision = "32",
) -> None:
    """Apply one recipe: compress, fine-tune, deploy, and measure on the test split.

    For example: `autocompress compress my_task.py:task --recipe runs/mine/chosen/recipe.yaml --steps 500 --out longer`
    """
    from autocompress import terminal
    from autocompress.search.folder import check_writable
    from autocompress.search.single import compress_once, read_recipe
    from autocompress.tasks.loading import load_task
    from autocompress.train import make_hardware

    hardware = make_hardware(device, devices, precision)
    loaded = load_task(task)
    loaded_recipe = read_recipe(recipe, loaded)
    check_writable(out)
    with console.status("preparing") as status:
        measurement = compress_once(loaded, loaded_recipe, out, steps, seed, status.update, hardware, threads)
    terminal.print_statistics(console, loaded, loaded_recipe, out)
    terminal.print_measurement(console, measurement, "test", out, threads)


for command in (sensitivity, measure, cpu, verify):
    app.command()(command)


@app.command()
def spaces(name: Annotated[str | None, typer.Argument(help="Show this space's YAML.")] = None) -> None:
    """List the built-in search spaces, or show one; copy it to a file to make your own."""
    from autocompress import terminal
    from autocompress.space import built_in_spaces, built_in_text

    if name is None:
        terminal.print_spaces(console, built_in_spaces())
    else:
        console.print(built_in_text(name), highlight=False, markup=False)


def main() -> None:
    """Entry point: errors about the user's input are one sentence on standard error and exit code 2."""
    try:
        app()
    except AutocompressError as error:
        _fail(str(error))
    except OSError as error:  # a disk that is full or gone
        _fail(f"{error.filename or 'the disk'} cannot be used: {error.strerror or error}; what was finished is kept")
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(sentence: str) -> NoReturn:
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"autocompress: {sentence}", markup=False)
    sys.exit(2)
