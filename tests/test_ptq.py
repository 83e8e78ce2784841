"""Quantization in one call: what it leaves alone, what it refuses, and what it keeps of the accuracy."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autocompress
from autocompress.compress import CompressedModel
from autocompress.compress.quantization import Exportable
from autocompress.errors import AutocompressError, CompressionError, GraphError, RecipeError
from autocompress.measure import default_weight_bits, predict_deployed, predict_torch, score_of
from autocompress.recipe import Calibration
from autocompress.task import flatten
from tests.deploy.deployed import Deployed, deployed
from tests.nets import NETS
from tests.tiny import tiny

RESIDUAL = ("stem.0", "first.0", "second.0", "head")


def quantize(name: str, **options: Any) -> CompressedModel:
    net = NETS[name]
    return autocompress.quantize(net.build(), net.inputs(), net.batches(), **options)


@pytest.mark.parametrize("name", NETS)
def test_the_model_of_the_caller_is_unchanged(name: str) -> None:
    net = NETS[name]
    model = net.build().train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    modules = [(key, type(module)) for key, module in model.named_modules()]
    compressed = autocompress.quantize(model, net.inputs(), net.batches(), weight_bits=4)
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[key], before[key]) for key in before)
    assert [(key, type(module)) for key, module in model.named_modules()] == modules
    assert model.training and not compressed.module.training
    assert not any(isinstance(module, Exportable) for module in model.modules())


def test_everything_is_quantized_by_default_with_bits_that_are_exact_here() -> None:
    recipe = quantize("residual").recipe
    assert set(recipe.layers) == set(RESIDUAL)
    assert {layer.weight_bits for layer in recipe.layers.values()} == {default_weight_bits()}
    assert {layer.activation_bits for layer in recipe.layers.values()} == {8}


@pytest.mark.parametrize(
    ("ignored", "left"),
    [
        pytest.param([], {*RESIDUAL}, id="none"),
        pytest.param(["head"], {"stem.0", "first.0", "second.0"}, id="name"),
        pytest.param(["stem"], {"first.0", "second.0", "head"}, id="container"),
        pytest.param(["*.0"], {"head"}, id="glob"),
        pytest.param(["re:(first|second).0"], {"stem.0", "head"}, id="regular expression"),
        pytest.param(["type:Linear"], {"stem.0", "first.0", "second.0"}, id="type"),
        pytest.param(["stem", "type:Linear"], {"first.0", "second.0"}, id="two patterns"),
        pytest.param(["*"], set(), id="everything"),
    ],
)
def test_ignored_layers_stay_float(ignored: list[str], left: set[str]) -> None:
    compressed = quantize("residual", ignored=ignored)
    assert set(compressed.recipe.layers) == left
    assert set(compressed.integer_weights()) == left
    original = NETS["residual"].build()
    for name in set(RESIDUAL) - left:
        assert torch.equal(compressed.module.get_submodule(name).weight, original.get_submodule(name).weight)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        pytest.param("heads", "did you mean head", id="name"),
        pytest.param("tail.*", "but got 'tail", id="glob"),
        pytest.param("re:hea", "but got 're:hea'", id="a part of a name"),
        pytest.param("re:(", "regular expression", id="no regular expression"),
        pytest.param("type:Conv1d", "did you mean type:Conv2d", id="type"),
        pytest.param("first.1", "but got 'first.1'", id="a module without weights to quantize"),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error(pattern: str, message: str) -> None:
    with pytest.raises(GraphError, match=message.replace("(", r"\(")):
        quantize("residual", ignored=["head", pattern])


@pytest.mark.parametrize("bits", [-1, 0, 1, 9, 16, 32])
def test_bits_of_weights_that_do_not_exist_are_one_sentence(bits: int) -> None:
    with pytest.raises(RecipeError, match=f"weight_bits must be one of 2..8, but got {bits};") as error:
        quantize("residual", weight_bits=bits)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bits", [-1, 0, 1, 9, 16])
def test_bits_of_inputs_that_do_not_exist_are_one_sentence(bits: int) -> None:
    with pytest.raises(RecipeError, match=f"activation_bits must be one of 2..8 or 32 .*, but got {bits};") as error:
        quantize("residual", activation_bits=bits)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options", [{}, {"weight_bits": 4}, {"activation_bits": 32}], ids=["int8", "4 bits", "weights"]
)
@pytest.mark.parametrize("empty", [[], iter(())], ids=["list", "iterator"])
def test_no_data_is_an_error(options: dict[str, int], empty: Any) -> None:
    net = NETS["residual"]
    with pytest.raises(CompressionError, match="at least one batch"):
        autocompress.quantize(net.build(), net.inputs(), empty, **options)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("options", [{}, {"weight_bits": 4}], ids=["int8", "4 bits"])
def test_data_that_are_not_finite_name_the_layer(options: dict[str, int], value: float) -> None:
    net = NETS["residual"]
    (x, y), second = net.batches()
    x[0, 0, 0, 0] = value
    with pytest.raises(CompressionError, match=r"layer 'stem\.0': .*NaN or infinite"):
        autocompress.quantize(net.build(), net.inputs(), [second, (x, y)], **options)


class Overflowing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) / 0.0)


def test_the_layer_behind_the_nan_is_named_and_not_the_first_one() -> None:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    with pytest.raises(CompressionError, match="layer 'second'"):
        autocompress.quantize(Overflowing(), x, [(x, None)])


def test_a_model_that_does_not_run_is_an_error() -> None:
    with pytest.raises(AutocompressError, match="does not run on its example_input"):
        autocompress.quantize(NETS["residual"].build(), torch.zeros(1, 7, 8, 8), NETS["residual"].batches())


def test_only_the_first_batches_are_read() -> None:
    net = NETS["residual"]
    batches, far = net.batches(), [(100 * x, y) for x, y in net.batches()]
    short = autocompress.quantize(net.build(), net.inputs(), [*batches, *far], n_samples=16)
    for name, tensor in autocompress.quantize(net.build(), net.inputs(), batches).state().items():
        assert torch.equal(short.state()[name], tensor), name
    full = autocompress.quantize(net.build(), net.inputs(), [*batches, *far])
    assert full.describe()[0]["high"] > 2 * short.describe()[0]["high"]


def test_the_same_call_gives_the_same_model() -> None:
    first, second = (quantize("depthwise", weight_bits=4).state() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_model_without_layers_comes_back_as_it_is() -> None:
    compressed = quantize("no_layers")
    assert compressed.recipe.is_identity
    x = NETS["no_layers"].inputs(4)
    assert torch.equal(compressed.module(x), NETS["no_layers"].build()(x))


@pytest.mark.parametrize(
    "settings",
    [Calibration(), Calibration(rounding="gptq"), Calibration(input_ranges="mse", weight_ranges="min_max")],
    ids=["nearest", "gptq", "ranges"],
)
def test_the_calibration_of_the_caller_is_used(settings: Calibration) -> None:
    assert quantize("residual", weight_bits=4, calibration=settings).recipe.calibration == settings


@cache
def of_tiny(weight_bits: int, activation_bits: int) -> Deployed:
    task = tiny()
    return deployed(
        autocompress.quantize(
            task.model, task.example_input, task.train, weight_bits=weight_bits, activation_bits=activation_bits
        )
    )


@cache
def accuracy(weight_bits: int, activation_bits: int = 8) -> tuple[float, float]:
    """Accuracy of the float model and of the deployed one on validation and test data together."""
    task = tiny()
    splits = [*task.validation, *task.test]
    structure = task.model(task.example_input)
    outputs = predict_deployed(of_tiny(weight_bits, activation_bits).model, splits, structure, "both", 1)
    before = score_of(task, predict_torch(task.model, splits, "both"))
    return before, score_of(task, outputs)


@pytest.mark.parametrize(
    ("weight_bits", "activation_bits", "drop"),
    [
        pytest.param(8, 8, 0.01, id="W8A8"),
        pytest.param(7, 8, 0.01, id="W7A8"),
        pytest.param(4, 8, 0.02, id="W4A8"),
        pytest.param(8, 32, 0.01, id="W8"),
        pytest.param(4, 32, 0.02, id="W4"),
        pytest.param(4, 6, 0.03, id="W4A6"),
    ],
)
def test_the_deployed_model_keeps_its_accuracy(weight_bits: int, activation_bits: int, drop: float) -> None:
    before, after = accuracy(weight_bits, activation_bits)
    assert before > 0.85
    assert after >= before - drop


@pytest.mark.parametrize("bits", [8, 4])
def test_the_deployed_model_runs_on_integers(bits: int) -> None:
    result = of_tiny(bits, 8)
    assert result.precisions == {"0": "i8", "3": "i8", "7": "i8"}


def test_with_float_inputs_only_weights_are_quantized() -> None:
    compressed = of_tiny(4, 32).compressed
    assert {layer.activation_bits for layer in compressed.recipe.layers.values()} == {32}
    for weight in compressed.integer_weights().values():
        assert len(weight.indices.unique()) <= 2**4 - 1


class Heavy(nn.Module):
    """Weights dominate the file."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hidden, self.head = nn.Conv2d(32, 64, 3), nn.Linear(64, 512), nn.Linear(512, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.conv(x).relu().mean(dim=(2, 3))).relu())


@pytest.mark.parametrize("activation_bits", [8, 32])
def test_four_bits_take_about_half_the_file_of_eight(activation_bits: int, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Heavy().eval()
    x = torch.randn(4, 32, 6, 6, generator=torch.Generator().manual_seed(1))
    sizes = {}
    for bits in (8, 4):
        compressed = autocompress.quantize(
            model, x[:1], [(x, None)], weight_bits=bits, activation_bits=activation_bits, calibration=Calibration()
        )
        sizes[bits] = deployed(compressed).bin_bytes(tmp_path / str(bits))
    n_weights = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    assert sizes[4] <= 0.55 * sizes[8]
    assert n_weights < sizes[8] < 1.1 * n_weights


def test_quantized_models_keep_the_structure_of_their_outputs() -> None:
    net = NETS["dict"]
    compressed = quantize("dict")
    with torch.no_grad():
        outputs = compressed.module(**net.inputs(2))
    assert list(outputs) == ["logits", "joined"] and len(flatten(outputs)) == 2


@pytest.mark.parametrize(
    ("net", "bits", "expected"),
    [
        pytest.param("residual", 8, Calibration(), id="8 bits"),
        pytest.param("residual", 4, Calibration(rounding="gptq", bias_correction=True), id="4 bits"),
        pytest.param("encoder", 7, Calibration(smoothing=0.5), id="layer norm"),
        pytest.param("encoder", 4, Calibration(rounding="gptq"), id="layer norm, 4 bits"),
    ],
)
def test_the_calibration_suits_bits_and_model(net: str, bits: int, expected: Calibration) -> None:
    assert quantize(net, weight_bits=bits).recipe.calibration == expected


def test_up_to_4_bits_the_grid_is_asymmetric() -> None:
    schemes = [quantize("mlp", weight_bits=bits).recipe.layers["0"].weight_scheme for bits in (3, 4, 5)]
    assert schemes == ["asymmetric", "asymmetric", "symmetric"]
