"""Every kind of layer x bits x grids: equal to torch, in integer kernels, in few bytes."""

import math
import os
import subprocess
import sys
from pathlib import Path

import openvino
import pytest
import torch
from torch import Tensor, nn

from autocompress.recipe import Calibration, LayerRecipe, Recipe
from tests.deploy.deployed import constants, deployed, quantized, weights_of
from tests.deploy.side_by_side import KINDS, MAPS, TRANSPOSED, case, layers_of
from tests.nets import NETS
from tests.processor import FLAGS, HAS_VNNI, exact_on_this_processor

ROOT = Path(__file__).parents[2]
ROUNDING = 2e-6  # of the largest output: float sums of another order
A_TIE = 0.05  # one step of one value inside the network

WEIGHTS = [
    pytest.param(bits, scheme, id=f"w{bits} {scheme}") for bits in range(2, 9) for scheme in ("symmetric", "asymmetric")
]
INPUTS = [
    pytest.param(8, "symmetric", "symmetric", id="w8, symmetric input"),
    pytest.param(4, "asymmetric", "symmetric", id="w4 asymmetric, symmetric input"),
    pytest.param(7, "symmetric", "asymmetric", id="w7, asymmetric input"),
    pytest.param(4, "asymmetric", "asymmetric", id="w4 asymmetric, asymmetric input"),
]
BETWEEN = pytest.mark.slow  # 5 and 6 bits take the path of 3, 4 and 7
CASES = [
    *(pytest.param(*p.values, "auto", id=p.id, marks=[BETWEEN] * (p.values[0] in (5, 6))) for p in WEIGHTS),
    *INPUTS,
]
EXACT_KINDS = [kind for kind in KINDS if kind != "attention"]


def kernel_is_missing(kind: str, weight_bits: int, weight_scheme: str, input_scheme: str) -> bool:
    """Where OpenVINO has no integer kernel: the whole truth of what `float_layers` has to report."""
    differences_of_nine_bits = weight_bits == 8 and weight_scheme == "asymmetric"
    shifted_transposed = kind in TRANSPOSED and input_scheme == "asymmetric"
    return kind == "transposed_grouped" or differences_of_nine_bits or shifted_transposed


@exact_on_this_processor
@pytest.mark.parametrize(("weight_bits", "weight_scheme", "input_scheme"), CASES)
@pytest.mark.parametrize("kind", [*EXACT_KINDS, "words"])
def test_a_layer_computes_what_torch_computes(
    kind: str, weight_bits: int, weight_scheme: str, input_scheme: str
) -> None:
    _, errors = case(weight_bits, weight_scheme, input_scheme)
    # a linear layer without an integer kernel gets its inputs quantized anew by OpenVINO
    dynamic = kind.startswith("linear") and weight_bits == 8 and weight_scheme == "asymmetric"
    assert errors[kind] < (1e-2 if dynamic else ROUNDING)


@pytest.mark.parametrize(("weight_bits", "weight_scheme", "input_scheme"), CASES)
def test_attention_computes_what_torch_computes(weight_bits: int, weight_scheme: str, input_scheme: str) -> None:
    if weight_bits == 8 and not HAS_VNNI:
        pytest.skip("8-bit products saturate on this processor")
    assert case(weight_bits, weight_scheme, input_scheme)[1]["attention"] < A_TIE


@pytest.mark.parametrize(("weight_bits", "weight_scheme", "input_scheme"), CASES)
def test_layers_run_in_integer_kernels_and_those_without_one_are_named(
    weight_bits: int, weight_scheme: str, input_scheme: str
) -> None:
    result, _ = case(weight_bits, weight_scheme, input_scheme)
    missing = {
        name
        for kind in KINDS
        for name in layers_of(kind)
        if kernel_is_missing(kind, weight_bits, weight_scheme, input_scheme)
    }
    assert set(result.float_layers) == missing
    assert {name for name, precision in result.precisions.items() if precision == "i8"} - {"words"} == {
        name for kind in KINDS for name in layers_of(kind)
    } - missing


@pytest.mark.parametrize(("weight_bits", "weight_scheme", "input_scheme"), CASES)
def test_the_stored_integers_are_those_of_torch(weight_bits: int, weight_scheme: str, input_scheme: str) -> None:
    result, _ = case(weight_bits, weight_scheme, input_scheme)
    stored = weights_of(result.model, ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul"))
    integers = result.compressed.integer_weights()
    found = {name: stored[key] for key in stored for name in integers if key.startswith(f"__module.module.{name}/")}
    assert len(found) == len(integers) - 2  # all but those of the embedding and the grouped transposed convolution
    for name, weight in found.items():
        known = integers[name]
        axis = 1 if ".transposed" in name else 0
        shape = [-1 if a == axis else 1 for a in range(known.indices.dim())]
        steps = torch.from_numpy(weight.reshape(known.indices.shape)) / known.scale.reshape(shape)
        expected = (known.indices - known.zero.reshape(shape)).float()
        assert float((steps - expected).abs().max()) < 1e-3, name
        assert torch.equal(steps.round(), expected), name


@pytest.mark.parametrize("bits", [4, 7])
def test_weights_halfway_between_two_integers_are_rounded_as_torch_rounds_them(bits: int) -> None:
    limit = 2 ** (bits - 1) - 1
    layer = nn.Linear(2 * limit + 1, 64)
    steps = torch.linspace(0.03, 0.21, 64)
    with torch.no_grad():  # columns: the limit, then all ties
        ties = torch.arange(2 * limit) - limit + 0.5
        layer.weight.copy_(steps[:, None] * torch.cat([torch.tensor([float(limit)]), ties]))
    x = torch.randn(1, 2 * limit + 1, generator=torch.Generator().manual_seed(0))
    recipe = LayerRecipe(weight_bits=bits, activation_bits=8)
    calibration = Calibration(weight_ranges="min_max")
    result = deployed(quantized(nn.Sequential(layer), x, Recipe(layers={"0": recipe}, calibration=calibration)))
    (stored,) = weights_of(result.model, ("MatMul",)).values()
    (known,) = result.compressed.integer_weights().values()
    assert torch.equal((torch.from_numpy(stored) / known.scale[:, None]).round(), known.indices.float())


@exact_on_this_processor
@pytest.mark.parametrize("input_bits", range(2, 8))
def test_narrow_inputs_stay_in_integer_kernels(input_bits: int) -> None:
    result, errors = case(8, "symmetric", "auto", input_bits, ("conv2d", "depthwise", "transposed2d", "linear"))
    assert result.float_layers == ()
    assert max(errors.values()) < ROUNDING


@pytest.mark.parametrize(
    ("weight_bits", "scheme", "stored_bits"),
    [(2, "symmetric", 2), (3, "asymmetric", 3), (4, "symmetric", 4), (6, "asymmetric", 6), (5, "symmetric", 6)],
)
def test_a_file_has_the_bits_of_its_weights_and_one_step_a_channel(
    weight_bits: int, scheme: str, stored_bits: int, tmp_path: Path
) -> None:
    net = nn.Sequential(
        nn.Conv2d(32, 64, 3), nn.Conv2d(64, 64, 3, groups=64), nn.ConvTranspose2d(64, 32, 2), nn.Flatten()
    )
    x = torch.randn(1, 32, 6, 6, generator=torch.Generator().manual_seed(0))
    result = deployed(quantized(net, x, LayerRecipe(weight_bits=weight_bits, activation_bits=8, weight_scheme=scheme)))
    n_weights = sum(math.prod(layer.weight.shape) for layer in net if hasattr(layer, "weight"))
    n_channels = sum(layer.weight.shape[1 if isinstance(layer, nn.ConvTranspose2d) else 0] for layer in net[:3])
    of_channels = n_channels * (4 + 4 + 1)  # step, bias, zero point
    of_inputs_and_shapes = 3 * 4 * 4 + 150
    assert (
        n_weights * stored_bits / 8
        < result.bin_bytes(tmp_path)
        < (n_weights * stored_bits / 8 + of_channels + of_inputs_and_shapes)
    )
    assert result.float_layers == ()


GROUPS = {"0": ("symmetric", 32), "1": ("asymmetric", 32), "2": ("symmetric", 64), "3": ("asymmetric", 64)}


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_in_groups_are_multiplied_as_they_are_stored(bits: int, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(*(nn.Linear(128, 128) for _ in GROUPS)).eval()
    x = torch.randn(1, 128, generator=torch.Generator().manual_seed(1))
    layers = {
        name: LayerRecipe(weight_bits=bits, weight_scheme=scheme, group_size=size)
        for name, (scheme, size) in GROUPS.items()
    }
    result = deployed(quantized(net, x, Recipe(layers=layers)))
    assert result.errors(x)[0] < 3e-2  # OpenVINO quantizes the inputs of each layer as it runs
    of_steps = sum((8 if scheme == "asymmetric" else 4) * 128**2 / size for scheme, size in GROUPS.values())
    of_weights, of_biases, of_shapes = 4 * 128**2 * bits / 8, 4 * 4 * 128, 300
    assert of_weights < result.bin_bytes(tmp_path) < of_weights + of_steps + of_biases + of_shapes
    stored = [op for op in result.model.get_ordered_ops() if op.get_type_name() == "Constant"]
    stored = [op for op in stored if math.prod(op.get_output_shape(0)) == 128**2]
    assert [list(op.get_output_shape(0)) for op in stored] == [[128, 128 // size, size] for _, size in GROUPS.values()]
    for op in stored:
        (reader,) = (target.get_node() for target in op.output(0).get_target_inputs())
        assert reader.get_type_name() == "Convert" and reader.get_output_element_type(0) == openvino.Type.f32
    assert result.float_layers == ()  # nothing was to run on integers
    kernels = [op.get_rt_info()["layerType"].astype(str) for op in result.compiled.get_runtime_model().get_ops()]
    assert kernels.count("FullyConnected") == len(GROUPS)


@pytest.mark.parametrize("name", ["shared", "tied"])
def test_a_weight_with_several_readers_is_stored_once_in_few_bits(name: str) -> None:
    net = NETS[name]
    layer = LayerRecipe(weight_bits=4, activation_bits=8)
    result = deployed(quantized(net.build(), net.inputs(), layer, net.batches()))
    assert set(constants(result.model)) == {"u4"}
    assert sum(constants(result.model)["u4"]) == sum(p.numel() for p in net.build().parameters() if p.dim() > 1)
    assert result.float_layers == ()
    assert result.errors(net.inputs(seed=5))[0] < A_TIE


@pytest.mark.skipif("avx512bw" not in FLAGS, reason="needs AVX-512, which oneDNN can use without VNNI")
@pytest.mark.parametrize("isa", ["AVX2", "AVX512_CORE"])
def test_seven_bits_are_exact_where_eight_saturate(isa: str) -> None:
    program = [sys.executable, "-W", "ignore", "-m", "tests.deploy.side_by_side", "7"]
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": isa}
    done = subprocess.run(program, capture_output=True, text=True, env=environment, check=True, cwd=ROOT)
    errors = {kind: float(error) for kind, error in (line.split() for line in done.stdout.splitlines())}
    # without VNNI, OpenVINO's AVX-512 kernel of a transposed convolution is wrong for signed inputs at all bits
    exempt = {"attention", *(TRANSPOSED if isa == "AVX512_CORE" else ())}
    assert len(errors) == len(KINDS) + 1
    assert {kind: error for kind, error in errors.items() if error > ROUNDING and kind not in exempt} == {}


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.words, self.rnn, self.head = nn.Embedding(20, 16), kind(16, 16, batch_first=True), nn.Linear(16, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.rnn(self.words(tokens))[0].mean(dim=1))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU], ids=["lstm", "gru"])
def test_a_network_with_a_recurrent_layer_quantizes_its_other_layers(kind: type[nn.RNNBase]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Recurrent(kind).eval()
    tokens = torch.arange(14).reshape(2, 7)
    result = deployed(quantized(model, tokens, LayerRecipe(weight_bits=4, activation_bits=8)))
    assert set(result.compressed.recipe.layers) == {"words", "head"}
    assert result.precisions["head"] == "i8"
    assert result.errors(tokens)[0] < A_TIE


def test_a_model_without_layers_is_deployed_as_it_is() -> None:
    net = NETS["no_layers"]
    result = deployed(quantized(net.build(), net.inputs(), LayerRecipe(weight_bits=8, activation_bits=8)))
    assert result.compressed.recipe.is_identity
    assert result.errors(net.inputs(seed=5))[0] < ROUNDING
    assert result.precisions == {} and result.float_layers == ()


def test_the_maps_of_attention_are_among_the_layers() -> None:
    assert set(MAPS) <= set(case(8, "symmetric", "auto")[0].compressed.recipe.layers)
