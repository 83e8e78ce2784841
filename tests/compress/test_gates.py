"""Stochastic gates: their chances, their gradients, their loss term against finite differences and NNCF's."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from autocompress.compress.gates import Gates, density_loss, initial_scores

pytest.importorskip("nncf")

from nncf.torch.function_hook.pruning.rb import losses
from nncf.torch.function_hook.pruning.rb.modules import RBPruningMask, apply_rb_binary_mask


def gates_with(scores: Tensor, *, learning: bool = True) -> Gates:
    gates = Gates(torch.ones(scores.shape))
    gates.learning = learning
    with torch.no_grad():
        gates.scores.copy_(scores)
    return gates


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("score", [-3.0, -0.5, 0.0, 1.2, 4.6])
def test_a_gate_is_open_with_the_probability_of_its_score(score: float) -> None:
    torch.manual_seed(3)
    n, wanted = 200_000, 1 / (1 + math.exp(-score))
    opened = gates_with(torch.full((n,), score))(torch.ones(n)).mean().item()
    assert abs(opened - wanted) < 5 * math.sqrt(wanted * (1 - wanted) / n)


def test_gates_take_only_the_values_0_and_1() -> None:
    assert set(gates_with(random(1000))(torch.ones(1000)).tolist()) == {0.0, 1.0}


def test_all_forward_passes_of_a_step_have_the_same_gates() -> None:
    gates = gates_with(torch.zeros(1000))
    first, second = gates(torch.ones(1000)), gates(torch.ones(1000))
    gates.draw()
    assert torch.equal(first, second)
    assert not torch.equal(first, gates(torch.ones(1000)))


def test_gates_can_be_drawn_at_each_pass() -> None:
    gates = gates_with(torch.zeros(1000))
    gates.noise_each_pass = True
    assert not torch.equal(gates(torch.ones(1000)), gates(torch.ones(1000)))


def test_the_seed_decides_the_gates() -> None:
    gates = gates_with(torch.zeros(1000))
    drawn = []
    for _ in range(2):
        torch.manual_seed(11)
        gates.draw()
        drawn.append(gates(torch.ones(1000)))
    assert torch.equal(*drawn)


def test_in_evaluation_gates_with_a_score_above_0_are_open() -> None:
    gates = gates_with(torch.tensor([-1.0, 0.0, 1e-6, 2.0])).eval()
    assert gates(torch.ones(4)).tolist() == [0.0, 0.0, 1.0, 1.0]


def test_gates_that_are_not_learning_are_their_mask_even_in_training() -> None:
    gates = gates_with(torch.zeros(4), learning=False).train()
    gates.mask.copy_(torch.tensor([True, False, True, False]))
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    gated = gates(weight)
    gated.sum().backward()
    assert gated.tolist() == [1.0, 0.0, 3.0, 0.0]
    assert weight.grad.tolist() == [1.0, 0.0, 1.0, 0.0]
    assert gates.scores.grad is None


def test_gradients_of_scores_and_weights_are_the_formulas() -> None:
    scores, incoming, weight = random(50), random(50, seed=1), random(50, seed=2).requires_grad_()
    gates = gates_with(scores)
    (gates(weight) * incoming).sum().backward()
    soft = torch.sigmoid(scores.double() + torch.log(gates.noise.double() / (1 - gates.noise.double())))
    assert torch.allclose(gates.scores.grad.double(), incoming * weight.detach() * soft * (1 - soft), atol=1e-6)
    assert torch.equal(weight.grad, incoming * (soft > 0.5))


def test_values_and_gradients_are_those_of_nncf_for_the_same_noise() -> None:
    scores, incoming, weight = random(500), random(500, seed=1), random(500, seed=2)
    gates, theirs = gates_with(scores), scores.clone().requires_grad_()
    torch.manual_seed(5)
    ours = gates(weight)
    torch.manual_seed(5)
    reference = apply_rb_binary_mask(weight, theirs, training=True)
    assert torch.equal(ours, reference)
    for value in (ours, reference):
        (value * incoming).sum().backward()
    assert torch.allclose(gates.scores.grad, theirs.grad, atol=1e-6)


@pytest.mark.parametrize("extreme", [0.0, 1.0])
def test_extreme_noise_leaves_a_small_gradient(extreme: float) -> None:
    gates = gates_with(torch.zeros(3))
    gates.noise = torch.full((3,), extreme)
    gates(torch.ones(3)).sum().backward()
    assert gates.scores.grad.tolist() == pytest.approx([1e-6] * 3, rel=0.1)


def test_scores_start_open_and_in_the_order_of_magnitudes() -> None:
    weight = random(8, 25)
    scores = initial_scores(weight).flatten()
    assert torch.equal(scores.argsort(), weight.abs().flatten().argsort())
    assert torch.sigmoid(scores).min() >= 0.99 - 1e-6


def test_a_weight_of_zeros_starts_with_equal_scores() -> None:
    assert initial_scores(torch.zeros(3)).tolist() == pytest.approx([math.log(99)] * 3)


def by_hand(scores: list[list[float]], densities: list[float], scope: str) -> float:
    opened = [[1 / (1 + math.exp(-s)) for s in layer] for layer in scores]
    if scope == "local":
        terms = [((sum(p) / len(p) - d) / 0.05) ** 2 for p, d in zip(opened, densities, strict=True)]
        return sum(terms) / len(terms)
    n = sum(map(len, scores))
    target = sum(len(p) * d for p, d in zip(opened, densities, strict=True)) / n
    return float(((sum(map(sum, opened)) / n - target) / 0.05) ** 2)


@pytest.mark.parametrize("scope", ["local", "global"])
def test_the_loss_term_and_its_gradient_are_the_formula(scope: str) -> None:
    scores = [random(7).tolist(), random(19, seed=1).tolist()]
    gates = [gates_with(torch.tensor(layer, dtype=torch.float64)).double() for layer in scores]
    for gate, layer in zip(gates, scores, strict=True):
        gate.scores.data.copy_(torch.tensor(layer, dtype=torch.float64))
    value = density_loss(gates, [0.3, 0.6], scope)
    value.backward()
    assert value.item() == pytest.approx(by_hand(scores, [0.3, 0.6], scope))
    for layer, gate in enumerate(gates):
        for k in range(3):
            moved = []
            for step in (1e-5, -1e-5):
                shifted = [list(values) for values in scores]
                shifted[layer][k] += step
                moved.append(by_hand(shifted, [0.3, 0.6], scope))
            assert gate.scores.grad[k].item() == pytest.approx((moved[0] - moved[1]) / 2e-5, rel=1e-4)


@pytest.mark.parametrize("scope", ["local", "global"])
def test_the_loss_term_pulls_towards_the_target_density_from_both_sides(scope: str) -> None:
    dense, sparse = gates_with(torch.full((9,), 2.0)), gates_with(torch.full((9,), -2.0))
    for gates, sign in ((dense, 1), (sparse, -1)):
        density_loss([gates], [0.5], scope).backward()
        assert (gates.scores.grad.sign() == sign).all()


def test_the_loss_term_is_that_of_nncf_where_gates_are_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    """NNCF counts gates with a score above 0 where the paper's equation 7 adds up probabilities."""
    scores = [40 * random(30).sign(), 40 * random(50, seed=1).sign()]
    theirs = [RBPruningMask(tuple(layer.shape)) for layer in scores]
    for mask, layer in zip(theirs, scores, strict=True):
        mask.mask.data.copy_(layer)
    monkeypatch.setattr(losses, "get_pruned_modules", lambda _: dict(enumerate(theirs)))
    wanted = losses.RBLoss(SimpleNamespace(), target_ratio=0.7)()  # type: ignore[arg-type]
    ours = density_loss([gates_with(layer) for layer in scores], [0.3, 0.3], "global")
    assert ours.item() == pytest.approx(wanted.item(), rel=1e-5)
