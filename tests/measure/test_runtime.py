"""What the processor really ran, and in which precision."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from openvino import opset13 as ops
from torch import nn

from autocompress.errors import MeasurementError
from autocompress.latency import compile_model
from autocompress.measure import default_precision_of, float_layers, layer_precisions
from autocompress.recipe import LayerRecipe, Recipe
from tests.deploy.deployed import Deployed, deployed, quantized
from tests.nets import NETS, Net
from tests.processor import HAS_VNNI

FLAGS = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
INTEGER = LayerRecipe(weight_bits=8, activation_bits=8)


def run(net: Net, layer: LayerRecipe = INTEGER) -> Deployed:
    return deployed(quantized(net.build(), net.inputs(), layer, net.batches()))


@pytest.mark.parametrize("name", ["residual", "depthwise", "grouped", "conv1d", "volume", "encoder", "upsampling"])
def test_quantized_layers_run_on_integers(name: str) -> None:
    result = run(NETS[name])
    assert set(result.precisions) == set(result.compressed.recipe.layers)
    assert set(result.precisions.values()) == {"i8"}
    assert result.float_layers == ()


def test_layers_that_stay_float_are_found_in_f32() -> None:
    net = NETS["residual"]
    result = run(net, LayerRecipe())
    names = ["stem.0", "first.0", "second.0", "head"]
    assert layer_precisions(result.compiled, names) == dict.fromkeys(names, "f32")


@pytest.mark.skipif(not HAS_VNNI, reason="on this processor OpenVINO computes these layers one by one")
def test_a_layer_that_is_fused_away_is_in_no_result() -> None:
    net = Net("small", lambda: nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5)), (6,))
    result = run(net)  # OpenVINO computes all of it in one kernel of its own making
    assert result.precisions == {} and result.float_layers == ()
    assert layer_precisions(result.compiled, ["nowhere"]) == {}


def test_a_name_is_not_mistaken_for_a_longer_one() -> None:
    layers = {"a": nn.Conv2d(16, 16, 3), "ab": nn.Conv2d(16, 16, 3)}
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    x = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    result = deployed(quantized(model.eval(), x, Recipe(layers={"ab": INTEGER})))
    assert layer_precisions(result.compiled, ["a", "ab"]) == {"a": "f32", "ab": "i8"}


@pytest.mark.parametrize(
    ("precision", "recipe", "is_named"),
    [
        pytest.param("f32", INTEGER, True, id="asked for integers, ran in f32"),
        pytest.param("bf16", INTEGER, True, id="asked for integers, ran in bf16"),
        pytest.param("i8", INTEGER, False, id="ran on integers"),
        pytest.param("u1", LayerRecipe(weight_bits=1, activation_bits=1), False, id="ran on bits"),
        pytest.param("f32", LayerRecipe(weight_bits=1, activation_bits=1), True, id="asked for bits, ran in f32"),
        pytest.param("f32", LayerRecipe(weight_bits=4), False, id="only weights are integers"),
        pytest.param("f32", LayerRecipe(), False, id="float"),
        pytest.param(None, INTEGER, False, id="fused away"),
    ],
)
def test_float_layers_are_those_that_should_have_run_on_integers(
    precision: str | None, recipe: LayerRecipe, is_named: bool
) -> None:
    found = {} if precision is None else {"layer": precision}
    assert float_layers(found, {"layer": recipe}) == (("layer",) if is_named else ())


def test_a_difference_between_recipe_and_kernel_is_named() -> None:
    x = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)).eval()
    layer = LayerRecipe(weight_bits=8, activation_bits=8, activation_granularity="per_channel")
    result = deployed(quantized(model, x, layer))
    assert result.float_layers == ("0", "2")
    assert result.precisions == {"0": "f32", "2": "f32"}


def test_a_binary_convolution_is_found() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3)).eval()
    x = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    recipe = Recipe(layers={"2": LayerRecipe(weight_bits=1, activation_bits=1)})
    result = deployed(quantized(model, x, recipe))
    assert result.precisions == {"2": "u1"}
    assert result.float_layers == ()


def test_the_precision_of_float_layers_is_fixed() -> None:
    net = NETS["residual"]
    result = run(net, LayerRecipe())
    x = net.inputs(seed=5)
    assert result.errors(x)[0] < 1e-5  # bf16 would be off by about 1e-2
    assert default_precision_of(result.model, 1) in ("f32", "bf16", "f16")


class OfUnknownMeaning(openvino.Op):
    """An operation that no processor knows."""

    def __init__(self, x: openvino.Output) -> None:
        super().__init__(self, [x])

    def validate_and_infer_types(self) -> None:
        self.set_output_type(0, self.get_input_element_type(0), self.get_input_partial_shape(0))


def test_a_model_that_cannot_be_compiled_is_one_sentence() -> None:
    x = ops.parameter([1, 8], np.float32)
    model = openvino.Model([OfUnknownMeaning(x.output(0))], [x], "unknown")
    with pytest.raises(MeasurementError, match="OpenVINO cannot compile the model: .+") as error:
        compile_model(model, 1)
    assert "\n" not in str(error.value)


PROBE = "from autocompress.measure import default_weight_bits; print(default_weight_bits())"


@pytest.mark.parametrize(
    ("environment", "needs", "bits"),
    [
        pytest.param({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, "avx512bw", 7, id="made to forget VNNI"),
        pytest.param({}, "avx512_vnni", 8, id="with VNNI"),
    ],
)
def test_the_default_of_weight_bits_follows_the_processor(environment: dict[str, str], needs: str, bits: int) -> None:
    if needs not in FLAGS:
        pytest.skip(f"needs {needs}")
    done = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, env=os.environ | environment, check=True
    )
    assert done.stdout.strip() == str(bits)
