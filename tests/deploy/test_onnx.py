"""The ONNX file stores integers, and computes in onnxruntime and in OpenVINO what torch computes."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from autocompress.compress import CompressedModel, calibrate, compress
from autocompress.deploy.onnx_export import write_onnx
from autocompress.deploy.onnx_weights import StoredWeight
from autocompress.errors import DeployError
from autocompress.graph import inspect_model
from autocompress.recipe import Calibration, LayerRecipe, Recipe
from autocompress.task import call, flatten
from tests.nets import NETS, TwoInTwoOut
from tests.processor import HAS_VNNI

IMAGE, SEQUENCE = (8, 6, 6), (5, 16)
LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(8, 16, 3), (8, 9)),
    "conv2d": (lambda: nn.Conv2d(8, 16, 3), IMAGE),
    "conv3d": (lambda: nn.Conv3d(2, 8, 2), (2, 4, 4, 4)),
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, groups=8), IMAGE),
    "grouped": (lambda: nn.Conv2d(8, 16, 3, groups=2), IMAGE),
    "transposed": (lambda: nn.ConvTranspose2d(8, 12, 2, stride=2), IMAGE),
    "grouped_transposed": (lambda: nn.ConvTranspose2d(8, 12, 2, groups=2), IMAGE),
    "conv_norm": (lambda: nn.Sequential(nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16)), IMAGE),
    "transposed_norm": (lambda: nn.Sequential(nn.ConvTranspose2d(8, 12, 2), nn.BatchNorm2d(12)), IMAGE),
    "linear_norm": (lambda: nn.Sequential(nn.Linear(16, 12), nn.BatchNorm1d(12)), (16,)),
    "rows": (lambda: nn.Linear(16, 12), (16,)),
    "matrix": (lambda: nn.Linear(16, 12), SEQUENCE),
    "matrix_without_bias": (lambda: nn.Linear(16, 128, bias=False), SEQUENCE),
    "large": (lambda: nn.Linear(128, 256), (3, 128)),
    "embedding": (lambda: nn.Embedding(20, 16), ()),
}


class Branches(nn.Module):
    """Every kind of layer on an input of its own, so that no rounding of one reaches another."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({name: make() for name, (make, _) in LAYERS.items()})

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(x) for layer, x in zip(self.layers.values(), inputs, strict=True))


def branches() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Branches().eval()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                nn.init.uniform_(module.weight, -1.5, 1.5)  # a negative factor turns the grid around
                nn.init.normal_(module.bias)
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 1.5)
    return model


def inputs(n: int, seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(n, *shape, generator=generator) if shape else torch.randint(0, 20, (n, 7), generator=generator)
        for _, shape in LAYERS.values()
    )


def kind_of(name: str) -> str:
    return name.split(".")[1]


def compressed_branches(recipe: LayerRecipe, calibration: Calibration | None = None) -> CompressedModel:
    """Embeddings get float inputs, and only Linear layers get groups."""
    model, example = branches(), inputs(1, seed=1)
    graph = inspect_model(model, example)
    layers = {}
    for layer in graph.compressible:
        fits = recipe.model_copy(update={"group_size": recipe.group_size if layer.kind == "Linear" else 0})
        layers[layer.name] = fits.model_copy(update={"activation_bits": 32}) if layer.weights_only else fits
    given = Recipe(layers=layers, calibration=calibration or Calibration())
    compressed = compress(model, graph, given, example)
    calibrate(compressed.module, [(inputs(16, seed=2), None)])
    return compressed


def exported(compressed: CompressedModel, path: Path, **options: Any) -> dict[str, StoredWeight]:
    with compressed.export_form():
        weights = compressed.integer_weights()
        return write_onnx(compressed.freeze_weights(), compressed.example_input, weights, path, **options)


def in_torch(compressed: CompressedModel, x: Any) -> list[np.ndarray]:
    with compressed.export_form() as module, torch.no_grad():
        return [tensor.numpy() for tensor in flatten(call(module, x))]


def in_onnxruntime(path: Path, x: Any, *, optimized: bool = True) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [argument.name for argument in session.get_inputs()]
    return session.run(None, dict(zip(names, (t.numpy() for t in flatten(x)), strict=True)))


def in_openvino(path: Path, x: Any) -> list[np.ndarray]:
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
    result = compiled([tensor.numpy() for tensor in flatten(x)])
    return [result[port] for port in compiled.outputs]


def differences(actual: list[np.ndarray], expected: list[np.ndarray]) -> dict[str, float]:
    """Largest difference of each branch, as a fraction of its largest output."""
    pairs = zip(LAYERS, actual, expected, strict=True)
    return {name: float(np.abs(a - e).max() / np.abs(e).max()) for name, a, e in pairs}


SYMMETRIC, ASYMMETRIC = "symmetric", "asymmetric"
RECIPES = {
    "W8": (LayerRecipe(weight_bits=8, activation_bits=8), {"INT8"}),
    "W8 asymmetric": (LayerRecipe(weight_bits=8, activation_bits=8, weight_scheme=ASYMMETRIC), {"UINT8", "INT8"}),
    "W6 asymmetric": (LayerRecipe(weight_bits=6, activation_bits=8, weight_scheme=ASYMMETRIC), {"INT8"}),
    "W4": (LayerRecipe(weight_bits=4, activation_bits=8), {"INT4"}),
    "W4 asymmetric": (LayerRecipe(weight_bits=4, activation_bits=8, weight_scheme=ASYMMETRIC), {"UINT4", "INT4"}),
    "W3": (LayerRecipe(weight_bits=3, activation_bits=8), {"INT4"}),
    "W8 per tensor": (LayerRecipe(weight_bits=8, activation_bits=8, weight_granularity="per_tensor"), {"INT8"}),
    "W4 asymmetric per tensor": (
        LayerRecipe(weight_bits=4, activation_bits=8, weight_granularity="per_tensor", weight_scheme=ASYMMETRIC),
        {"UINT4", "INT4"},
    ),
    "W4 only in groups": (LayerRecipe(weight_bits=4, group_size=8), {"INT4"}),
    "W4 only asymmetric in groups": (
        LayerRecipe(weight_bits=4, group_size=8, weight_scheme=ASYMMETRIC),
        {"UINT4", "INT4"},
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_kind_of_layer_is_stored_as_integers_and_computes_the_same(name: str, tmp_path: Path) -> None:
    recipe, types = RECIPES[name]
    path = tmp_path / "model.onnx"
    compressed, x = compressed_branches(recipe), inputs(1, seed=3)
    stored = exported(compressed, path)
    assert {kind_of(layer) for layer in stored} == set(LAYERS)
    assert {layer: weight for layer, weight in stored.items() if weight.type_name not in types} == {}
    in_file = stored_types(path)
    for layer, weight in stored.items():
        assert in_file[layer] == weight.type_name, f"{layer} is said to be {weight.type_name}"
    expected = in_torch(compressed, x)
    exact = differences(in_onnxruntime(path, x, optimized=False), expected)
    assert {layer: d for layer, d in exact.items() if d > 1e-5} == {}
    # kernels for float inputs round them to 8 bits of their own; those for 8-bit weights saturate on some processors
    inexact = 0.02 if recipe.activation_bits == 32 else (0.3 if HAS_VNNI else 1.0) if recipe.weight_bits == 8 else 1e-3
    fused = differences(in_onnxruntime(path, x), expected)
    assert {layer: d for layer, d in fused.items() if d > inexact} == {}
    other = differences(in_openvino(path, x), expected)
    assert {layer: d for layer, d in other.items() if d > inexact} == {}


def stored_types(path: Path) -> dict[str, str]:
    """Types of the tensors of the size of each layer's weight, found without the names that the export gives."""
    shapes = {name: tuple(m.weight.shape) for name, m in branches().named_modules() if hasattr(m, "weight")}
    graph = onnx.load(str(path)).graph
    found = {}
    for name, shape in shapes.items():
        mine = [t for t in graph.initializer if f".{name}.weight" in t.name]
        full = [t for t in mine if tuple(t.dims) in (shape, shape[::-1])]
        if "norm.1" not in name:
            assert len(full) == 1, f"{name} is stored {len(full)} times"
            found[name] = TensorProto.DataType.Name(full[0].data_type)
            assert len(full[0].raw_data) == np.prod(shape) // (2 if "4" in found[name] else 1)
    return found


def test_the_stored_integers_are_those_of_the_grid(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    compressed = compressed_branches(LayerRecipe(weight_bits=8, activation_bits=8))
    exported(compressed, path)
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer}
    indices = {name: weight.indices.numpy() for name, weight in compressed.integer_weights().items()}
    conv = next(a for n, a in tensors.items() if "conv2d.weight" in n and a.ndim == 4)
    assert np.array_equal(conv, indices["layers.conv2d"])
    matrix = next(a for n, a in tensors.items() if "large.weight" in n and a.ndim == 2)
    assert np.array_equal(matrix.T, indices["layers.large"])
    normed = next(a for n, a in tensors.items() if "conv_norm.0.weight" in n and a.ndim == 4)
    signs = np.sign(branches().layers["conv_norm"][1].weight.detach().numpy()).reshape(-1, 1, 1, 1)
    assert np.array_equal(normed * signs, indices["layers.conv_norm.0"])


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(LayerRecipe(weight_bits=7, activation_bits=6), id="6 bits"),
        pytest.param(LayerRecipe(weight_bits=7, activation_bits=8, activation_scheme=SYMMETRIC), id="symmetric"),
        pytest.param(
            LayerRecipe(weight_bits=7, activation_bits=8, activation_granularity="per_channel"), id="channels"
        ),
        pytest.param(
            LayerRecipe(weight_bits=4, activation_bits=5, activation_granularity="per_channel"), id="5 bits, channels"
        ),
    ],
)
def test_inputs_of_every_kind_compute_the_same(recipe: LayerRecipe, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    smoothed = Calibration(smoothing=0.5)
    compressed, x = compressed_branches(recipe, smoothed), inputs(1, seed=3)
    exported(compressed, path)
    expected = in_torch(compressed, x)
    exact = differences(in_onnxruntime(path, x, optimized=False), expected)
    assert {layer: d for layer, d in exact.items() if d > 1e-5} == {}
    fused = differences(in_onnxruntime(path, x), expected)
    assert {layer: d for layer, d in fused.items() if d > 0.02} == {}
    assert {layer: d for layer, d in differences(in_openvino(path, x), expected).items() if d > 1e-3} == {}


def chain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(),
        nn.Flatten(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 5, bias=False),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("bits", [8, 4])
def test_layers_with_integer_inputs_run_in_integer_kernels(bits: int, tmp_path: Path) -> None:
    path, x = tmp_path / "model.onnx", torch.randn(16, *IMAGE, generator=torch.Generator().manual_seed(1))
    model, recipe = chain(), LayerRecipe(weight_bits=bits, activation_bits=8)
    graph = inspect_model(model, x[:1])
    compressed = compress(model, graph, Recipe(layers={layer.name: recipe for layer in graph.compressible}), x[:1])
    calibrate(compressed.module, [(x, None)])
    exported(compressed, path)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    assert (operators.count("QLinearConv"), operators.count("QGemm")) == (2, 2)
    runtime = openvino.Core().compile_model(str(path), "CPU").get_runtime_model()
    infos = [node.get_rt_info() for node in runtime.get_ops()]
    layers = [info for info in infos if info["layerType"].astype(str) in ("Convolution", "FullyConnected")]
    kernels = [info["primitiveType"].astype(str) for info in layers]
    assert len(kernels) == 4 and all(kernel.endswith("I8") for kernel in kernels), kernels


def test_rows_of_an_embedding_are_looked_up_as_integers(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    exported(compressed_net("tied", LayerRecipe(weight_bits=8)), path)
    graph = onnx.load(str(path)).graph
    tables = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    types = {t.data_type for t in graph.initializer if t.name in tables and t.dims[-1] > 1}
    assert types == {TensorProto.INT8}


@pytest.mark.parametrize("name", ["encoder", "tied", "weight_norm"])
def test_a_whole_network_computes_the_same(name: str, tmp_path: Path) -> None:
    net, path = NETS[name], tmp_path / "model.onnx"
    compressed = compressed_net(name, LayerRecipe(weight_bits=4, activation_bits=8))
    stored = exported(compressed, path)
    assert {weight.type_name for weight in stored.values()} == {"INT4"}
    x = net.inputs(1, seed=5)
    (expected,) = in_torch(compressed, x)
    (actual,) = in_onnxruntime(path, x)
    assert np.allclose(actual, expected, atol=0.05 * np.abs(expected).max())


def compressed_net(name: str, recipe: LayerRecipe) -> CompressedModel:
    net = NETS[name]
    model, example = net.build(), net.inputs(1)
    graph = inspect_model(model, example)
    only = recipe.model_copy(update={"activation_bits": 32})
    layers = {layer.name: only if layer.weights_only else recipe for layer in graph.compressible}
    compressed = compress(model, graph, Recipe(layers=layers), example)
    calibrate(compressed.module, net.batches())
    return compressed


@pytest.mark.parametrize("name", ["dict", "encoder"])
def test_a_dynamic_batch_runs_with_any_number_of_samples(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    compressed = compressed_net(name, LayerRecipe(weight_bits=7, activation_bits=8))
    exported(compressed, path, dynamic_batch=True)
    for value in onnx.load(str(path)).graph.input:
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    for n in (1, 5):
        x = NETS[name].inputs(n, seed=5)
        for run in (in_onnxruntime, in_openvino):
            for actual, expected in zip(run(path, x), in_torch(compressed, x), strict=True):
                assert np.allclose(actual, expected, atol=0.05 * np.abs(expected).max())


def test_a_layer_that_is_never_called_is_said_not_to_be_in_the_file(tmp_path: Path) -> None:
    net = NETS["never_called"]
    model, example = net.build(), net.inputs(1)
    graph = inspect_model(model, example)
    compressed = compress(model, graph, Recipe(layers={"used": LayerRecipe(weight_bits=8)}), example)
    with compressed.export_form():
        weights = {"unused": compressed.integer_weights()["used"]}
        stored = write_onnx(compressed.freeze_weights(), example, weights, tmp_path / "model.onnx")
    assert stored["unused"].type_name == "FLOAT" and "no weight" in stored["unused"].reason


def test_a_weight_that_left_its_grid_stays_float_and_is_said_to(tmp_path: Path) -> None:
    norm, x = nn.BatchNorm2d(12), torch.randn(1, 8, 4, 4)
    nn.init.uniform_(norm.weight, 0.5, 1.5)  # scales slices of the weight along two axes
    model = nn.Sequential(nn.ConvTranspose2d(8, 12, 2, groups=2), norm).eval()
    compressed = compress(model, inspect_model(model, x), Recipe(layers={"0": LayerRecipe(weight_bits=8)}), x)
    stored = exported(compressed, tmp_path / "model.onnx")
    assert stored["0"].type_name == "FLOAT" and "left its grid" in stored["0"].reason
    (expected,), (actual,) = in_torch(compressed, x), in_onnxruntime(tmp_path / "model.onnx", x)
    assert np.allclose(actual, expected, atol=1e-5)


class DataDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


class OneSample(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, 3) * 2


@pytest.mark.parametrize(
    ("model", "example", "dynamic", "message"),
    [
        pytest.param(DataDependent(), torch.ones(1, 3), False, "cannot follow the model: .*; check", id="data"),
        pytest.param(OneSample(), torch.ones(2, 3), True, "fixes that of x to 2", id="fixed batch"),
        pytest.param(TwoInTwoOut(), (torch.ones(1, 6), torch.ones(3, 4)), True, "x: 1, y: 3", id="two batches"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(
    model: nn.Module, example: Any, dynamic: bool, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DeployError, match=message) as caught:
        write_onnx(model.eval(), example, {}, tmp_path / "model.onnx", dynamic_batch=dynamic)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
