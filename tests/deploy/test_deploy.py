"""Whole networks, deployed: equal to torch over the disk, at any batch, with their names; files that replace files."""

import time
from functools import cache
from pathlib import Path

import pytest
import torch
from openvino.tools.ovc.telemetry_utils import init_ovc_telemetry
from torch import Tensor, nn

from autocompress.deploy import load_openvino, save_openvino, size_bytes, to_openvino
from autocompress.errors import DeployError
from autocompress.latency import compile_model
from autocompress.recipe import LayerRecipe
from tests.deploy.deployed import Deployed, deployed, quantized
from tests.nets import NETS
from tests.processor import HAS_VNNI

FLOAT = LayerRecipe()
INTEGER = LayerRecipe(weight_bits=7, activation_bits=8)
A_TIE = 0.05  # of the largest output: one step of one value inside the network


@cache
def whole(name: str, layer: LayerRecipe = INTEGER, *, dynamic_batch: bool = False) -> Deployed:
    net = NETS[name]
    return deployed(quantized(net.build(), net.inputs(), layer, net.batches()), dynamic_batch=dynamic_batch)


@pytest.mark.parametrize("name", NETS)
def test_a_whole_network_computes_what_torch_computes(name: str) -> None:
    result = whole(name)
    assert max(result.errors(NETS[name].inputs(seed=5))) < A_TIE
    assert result.float_layers == ()


@pytest.mark.parametrize("name", ["residual", "encoder"])
def test_a_float_network_computes_the_same_but_for_rounding(name: str) -> None:
    assert max(whole(name, FLOAT).errors(NETS[name].inputs(seed=5))) < 1e-5


@pytest.mark.parametrize("name", ["residual", "depthwise", "conv1d", "encoder", "upsampling", "tied"])
def test_a_network_with_a_dynamic_batch_runs_at_every_batch_in_the_same_kernels(name: str) -> None:
    if name == "upsampling" and not HAS_VNNI:
        pytest.skip("at a dynamic batch this processor has no integer kernel for transposed convolutions")
    result = whole(name, dynamic_batch=True)
    for port in result.model.inputs:
        shape = port.partial_shape
        assert shape[0].is_dynamic and all(side.is_static for side in list(shape)[1:])
    for n in (1, 3, 8, 1):
        assert max(result.errors(NETS[name].inputs(n, seed=4))) < A_TIE
    assert result.float_layers == ()
    static = whole(name)
    assert result.precisions | static.precisions == result.precisions


@pytest.mark.parametrize("name", ["dict", "two_in_two_out"])
def test_every_input_gets_a_dynamic_batch(name: str) -> None:
    result = whole(name, dynamic_batch=True)
    assert all(port.partial_shape[0].is_dynamic for port in [*result.model.inputs, *result.model.outputs])
    for n in (1, 5):
        assert max(result.errors(NETS[name].inputs(n, seed=4))) < A_TIE


def test_weights_in_groups_run_at_every_batch() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16)).eval()
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    layer = LayerRecipe(weight_bits=4, weight_scheme="asymmetric", group_size=32)
    result = deployed(quantized(model, x[:1], layer), dynamic_batch=True)
    for n in (1, 3, 8):
        assert result.errors(x[:n])[0] < 2e-2


def test_the_default_is_static_at_the_shapes_of_the_example() -> None:
    assert [list(port.shape) for port in whole("two_in_two_out").model.inputs] == [[1, 6], [1, 4]]


@pytest.mark.parametrize(
    ("name", "inputs"), [("dict", ["image", "numbers"]), ("two_in_two_out", ["x", "y"]), ("tied", ["tokens"])]
)
def test_inputs_have_the_names_of_the_parameters(name: str, inputs: list[str], tmp_path: Path) -> None:
    loaded = load_openvino(save_openvino(whole(name).model, tmp_path))
    assert [port.any_name for port in loaded.inputs] == inputs


@pytest.mark.parametrize("layer", [INTEGER, LayerRecipe(weight_bits=3, activation_bits=6), FLOAT], ids=str)
def test_the_saved_model_computes_bit_for_bit_the_same(layer: LayerRecipe, tmp_path: Path) -> None:
    result = whole("depthwise", layer)
    x = NETS["depthwise"].inputs(seed=5)
    loaded = compile_model(load_openvino(save_openvino(result.model, tmp_path)), 1)
    assert torch.equal(torch.from_numpy(loaded(x.numpy())[0]), result.outputs(x)[0])


def test_exporting_leaves_the_compressed_model_as_it_was() -> None:
    net = NETS["residual"]
    compressed = quantized(net.build(), net.inputs(), INTEGER, net.batches())
    before, x = compressed.state(), net.inputs(4, seed=5)
    with torch.no_grad():
        expected = compressed.module(x)
    first, second = deployed(compressed), deployed(compressed)
    assert all(torch.equal(tensor, before[name]) for name, tensor in compressed.state().items())
    with torch.no_grad():
        assert torch.equal(compressed.module(x), expected)
    assert torch.equal(first.outputs(x[:1])[0], second.outputs(x[:1])[0])


def test_a_deployed_model_follows_later_training() -> None:
    net = NETS["residual"]
    compressed = quantized(net.build(), net.inputs(), INTEGER, net.batches())
    first = deployed(compressed)
    with torch.no_grad():
        for parameter in compressed.module.parameters():
            parameter += 0.05
    second, x = deployed(compressed), net.inputs(seed=5)
    assert second.errors(x)[0] < A_TIE < first.errors(x)[0]


class Unconvertible(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy()[::-1].copy()) if torch.jit.is_tracing() and 1 // 0 else x


def test_a_model_that_openvino_cannot_convert_is_one_sentence() -> None:
    with pytest.raises(DeployError, match=r"OpenVINO cannot convert the model: .*; check that") as error:
        to_openvino(Unconvertible(), torch.zeros(1, 4))
    assert "\n" not in str(error.value)


def test_saving_over_a_mapped_model_leaves_it_usable(tmp_path: Path) -> None:
    result = whole("residual")
    x = NETS["residual"].inputs(seed=5)
    mapped = compile_model(load_openvino(save_openvino(result.model, tmp_path)), 1)
    before = mapped(x.numpy())[0].copy()
    save_openvino(whole("residual", LayerRecipe(weight_bits=2, activation_bits=8)).model, tmp_path)
    assert (mapped(x.numpy())[0] == before).all()
    assert size_bytes(tmp_path / "model.xml") == sum(file.stat().st_size for file in tmp_path.iterdir())


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


def test_a_conversion_reports_nothing_and_forks_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    init_ovc_telemetry("another tool").consent = True
    forked: list[object] = []
    monkeypatch.setattr("multiprocessing.Process.start", forked.append)
    net = NETS["mlp"]
    to_openvino(net.build(), net.inputs())
    time.sleep(0.2)  # messages are sent by a thread
    assert not forked and not init_ovc_telemetry().consent
