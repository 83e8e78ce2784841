"""Made-up architectures of any depth for plan spaces, without a network behind them."""

from dataclasses import dataclass

import numpy as np

from autocompress.graph.model_graph import ChannelGroup, Layer, ModelGraph
from autocompress.measure.latency_features import Architecture, Group, Unit
from autocompress.measure.latency_model import LatencyModel
from autocompress.search.size_model import SizeModel

XML = {(False, False): 300.0, (True, False): 500.0, (False, True): 700.0, (True, True): 900.0}


@dataclass(frozen=True)
class Isolated:
    divergence: float
    drop: float
    drop_error: float = 0.01


def size_model(architecture: Architecture) -> SizeModel:
    n_weights = sum(u.n_outputs * u.n_inputs * u.n_kernel + u.n_outputs for u in architecture.units)
    return SizeModel(architecture, 20_000, 4 * n_weights, XML)


def latency_model(architecture: Architecture, seed: int = 0, switch: float = 0.01) -> LatencyModel:
    """As if fitted: its weights are the prior's, but for random factors."""
    model, rng = LatencyModel(architecture), np.random.default_rng(seed)
    model.weights = model.weights * rng.uniform(0.5, 1.5, model.weights.shape)
    model.switch = switch
    return model


def graph_of(architecture: Architecture) -> ModelGraph:
    """The graph of an architecture of 1x1 convolutions, each of which reads a tensor of its own."""
    layers = tuple(
        Layer(
            name=unit.name,
            kind="Conv2d",
            weight_shape=(unit.n_outputs, unit.n_inputs, 1, 1),
            input_shape=(1, unit.n_inputs, 4, 4),
            output_shape=(1, unit.n_outputs, 4, 4),
            macs=unit.macs,
            n_parameters=unit.n_outputs * unit.n_inputs,
            shares_input_with=unit.name,
        )
        for unit in architecture.units
    )
    return ModelGraph(layers, tuple(ChannelGroup(g.name, (g.name,), g.n_channels) for g in architecture.groups))


def unit(name: str, n_outputs: int, n_inputs: int, outputs_of: list[str], inputs_of: list[str]) -> Unit:
    """A 1x1 convolution on 4x4 positions of which each channel goes with one channel of a group."""
    macs = 16 * n_outputs * n_inputs
    of = (dict.fromkeys(outputs_of, 1.0), dict.fromkeys(inputs_of, 1.0))
    return Unit(name, "Conv2d 1x1", n_outputs, n_inputs, 1, macs, 16 * n_outputs, 1.0, *of)


def chain(n_layers: int) -> Architecture:
    """Convolutions one after the other, each with 64 filters in a group of its own."""
    names = [f"conv{i}" for i in range(n_layers)]
    units = [unit(name, 64, 64, [name], names[max(0, i - 1) : i]) for i, name in enumerate(names)]
    return Architecture(tuple(units), tuple(Group(name, 64) for name in names))


def many_groups() -> Architecture:
    """Layers that read or give channels of three groups and more, in every way."""
    leaves = [unit(name, 32, 16, [name], []) for name in "abc"]
    return Architecture(
        (
            *leaves,
            unit("joins", 48, 96, ["joins"], ["a", "b", "c"]),
            unit("reads", 10, 144, [], ["a", "b", "c", "joins"]),
            unit("depthwise", 96, 1, ["a", "b", "c"], []),
            unit("returns", 32, 96, ["a"], ["a", "b", "c"]),
            unit("crosses", 64, 80, ["a", "b"], ["b", "joins"]),
        ),
        (Group("a", 32), Group("b", 32), Group("c", 32), Group("joins", 48)),
    )
