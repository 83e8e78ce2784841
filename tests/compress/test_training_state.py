"""A state that is saved in the middle of training, for every kind of grid, with all that calibration can do."""

import copy
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from autocompress.compress import CompressedModel, calibrate, compress
from autocompress.compress.quantization import Exportable
from autocompress.graph import inspect_model
from autocompress.recipe import Calibration, LayerRecipe
from autocompress.space import uniform_recipe
from autocompress.task import call, flatten
from tests.nets import NETS, Net

EVERYTHING = Calibration(input_ranges="mse", rounding="gptq", bias_correction=True, smoothing=0.5)


def attached(net: Net, layer: LayerRecipe) -> CompressedModel:
    """Compressed but not calibrated."""
    model, x = net.build(), net.inputs()
    graph = inspect_model(model, x, with_groups=False)
    return compress(model, graph, uniform_recipe(graph, layer, calibration=EVERYTHING), x)


def outputs(module: nn.Module, x: Any) -> list[Tensor]:
    with torch.no_grad():
        return flatten(call(module, x))


def train(module: nn.Module, net: Net, n_steps: int) -> None:
    """Plain descent on all parameters, in training mode."""
    module.train()
    x = net.inputs(8, seed=5)
    for _ in range(n_steps):
        loss = sum(y.square().mean() for y in flatten(call(module, x)))
        parameters = [p for p in module.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter -= 0.02 * gradient


SCHEMES = [
    pytest.param({}, id="default"),
    pytest.param({"weight_scheme": "asymmetric"}, id="asymmetric weights"),
    pytest.param({"weight_granularity": "per_tensor", "activation_scheme": "symmetric"}, id="symmetric inputs"),
    pytest.param({"weight_scheme": "asymmetric", "weight_granularity": "per_tensor"}, id="asymmetric tensor"),
    pytest.param({"activation_granularity": "per_channel"}, id="inputs by channel"),
    pytest.param({"activation_bits": 32, "group_size": 8, "weight_scheme": "asymmetric"}, id="groups"),
]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["depthwise", "tied", "query_key_value", "upsampling"])
def test_training_goes_on_from_a_saved_state(name: str, scheme: dict[str, Any]) -> None:
    net = NETS[name]
    layer = LayerRecipe(**{"weight_bits": 4, "activation_bits": 8, **scheme})
    model = attached(net, layer)
    calibrate(model.module, net.batches(), EVERYTHING)
    train(model.module, net, 2)
    before, saved = copy.deepcopy(model.module), load(save(model.state()))
    again = attached(net, layer)
    again.load_state(saved)
    for module in (model.module, again.module):
        train(module, net, 2)
    states = model.state(), again.state()
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], value) for key, value in before.state_dict().items())
    ranges = [p for m in again.module.modules() if isinstance(m, Exportable) for p in m.parameters()]
    assert all(p.isfinite().all() for p in ranges)
    x = net.inputs(4)
    pairs = zip(outputs(model.module.eval(), x), outputs(again.module.eval(), x), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
