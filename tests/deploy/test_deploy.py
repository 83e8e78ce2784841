"""The deployed model computes what the torch model computes, in integer kernels, in small files."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from torch import nn

from autocompress.compress import CompressedModel, calibrate, compress
from autocompress.deploy import load_openvino, save_openvino, size_bytes, to_openvino, write_onnx
from autocompress.errors import DeployError
from autocompress.graph import inspect_model
from autocompress.measure import compile_model, float_layers
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.task import call, flatten
from tests.nets import NETS

KINDS = {
    "Conv1d": (lambda: nn.Conv1d(16, 32, 3, padding=1), (16, 32)),
    "Conv2d": (lambda: nn.Conv2d(16, 32, 3, padding=1), (16, 14, 14)),
    "depthwise": (lambda: nn.Conv2d(32, 32, 3, padding=1, groups=32), (32, 14, 14)),
    "Linear": (lambda: nn.Linear(64, 32), (64,)),
}


def compressed_layer(kind: str, weight_bits: int, activation_bits: int) -> tuple[CompressedModel, torch.Tensor]:
    make, shape = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.ReLU(), make(), nn.ReLU()).eval()
    x = torch.randn(8, *shape, generator=torch.Generator().manual_seed(1))
    recipe = Recipe(layers={"1": LayerRecipe(weight_bits=weight_bits, activation_bits=activation_bits)})
    compressed = compress(model, inspect_model(model, x[:1]), recipe, x[:1])
    calibrate(compressed.module, [(x, None)])
    return compressed, x


def deployed(compressed: CompressedModel, folder: Path) -> openvino.Model:
    with compressed.export_form() as module:
        return load_openvino(save_openvino(to_openvino(module, compressed.example_input), folder))


def outputs(model: openvino.Model, x: Any) -> list[torch.Tensor]:
    """One sample at a time, at the model's own shapes."""
    compiled = compile_model(model, 1)
    tensors = flatten(x)
    rows = [compiled([t[i : i + 1].numpy() for t in tensors]) for i in range(len(tensors[0]))]
    return [torch.cat([torch.from_numpy(row[port].copy()) for row in rows]) for port in compiled.outputs]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("weight_bits", "activation_bits"), [(32, 32), (8, 8), (7, 8), (4, 8), (2, 8), (7, 6), (7, 4)])
def test_the_deployed_layer_computes_what_torch_computes(
    kind: str, weight_bits: int, activation_bits: int, tmp_path: Path
) -> None:
    compressed, x = compressed_layer(kind, weight_bits, activation_bits)
    with torch.no_grad():
        expected = compressed.module(x)
    (actual,) = outputs(deployed(compressed, tmp_path), x)
    assert torch.allclose(actual, expected, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", ["Conv2d", "depthwise"])
@pytest.mark.parametrize("weight_bits", [8, 7, 4, 2])
def test_a_quantized_convolution_runs_in_an_integer_kernel(kind: str, weight_bits: int, tmp_path: Path) -> None:
    compressed, _ = compressed_layer(kind, weight_bits, 8)
    compiled = compile_model(deployed(compressed, tmp_path), 1)
    kernels = [node.get_rt_info()["primitiveType"].astype(str) for node in compiled.get_runtime_model().get_ops()]
    assert any("conv" in kernel and kernel.endswith("I8") for kernel in kernels), kernels
    assert float_layers(compiled, ["1"]) == ()


def test_a_float_convolution_is_reported_where_integers_were_asked_for(tmp_path: Path) -> None:
    compressed, _ = compressed_layer("Conv2d", 32, 32)
    assert float_layers(compile_model(deployed(compressed, tmp_path), 1), ["1"]) == ("1",)


@pytest.mark.parametrize("kind", ["Conv2d", "Linear"])
def test_four_bits_take_half_the_bytes_of_eight(kind: str, tmp_path: Path) -> None:
    sizes = {}
    for bits in (8, 4):
        compressed, _ = compressed_layer(kind, bits, 8)
        deployed(compressed, tmp_path / str(bits))
        sizes[bits] = (tmp_path / str(bits) / "model.bin").stat().st_size
    assert sizes[4] < 0.6 * sizes[8] + 200


@pytest.mark.parametrize("name", ["residual", "depthwise", "grouped", "conv1d", "concat", "dict", "two_in_two_out"])
def test_a_whole_network_is_deployed_with_its_inputs_and_outputs(name: str, tmp_path: Path) -> None:
    net = NETS[name]
    model, example = net.build(), net.inputs(1)
    graph = inspect_model(model, example)
    bits = LayerRecipe(weight_bits=7, activation_bits=8)
    recipe = Recipe(layers={layer.name: bits for layer in graph.compressible})
    compressed = compress(model, graph, recipe, example)
    calibrate(compressed.module, net.batches())
    ir = deployed(compressed, tmp_path)
    x = net.inputs(4, seed=5)
    with torch.no_grad():
        expected = flatten(call(compressed.module, x))
    for actual, wanted in zip(outputs(ir, x), expected, strict=True):
        assert torch.allclose(actual, wanted, atol=0.05 * float(wanted.abs().max()))
    if isinstance(example, dict):
        assert [port.any_name for port in ir.inputs] == list(example)


@pytest.mark.parametrize("weight_bits", [32, 8, 7, 4])
def test_the_onnx_file_computes_the_same_with_int8_weights(weight_bits: int, tmp_path: Path) -> None:
    net = NETS["residual"]
    model, example = net.build(), net.inputs(1)
    graph = inspect_model(model, example)
    bits = LayerRecipe(weight_bits=weight_bits, activation_bits=8 if weight_bits < 32 else 32)
    compressed = compress(model, graph, Recipe(layers={layer.name: bits for layer in graph.compressible}), example)
    calibrate(compressed.module, net.batches())
    path = tmp_path / "model.onnx"
    with compressed.export_form():
        write_onnx(compressed.freeze_weights(), example, compressed.weight_indices(), path)
    x = net.inputs(1, seed=5)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        expected = compressed.module(x).numpy()
    assert np.allclose(actual, expected, atol=0.05 * np.abs(expected).max())
    int8 = [t for t in onnx.load(str(path)).graph.initializer if t.data_type == onnx.TensorProto.INT8]
    weights = [t for t in int8 if t.name.endswith("_int8")]
    assert len(weights) == (len(graph.compressible) if weight_bits < 32 else 0)


def test_saving_over_a_mapped_model_leaves_it_usable(tmp_path: Path) -> None:
    compressed, x = compressed_layer("Conv2d", 8, 8)
    first = deployed(compressed, tmp_path)
    before = outputs(first, x)[0]
    deployed(compressed, tmp_path)
    assert torch.equal(outputs(first, x)[0], before)
    assert size_bytes(tmp_path / "model.xml") == sum(f.stat().st_size for f in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("none.xml", None, "does not exist", id="missing"),
        pytest.param("alone.xml", "<net/>", "has no alone.bin beside it", id="no weights"),
        pytest.param("bad.onnx", "not a model", "cannot read", id="not a model"),
    ],
)
def test_a_bad_file_is_one_sentence(name: str, content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DeployError, match=message):
        load_openvino(tmp_path / name)
