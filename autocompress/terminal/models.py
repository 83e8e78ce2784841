"""What a model is made of, what its layers cost, and what may be tried on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autocompress.graph import ModelGraph
from autocompress.measurement import Environment
from autocompress.report.layer_svg import LayerBar
from autocompress.report.statistics_table import short_count
from autocompress.report.wording import times
from autocompress.search.layer_costs import LayerCost, LayerCosts
from autocompress.space import BoundSpace

REST = "everything else"
_GAP = 2  # characters between columns


@dataclass(frozen=True)
class _Column:
    name: str
    cells: list[str]
    justify: Literal["left", "right"] = "right"

    @property
    def width(self) -> int:
        return max(len(cell) for cell in [self.name, *self.cells])


def print_graph(
    console: Console,
    graph: ModelGraph,
    bound: BoundSpace,
    environment: Environment,
    costs: LayerCosts | None = None,
    buys: Sequence[str] = (),
) -> None:
    """Layers with their costs, channel groups, the size of the space, and the processor.

    Args:
        console: Where to print; on a narrow one shapes and costs are two tables.
        graph: The model's layers and groups.
        bound: The search space of the model.
        environment: The processor.
        costs: Milliseconds by layer, where they were measured.
        buys: Sentences about what the choices of the space buy on this processor.
    """
    names = [layer.name for layer in graph.layers]
    title = f"{len(graph.layers)} layers, {graph.macs:,} MACs, {graph.n_parameters:,} parameters"
    if costs is None:
        console.print(_table(title, names, _shapes(graph)), highlight=False)
    else:
        _print_with_costs(console, title, graph, costs)
    _print_groups(console, graph)
    print_environment(console, environment)
    console.print(f"search space: {len(bound.parameters)} parameters, {bound.n_recipes:.2e} recipes", highlight=False)
    for sentence in buys:
        console.print(f"· {sentence}", markup=False, highlight=False)


def _print_with_costs(console: Console, title: str, graph: ModelGraph, costs: LayerCosts) -> None:
    names = [layer.name for layer in graph.layers]
    shapes, spent = _shapes(graph), _costs(names, costs)
    for column in shapes:
        column.cells.append("")
    columns = [*shapes, *spent]
    if sum(column.width + _GAP for column in columns) + max(map(len, [*names, REST])) <= console.width:
        console.print(_table(title, [*names, REST], columns, has_rest=True), highlight=False)
    else:
        console.print(_table(title, names, shapes), highlight=False)
        console.print(_table("where the time goes", [*names, REST], spent, has_rest=True), highlight=False)
    for line in total_lines(costs):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _shapes(graph: ModelGraph) -> list[_Column]:
    layers, macs = graph.layers, max(1, graph.macs)
    return [
        _Column("kind", [layer.kind for layer in layers], "left"),
        _Column("weight", [_by(layer.weight_shape) for layer in layers], "left"),
        _Column("output", [_by(layer.output_shape) for layer in layers], "left"),
        _Column("MACs", [short_count(layer.macs) for layer in layers]),
        _Column("of all", [percent_of(layer.macs, macs) for layer in layers]),
        _Column("parameters", [short_count(layer.n_parameters) for layer in layers]),
    ]


def _costs(names: Sequence[str], costs: LayerCosts) -> list[_Column]:
    """Columns of the costs, the rest last; columns that nothing is known of are left out."""
    rows = [costs.layers.get(name) for name in names] + [costs.rest]
    known = [
        _Column("ms", [_ms(row.latency_ms if row else None) for row in rows]),
        _Column("of all", [percent_of(row.latency_ms, costs.baseline_ms) if row else "" for row in rows]),
    ]
    if costs.int8:
        known.append(_Column("INT8 saves", [_ms(row.int8_saves_ms if row else None) for row in rows]))
    if costs.half:
        known.append(_Column("half saves", [_ms(row.half_saves_ms if row else None) for row in rows]))
    return known


def gains(costs: LayerCosts) -> list[str]:
    """What whole models gain over FP32: `INT8 1.90x [1.88, 1.93]` and so on."""
    return [f"{word} {times(s)}" for word, s in (("INT8", costs.int8), ("half of the filters", costs.half)) if s]


def total_lines(costs: LayerCosts) -> list[str]:
    """The time of the whole model, what it would gain, and how to read the savings of the layers."""
    lines = [", ".join([f"whole model: {costs.baseline_ms:.3f} ms in FP32", *gains(costs)])]
    if gains(costs):
        lines.append(
            "savings in ms are those of whole models that are all INT8 or have lost half of the filters, divided by "
            "the time that their layers take; they need not add up for other mixes"
        )
    if costs.is_noisy:
        lines.append("warning: this machine was busy meanwhile, so the times are rough; run it again when nothing runs")
    return lines


def layer_bars(graph: ModelGraph, costs: LayerCosts) -> list[LayerBar]:
    """Costs as the bars of a picture, the rest last; layers without a time are left out."""
    timed = {layer.name: costs.layers[layer.name] for layer in graph.layers if layer.name in costs.layers}
    return [_bar(name, cost) for name, cost in [*timed.items(), (REST, costs.rest)]]


def _bar(name: str, cost: LayerCost) -> LayerBar:
    return LayerBar(name, cost.latency_ms, cost.int8_saves_ms, cost.half_saves_ms)


def _table(title: str, names: Sequence[str], columns: Sequence[_Column], *, has_rest: bool = False) -> Table:
    """A row a name; cells of columns beyond the names are not shown."""
    table = Table(title=title, box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    table.add_column("layer", overflow="fold")
    for column in columns:
        table.add_column(column.name, justify=column.justify, overflow="fold", no_wrap=column.justify == "right")
    for i, name in enumerate(names):
        cells = (Text(column.cells[i]) for column in columns)
        table.add_row(Text(name), *cells, end_section=has_rest and i == len(names) - 2)
    return table


def _print_groups(console: Console, graph: ModelGraph) -> None:
    """Channel groups, and what stays as it is and why."""
    groups = Table(title="channel groups: filters that go together", box=box.SIMPLE, pad_edge=False)
    for column in ("group", "layers", "filters"):
        groups.add_column(column, overflow="fold")
    for group in graph.groups:
        groups.add_row(Text(group.name), Text(", ".join(group.layers)), str(group.n_channels))
    console.print(groups, highlight=False)
    alone = [("layer", layer.name, "stays float", layer.reason) for layer in graph.layers if layer.reason]
    alone += [("channel group", group.name, "is not pruned", group.reason) for group in graph.groups if group.reason]
    for what, name, fate, reason in alone:
        console.print(f"{what} {name} {fate}: {reason}", markup=False, highlight=False)


def print_environment(console: Console, environment: Environment) -> None:
    """The processor and what 8-bit arithmetic does on it."""
    saturation = "saturates: prefer 7-bit weights" if environment.int8_saturates else "is exact"
    console.print(
        f"CPU: {environment.cpu}, {environment.n_cores} cores; OpenVINO {environment.versions['openvino']} runs "
        f"{', '.join(environment.capabilities)}; 8-bit arithmetic {saturation}",
        markup=False,
        highlight=False,
    )


def print_spaces(console: Console, spaces: Mapping[str, Any]) -> None:
    """Names and descriptions of the built-in spaces."""
    table = Table("space", "what may be tried")
    for name, description in spaces.items():
        table.add_row(name, Text(str(description)))
    console.print(table, highlight=False)


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def percent_of(part: float, whole: float) -> str:
    """A share in percent with one decimal.

    >>> percent_of(1, 3)
    '33.3 %'
    """
    return f"{100 * part / whole:.1f} %"


def _ms(value: float | None) -> str:
    """Milliseconds with three decimals, never `-0.000`; empty where there are none."""
    return "" if value is None else f"{round(value, 3) + 0.0:.3f}"
