"""Which layers saturate, on this CPU made to forget its VNNI instructions."""

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress import Score, Task
from autocompress.compress import compress
from autocompress.compress.calibration import calibrate
from autocompress.deploy import save_openvino, to_openvino, write_tensors
from autocompress.graph import inspect_model
from autocompress.measure import Predictions
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.search.context import EvaluationContext
from autocompress.search.folder import WEIGHTS
from autocompress.search.saturation import parity_findings, saturated_layers
from tests.tiny import tiny

ROOT = Path(__file__).parents[2]
FLAGS = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
WITHOUT_VNNI = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
N_LAYERS = 8
needs_avx512 = pytest.mark.skipif("avx512bw" not in FLAGS, reason="needs AVX-512, which oneDNN can use without VNNI")


class Chain(nn.Module):
    """Eight layers; only those named have neighbouring large weights of one sign, whose products overflow together."""

    def __init__(self, guilty: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(32, 32, 1, bias=False) for _ in range(N_LAYERS))
        generator = torch.Generator().manual_seed(0)
        for index, layer in enumerate(self.layers):
            weight = torch.zeros(32, 32)
            if index in guilty:
                weight += 1 / 32
            else:  # one weight of four, so that no two products are added in 16 bits
                weight[:, ::4] = torch.rand(32, 8, generator=generator) / 4
            layer.weight.data = weight[:, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).relu()
        return x.mean(dim=(2, 3))[:, :4, None]


def chain_task(guilty: tuple[int, ...]) -> Task:
    x = torch.rand(64, 32, 4, 4, generator=torch.Generator().manual_seed(1)) ** 0.3
    batches = [(part, torch.zeros(len(part))) for part in x.split(40)]
    score = Score(lambda outputs, targets: float(outputs.mean()))
    splits = {"train": batches, "validation": batches, "test": batches}
    return Task(model=Chain(guilty).eval(), example_input=x[:1], score=score, loss=_no_loss, **splits)


def _no_loss(*_: Tensor) -> Tensor:
    return torch.zeros(())


def candidate(task: Task, folder: Path, bits: int = 8) -> tuple[EvaluationContext, Recipe]:
    """A study's context with one candidate, quantized without training, in `folder`."""
    graph = inspect_model(task.model, task.example_input)
    layer = LayerRecipe(weight_bits=bits, activation_bits=8)
    recipe = Recipe(layers={found.name: layer for found in graph.compressible})
    compressed = compress(task.model, graph, recipe, task.example_input)
    calibrate(compressed.module, task.train, recipe.calibration)
    write_tensors(compressed.state(), folder / WEIGHTS)
    with compressed.export_form() as module:
        save_openvino(to_openvino(module, task.example_input), folder)
    return EvaluationContext(task, graph, folder, n_cores=1), recipe


def report(guilty: tuple[int, ...], max_exports: int, with_findings: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        context, recipe = candidate(chain_task(guilty), Path(name))
        found = saturated_layers(context, recipe, Path(name), max_exports=max_exports)
        findings = parity_findings(context, recipe, Path(name), "int8") if with_findings else []
    return {
        "layers": found.layers,
        "n_exports": found.n_exports,
        "before": found.as_it_is.typical_difference,
        "after": None if found.with_seven_bits is None else found.with_seven_bits.typical_difference,
        "findings": findings,
    }


CASES = {  # name: layers that saturate, exports at most, whether findings are asked for
    "one": ((5,), 16, True),
    "two": ((1, 6), 16, False),
    "capped": ((5,), 3, False),
    "none": ((), 16, True),
}


@cache
def reports() -> dict[str, Any]:
    """All cases in one process without VNNI, since it takes long to start."""
    program = [sys.executable, "-W", "ignore", "-m", "tests.search.test_saturated_layers"]
    environment = os.environ | WITHOUT_VNNI
    done = subprocess.run(program, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@needs_avx512
def test_the_one_layer_that_saturates_is_named() -> None:
    assert reports()["one"]["layers"] == ["layers.5"]


@needs_avx512
def test_few_exports_find_one_layer_of_eight() -> None:
    assert reports()["one"]["n_exports"] <= 7


@needs_avx512
def test_two_layers_that_saturate_are_both_named() -> None:
    assert reports()["two"]["layers"] == ["layers.1", "layers.6"]


@needs_avx512
def test_a_group_is_named_whole_where_exports_run_out() -> None:
    found = reports()["capped"]
    assert "layers.5" in found["layers"] and len(found["layers"]) > 1
    assert found["n_exports"] <= 3


@needs_avx512
def test_a_model_that_does_not_saturate_has_no_findings_and_no_exports() -> None:
    assert reports()["none"]["findings"] == []
    assert reports()["none"]["n_exports"] == 0


@needs_avx512
def test_the_finding_names_the_layer_and_what_to_do() -> None:
    first, second = reports()["one"]["findings"]
    assert first.startswith("int8: the deployed model agrees with torch on ")
    assert second == ("int8: products of 8-bit weights and inputs overflow in layers.5; give these layers 7 bits")


def test_a_conversion_error_is_not_called_saturation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, recipe = candidate(tiny(), tmp_path)
    monkeypatch.setattr("autocompress.search.saturation.predict_deployed", _shifted)
    found = saturated_layers(context, recipe, tmp_path, n_samples=50)
    assert found.is_saturation is False and found.layers == () and found.n_exports == 1
    assert found.as_it_is.n_samples == 50
    (_, reason) = parity_findings(context, recipe, tmp_path)
    assert "the conversion to OpenVINO computes something else" in reason


def _shifted(model: Any, batches: Any, structure: Tensor, *_: Any) -> Any:
    return Predictions(structure.roll(1, dims=1), torch.zeros(len(structure)))


def test_layers_of_fewer_bits_are_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, recipe = candidate(tiny(), tmp_path, bits=7)
    monkeypatch.setattr("autocompress.search.saturation.predict_deployed", _shifted)
    found = saturated_layers(context, recipe, tmp_path, n_samples=50)
    assert found.is_saturation is None and found.n_exports == 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({name: report(*case) for name, case in CASES.items()}))
