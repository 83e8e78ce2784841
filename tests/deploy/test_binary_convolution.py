"""Binarized convolutions in OpenVINO: equal to torch, in the binary kernel, and left alone where there is none."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from openvino import opset13 as ops
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autocompress.compress.binarization import (
    ActivationBinarizer,
    BinarizationKind,
    Exportable,
    WeightBinarizer,
    why_not_binary,
)
from autocompress.deploy.binary_convolution import to_binary_convolutions


class Binary(nn.Module):
    """A convolution with binarized input and weight; thresholds of both signs."""

    def __init__(self, layer: nn.Conv2d, kind: BinarizationKind = "xnor", low: float = -1.0) -> None:
        super().__init__()
        self.binarizer = ActivationBinarizer(layer.in_channels)
        self.binarizer.set_range(low, 1.5)
        with torch.no_grad():
            self.binarizer.threshold += 0.2 * torch.randn(self.binarizer.threshold.shape)
        self.layer = layer
        parametrize.register_parametrization(layer, "weight", WeightBinarizer(kind))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(self.binarizer(x))
        return result


def convert(module: nn.Module, inputs: tuple[Tensor, ...]) -> openvino.Model:
    exportables = [m for m in module.eval().modules() if isinstance(m, Exportable)]
    for exportable in exportables:
        exportable.start_export()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = openvino.convert_model(module, example_input=inputs)
    for exportable in exportables:
        exportable.end_export()
    model.reshape({port: list(x.shape) for port, x in zip(model.inputs, inputs, strict=True)})
    return model


def compiled(model: openvino.Model) -> openvino.CompiledModel:
    return openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})


def kernels(model: openvino.CompiledModel) -> dict[str, list[str]]:
    """Kernels of the layers by type of layer."""
    found: dict[str, list[str]] = {}
    for node in model.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        found.setdefault(info["layerType"].astype(str), []).append(info["primitiveType"].astype(str))
    return found


def types(model: openvino.Model) -> list[str]:
    return [op.get_type_name() for op in model.get_ordered_ops()]


def picture(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def assert_close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def assert_equal(model: openvino.CompiledModel, module: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        assert_close(model(x.numpy())[0], module.eval()(x).numpy())


@pytest.fixture(autouse=True)
def same_weights() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def without_filters(layer: nn.Conv2d) -> nn.Conv2d:
    with torch.no_grad():
        layer.weight[1:3] = 0.0
    return layer


LAYERS = [
    pytest.param(nn.Conv2d(32, 16, 3, padding=1), (9, 9), id="plain"),
    pytest.param(nn.Conv2d(64, 40, 1), (5, 7), id="pointwise"),
    pytest.param(nn.Conv2d(8, 5, 3, padding=1), (7, 6), id="few channels"),
    pytest.param(nn.Conv2d(24, 17, 3, padding=1, bias=False), (8, 8), id="odd filters, no bias"),
    pytest.param(nn.Conv2d(40, 100, 3), (6, 5), id="no padding"),
    pytest.param(nn.Conv2d(72, 33, 3, stride=2, padding=1), (9, 10), id="stride"),
    pytest.param(nn.Conv2d(16, 8, 3, stride=(2, 1), padding=(0, 2)), (7, 6), id="uneven stride and padding"),
    pytest.param(nn.Conv2d(16, 8, 3, dilation=2, padding=2), (9, 9), id="dilation"),
    pytest.param(nn.Conv2d(16, 8, 3, dilation=(3, 1), padding=(3, 1)), (9, 4), id="uneven dilation"),
    pytest.param(nn.Conv2d(16, 8, 5, padding=2), (6, 2), id="5x5 on two columns"),
    pytest.param(nn.Conv2d(16, 8, 7, padding=2, stride=2), (14, 13), id="7x7"),
    pytest.param(nn.Conv2d(16, 8, (9, 1), padding=(4, 0)), (12, 3), id="a column"),
    pytest.param(nn.Conv2d(16, 8, (1, 4), padding="same"), (3, 9), id="same padding of an even kernel"),
    pytest.param(nn.Conv2d(16, 8, 3, padding="valid"), (3, 3), id="one pixel"),
    pytest.param(nn.Conv2d(16, 1, 3, padding=1), (1, 1), id="one filter on one pixel"),
    pytest.param(without_filters(nn.Conv2d(16, 4, 3, padding=1)), (5, 5), id="filters of zeros"),
]


class SideBySide(nn.Module):
    """Binary layers, each with an input and an output of its own, so that one conversion serves all cases."""

    def __init__(self, layers: list[nn.Conv2d]) -> None:
        super().__init__()
        self.cases = nn.ModuleList([Binary(layer) for layer in layers])

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(case(x) for case, x in zip(self.cases, inputs, strict=True))


@dataclass
class Deployed:
    n_rewritten: int
    kernels: dict[str, list[str]]
    outputs: list[Any]
    expected: list[Any]


def deploy(cases: list[Any]) -> Deployed:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = SideBySide([case.values[0] for case in cases])
    inputs = tuple(picture(2, case.values[0].in_channels, *case.values[1]) for case in cases)
    model = convert(module, inputs)
    n_rewritten = to_binary_convolutions(model)
    deployed = compiled(model)
    with torch.no_grad():
        expected = [y.numpy() for y in module(*inputs)]
    found = deployed([x.numpy() for x in inputs])
    return Deployed(n_rewritten, kernels(deployed), [found[port] for port in deployed.outputs], expected)


@pytest.fixture(scope="module")
def suitable() -> Deployed:
    return deploy(LAYERS)


@pytest.fixture(scope="module")
def unsuitable() -> Deployed:
    return deploy(UNSUITABLE)


def ids(cases: list[Any]) -> Any:
    return pytest.mark.parametrize("index", [pytest.param(i, id=case.id) for i, case in enumerate(cases)])


@ids(LAYERS)
def test_a_binarized_layer_equals_torch(suitable: Deployed, index: int) -> None:
    assert_close(suitable.outputs[index], suitable.expected[index])


def test_every_suitable_layer_runs_in_the_binary_kernel(suitable: Deployed) -> None:
    assert suitable.n_rewritten == len(LAYERS)
    assert [kernel.endswith("u1") for kernel in suitable.kernels["BinaryConvolution"]] == [True] * len(LAYERS)
    assert "Convolution" not in suitable.kernels


UNSUITABLE = [
    pytest.param(nn.Conv2d(16, 8, 5, padding=2), (4, 1), id="fewer columns than padding"),
    pytest.param(nn.Conv2d(12, 8, 3, padding=1), (6, 6), id="channels not in whole bytes"),
    pytest.param(nn.Conv2d(16, 16, 3, padding=1, groups=2), (6, 6), id="groups"),
    pytest.param(nn.Conv2d(8, 8, 7, padding=3), (9, 9), id="much padding"),
    pytest.param(nn.Conv2d(8, 8, 9), (9, 9), id="a wide kernel"),
]


@ids(UNSUITABLE)
def test_what_the_kernel_cannot_do_equals_torch(unsuitable: Deployed, index: int) -> None:
    assert_close(unsuitable.outputs[index], unsuitable.expected[index])


def test_what_the_kernel_cannot_do_keeps_its_integer_convolution(unsuitable: Deployed) -> None:
    assert unsuitable.n_rewritten == 0
    assert "BinaryConvolution" not in unsuitable.kernels
    ungrouped = unsuitable.kernels["Convolution"]
    assert ungrouped and all(kernel.lower().endswith(("i8", "u8")) for kernel in ungrouped)


def test_layers_have_a_reason_exactly_where_the_pass_leaves_them() -> None:
    assert [why_not_binary(case.values[0]) for case in LAYERS] == [""] * len(LAYERS)
    assert all(why_not_binary(case.values[0]) for case in UNSUITABLE[1:])  # the first is too small, not its layer


def test_a_dynamic_batch_keeps_an_integer_convolution_that_equals_torch() -> None:
    module = Binary(nn.Conv2d(16, 8, 3, padding=1))
    model = convert(module, (picture(1, 16, 6, 6),))
    model.reshape([-1, 16, 6, 6])
    assert to_binary_convolutions(model) == 0
    deployed = compiled(model)
    for n in (1, 3):
        assert_equal(deployed, module, picture(n, 16, 6, 6))


class Block(nn.Module):
    """Binary layers in a row with batch norms of both signs, a residual sum and a shared binarizer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Binary(nn.Conv2d(16, 24, 3, padding=1)), Binary(nn.Conv2d(24, 16, 3), "dorefa", 0.0)
        self.norms = nn.ModuleList([nn.BatchNorm2d(24), nn.BatchNorm2d(16)])
        for norm in self.norms:
            nn.init.normal_(norm.weight)  # type: ignore[arg-type]
            nn.init.normal_(norm.bias)  # type: ignore[arg-type]
        self.third, self.fourth = Binary(nn.Conv2d(16, 16, 3, padding=1)), Binary(nn.Conv2d(16, 16, 1))
        self.fourth.binarizer = self.third.binarizer

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](self.first(x)).relu()
        x = self.norms[1](self.second(x)).relu()
        return x + self.third(x).relu() + self.fourth(x)


def test_binary_layers_in_a_row_and_beside_each_other_equal_torch() -> None:
    module, x = Block().eval(), picture(2, 16, 8, 8)
    model = convert(module, (x,))
    assert to_binary_convolutions(model) == 4
    assert types(model).count("FakeQuantize") == 3  # the shared binarizer stays shared
    assert "Greater" not in types(model)
    deployed = compiled(model)
    assert len(kernels(deployed)["BinaryConvolution"]) == 4
    assert_equal(deployed, module, x)


def test_the_name_of_the_convolution_and_of_its_output_stay() -> None:
    model = convert(Binary(nn.Conv2d(16, 4, 3, bias=False)), (picture(1, 16, 5, 5),))
    (convolution,) = (op for op in model.get_ordered_ops() if op.get_type_name() == "Convolution")
    name, outputs = convolution.get_friendly_name(), convolution.output(0).get_names()
    assert name == "__module.layer/aten::_convolution/Convolution"
    convolution.output(0).get_tensor().set_names(outputs | {"mine"})
    to_binary_convolutions(model)
    last = model.get_results()[0].input_value(0)
    assert last.get_node().get_friendly_name() == name
    assert last.get_names() == outputs | {"mine"}
    binary = next(op for op in model.get_ordered_ops() if op.get_type_name() == "BinaryConvolution")
    assert binary.get_friendly_name() == f"{name}/BinaryConvolution"
    assert_compiles_with_output(model, "mine")


def assert_compiles_with_output(model: openvino.Model, name: str) -> None:
    assert name in compiled(model).output(0).get_names()


def comparison(x: openvino.Node, thresholds: Any, scales: Any) -> openvino.Node:
    above = ops.greater(x, ops.constant(np.asarray(thresholds, np.float32)))
    return ops.multiply(ops.constant(np.asarray(scales, np.float32)), ops.convert(above, "f32"))


def signs() -> Any:
    return np.random.default_rng(0).choice([-0.5, 0.5], (4, 8, 1, 1)).astype(np.float32)


def three_valued() -> Any:
    weight = signs()
    weight[1, 2] = 0.0
    return weight


def two_sizes() -> Any:
    weight = signs()
    weight[1, 2] *= 1.001
    return weight


CHANNELS = np.linspace(-1, 1, 8).reshape(1, 8, 1, 1)
GRAPHS = [
    pytest.param(lambda x: comparison(x, CHANNELS, 0.7), signs, 1, id="thresholds a channel"),
    pytest.param(lambda x: comparison(x, CHANNELS[0], [[[[0.7]]]]), signs, 1, id="thresholds of rank 3"),
    pytest.param(lambda x: comparison(x, 0.1, -0.7), signs, 1, id="one threshold, a negative scale"),
    pytest.param(lambda x: comparison(x, np.zeros((1, 8, 3, 1)), 0.7), signs, 0, id="thresholds a row"),
    pytest.param(lambda x: comparison(x, CHANNELS, CHANNELS), signs, 0, id="scales a channel"),
    pytest.param(lambda x: comparison(x, CHANNELS, 0.0), signs, 0, id="scale zero"),
    pytest.param(lambda x: ops.add(comparison(x, 0.0, 2.0), np.float32(-1)), signs, 0, id="plus and minus one"),
    pytest.param(lambda x: ops.multiply(comparison(x, 0.0, 1.0), x), signs, 0, id="multiplied by another tensor"),
    pytest.param(lambda x: x, signs, 0, id="a float input"),
    pytest.param(lambda x: comparison(x, CHANNELS, 0.7), three_valued, 0, id="a weight of zero"),
    pytest.param(lambda x: comparison(x, CHANNELS, 0.7), two_sizes, 0, id="two magnitudes in a filter"),
]


@pytest.mark.parametrize(("inputs", "weight", "n_rewritten"), GRAPHS)
def test_only_inputs_and_weights_of_two_values_are_rewritten(inputs: Any, weight: Any, n_rewritten: int) -> None:
    def model() -> openvino.Model:
        x = ops.parameter([1, 8, 3, 4], np.float32)
        return openvino.Model([ops.convolution(inputs(x), weight(), [1, 1], [1, 1], [1, 1], [1, 1])], [x], "m")

    rewritten, x = model(), picture(1, 8, 3, 4).numpy()
    assert to_binary_convolutions(rewritten) == n_rewritten
    np.testing.assert_allclose(compiled(rewritten)(x)[0], compiled(model())(x)[0], rtol=0, atol=1e-5)


def binarized(n_channels: int, n_filters: int) -> openvino.Model:
    x = ops.parameter([1, n_channels, 5, 5], np.float32)
    weight = np.random.default_rng(0).choice([-0.5, 0.5], (n_filters, n_channels, 3, 3)).astype(np.float32)
    y = ops.convolution(comparison(x, 0.1, 0.7), weight, [1, 1], [1, 1], [1, 1], [1, 1])
    return openvino.Model([y], [x], "m")


def test_a_saved_and_loaded_model_is_the_same_and_stores_a_bit_a_weight(tmp_path: Path) -> None:
    model, x = binarized(64, 64), picture(1, 64, 5, 5).numpy()
    expected = compiled(model)(x)[0]
    to_binary_convolutions(model)
    openvino.save_model(model, tmp_path / "model.xml", compress_to_fp16=False)
    assert (tmp_path / "model.bin").stat().st_size < 64 * 64 * 9 / 8 + 2000
    loaded = compiled(openvino.Core().read_model(tmp_path / "model.xml"))
    assert len(kernels(loaded)["BinaryConvolution"]) == 1
    assert_close(loaded(x)[0], expected)


def test_running_the_pass_twice_changes_nothing() -> None:
    model = binarized(16, 4)
    assert to_binary_convolutions(model) == 1
    before = types(model)
    assert to_binary_convolutions(model) == 0
    assert types(model) == before
