"""Setting up from data: ranges, rounding, all steps together, errors, and the state of what was set up."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.compress import CompressedModel, calibrate, compress
from autocompress.compress import calibration as calibration_module
from autocompress.compress.attaching import quantized_weights, weight_before
from autocompress.compress.calibration import switched_off
from autocompress.compress.quantization import Exportable, InputQuantizer
from autocompress.compress.ranges import RANGE_ESTIMATORS, range_estimator
from autocompress.compress.weight_quantization import WeightQuantizer
from autocompress.errors import CompressionError, TaskError
from autocompress.graph import inspect_model
from autocompress.recipe import Calibration, LayerRecipe, Recipe
from autocompress.space import uniform_recipe
from autocompress.task import call, flatten
from tests.nets import NETS, Net

W8A8 = LayerRecipe(weight_bits=8, activation_bits=8)
W3A8 = LayerRecipe(weight_bits=3, activation_bits=8)
EVERYTHING = Calibration(input_ranges="mse", rounding="gptq", bias_correction=True, smoothing=0.5)


def attached(net: Net, layer: LayerRecipe = W8A8, calibration: Calibration | None = None) -> CompressedModel:
    model, x = net.build(), net.inputs()
    graph = inspect_model(model, x, with_groups=False)
    return compress(model, graph, uniform_recipe(graph, layer, calibration=calibration), x)


def calibrated(net: Net, layer: LayerRecipe = W8A8, calibration: Calibration | None = None) -> CompressedModel:
    result = attached(net, layer, calibration)
    calibrate(result.module, net.batches(), result.recipe.calibration)
    return result


def quantized(name: str = "mlp") -> nn.Module:
    return attached(NETS[name]).module


def outputs(module: nn.Module, x: Any) -> list[Tensor]:
    with torch.no_grad():
        return flatten(call(module, x))


def ends(quantizer: InputQuantizer) -> tuple[float, float]:
    return quantizer.initial_low.item(), quantizer.initial_high.item()


def test_ranges_are_means_over_batches_of_the_ends() -> None:
    module = quantized()
    batches = [(torch.tensor([[-1.0, 0, 0, 0, 0, 3.0]]), 0), (torch.tensor([[-2.0, 0, 0, 0, 0, 1.0]]), 0)]
    calibrate(module, batches)
    assert ends(module[0].input_quantizer) == (-1.5, 2.0)


def skewed() -> list[Tensor]:
    """Batches for which no two estimators agree."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(6000, 6, generator=generator) ** 3 + shift for shift in (0.0, 1.0, 5.0)]


def estimated(name: str, channel_axis: int | None = None) -> tuple[Tensor, Tensor]:
    estimator = range_estimator(name, 4, channel_axis)
    for x in skewed():
        estimator.update(x)
    return estimator.ends()


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
@pytest.mark.parametrize("name", RANGE_ESTIMATORS)
def test_the_named_estimator_sets_the_range(name: str, granularity: str) -> None:
    settings = Calibration(input_ranges=name)
    layer = LayerRecipe(weight_bits=8, activation_bits=4, activation_granularity=granularity)
    module = attached(NETS["mlp"], layer, settings).module
    calibrate(module, [(x, 0) for x in skewed()], settings)
    low, high = estimated(name, None if granularity == "per_tensor" else -1)
    assert torch.equal(module[0].input_quantizer.initial_low, low.clamp(max=0.0))
    assert torch.equal(module[0].input_quantizer.initial_high, high.clamp(min=0.0))
    assert not any(torch.equal(estimated(name)[1], estimated(other)[1]) for other in RANGE_ESTIMATORS if other != name)


@pytest.mark.parametrize("ranges", ["mse", "min_max"])
def test_the_recipe_says_how_steps_of_weights_are_found(ranges: str) -> None:
    module = attached(NETS["mlp"], W3A8, Calibration(weight_ranges=ranges)).module
    largest = weight_before(module[2]).abs().amax(dim=1) / 3
    steps = module[2].parametrizations.weight[0].grid()[0].flatten()
    assert torch.allclose(steps, largest) is (ranges == "min_max")
    assert bool((steps <= largest * 1.0001).all())


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


def test_inputs_of_zeros_give_zeros() -> None:
    module = quantized()
    calibrate(module, [(torch.zeros(2, 6), 0)])
    quantizer = module[0].input_quantizer
    assert quantizer.calibrated
    assert torch.equal(quantizer(torch.zeros(2, 6)), torch.zeros(2, 6))


@pytest.mark.parametrize(("n_batches", "n_expected"), [(3, 3), (None, 5)])
def test_as_many_batches_are_read_as_wanted(n_batches: int | None, n_expected: int) -> None:
    n_read = 0

    class Batches:
        def __iter__(self) -> Iterator[Any]:
            nonlocal n_read
            for _ in range(5):
                n_read += 1
                yield torch.ones(2, 6), 0

    calibrate(quantized(), Batches(), n_batches=n_batches)
    assert n_read == n_expected


@pytest.mark.parametrize("settings", [Calibration(), EVERYTHING], ids=["default", "everything"])
def test_no_batch_is_an_error(settings: Calibration) -> None:
    with pytest.raises(CompressionError, match="at least one batch"):
        calibrate(attached(NETS["mlp"], W3A8, settings).module, [], settings)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("settings", [Calibration(), EVERYTHING], ids=["default", "everything"])
def test_a_layer_whose_input_is_not_finite_is_named(value: float, settings: Calibration) -> None:
    module = attached(NETS["mlp"], W3A8, settings).module
    with torch.no_grad():
        module[0].bias[3] = abs(value)  # the second layer's input
    with pytest.raises(CompressionError, match="layer '2': its input has values that are NaN or infinite"):
        calibrate(module, NETS["mlp"].batches(), settings)


def test_the_input_of_a_layer_with_quantized_weights_alone_is_checked_for_rounding() -> None:
    settings = Calibration(rounding="gptq")
    module = attached(NETS["mlp"], LayerRecipe(weight_bits=4), settings).module
    with pytest.raises(CompressionError, match="layer '0': its input has values that are NaN or infinite"):
        calibrate(module, [(torch.full((2, 6), float("nan")), 0)], settings)


def test_quantizers_work_again_after_a_failure() -> None:
    for settings in (Calibration(), EVERYTHING):
        module = attached(NETS["mlp"], W3A8, settings).module
        n_hooks = [len(m._forward_hooks) for m in module.modules()]
        with pytest.raises(CompressionError):
            calibrate(module, [(torch.full((2, 6), float("nan")), 0)], settings)
        assert all(m.enabled for m in module.modules() if isinstance(m, Exportable))
        assert [len(m._forward_hooks) for m in module.modules()] == n_hooks
        calibrate(module, NETS["mlp"].batches(), settings)
        assert module[0].input_quantizer(torch.linspace(-9, 9, 2000)[:, None].expand(2000, 6)).isfinite().all()


@pytest.mark.parametrize("batch", [torch.ones(3, 6), [torch.ones(3, 6)], "text"], ids=["tensor", "list", "text"])
def test_a_batch_that_is_no_pair_is_an_error(batch: Any) -> None:
    with pytest.raises(TaskError, match="pair"):
        calibrate(quantized(), [batch])


class Branches(nn.Module):
    """Calls its second layer only for positive inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.sometimes = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.always(self.sometimes(x)) if x.sum() > 0 else self.always(x)


def test_a_layer_that_the_data_do_not_reach_passes_its_input_through() -> None:
    model, x = Branches(), torch.ones(2, 3)
    recipe = Recipe(layers={"always": W3A8, "sometimes": W3A8}, calibration=EVERYTHING)
    module = compress(model, inspect_model(model, x, with_groups=False), recipe, x).module
    calibrate(module, [(-x, 0)], EVERYTHING)
    assert module.always.input_quantizer.calibrated
    assert torch.equal(module.sometimes.input_quantizer(x), x)
    assert torch.equal(weight_before(module.sometimes), model.sometimes.weight)


def test_layers_that_read_one_tensor_share_a_quantizer() -> None:
    module = quantized("query_key_value")
    assert module.query.input_quantizer is module.key.input_quantizer is module.value.input_quantizer
    assert module.head.input_quantizer is not module.query.input_quantizer


def test_layers_that_read_one_tensor_in_another_way_don_t_share() -> None:
    net = NETS["query_key_value"]
    model, x = net.build(), net.inputs()
    others = [{"activation_bits": 4}, {"activation_scheme": "symmetric"}, {"activation_granularity": "per_channel"}]
    for other in others:
        key = LayerRecipe(**{"weight_bits": 8, "activation_bits": 8, **other})
        recipe = Recipe(layers={"query": W8A8, "key": key, "value": W8A8})
        module = compress(model, inspect_model(model, x), recipe, x).module
        assert module.query.input_quantizer is module.value.input_quantizer is not module.key.input_quantizer


def test_a_model_in_training_mode_is_calibrated_in_evaluation_mode() -> None:
    module = quantized("residual")
    before = module.stem[1].running_mean.clone()
    calibrate(module.train(), NETS["residual"].batches(), EVERYTHING)
    assert torch.equal(module.stem[1].running_mean, before)
    assert not module.training


GRIDS = [
    pytest.param({}, id="symmetric"),
    pytest.param({"weight_scheme": "asymmetric"}, id="asymmetric"),
    pytest.param({"weight_granularity": "per_tensor"}, id="tensor"),
    pytest.param({"weight_scheme": "asymmetric", "group_size": 8}, id="groups"),
]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", ["depthwise", "conv1d", "query_key_value", "shared"])
def test_gptq_leaves_weights_on_their_grid(name: str, grid: dict[str, Any]) -> None:
    net = NETS[name]
    result = calibrated(net, LayerRecipe(weight_bits=3, **grid), Calibration(rounding="gptq"))
    nearest = attached(net, LayerRecipe(weight_bits=3, **grid)).module
    changed = set()
    for layer_name, layer, _ in quantized_weights(result.module):
        assert torch.equal(weight_before(layer), layer.weight), layer_name
        changed.add(not torch.equal(nearest.get_submodule(layer_name).weight, layer.weight))
    assert True in changed


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", ["mlp", "depthwise", "concat", "conv1d"])
def test_gptq_lowers_the_output_error_of_every_layer(name: str, grid: dict[str, Any]) -> None:
    """On the calibration data, where it is never above that of nearest; with all other layers in float."""
    net = NETS[name]
    layer = LayerRecipe(weight_bits=3, **grid)
    results = [calibrated(net, layer, Calibration(rounding=rounding)) for rounding in ("nearest", "gptq")]
    x = torch.cat([batch for batch, _ in net.batches()])
    inputs: dict[str, Tensor] = {}
    float_form = results[0].module
    for layer_name in results[0].recipe.layers:
        float_form.get_submodule(layer_name).register_forward_pre_hook(
            lambda _layer, args, name=layer_name: inputs.__setitem__(name, args[0])
        )
    with switched_off(float_form, WeightQuantizer):
        outputs(float_form, x)
        wanted = {name: outputs(float_form.get_submodule(name), inputs[name])[0] for name in list(inputs)}
    errors = {
        name: [float((outputs(r.module.get_submodule(name), inputs[name])[0] - y).square().sum()) for r in results]
        for name, y in wanted.items()
    }
    assert all(gptq <= nearest * 1.001 for nearest, gptq in errors.values())
    assert min(gptq / nearest for nearest, gptq in errors.values()) < 0.9


def test_gptq_leaves_8_bits_and_weights_of_several_layers_to_nearest() -> None:
    net = NETS["tied"]
    model = net.build()
    recipe = Recipe(
        layers={"hidden": LayerRecipe(weight_bits=8), "out": LayerRecipe(weight_bits=2)},
        calibration=Calibration(rounding="gptq"),
    )
    result = compress(model, inspect_model(model, net.inputs()), recipe, net.inputs())
    calibrate(result.module, net.batches(), recipe.calibration)
    assert torch.equal(result.module.words.weight, model.words.weight)
    assert torch.equal(weight_before(result.module.hidden), model.hidden.weight)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        pytest.param(Calibration(), ["range_estimator"], id="default"),
        pytest.param(EVERYTHING, ["smooth", "range_estimator", "round_layer", "correct_biases"], id="everything"),
    ],
)
def test_the_steps_come_in_order(monkeypatch: pytest.MonkeyPatch, settings: Calibration, steps: list[str]) -> None:
    seen: list[str] = []

    def recorded(name: str) -> Any:
        original = getattr(calibration_module, name)

        def wrapped(*args: Any, **options: Any) -> Any:
            seen.append(name)
            return original(*args, **options)

        return wrapped

    module = attached(NETS["mlp"], W3A8, settings).module
    for name in ("smooth", "range_estimator", "round_layer", "correct_biases"):
        monkeypatch.setattr(calibration_module, name, recorded(name))
    calibrate(module, NETS["mlp"].batches(), settings)
    assert list(dict.fromkeys(seen)) == steps


@pytest.mark.parametrize("name", [name for name in NETS if name not in ("no_layers", "frozen")])
def test_everything_at_once_works_for_every_network(name: str) -> None:
    net = NETS[name]
    result = calibrated(net, LayerRecipe(weight_bits=6, activation_bits=8), EVERYTHING)
    x = net.inputs(16)
    for got, wanted in zip(outputs(result.module, x), outputs(net.build(), x), strict=True):
        assert float((got - wanted).square().mean()) < 0.05 * float(wanted.var() + wanted.mean().square())
    with result.export_form() as module:
        exported = outputs(module, x)
    assert all(torch.equal(a, b) for a, b in zip(exported, outputs(result.module, x), strict=True))
    assert all(y.isfinite().all() for y in outputs(result.strip(), x))


@pytest.mark.parametrize("name", ["depthwise", "mlp", "query_key_value"])
def test_everything_is_better_than_nothing_at_few_bits(name: str) -> None:
    net = NETS[name]
    x = net.inputs(64, seed=99)
    wanted, errors = outputs(net.build(), x)[0], []
    for settings in (Calibration(), EVERYTHING):
        result = attached(net, LayerRecipe(weight_bits=4, activation_bits=8), settings)
        calibrate(result.module, net.batches(4, 32), settings)
        errors.append(float((outputs(result.module, x)[0] - wanted).square().mean()))
    assert errors[1] < errors[0]


def test_the_default_is_what_a_recipe_without_a_calibration_says() -> None:
    states = []
    for settings in (None, Calibration()):
        model = attached(NETS["mlp"], W3A8)
        calibrate(model.module, NETS["mlp"].batches(), settings)
        states.append(model.state())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
