"""What every choice of a search space does to the accuracy by itself: the damage table as rows and columns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from autocompress.graph import ModelGraph
from autocompress.recipe import Recipe
from autocompress.search.context import EvaluationContext
from autocompress.search.damage import DamageTable, affordable_samples, damage_table
from autocompress.search.damage_file import Damage
from autocompress.search.plan_space import PlanSpace, plan_space
from autocompress.search.plan_unit import Option, PlanUnit
from autocompress.space import BoundSpace
from autocompress.task import Task

_FILTERS = " % of filters"


@dataclass(frozen=True)
class Cell:
    """One choice in one layer or channel group.

    Attributes:
        damage: What it does; None where it was not measured.
        failure: Why it cannot be done; empty where it can, or where there was no time.
    """

    damage: Damage | None = None
    failure: str = ""


@dataclass(frozen=True)
class Sensitivity:
    """Damages of single choices, all else FP32.

    Attributes:
        rows: Names of layers, or layers that decide together, and of channel groups, in the order of the model.
        columns: Choices, the gentlest of each kind first; those of filters last.
        cells: By row and column, for those that the space has.
        n_left: Choices that there was no time for.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[tuple[str, str], Cell]
    n_left: int = 0

    @property
    def filter_columns(self) -> tuple[str, ...]:
        """Columns about filters that are removed."""
        return tuple(column for column in self.columns if column.endswith(_FILTERS))

    def by_harm(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Rows with any of `columns`, the most harmful first: by the largest divergence, known better than the drop."""
        harm: dict[str, float] = {}
        for (row, column), cell in self.cells.items():
            if column in columns:
                harm[row] = max(harm.get(row, -1.0), cell.damage.divergence if cell.damage else -1.0)
        return tuple(sorted(harm, key=lambda row: -harm[row]))

    def worst(self, column: str) -> str | None:
        """The row that a choice harms most; None where none was measured."""
        found = {row: cell.damage.divergence for (row, c), cell in self.cells.items() if c == column and cell.damage}
        return max(found, key=lambda row: found[row]) if found else None


def measure_sensitivity(
    task: Task,
    graph: ModelGraph,
    bound: BoundSpace,
    max_seconds: float,
    on_progress: Callable[[int, int], None] = lambda n_done, n_total: None,
) -> Sensitivity:
    """Measure what each choice of a space does by itself, without training, as far as the time allows.

    Args:
        task: Model, data and score; it is not changed.
        graph: What `inspect_model` found in the model.
        bound: The space.
        max_seconds: For what is not known from before.
        on_progress: ``on_progress(n_done, n_total)``.

    Raises:
        SearchSpaceError: There is nothing to decide in the space.
        AutocompressError: The FP32 model cannot be run or scored.
    """
    space = plan_space(bound, graph)
    with TemporaryDirectory(prefix="autocompress-") as folder:
        context = EvaluationContext(task, graph, Path(folder), torch.get_num_threads())
        n_samples = affordable_samples(context, len(space.isolated), max_seconds)
        table = damage_table(context, space.isolated, max_seconds, n_samples, on_progress=on_progress)
    return as_rows(space, table)


def as_rows(space: PlanSpace, table: DamageTable) -> Sensitivity:
    """The damage table of a space; a channel group has the row of the layer that it is named after."""
    options = [(unit, option) for unit in space.units for option in unit.options if not option.recipe.is_identity]
    cells = {(_row(unit), _column(unit, option)): _cell(option.recipe, table) for unit, option in options}
    rows, columns = (tuple(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
    n_left = sum(cell == Cell() for cell in cells.values())
    return Sensitivity(rows, _ordered(columns), cells, n_left)


def _row(unit: PlanUnit) -> str:
    return unit.groups[0].name if unit.groups else unit.name


def _column(unit: PlanUnit, option: Option) -> str:
    if not unit.groups:
        return option.label
    group = unit.groups[0]
    removed = group.n_removed(option.recipe.pruning.get(group.name, 0.0))
    return f"{100 * (1 - removed / group.n_channels):.0f}{_FILTERS}"


def _cell(recipe: Recipe, table: DamageTable) -> Cell:
    digest = recipe.digest()
    return Cell(table.damages.get(digest), table.failures.get(digest, ""))


def _ordered(columns: Sequence[str]) -> tuple[str, ...]:
    of_filters = [column for column in columns if column.endswith(_FILTERS)]
    of_filters.sort(key=lambda column: -float(column.removesuffix(_FILTERS)))
    return (*(column for column in columns if column not in of_filters), *of_filters)
