"""Importance of filters from training data, against its formulas."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autocompress.compress.importance import importance_scores
from autocompress.task import call
from tests.compress.scoring import everything_of, scores_of, to_mean_1, total_square
from tests.nets import NETS


def squared_products(model: nn.Module, names: list[str], batches: Any, loss: Any) -> list[list[float]]:
    """For each module, by autograd, mean over batches of the squared sum of gradient times value of each filter."""
    totals = [torch.zeros(len(model.get_submodule(name).weight)) for name in names]
    for inputs, targets in batches:
        model.zero_grad()
        loss(call(model, inputs), targets).backward()
        for name, total in zip(names, totals, strict=True):
            module = model.get_submodule(name)
            product = (module.weight * module.weight.grad).flatten(1) if module.weight.dim() > 1 else None
            own = product.sum(dim=1) if product is not None else module.weight * module.weight.grad
            if module.bias is not None:
                own = own + module.bias * module.bias.grad
            total += own.detach().square() / len(batches)
    return [total.tolist() for total in totals]


@pytest.mark.parametrize(
    ("name", "group", "modules"),
    [
        pytest.param("plain", "0", ["0"], id="convolution"),
        pytest.param("plain", "2", ["2"], id="second convolution"),
        pytest.param("mlp", "0", ["0"], id="linear layer with a bias"),
        pytest.param("mlp", "2", ["2"], id="second linear layer"),
        pytest.param("shared", "stem", ["stem", "twice"], id="a layer called twice"),
        pytest.param("residual", "first.0", ["first.1"], id="behind its batch norm"),
        pytest.param("residual", "stem.0", ["stem.1", "second.1"], id="two batch norms"),
        pytest.param("conv1d", "0", ["0"], id="one axis, behind its batch norm"),
        pytest.param("encoder", "layer.linear1", ["layer.linear1"], id="linear layer on a sequence"),
        pytest.param("upsampling", "down", ["down"], id="no classifier"),
    ],
)
def test_taylor_scores_are_squared_products_of_gradient_and_value(name: str, group: str, modules: list[str]) -> None:
    net = NETS[name]
    names = ["1"] if name == "conv1d" else modules
    loss = total_square if name == "upsampling" else cross_entropy
    parts = squared_products(net.build(), names, net.batches(3), loss)
    expected = torch.tensor([sum(column) for column in zip(*map(to_mean_1, parts), strict=True)])
    found = scores_of(net, "taylor", batches=net.batches(3), loss=loss)[group]
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_taylor_scores_are_squared_differences_when_a_filter_is_scaled() -> None:
    net, step = NETS["mlp"], 1e-4
    model, (inputs, targets) = net.build().double(), net.batches(1)[0]
    inputs = inputs.double()

    def value(index: int, factor: float) -> float:
        scaled = copy.deepcopy(model)
        with torch.no_grad():
            scaled[0].weight[index] *= factor
            scaled[0].bias[index] *= factor
            return float(cross_entropy(scaled(inputs), targets))

    slopes = [(value(i, 1 + step) - value(i, 1 - step)) / (2 * step) for i in range(16)]
    found = importance_scores(model, inputs[:1], "taylor", ["0"], [(inputs, targets)], cross_entropy)["0"]
    assert torch.allclose(found, torch.tensor(to_mean_1([s * s for s in slopes])), rtol=1e-4, atol=1e-6)


def test_a_filter_that_nothing_reads_has_a_taylor_score_of_zero() -> None:
    net = NETS["mlp"]
    model = net.build()
    with torch.no_grad():
        model[2].weight[:, [3, 5]] = 0
    scores = importance_scores(model, net.inputs(), "taylor", ["0"], net.batches(), cross_entropy)["0"]
    assert scores.argsort(stable=True)[:2].tolist() == [3, 5]
    assert scores[[3, 5]].tolist() == [0, 0]


def test_frozen_parameters_have_taylor_scores_too() -> None:
    free, frozen = (scores_of(NETS[name], "taylor")["first.0"] for name in ("residual", "frozen"))
    assert torch.equal(free, frozen)


@pytest.mark.parametrize(
    ("name", "group", "module", "axes"),
    [
        pytest.param("plain", "0", "0", (0, 2, 3), id="convolution"),
        pytest.param("residual", "first.0", "first.1", (0, 2, 3), id="behind its batch norm"),
        pytest.param("encoder", "layer.linear1", "layer.linear1", (0, 1), id="linear layer on a sequence"),
        pytest.param("volume", "0", "1", (0, 2, 3, 4), id="three axes"),
    ],
)
def test_activation_scores_are_mean_sizes_over_all_samples(name: str, group: str, module: str, axes: Any) -> None:
    net, seen = NETS[name], []
    model = net.build()
    batches = [*net.batches(2), (net.inputs(3, seed=5), torch.zeros(3, dtype=torch.long))]
    hook = model.get_submodule(module).register_forward_hook(lambda _m, _i, output: seen.append(output.detach()))
    for inputs, _ in batches:
        call(model, inputs)
    hook.remove()
    expected = torch.cat(seen).abs().mean(dim=axes)
    found = importance_scores(net.build(), net.inputs(), "activation", batches=batches)[group]
    assert torch.allclose(found, expected / expected.mean(), rtol=1e-4)


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_the_scale_of_the_loss_does_not_matter(factor: float) -> None:
    found = scores_of(
        NETS["residual"], "taylor", loss=lambda outputs, targets: factor * cross_entropy(outputs, targets)
    )
    expected = scores_of(NETS["residual"], "taylor")
    assert all(torch.allclose(found[group], expected[group], rtol=1e-3, atol=1e-6) for group in expected)


def test_scores_need_no_gradients_around_them() -> None:
    with torch.no_grad():
        found = scores_of(NETS["mlp"], "taylor")
    assert torch.equal(found["0"], scores_of(NETS["mlp"], "taylor")["0"])


def failing(_outputs: Any, _targets: Any) -> Tensor:
    raise ZeroDivisionError


def test_a_loss_that_fails_leaves_no_hooks_and_the_mode() -> None:
    net = NETS["residual"]
    model = net.build().train()
    before = everything_of(model)
    with pytest.raises(ZeroDivisionError):
        importance_scores(model, net.inputs(), "taylor", None, net.batches(), failing)
    assert everything_of(model) == before


@pytest.mark.parametrize("kind", ["taylor", "activation"])
def test_no_more_batches_are_read_than_asked_for(kind: str) -> None:
    net = NETS["mlp"]
    batches = iter(net.batches(5))
    found = scores_of(net, kind, batches=batches, n_batches=2)["0"]
    assert len(list(batches)) == 3
    assert torch.equal(found, scores_of(net, kind, batches=net.batches(2))["0"])
