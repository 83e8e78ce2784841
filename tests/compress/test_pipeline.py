"""The chain: copies, state, stripping, refusals."""

import copy
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autocompress.compress import CompressedModel, calibrate, compress, parameter_groups, weight_quantization
from autocompress.compress.quantization import Exportable
from autocompress.compress.weight_quantization import WeightQuantizer
from autocompress.errors import CompressionError
from autocompress.graph import UnfoldedAttention, inspect_model
from autocompress.recipe import LayerRecipe, Recipe, Sparsification
from autocompress.space import uniform_recipe
from autocompress.task import call, flatten
from tests.nets import NETS, Net

W4A8 = LayerRecipe(weight_bits=4, activation_bits=8)


def compressed(net: Net, **layer: int) -> CompressedModel:
    model, x = net.build(), net.inputs()
    graph = inspect_model(model, x)
    bits = LayerRecipe(**{"weight_bits": 4, "activation_bits": 8, **layer})
    recipe = Recipe(layers=uniform_recipe(graph, bits).layers, pruning={group.name: 0.4 for group in graph.prunable})
    result = compress(model, graph, recipe, x)
    calibrate(result.module, net.batches())
    return result


def outputs(module: nn.Module, x: Any) -> list[Tensor]:
    with torch.no_grad():
        return flatten(call(module, x))


def trained(net: Net) -> CompressedModel:
    """Compressed, with weights and steps moved as by training."""
    result = compressed(net)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in result.module.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return result


UNFOLDED = ("query", "key", "value", "out_proj")
NAMES = pytest.mark.parametrize("name", NETS)


@NAMES
def test_frozen_weights_compute_the_same_and_lie_on_their_grid(name: str) -> None:
    net = NETS[name]
    model = trained(net)
    x = net.inputs(4)
    frozen = model.freeze_weights()
    assert all(torch.equal(a, b) for a, b in zip(outputs(frozen, x), outputs(model.module, x), strict=True))
    integers = model.integer_weights()
    assert set(integers) == set(model.recipe.layers)
    for layer, integer in integers.items():
        assert integer.indices.abs().max() <= 7
        weight = frozen.get_submodule(layer).weight
        steps = integer.scale.reshape(
            [-1 if axis == integer.layout.channel_axis else 1 for axis in range(weight.dim())]
        )
        assert torch.allclose(weight, integer.indices * steps, rtol=1e-5)


@NAMES
def test_a_stripped_module_is_plain(name: str) -> None:
    net = NETS[name]
    model = trained(net)
    plain = model.strip()
    original = net.build()
    for path, module in plain.named_modules():
        if isinstance(module, UnfoldedAttention) or path.rpartition(".")[2] in UNFOLDED:
            continue  # torch's attention cannot hold a pruned one
        assert not type(module).__module__.startswith("autocompress"), path
        assert not parametrize.is_parametrized(module, "weight"), path
        assert not module._forward_pre_hooks, path
        if name != "weight_norm":
            assert type(module) is type(original.get_submodule(path)), path
    assert outputs(plain, net.inputs(3))[0].isfinite().all()


@pytest.mark.parametrize("name", ["attention", "encoder"])
def test_attention_that_is_not_pruned_is_torch_s_again(name: str) -> None:
    net = NETS[name]
    model, x = net.build(), net.inputs()
    graph = inspect_model(model, x)
    result = compress(model, graph, uniform_recipe(graph, LayerRecipe(weight_bits=4)), x)
    plain = result.strip()
    assert [type(m) for m in plain.modules()] == [type(m) for m in model.modules()]
    assert torch.allclose(outputs(plain, net.inputs(4))[0], outputs(result.module, net.inputs(4))[0], atol=1e-5)


@NAMES
def test_stripping_leaves_the_compressed_module_working(name: str) -> None:
    net = NETS[name]
    model = trained(net)
    x = net.inputs(4)
    before = outputs(model.module, x)
    model.strip()
    model.freeze_weights()
    assert all(torch.equal(a, b) for a, b in zip(outputs(model.module, x), before, strict=True))
    twin = copy.deepcopy(model.module)
    model.strip()
    assert all(torch.equal(a, b) for a, b in zip(outputs(twin, x), before, strict=True))
    for layer in model.recipe.layers:
        assert isinstance(model.module.get_submodule(layer).parametrizations.weight[-1], WeightQuantizer)


def test_weights_alone_are_what_a_stripped_module_keeps() -> None:
    net = NETS["residual"]
    model = compressed(net, activation_bits=32)
    x = net.inputs(4)
    assert torch.equal(outputs(model.strip(), x)[0], outputs(model.module, x)[0])
    weight = model.strip().first[0].weight
    assert all(len(channel.unique()) <= 15 for channel in weight)


def test_a_weight_that_is_tied_is_quantized_only_where_the_recipe_says() -> None:
    net = NETS["tied"]
    model, x = net.build(), net.inputs()
    recipe = Recipe(layers={"out": LayerRecipe(weight_bits=2)})
    result = compress(model, inspect_model(model, x), recipe, x)
    for plain in (result.strip(), result.freeze_weights()):
        assert torch.equal(plain.words.weight, model.words.weight)
        assert all(len(row.unique()) <= 3 for row in plain.out.weight)


@NAMES
def test_compressing_twice_gives_the_same(name: str) -> None:
    first, second = (compressed(NETS[name]).state() for _ in range(2))
    assert list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in first)


@NAMES
def test_the_identity_recipe_changes_no_output(name: str) -> None:
    net = NETS[name]
    model, x = net.build(), net.inputs(4)
    result = compress(model, inspect_model(model, net.inputs()), Recipe(), net.inputs())
    rounding = 1e-6 if name in ("attention", "encoder") else 0  # attention is computed in another order
    pairs = zip(outputs(result.module, x), outputs(model, x), strict=True)
    assert all(torch.allclose(a, b, rtol=rounding, atol=rounding) for a, b in pairs)


@NAMES
@pytest.mark.parametrize("structure_only", [False, True])
def test_state_restores_the_module_through_a_file(name: str, structure_only: bool) -> None:
    net = NETS[name]
    model, x = trained(net), net.inputs(4)
    state = load(save(model.state()))
    original = net.build()
    graph = inspect_model(original, net.inputs())
    again = compress(original, graph, model.recipe, net.inputs(), structure_only=structure_only)
    assert again.recipe == model.recipe
    again.load_state(state)
    assert all(torch.equal(a, b) for a, b in zip(outputs(again.module, x), outputs(model.module, x), strict=True))


def test_the_structure_alone_takes_no_search_for_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_quantization, "_SHRINK_FACTORS", None)
    model, x = NETS["mlp"].build(), NETS["mlp"].inputs()
    graph = inspect_model(model, x)
    recipe = uniform_recipe(graph, W4A8)
    assert compress(model, graph, recipe, x, structure_only=True).quantized
    with pytest.raises(TypeError):
        compress(model, graph, recipe, x)


def test_state_is_a_copy() -> None:
    model = compressed(NETS["mlp"])
    state = model.state()
    for tensor in state.values():
        tensor.zero_()
    assert model.module[0].weight.abs().sum() > 0


def test_state_of_another_recipe_is_refused() -> None:
    net = NETS["mlp"]
    model, x = net.build(), net.inputs()
    other = compress(model, inspect_model(model, x), Recipe(), x)
    with pytest.raises(CompressionError, match="don't fit the model and its recipe"):
        other.load_state(compressed(net).state())


def everything(model: nn.Module) -> dict[str, Any]:
    """All that a caller could see of a module."""
    seen: dict[str, Any] = {"state": {k: (v.clone(), v.stride(), v.data_ptr()) for k, v in model.state_dict().items()}}
    for path, module in model.named_modules():
        seen[path] = (
            type(module),
            module.training,
            sorted(set(vars(type(module))) - {"__slotnames__"}),  # deepcopy leaves that one
            [len(hooks) for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)],
            [sorted(names) for names in (module._modules, module._buffers)],
            [(n, p.requires_grad, p.grad is None, p.data_ptr()) for n, p in module.named_parameters()],
        )
    return seen


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for name, (value, *rest) in before.pop("state").items():
        other, *others = after["state"][name]
        assert torch.equal(value, other), name
        assert rest == others, name
    after.pop("state")
    assert before == after


@NAMES
@pytest.mark.parametrize("training", [False, True], ids=["evaluating", "training"])
def test_the_callers_model_is_not_changed(name: str, training: bool) -> None:
    net = NETS[name]
    model = net.build().train(training)
    if name not in ("fixed_view", "volume"):  # its forward wants the usual layout; it has 3-d convolutions
        model = model.to(memory_format=torch.channels_last)
    before = everything(model)
    graph = inspect_model(model, net.inputs())
    layers = uniform_recipe(graph, W4A8).layers
    recipe = Recipe(layers=layers, pruning={group.name: 0.5 for group in graph.prunable})
    result = compress(model, graph, recipe, net.inputs())
    calibrate(result.module, net.batches())
    with result.export_form():
        result.freeze_weights()
    result.strip()
    with torch.no_grad():
        for parameter in result.module.parameters():
            parameter += 1
    assert_same(before, everything(model))


def test_a_model_with_its_own_parametrization_stays_parametrized() -> None:
    net = NETS["weight_norm"]
    model, x = net.build(), net.inputs(4)
    before = outputs(model, x)[0]
    recipe = Recipe(layers={"first": W4A8, "second": W4A8})
    result = compress(model, inspect_model(model, net.inputs()), recipe, net.inputs())
    result.strip()
    assert parametrize.is_parametrized(model.first, "weight")
    assert len(model.first.parametrizations.weight) == 1
    assert not parametrize.is_parametrized(model.second)
    assert torch.equal(outputs(model, x)[0], before)


@pytest.mark.parametrize(
    ("name", "recipe", "message"),
    [
        pytest.param("mlp", Recipe(layers={"9": W4A8}), "'9', which cannot be: no such layer", id="unknown layer"),
        pytest.param("tied", Recipe(layers={"words": W4A8}), "'words', but Embedding has no input", id="embedding"),
        pytest.param("never_called", Recipe(layers={"unused": W4A8}), "does not call it", id="never called"),
        pytest.param("mlp", Recipe(pruning={"1": 0.5}), "'1', .*: no such channel group", id="unknown group"),
        pytest.param("mlp", Recipe(pruning={"4": 0.5}), "'4', which cannot be: it has 5 filters", id="locked group"),
        pytest.param("dict", Recipe(pruning={"image": 0.5}), "its channels are outputs of the model", id="outputs"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_with_the_reason(name: str, recipe: Recipe, message: str) -> None:
    model, x = NETS[name].build(), NETS[name].inputs()
    with pytest.raises(CompressionError, match=message):
        compress(model, inspect_model(model, x), recipe, x)


@NAMES
def test_the_export_form_computes_the_same_and_ends(name: str) -> None:
    net = NETS[name]
    model, x = trained(net), net.inputs(4)
    before = outputs(model.module, x)
    with model.export_form() as module:
        exported = outputs(module, x)
        assert all(m.exporting for m in module.modules() if isinstance(m, Exportable))
    assert not any(m.exporting for m in model.module.modules() if isinstance(m, Exportable))
    assert all(torch.equal(a, b) for a, b in zip(exported, before, strict=True))


def test_the_export_form_ends_after_an_error_and_training_mode_returns() -> None:
    model = compressed(NETS["mlp"])
    model.module.train()
    with pytest.raises(ZeroDivisionError), model.export_form():
        assert not model.module.training
        raise ZeroDivisionError
    assert model.module.training
    assert not model.module[0].input_quantizer.exporting


def test_parameters_are_either_weights_or_ranges() -> None:
    module = compressed(NETS["query_key_value"]).module
    weights, ranges = parameter_groups(module)
    assert not {id(p) for p in weights} & {id(p) for p in ranges}
    assert {id(p) for p in weights + ranges} == {id(p) for p in module.parameters()}
    assert len(ranges) == 4 + 2 * 2  # a step for each weight, two ends for each of two shared inputs


def test_fewer_bits_give_a_larger_error() -> None:
    net = NETS["residual"]
    x = net.inputs(16)
    reference = outputs(net.build(), x)[0]
    errors = []
    for bits in (8, 6, 4, 3, 2):
        model, example = net.build(), net.inputs()
        graph = inspect_model(model, example)
        recipe = Recipe(layers={layer.name: LayerRecipe(weight_bits=bits, activation_bits=8) for layer in graph.layers})
        result = compress(model, graph, recipe, example)
        calibrate(result.module, [(x, None)])
        errors.append(float((outputs(result.module, x)[0] - reference).square().mean()))
    assert errors == sorted(errors)
    assert errors[0] < 1e-3 * errors[-1]


@pytest.mark.parametrize("method", ["magnitude", "regularization", "movement"])
def test_an_export_has_zeros_instead_of_masks_and_leaves_the_weights_behind_them(method: str) -> None:
    model, x = NETS["tied"].build(), NETS["tied"].inputs()
    graph = inspect_model(model, x)
    layers = uniform_recipe(graph, LayerRecipe(sparsity=0.5)).layers
    result = compress(model, graph, Recipe(layers=layers, sparsification=Sparsification(method=method)), x)
    before = result.state()
    wanted = outputs(result.module, x)
    with result.export_form() as module:
        weight = module.get_submodule("hidden").parametrizations["weight"].original
        assert int((weight == 0).sum()) == 128
        assert all(torch.equal(a, b) for a, b in zip(outputs(module, x), wanted, strict=True))
    after = result.state()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(a, b) for a, b in zip(outputs(result.module, x), wanted, strict=True))
