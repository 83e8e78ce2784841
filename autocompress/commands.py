"""Subcommands that the command line registers, one function each."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from autocompress.errors import BudgetError

console = Console()


def sensitivity(
    task: Annotated[str, typer.Argument(help="Built-in name, FILE.py:FUNCTION or MODULE:FUNCTION.")] = "fashion",
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
    from autocompress.search import Budget
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
