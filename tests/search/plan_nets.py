"""Small networks with what plan spaces need of them, found once a session."""

from dataclasses import dataclass
from functools import cache

import torch

from autocompress.graph import ModelGraph, inspect_model
from autocompress.measure.latency_features import Architecture, architecture_of
from autocompress.search.plan_space import PlanSpace, plan_space
from autocompress.space.bound_space import BoundSpace
from autocompress.space.built_in import load_space
from tests.nets import NETS
from tests.search.chains import chain, graph_of, many_groups
from tests.tiny import net as tiny_net


@dataclass(frozen=True)
class Inspected:
    graph: ModelGraph
    architecture: Architecture

    def bound(self, space: str) -> BoundSpace:
        return load_space(space).bind(self.graph)

    def plans(self, space: str) -> PlanSpace:
        return plan_space(self.bound(space), self.graph)


@cache
def inspected(name: str) -> Inspected:
    """A network of `tests.nets`, `tiny`, `many groups` or `chain`."""
    if name in ("many groups", "chain"):
        architecture = many_groups() if name == "many groups" else chain(5)
        return Inspected(graph_of(architecture), architecture)
    if name == "tiny":
        model, inputs = tiny_net().eval(), torch.zeros(1, 1, 8, 8)
    else:
        model, inputs = NETS[name].build(), NETS[name].inputs()
    graph = inspect_model(model, inputs)
    return Inspected(graph, architecture_of(model, graph, inputs))
