"""Pruning on the architectures that people compress: half of every group that can be pruned, and it still works."""

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.compress import CompressedModel, compress
from autocompress.compress.filter_pruning import n_kept
from autocompress.deploy import to_openvino
from autocompress.graph import ModelGraph, inspect_model, unfold_attention
from autocompress.latency import compile_model
from autocompress.recipe import Recipe
from autocompress.task import call, flatten
from tests.architectures import ARCHITECTURES

RATIO = 0.5
MUCH_LIKE_ANOTHER = [
    "albert",
    "opt",
    "distilbert",
    "torch_encoder",
    "t5_encoder",
    "mobilenet_v2",
    "resnext",
    "inception",
    "gated_units",
]
every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


@cache
def graph_of(name: str) -> ModelGraph:
    architecture = ARCHITECTURES[name]
    return inspect_model(architecture.build(), architecture.inputs())


@cache
def compressed(name: str) -> CompressedModel:
    """The model without half of every group that can be pruned; not to be changed."""
    architecture, graph = ARCHITECTURES[name], graph_of(name)
    recipe = Recipe(pruning={group.name: RATIO for group in graph.prunable})
    return compress(architecture.build(), graph, recipe, architecture.inputs())


def pruned(name: str) -> nn.Module:
    return compressed(name).module


def outputs(model: nn.Module, x: Any) -> list[Tensor]:
    return flatten(call(model, x))


def trained_parameters(model: nn.Module, x: Any) -> dict[str, Tensor]:
    """Gradients of the sum of squared outputs, by name of the parameter that got one."""
    model.zero_grad()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sum(output.float().square().sum() for output in outputs(model.train(), x)).backward()
    model.eval()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@every_architecture
def test_a_group_can_be_pruned_or_says_why_not(name: str) -> None:
    architecture, graph = ARCHITECTURES[name], graph_of(name)
    assert len(graph.prunable) >= architecture.n_prunable
    assert sum(group.unit > 1 for group in graph.prunable) >= architecture.n_heads
    assert all(group in graph.prunable or len(group.reason) > 20 for group in graph.groups)


@every_architecture
def test_half_of_the_channels_really_go(name: str) -> None:
    original, model, graph = ARCHITECTURES[name].build(), pruned(name), graph_of(name)
    unfold_attention(original)
    for group in graph.prunable:
        kept = n_kept(group.n_channels, RATIO, group.unit)
        assert kept < group.n_channels
        before, after = (len(m.get_submodule(group.name).weight) for m in (original, model))
        assert after * group.n_channels == before * kept, group.name
    assert inspect_model(model, ARCHITECTURES[name].inputs(), with_groups=False).macs < graph.macs


@every_architecture
def test_a_pruned_model_gives_outputs_of_the_same_shapes(name: str) -> None:
    architecture = ARCHITECTURES[name]
    x = architecture.inputs(3)
    with torch.no_grad():
        actual, wanted = outputs(pruned(name), x), outputs(architecture.build(), x)
    assert [output.shape for output in actual] == [output.shape for output in wanted]
    assert all(output.isfinite().all() for output in actual)


@every_architecture
def test_a_pruned_model_trains_all_that_trained_before(name: str) -> None:
    architecture = ARCHITECTURES[name]
    original, x = architecture.build(), architecture.inputs(4)
    unfold_attention(original)
    before, after = trained_parameters(original, x), trained_parameters(copy.deepcopy(pruned(name)), x)
    assert before.keys() <= after.keys()
    assert all(gradient.isfinite().all() for gradient in after.values())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in MUCH_LIKE_ANOTHER)) for name in ARCHITECTURES]
)
def test_a_pruned_model_computes_the_same_in_openvino(name: str) -> None:
    model, x = pruned(name), ARCHITECTURES[name].inputs()
    plain = compressed(name).freeze_weights()  # OpenVINO converts no spectral norm
    compiled = compile_model(to_openvino(plain, x), 1)
    results = compiled([tensor.numpy() for tensor in flatten(x)])
    with torch.no_grad():
        wanted = outputs(model, x)
    for port, expected in zip(compiled.outputs, wanted, strict=True):
        error = (torch.from_numpy(results[port]) - expected).abs().max() / expected.abs().max()
        assert error < 1e-4
