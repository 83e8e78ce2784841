"""`autocompress measure`: verdicts on two models, and one sentence for every bad input."""

import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper
from openvino import PartialShape
from openvino import opset13 as ops

from autocompress.latency import LatencySettings, PairedLatency, paired_latency, read_model
from autocompress.search import two_models
from tests.commands import Command


@pytest.fixture
def measure(command: Command) -> Command:
    """Runs `autocompress measure`."""
    return partial(command, "measure")


def written(
    path: Path, shape: list[int] | PartialShape, n_layers: int = 1, name: str = "x", kind: type = np.float32
) -> Path:
    """A chain of 1x1 convolutions over 16 channels, or the input as it is for other types."""
    x = ops.parameter(shape, kind)
    x.output(0).get_tensor().set_names({name})
    y: openvino.Node = x
    for _ in range(n_layers if kind is np.float32 else 0):
        y = ops.convolution(
            y, ops.constant(np.eye(16, dtype=np.float32)[..., None, None]), *([1, 1], [0, 0], [0, 0], [1, 1])
        )
    openvino.save_model(openvino.Model([ops.relu(y)], [x]), path, compress_to_fp16=False)
    return path


def with_two_inputs(path: Path, names: tuple[str, str]) -> Path:
    ports = [ops.parameter([1, 4], np.float32) for _ in names]
    for port, name in zip(ports, names, strict=True):
        port.output(0).get_tensor().set_names({name})
    openvino.save_model(openvino.Model([ops.add(*ports)], ports), path, compress_to_fp16=False)
    return path


def onnx_file(path: Path, operation: str, domain: str = "") -> Path:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 16, 8, 8]) for name in "xy")
    graph = helper.make_graph([helper.make_node(operation, ["x"], ["y"], domain=domain)], "graph", [x], [y])
    versions = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=versions), path)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder with a model of every kind, good and bad."""
    folder = tmp_path_factory.mktemp("models")
    good = written(folder / "good.xml", [1, 16, 8, 8])
    written(folder / "long.xml", [1, 16, 8, 8], n_layers=12)
    written(folder / "alias.xml", [1, 16, 8, 8], name="image")
    written(folder / "wide.xml", [1, 16, 9, 9])
    written(folder / "integer.xml", [1, 16, 8, 8], kind=np.int32)
    written(folder / "batch.xml", PartialShape([-1, 16, 8, 8]))
    written(folder / "image.xml", PartialShape([-1, 16, 8, -1]))
    written(folder / "rank.xml", PartialShape.dynamic(), n_layers=0)
    with_two_inputs(folder / "two.xml", ("a", "b"))
    with_two_inputs(folder / "swapped.xml", ("b", "a"))
    onnx_file(folder / "relu.onnx", "Relu")
    onnx_file(folder / "own.onnx", "Frobnicate", "com.mine")
    text = good.read_text()
    damaged = {
        "half": text[: len(text) // 2],
        "other": "<net/>",
        "text": "hello",
        "empty": "",
        "unknown": text.replace('type="ReLU"', 'type="Frobnicate"'),
    }
    for name, content in damaged.items():
        (folder / f"{name}.xml").write_text(content)
        shutil.copy(good.with_suffix(".bin"), folder / f"{name}.bin")
    (folder / "alone.xml").write_text(text)
    (folder / "short.xml").write_text(text)
    (folder / "short.bin").write_bytes(b"12")
    (folder / "text.onnx").write_text("hello")
    (folder / "empty.onnx").write_text("")
    (folder / "model.pt").write_text("hello")
    np.savez(folder / "right.npz", x=np.ones((1, 16, 8, 8), np.float32))
    np.savez(folder / "named.npz", z=np.ones((1, 16, 8, 8), np.float32))
    np.savez(folder / "shaped.npz", x=np.ones((1, 16, 8, 7), np.float32))
    np.savez(folder / "typed.npz", x=np.ones((1, 16, 8, 8)))
    (folder / "text.npz").write_text("hello")
    np.savez(folder / "pickled.npz", x=np.array([{}], dtype=object))
    return folder


BAD = [  # id, arguments, what must be said
    ("missing", "none.xml --baseline good.xml", "none.xml does not exist"),
    ("xml without bin", "alone.xml --baseline good.xml", "alone.xml has no alone.bin beside it; copy both"),
    (
        "half an xml",
        "half.xml --baseline good.xml",
        "cannot read .*half.xml: Start-end tags mismatch.*; if the file is",
    ),
    ("half a bin", "short.xml --baseline good.xml", "cannot read .*short.xml: Incorrect weights in bin file"),
    ("another xml", "other.xml --baseline good.xml", "other.xml: it is not a model of OpenVINO"),
    ("a text as xml", "good.xml --baseline text.xml", "text.xml: it is not a model of OpenVINO"),
    ("an empty xml", "empty.xml --baseline good.xml", "empty.xml: it is not a model of OpenVINO"),
    ("an unknown operation", "unknown.xml --baseline good.xml", "unknown.xml: Opset .* type: Frobnicate; "),
    ("a text as onnx", "text.onnx --baseline good.xml", "text.onnx: it is not an ONNX model"),
    ("an empty onnx", "good.xml --baseline empty.onnx", "empty.onnx: it is not an ONNX model"),
    ("an onnx of one's own operations", "own.onnx --baseline good.xml", "own.onnx: No conversion rule .*Frobnicate; "),
    ("another kind of file", "model.pt --baseline good.xml", "must be an .xml or .onnx file, but got .*model.pt"),
    ("other shapes", "wide.xml --baseline good.xml", r"wide.xml is x, f32 \[1,16,9,9\], and that of .*\[1,16,8,8\]"),
    ("other types", "integer.xml --baseline good.xml", "input 1 of .*integer.xml is x, i32 .* is x, f32"),
    ("other names", "two.xml --baseline swapped.xml", "input 1 of .*two.xml is a, .*swapped.xml is b, "),
    ("more inputs", "two.xml --baseline good.xml", r"two.xml takes 2 \(a, f32 \[1,4\]; b, .*good.xml takes 1 \(x, "),
    ("a dynamic shape", "image.xml --baseline image.xml", "input x of .* dynamic in dimension 3 .*--shape x=1x16x8xN"),
    ("any number of dimensions", "rank.xml --baseline rank.xml", "x of .*rank.xml has any number of dimensions"),
    ("OpenVINO compiles neither", "rank.xml --baseline rank.xml --shape x=1x3", "cannot compile .*rank.xml: .*rank"),
    ("a shape that does not fit", "image.xml --baseline image.xml --shape x=1x3x8x8", "1x3x8x8 does not fit input x, "),
    ("a shape of no input", "good.xml --baseline good.xml --shape y=1x3", "no input 'y'; the models have x"),
    ("a shape without a name", "good.xml --baseline good.xml --shape 1x3", "like name=1x3x224x224.*'1x3'"),
    ("a shape with words", "good.xml --baseline good.xml --shape x=1xN", "like name=1x3x224x224.*'x=1xN'"),
    ("a shape of zero", "good.xml --baseline good.xml --shape x=1x0", "numbers above 0, but got 'x=1x0'"),
    ("data of no input", "good.xml --baseline good.xml --inputs named.npz", "named.npz must hold .* x, .* holds z"),
    ("data of another shape", "good.xml --baseline good.xml --inputs shaped.npz", r"x of .* float32 \[1, 16, 8, 7\]"),
    ("data of another type", "good.xml --baseline good.xml --inputs typed.npz", "must fit input x, f32 .* float64"),
    ("data that is no npz", "good.xml --baseline good.xml --inputs text.npz", "text.npz cannot be read: .*numpy.savez"),
    ("data with code", "good.xml --baseline good.xml --inputs pickled.npz", "pickled.npz cannot be read: "),
    ("no data", "good.xml --baseline good.xml --inputs none.npz", "none.npz cannot be read: "),
    ("half-width not a number", "good.xml --baseline good.xml --half-width nan", "half_width must be .* but got nan"),
    ("half-width zero", "good.xml --baseline good.xml --half-width 0", "half_width must be .* but got 0"),
    ("no threads", "good.xml --baseline good.xml --threads 0", r"threads must be in 1\.\.\d+, .* but got 0"),
    ("too many threads", "good.xml --baseline good.xml --threads 9999", "threads must be .* but got 9999"),
    ("no time", "good.xml --baseline good.xml --max-seconds 0", "max_seconds must be above 0"),
    ("endless", "good.xml --baseline good.xml --max-seconds inf", "max_seconds must be above 0 and finite"),
]


@pytest.mark.parametrize(("line", "said"), [pytest.param(*row[1:], id=row[0]) for row in BAD])
def test_bad_input_is_one_sentence(
    measure: Command, models: Path, monkeypatch: pytest.MonkeyPatch, line: str, said: str
) -> None:
    monkeypatch.chdir(models)
    done = measure(*line.split())
    assert done.code == 2 and done.out == ""
    assert done.error.startswith("autocompress: ") and done.error.count("\n") == 1, done.error
    assert re.search(said, done.error), done.error


def test_twelve_layers_are_slower_than_one_by_every_measure(measure: Command, models: Path) -> None:
    done = measure(models / "long.xml", "--baseline", models / "good.xml", "--max-seconds", 0.6, "--throughput")
    assert done.code == 0 and done.error == ""
    assert re.match(r"\d+\.\d+x \[.*\] slower \(\d+ pairs, 95 % interval, one thread\)\nlatency 0\.", done.out)
    for said in ("noise: the baseline differs from itself by at most ", "99 of 100 at most", "zipped size "):
        assert said in done.out
    assert re.search(r"\nthroughput [\d,.]+ a second against [\d,.]+ a second: .* less\n", done.out)


class InThisProcess:
    """In the place of `LatencyProcess`, which takes a second to start."""

    def __enter__(self) -> "InThisProcess":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to stop."""

    def compare(
        self, baseline: Path, model: Path, inputs: two_models.Inputs, settings: LatencySettings
    ) -> PairedLatency:
        return paired_latency(read_model(baseline), read_model(model), inputs, settings)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("relu.onnx --baseline relu.onnx", id="onnx"),
        pytest.param("relu.onnx --baseline good.xml", id="onnx against xml"),
        pytest.param("alias.xml --baseline good.xml", id="an only input of another name"),
        pytest.param("batch.xml --baseline good.xml", id="dynamic against static"),
        pytest.param("image.xml --baseline image.xml --shape x=2x16x8x8", id="a shape given"),
        pytest.param("image.xml --baseline image.xml --inputs right.npz", id="data given"),
        pytest.param("integer.xml --baseline integer.xml --half-width 0.5 --threads 1", id="integers"),
    ],
)
def test_any_two_models_of_the_same_inputs_are_compared(
    measure: Command, models: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.chdir(models)
    monkeypatch.setattr(two_models, "LatencyProcess", InThisProcess)
    done = measure(*line.split(), "--max-seconds", 0.05)
    assert done.code == 0, done.error
    assert re.match(r"(no difference|\d).*x \[.*95 % interval, one thread\)\n", done.out)


@pytest.mark.parametrize(
    ("baseline", "shapes", "shape"),
    [
        pytest.param("good.xml", {}, (1, 16, 8, 8), id="static"),
        pytest.param("batch.xml", {}, (1, 16, 8, 8), id="a dynamic batch is one"),
        pytest.param("batch.xml", {"x": (3, 16, 8, 8)}, (3, 16, 8, 8), id="as told"),
        pytest.param("image.xml", {"x": (1, 16, 8, 5)}, (1, 16, 8, 5), id="a dynamic width as told"),
    ],
)
def test_random_inputs_have_the_shape_that_is_known(
    models: Path, baseline: str, shapes: dict[str, tuple[int, ...]], shape: tuple[int, ...]
) -> None:
    inputs = two_models.common_inputs(models / baseline, models / baseline, shapes)
    assert [(array.shape, array.dtype) for array in inputs] == [(shape, np.float32)]
    assert inputs[0].std() > 0.1


def test_the_static_one_of_two_models_says_the_shape(models: Path) -> None:
    inputs = two_models.common_inputs(models / "image.xml", models / "good.xml", {})
    assert inputs[0].shape == (1, 16, 8, 8)


def test_data_is_taken_as_it_is(models: Path) -> None:
    inputs = two_models.common_inputs(models / "good.xml", models / "good.xml", {}, models / "right.npz")
    assert (inputs[0] == 1).all()
