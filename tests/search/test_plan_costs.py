"""Sums of small tables are what the latency and the size model predict for whole recipes."""

import numpy as np
import pytest
import torch

from autocompress.graph import inspect_model
from autocompress.measure.latency_features import architecture_of
from autocompress.measure.latency_model import LatencyModel
from autocompress.measurement import Speedup
from autocompress.search.plan_costs import plan_tables
from autocompress.search.plan_space import PlanSpace, plan_space
from autocompress.space.bound_space import BoundSpace, InputChoices, LayerChoices
from autocompress.tasks.fashion.network import FashionNet
from tests.search.chains import latency_model, size_model
from tests.search.plan_nets import Inspected, inspected

NETS = (
    "tiny",
    "residual",
    "depthwise",
    "concat",
    "shared",
    "encoder",
    "attention",
    "upsampling",
    "tied",
    "many groups",
)
SPACES = ("full", "int8", "sparse", "low-rank", "pruning")


def drawn(space: PlanSpace, n: int = 20) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([rng.integers(0, choices, n) for choices in space.n_choices], axis=1)


def errors(found: Inspected, space: PlanSpace, latency: LatencyModel) -> tuple[float, float]:
    """Largest differences from whole predictions over random plans, of latency and of size."""
    size = size_model(found.architecture)
    costs, latency_share, size_share = plan_tables(space, size).costs(latency)
    of_latency, of_size = [], []
    for plan in drawn(space):
        recipe = space.recipe(plan.tolist())
        at = [tuple(plan[unit] for unit in cost.units) for cost in costs]
        total = latency_share + sum(cost.latency[i] for cost, i in zip(costs, at, strict=True))
        of_latency.append(abs(total - sum(latency.contributions(recipe).values())))
        total = size_share + sum(cost.size[i] for cost, i in zip(costs, at, strict=True))
        bytes_of_baseline = size.xml_bytes + size.bin_bytes
        of_size.append(abs(total * bytes_of_baseline - size.predict(recipe)))
    return max(of_latency), max(of_size)


CASES = [(net, space) for net in NETS for space in SPACES if (net, space) != ("many groups", "low-rank")]


@pytest.mark.parametrize(("net", "name"), CASES, ids="-".join)
def test_costs_of_a_plan_are_those_of_its_recipe(net: str, name: str) -> None:
    found = inspected(net)
    of_latency, of_size = errors(found, found.plans(name), latency_model(found.architecture))
    assert of_latency < 1e-9
    assert of_size <= 0.5 + 1e-6  # predictions are whole bytes


def test_the_fashion_net_is_exact_too() -> None:
    model, image = FashionNet().eval(), torch.zeros(1, 1, 28, 28)
    graph = inspect_model(model, image)
    found = Inspected(graph, architecture_of(model, graph, image))
    of_latency, of_size = errors(found, found.plans("full"), latency_model(found.architecture))
    assert of_latency < 1e-9
    assert of_size <= 0.5 + 1e-6


def test_a_latency_model_that_was_updated_is_followed() -> None:
    found = inspected("residual")
    space, model = found.plans("full"), LatencyModel(found.architecture)
    fp32 = model.predict(space.recipe((0,) * len(space.units)))
    for i, plan in enumerate(drawn(space, 12)):
        value = 1.0 + 0.2 * i
        model.update(space.recipe(plan.tolist()), Speedup(value=value, low=0.99 * value, high=1.01 * value, n_pairs=30))
    assert abs(model.predict(space.recipe((0,) * len(space.units))) - fp32) > 1e-3
    assert errors(found, space, model)[0] < 1e-9


def test_low_rank_in_layers_of_many_groups_is_near() -> None:
    found = inspected("many groups")
    of_latency, of_size = errors(found, found.plans("low-rank"), latency_model(found.architecture))
    size = size_model(found.architecture)
    assert of_latency < 0.06
    assert of_size < 0.06 * (size.xml_bytes + size.bin_bytes)


@pytest.mark.parametrize("net", NETS)
def test_no_cost_is_of_more_than_three_units_and_none_comes_twice(net: str) -> None:
    found = inspected(net)
    tables = plan_tables(found.plans("full"), size_model(found.architecture))
    costs, _, _ = tables.costs(latency_model(found.architecture))
    units = [cost.units for cost in costs]
    assert len(set(units)) == len(units)
    assert all(list(of_cost) == sorted(set(of_cost)) and len(of_cost) <= 3 for of_cost in units)


def test_switches_that_cost_nothing_tie_no_units() -> None:
    found = inspected("chain")
    tables = plan_tables(found.plans("int8"), size_model(found.architecture))
    counts = [len(tables.costs(latency_model(found.architecture, switch=s))[0]) for s in (0.0004, 0.0006, -0.0006)]
    assert counts == [5, 9, 9]


def test_layers_and_groups_that_nobody_decides_are_part_of_the_constants() -> None:
    found = inspected("chain")
    bound = BoundSpace((LayerChoices("conv2", (32, 8)),), (InputChoices(("conv2",), (8,)),))
    space = plan_space(bound, found.graph)
    of_latency, of_size = errors(found, space, latency_model(found.architecture))
    assert len(space.units) == 1
    assert of_latency < 1e-9
    assert of_size <= 0.5 + 1e-6


def test_fixed_choices_that_change_the_model_are_counted() -> None:
    found = inspected("chain")
    bound = found.bound("full")
    layers = (type(bound.layers[0])("conv0", (4,)), *bound.layers[1:])
    groups = (bound.groups[0], type(bound.groups[1])("conv1", (0.5,)), *bound.groups[2:])
    space = plan_space(type(bound)(layers, bound.inputs, groups), found.graph)
    assert set(space.fixed_recipe.layers) == {"conv0"}
    assert space.fixed_recipe.pruning == {"conv1": 0.5}
    of_latency, of_size = errors(found, space, latency_model(found.architecture))
    assert of_latency < 1e-9
    assert of_size <= 0.5 + 1e-6


def test_switches_between_layers_of_one_unit_are_counted() -> None:
    found = inspected("chain")
    layers = tuple(LayerChoices(f"conv{i}", (32, 8)) for i in (1, 2))
    space = plan_space(BoundSpace(layers, (InputChoices(("conv1", "conv2"), (8, 4)),)), found.graph)
    assert space.n_choices == (7,)
    of_latency, of_size = errors(found, space, latency_model(found.architecture))
    assert of_latency < 1e-9
    assert of_size <= 0.5 + 1e-6
