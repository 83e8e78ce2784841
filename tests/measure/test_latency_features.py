"""Which channels of a layer a recipe leaves, without compressing anything, against what compressing leaves."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autocompress.compress import compress
from autocompress.compress.filter_pruning import n_kept
from autocompress.graph import inspect_model
from autocompress.measure.latency_features import Group, architecture_of
from autocompress.recipe import LayerRecipe, Recipe
from tests.nets import NETS


@given(st.integers(1, 200), st.floats(0, 0.99), st.sampled_from([1, 4, 12]))
def test_channels_go_as_filter_pruning_removes_them(n: int, ratio: float, unit: int) -> None:
    n_channels = n * unit
    assert Group("g", n_channels, unit).n_removed(ratio) == n_channels - n_kept(n_channels, ratio, unit)


@pytest.mark.parametrize("name", ["residual", "depthwise", "concat", "upsampling", "conv1d", "mlp", "encoder", "plain"])
def test_channels_that_are_left_are_those_of_the_compressed_model(name: str) -> None:
    net = NETS[name]
    model, x = net.build(), net.inputs()
    graph = inspect_model(model, x)
    architecture = architecture_of(model, graph, x)
    recipe = Recipe(pruning={group.name: 0.5 for group in graph.prunable})
    pruned = inspect_model(compress(model, graph, recipe, x, structure_only=True).module, x, with_groups=False)
    removed = architecture.removed(recipe)
    assert sum(removed.values()) > 0
    for unit in architecture.units:
        shape = pruned.layer(unit.name).weight_shape[:2]
        left = (
            unit.n_outputs - sum(k * removed[group] for group, k in unit.outputs_of.items()),
            unit.n_inputs - sum(k * removed[group] for group, k in unit.inputs_of.items()),
        )
        assert left == (shape[::-1] if "Transpose" in unit.kind else shape), unit.name


def test_the_share_of_work_in_low_rank_is_that_of_the_factors() -> None:
    model = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 128, 1)).eval()
    x = torch.zeros(1, 64, 8, 8)
    graph = inspect_model(model, x)
    for name, unit in zip("01", architecture_of(model, graph, x).units, strict=True):
        recipe = Recipe(layers={name: LayerRecipe(rank_ratio=0.25)})
        factored = inspect_model(compress(model, graph, recipe, x).module, x, with_groups=False)
        macs = sum(layer.macs for layer in factored.layers if layer.name.startswith(f"{name}."))
        assert unit.terms({}, 0.25)[3] == pytest.approx(macs / unit.macs)


def test_models_of_equal_shapes_share_a_digest_and_others_do_not() -> None:
    digests = []
    for seed, width in ((0, 16), (1, 16), (0, 24)):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 8, 3)).eval()
        x = torch.zeros(1, 3, 8, 8)
        digests.append(architecture_of(model, inspect_model(model, x), x).digest())
    assert digests[0] == digests[1] != digests[2]
