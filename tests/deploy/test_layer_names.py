"""Layers keep their names through the folding of batch norms."""

import pytest
import torch
from torch import nn

from autocompress.compress import calibrate, compress
from autocompress.deploy import to_openvino
from autocompress.graph import inspect_model
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.space import uniform_recipe

X = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    """Every kind of convolution with a batch norm of either sign behind it; two of one shape."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(
            *(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 1, groups=4, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.ConvTranspose2d(32, 16, 2, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        )
        for module in model:
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight)
                module.running_var.uniform_(0.5, 2)
        model[0].weight.data[3] = 0
    return model.eval()


CONVOLUTIONS = ["0", "3", "6", "9", "12"]


def names(recipe: Recipe | LayerRecipe) -> list[str]:
    """Layers of the convolutions of the deployed model, in order; empty for one without a name."""
    model = net()
    graph = inspect_model(model, X)
    compressed = compress(model, graph, recipe if isinstance(recipe, Recipe) else uniform_recipe(graph, recipe), X)
    if compressed.recipe.layers:
        calibrate(compressed.module, [(X, None)])
    with compressed.export_form() as module:
        deployed = to_openvino(module, X)
    found = [op.get_friendly_name() for op in deployed.get_ordered_ops() if "Convolution" in op.get_type_name()]
    return [
        name.removeprefix("__module.module.").split("/")[0] if name.startswith("__module.") else "" for name in found
    ]


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(Recipe(), id="float"),
        pytest.param(LayerRecipe(weight_bits=8, activation_bits=8), id="W8A8"),
        pytest.param(LayerRecipe(weight_bits=4, activation_bits=8), id="W4A8"),
        pytest.param(LayerRecipe(weight_bits=2, activation_bits=8), id="W2A8"),
        pytest.param(LayerRecipe(weight_bits=6, weight_scheme="asymmetric", activation_bits=8), id="asymmetric"),
        pytest.param(LayerRecipe(weight_bits=8, weight_granularity="per_tensor", activation_bits=8), id="per tensor"),
    ],
)
def test_every_convolution_has_the_name_of_its_layer(recipe: Recipe | LayerRecipe) -> None:
    assert names(recipe) == CONVOLUTIONS


def test_layers_with_equal_weights_are_named_in_their_order() -> None:
    model = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()).eval()
    twins = nn.Sequential(model, nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())).eval()
    twins[1].load_state_dict(model.state_dict())
    with torch.no_grad():
        for norm in (twins[0][1], twins[1][1]):
            norm.weight.uniform_(0.5, 1.5)
    deployed = to_openvino(twins, X)
    found = [op.get_friendly_name() for op in deployed.get_ordered_ops() if op.get_type_name() == "Convolution"]
    assert [name.split("/")[0] for name in found] == ["__module.module.0.0", "__module.module.1.0"]
