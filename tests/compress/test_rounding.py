"""Rounding by the inputs, against Optimal Brain Quantization and coordinate descent written out in numpy."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autocompress.compress.hessian import InputHessian
from autocompress.compress.rounding import round_layer, round_with_hessian
from autocompress.errors import CompressionError

ZERO = torch.zeros(())


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hessian_of(*shape, seed=0, mixing=1.0):
    """Mean product of correlated vectors; shape ([groups,] vectors, columns)."""
    columns = shape[-1]
    x = random(*shape, seed=seed) + mixing * random(*shape, seed=seed + 1) @ random(columns, columns, seed=seed + 2)
    return x.mT @ x / shape[-2]


def by_hand(weight, hessian, scale, zero, low, high, damping=0.01, n_passes=0):
    """Equations 2 and 3 of GPTQ, one weight after another, with an explicit inverse that loses a column each time.

    Then each weight again, by the minimum of the parabola that the error is in it (QuantEase, lemma 1).
    """
    hessian, scale, zero = hessian.numpy(), *(t.expand(weight.shape).numpy() for t in (scale, zero))
    result = np.empty(weight.shape)
    for row, wanted in enumerate(weight.numpy()):
        w, grid = wanted.copy(), lambda x, c, row=row: np.clip(np.rint(x / scale[row, c]) + zero[row, c], low, high)
        damped = hessian + damping * np.diag(hessian).mean() * np.eye(len(w))
        inverse, order = np.linalg.inv(damped), np.argsort(-np.diag(hessian), kind="stable")
        for c in order:
            result[row, c] = grid(w[c], c)
            error = w[c] - scale[row, c] * (result[row, c] - zero[row, c])
            w -= error / inverse[c, c] * inverse[c]
            inverse -= np.outer(inverse[:, c], inverse[c]) / inverse[c, c]
        for c in [*order] * n_passes:
            error = wanted - scale[row] * (result[row] - zero[row])
            error[c] = 0
            result[row, c] = grid(wanted[c] + error @ damped[:, c] / damped[c, c], c)
        simple = np.array([grid(x, c) for c, x in enumerate(wanted)])
        errors = [wanted - scale[row] * (indices - zero[row]) for indices in (result[row], simple)]
        if errors[0] @ hessian @ errors[0] >= errors[1] @ hessian @ errors[1]:
            result[row] = simple
    return torch.from_numpy(result)


def nearest(weight, scale, zero, low, high):
    return (torch.round(weight / scale) + zero).clamp(low, high)


def output_error(weight, indices, scale, zero, hessian):
    error = weight - scale * (indices - zero)
    return torch.einsum("...ri,...ij,...rj->...r", error, hessian, error)


GRIDS = {
    "a row, symmetric 4 bits": (0.3 + random(6, 1).abs() / 10, ZERO, -7, 7),
    "a row, ternary": (0.8 + random(6, 1).abs() / 10, ZERO, -1, 1),
    "a tensor, symmetric 8 bits": (torch.tensor(0.02), ZERO, -127, 127),
    "a row, asymmetric 4 bits": (0.3 + random(6, 1).abs() / 10, torch.arange(5.0, 11.0)[:, None], 0, 15),
    "a number, asymmetric 3 bits": (0.5 + random(6, 5).abs() / 10, random(6, 5).round() + 3, 0, 7),
}


def widened(tensor, columns):
    """Scales a group of columns, written out for each column."""
    return tensor.repeat(1, -(-columns // 5))[:, :columns] if tensor.shape[-1:] == (5,) else tensor


@pytest.mark.parametrize("n_passes", [0, 2], ids=["GPTQ", "and two passes"])
@pytest.mark.parametrize("columns", [1, 7, 128, 200], ids=lambda n: f"{n} columns")
@pytest.mark.parametrize(("scale", "zero", "low", "high"), GRIDS.values(), ids=GRIDS.keys())
def test_it_equals_the_algorithms_by_hand(scale, zero, low, high, columns, n_passes):
    weight, hessian = random(6, columns), hessian_of(2 * columns + 5, columns)
    grid = (widened(scale, columns), widened(zero, columns), low, high)
    indices = round_with_hessian(weight, hessian, *grid, n_passes=n_passes)
    assert torch.equal(indices, by_hand(weight, hessian, *grid, n_passes=n_passes))
    assert columns < 7 or not torch.equal(indices, nearest(weight, *grid))


def test_passes_of_descent_lower_the_error():
    weight, hessian, grid = random(50, 200), hessian_of(300, 200), (torch.tensor(0.4), ZERO)
    errors = [
        output_error(weight, round_with_hessian(weight, hessian, *grid, -7, 7, 0.0, n), *grid, hessian)
        for n in (0, 1, 3)
    ]
    assert (errors[0] >= errors[1] * (1 - 1e-9)).all()
    assert (errors[1] >= errors[2] * (1 - 1e-9)).all()
    assert errors[2].sum() < 0.97 * errors[0].sum()


@pytest.mark.parametrize("damping", [1e-4, 1.0])
def test_damping_is_a_fraction_of_the_mean_diagonal(damping):
    grid, weight, hessian = (torch.tensor(0.4), ZERO, -7, 7), random(6, 20), 100 * hessian_of(50, 20)
    assert torch.equal(round_with_hessian(weight, hessian, *grid, damping), by_hand(weight, hessian, *grid, damping, 3))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("n_vectors", [3, 40, 400], ids=lambda n: f"{n} vectors")
def test_the_output_error_of_no_row_is_above_that_of_nearest(bits, n_vectors):
    limit = 2 ** (bits - 1) - 1
    weight, hessian, grid = random(50, 40), hessian_of(n_vectors, 40), (torch.tensor(3.0 / limit), ZERO)
    ours = output_error(weight, round_with_hessian(weight, hessian, *grid, -limit, limit), *grid, hessian)
    simple = output_error(weight, nearest(weight, *grid, -limit, limit), *grid, hessian)
    assert (ours <= simple * (1 + 1e-9)).all()
    assert ours.sum() < 0.8 * simple.sum()


def test_independent_inputs_give_exactly_nearest():
    weight, grid = random(6, 200).float(), (torch.tensor(0.3), ZERO, -3, 3)
    for hessian in (torch.eye(200), torch.diag(random(200).abs().float())):
        assert torch.equal(round_with_hessian(weight, hessian, *grid), nearest(weight, *grid))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_groups_at_once_equal_one_by_one(dtype):
    weight, hessian, scale = random(5, 3, 9).to(dtype), hessian_of(5, 30, 9).to(dtype), random(5, 3, 1).abs() + 0.1
    together = round_with_hessian(weight, hessian, scale, ZERO, -7, 7)
    for group in range(5):
        assert torch.equal(
            together[group], round_with_hessian(weight[group], hessian[group], scale[group], ZERO, -7, 7)
        )


@given(
    st.integers(1, 5),
    st.integers(1, 20),
    st.integers(-9, 0),
    st.integers(1, 9),
    st.floats(1e-3, 1e3),
    st.integers(0, 99),
)
def test_weights_on_the_grid_stay(rows, columns, low, high, scale, seed):
    generator, zero = torch.Generator().manual_seed(seed), torch.tensor(float(low + 1))
    indices = torch.randint(low, high + 1, (rows, columns), generator=generator).float()
    hessian = hessian_of(columns + 1, columns, seed=seed).float()
    weight = scale * (indices - zero)
    assert torch.equal(round_with_hessian(weight, hessian, torch.tensor(scale), zero, low, high), indices)


@given(st.integers(1, 4), st.integers(1, 12), st.integers(0, 15), st.integers(0, 99), st.floats(-30, 30))
def test_indices_are_whole_numbers_within_the_limits(rows, columns, n_vectors, seed, exponent):
    x = random(n_vectors, columns, seed=seed).float() * 10 ** (exponent / 2)
    weight = random(rows, columns, seed=seed + 1).float() * 3
    hessian = x.mT @ x / max(1, n_vectors)
    indices = round_with_hessian(weight, hessian, torch.tensor(0.5), torch.tensor(1.0), -2, 5)
    assert torch.equal(indices, indices.round().clamp(-2, 5))
    assert indices.shape == weight.shape


class TestDegenerateInputs:
    weight, grid = random(4, 30).float(), (torch.tensor(0.3), ZERO, -7, 7)

    def test_a_dead_column_is_rounded_to_nearest_and_does_not_disturb_the_others(self):
        hessian = hessian_of(80, 30).float()
        dead, alive = torch.tensor([0, 11, 29]), torch.tensor([c for c in range(30) if c not in (0, 11, 29)])
        hessian[dead] = hessian[:, dead] = 0
        indices = round_with_hessian(self.weight, hessian, *self.grid)
        smaller = round_with_hessian(self.weight[:, alive], hessian[alive][:, alive], *self.grid)
        assert torch.equal(indices[:, dead], nearest(self.weight, *self.grid)[:, dead])
        assert torch.equal(indices[:, alive], smaller)

    def test_no_input_at_all_gives_nearest(self):
        indices = round_with_hessian(self.weight, torch.zeros(30, 30), *self.grid)
        assert torch.equal(indices, nearest(self.weight, *self.grid))

    def test_inputs_that_are_all_alike_keep_the_sum_of_the_weights(self):
        indices = round_with_hessian(self.weight, torch.ones(30, 30), *self.grid)
        assert ((0.3 * indices).sum(dim=1) - self.weight.sum(dim=1)).abs().max() <= 0.15 + 1e-5

    @pytest.mark.parametrize("damping", [0.0, 0.01])
    def test_one_sample_is_enough(self, damping):
        x = random(1, 30).float()
        indices = round_with_hessian(self.weight, x.mT @ x, *self.grid, damping)
        simple = nearest(self.weight, *self.grid)
        ours, theirs = ((0.3 * i - self.weight) @ x[0] for i in (indices, simple))
        assert ours.abs().sum() < 0.5 * theirs.abs().sum()

    @pytest.mark.parametrize(("diagonal", "broken"), [(1.0, -3.0), (1.0, 1e6), (1.0, 3e38), (1e-30, 1e10)])
    def test_a_matrix_that_is_not_positive_definite_is_damped_until_it_is(self, diagonal, broken):
        hessian = diagonal * torch.eye(30)
        hessian[3, 5] = hessian[5, 3] = broken
        indices = round_with_hessian(self.weight, hessian, *self.grid)
        assert torch.equal(indices, indices.round().clamp(-7, 7))

    def test_a_group_that_needs_much_damping_leaves_that_of_the_others(self):
        indefinite = torch.eye(30) + 3 * torch.eye(30).flip(0)
        hessians = torch.stack([hessian_of(80, 30).float(), indefinite])
        weights = torch.stack([self.weight, self.weight])
        indices = round_with_hessian(weights, hessians, *self.grid)
        assert torch.equal(indices[0], round_with_hessian(self.weight, hessians[0], *self.grid))

    @pytest.mark.parametrize("factor", [2.0**-100, 2.0**80], ids=str)
    def test_the_unit_of_the_inputs_does_not_matter(self, factor):
        hessian = hessian_of(80, 30).float()
        indices = round_with_hessian(self.weight, factor * hessian, *self.grid)
        assert torch.equal(indices, round_with_hessian(self.weight, hessian, *self.grid))

    @pytest.mark.parametrize("where", ["weight", "hessian"])
    @pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=str)
    def test_values_that_are_not_finite_are_an_error(self, where, value):
        tensors = {"weight": self.weight.clone(), "hessian": torch.eye(30)}
        tensors[where][0, 0] = value
        with pytest.raises(CompressionError, match="must be finite"):
            round_with_hessian(*tensors.values(), *self.grid)


def test_the_arguments_are_left_alone_and_no_gradient_is_kept():
    weight, hessian = random(4, 30).requires_grad_(), hessian_of(80, 30)
    before = weight.detach().clone(), hessian.clone()
    indices = round_with_hessian(weight, hessian, torch.tensor(0.3), ZERO, -7, 7)
    assert not indices.requires_grad
    assert torch.equal(weight, before[0])
    assert torch.equal(hessian, before[1])


def test_half_precision_weights_are_rounded_in_float32():
    weight, hessian, grid = random(4, 30).bfloat16(), hessian_of(80, 30).float(), (torch.tensor(0.3), ZERO, -7, 7)
    indices = round_with_hessian(weight, hessian, *grid)
    assert indices.dtype == torch.bfloat16
    assert torch.equal(indices.float(), round_with_hessian(weight.float(), hessian, *grid))


LAYERS = {
    "linear": (nn.Linear(40, 8), (100, 40)),
    "conv2d": (nn.Conv2d(4, 8, 3, padding=1), (4, 4, 12, 12)),
    "conv2d grouped": (nn.Conv2d(8, 8, 3, padding=1, groups=2), (4, 8, 12, 12)),
    "conv2d depthwise": (nn.Conv2d(8, 8, 3, padding=1, groups=8), (4, 8, 12, 12)),
    "conv1d": (nn.Conv1d(4, 8, 5), (4, 4, 30)),
}


@pytest.mark.parametrize("scale_a_channel", [True, False], ids=["scale a channel", "scale a tensor"])
@pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS.keys())
def test_the_output_of_a_rounded_layer_is_closer_than_of_nearest(layer, shape, scale_a_channel):
    x = random(*shape).float().cumsum(-1)
    weight = 0.1 * random(*layer.weight.shape, seed=1).float()
    layer = copy.deepcopy(layer)
    layer.weight.data.copy_(weight)
    largest = weight.flatten(1).abs().amax(1).reshape(-1, *[1] * (weight.dim() - 1))
    scale = (largest if scale_a_channel else weight.abs().max()) / 7
    statistics = InputHessian(layer)
    statistics.update(x)
    indices = round_layer(layer, weight, statistics.hessian(), scale, ZERO, -7, 7)
    assert indices.shape == weight.shape
    errors = [
        (torch.func.functional_call(layer, {"weight": scale * i}, (x,)) - layer(x)).square().mean()
        for i in (indices, nearest(weight, scale, ZERO, -7, 7))
    ]
    assert errors[0] < 0.7 * errors[1]
