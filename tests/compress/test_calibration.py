"""Ranges from data."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from autocompress.compress import calibrate, compress
from autocompress.compress.quantization import InputQuantizer
from autocompress.errors import CompressionError, TaskError
from autocompress.graph import inspect_model
from autocompress.recipe import LayerRecipe, Recipe
from tests.nets import NETS

W8A8 = LayerRecipe(weight_bits=8, activation_bits=8)


def quantized(name: str = "mlp") -> nn.Module:
    net = NETS[name]
    model, x = net.build(), net.inputs()
    graph = inspect_model(model, x)
    return compress(model, graph, Recipe(layers={layer.name: W8A8 for layer in graph.compressible}), x).module


def ends(quantizer: InputQuantizer) -> tuple[float, float]:
    return float(quantizer.initial_low), float(quantizer.initial_high)


def test_ranges_are_means_over_batches_of_the_ends() -> None:
    module = quantized()
    batches = [(torch.tensor([[-1.0, 0, 0, 0, 0, 3.0]]), 0), (torch.tensor([[-2.0, 0, 0, 0, 0, 1.0]]), 0)]
    calibrate(module, batches)
    assert ends(module[0].input_quantizer) == (-1.5, 2.0)


def test_ranges_of_inner_layers_are_those_of_the_float_inputs() -> None:
    """Calibration runs without input quantization, so that errors of one layer don't shift the next one's range."""
    module, net = quantized(), NETS["mlp"]
    x = net.inputs(16)
    calibrate(module, [(x, 0)])
    with torch.no_grad():
        hidden = (x @ module[0].weight.T + module[0].bias).relu()
    assert ends(module[2].input_quantizer) == pytest.approx((0.0, float(hidden.max())), rel=1e-5)


def test_a_range_holds_zero() -> None:
    module = quantized()
    calibrate(module, [(torch.full((2, 6), 5.0), 0)])
    assert ends(module[0].input_quantizer) == (0.0, 5.0)
    calibrate(module, [(torch.full((2, 6), -5.0), 0)])
    assert ends(module[0].input_quantizer) == (-5.0, 0.0)


def test_the_rarest_values_lie_outside() -> None:
    module = quantized()
    x = torch.linspace(-1, 1, 60000).reshape(-1, 6)
    x[0, 0], x[-1, -1] = -1000.0, 1000.0
    calibrate(module, [(x, 0)])
    low, high = ends(module[0].input_quantizer)
    assert -1 < low < -0.999
    assert 0.999 < high < 1


def test_only_the_first_batches_are_read() -> None:
    n_read = 0

    class Endless:
        def __iter__(self) -> Iterator[Any]:
            nonlocal n_read
            while True:
                n_read += 1
                yield torch.ones(2, 6), 0

    calibrate(quantized(), Endless(), n_batches=3)
    assert n_read == 3


def test_no_batch_is_an_error() -> None:
    with pytest.raises(CompressionError, match="at least one batch"):
        calibrate(quantized(), [])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_layer_whose_input_is_not_finite_is_named(value: float) -> None:
    module = quantized()
    with torch.no_grad():
        module[0].bias[3] = abs(value)  # the second layer's input
    with pytest.raises(CompressionError, match="layer '2': its input has values that are NaN or infinite"):
        calibrate(module, NETS["mlp"].batches())


def test_quantizers_work_again_after_a_failure() -> None:
    module = quantized()
    with pytest.raises(CompressionError):
        calibrate(module, [(torch.full((2, 6), float("nan")), 0)])
    calibrate(module, NETS["mlp"].batches())
    quantizer = module[0].input_quantizer
    assert quantizer.enabled
    assert not quantizer._forward_hooks
    assert quantizer(torch.linspace(-9, 9, 2000)).unique().numel() <= 256


def test_a_batch_that_is_no_pair_is_an_error() -> None:
    with pytest.raises(TaskError, match="pair"):
        calibrate(quantized(), [torch.ones(3, 6)])


def test_a_layer_without_data_passes_its_input_through() -> None:
    module = quantized()
    module[2].input_quantizer = InputQuantizer(2)
    assert torch.equal(module[2].input_quantizer(torch.ones(3)), torch.ones(3))


def test_layers_that_read_one_tensor_share_a_quantizer() -> None:
    module = quantized("query_key_value")
    assert module.query.input_quantizer is module.key.input_quantizer is module.value.input_quantizer
    assert module.head.input_quantizer is not module.query.input_quantizer


def test_layers_that_read_one_tensor_with_other_bits_don_t_share() -> None:
    net = NETS["query_key_value"]
    model, x = net.build(), net.inputs()
    layers = {"query": W8A8, "key": LayerRecipe(weight_bits=8, activation_bits=4), "value": W8A8}
    module = compress(model, inspect_model(model, x), Recipe(layers=layers), x).module
    assert module.query.input_quantizer is module.value.input_quantizer is not module.key.input_quantizer
    assert module.key.input_quantizer.bits == 4


def test_a_model_in_training_mode_is_calibrated_in_evaluation_mode() -> None:
    module = quantized("residual")
    before = module.stem[1].running_mean.clone()
    calibrate(module.train(), NETS["residual"].batches())
    assert torch.equal(module.stem[1].running_mean, before)
    assert not module.training
