"""The factors of SVD and Tucker-2 are the best ones, or no worse than their bounds, and of like sizes."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autocompress.compress.low_rank import svd_factors, tucker_factors


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (16, 16), (1, 9)], ids=str)
def test_the_squared_error_of_svd_is_the_sum_of_the_dropped_squared_singular_values(shape: tuple[int, int]) -> None:
    matrix = normal(*shape)
    singular = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    for rank in range(1, min(shape) + 1):
        down, up = svd_factors(matrix, rank)
        assert down.shape == (rank, shape[1]) and up.shape == (shape[0], rank)
        error = float((up.double() @ down.double() - matrix).norm())
        assert error == pytest.approx(math.sqrt((singular[rank:] ** 2).sum()), rel=1e-4, abs=1e-5)


def test_the_singular_values_are_split_evenly() -> None:
    matrix = normal(12, 20)
    singular = np.sqrt(np.linalg.svd(matrix.numpy(), compute_uv=False)[:5])
    down, up = svd_factors(matrix, 5)
    np.testing.assert_allclose(down @ down.T, np.diag(singular**2), atol=1e-4)
    np.testing.assert_allclose(up.T @ up, np.diag(singular**2), atol=1e-4)


def test_the_three_factors_of_tucker_have_weights_of_like_sizes() -> None:
    """A weight that is diagonal in its channels has one singular value a channel, of which each gets a third."""
    weight = torch.diag(torch.tensor([27.0, 8.0, 1.0]))[:, :, None, None]
    for factor in tucker_factors(weight, 3, 3):
        assert torch.allclose(factor.flatten(1).norm(dim=1), torch.tensor([3.0, 2.0, 1.0])) or torch.allclose(
            factor.flatten(1).norm(dim=1), torch.tensor([1.0, 2.0, 3.0])
        )


@pytest.mark.parametrize("matrix", [torch.zeros(9, 12), normal(9, 1) @ normal(1, 12)], ids=["zero", "rank one"])
def test_weights_without_full_rank_have_finite_factors(matrix: Tensor) -> None:
    down, up = svd_factors(matrix, 8)
    torch.testing.assert_close(up @ down, matrix, rtol=0, atol=1e-5)
    first, core, last = tucker_factors(matrix[:, :, None], 8, 8)
    torch.testing.assert_close(last @ core[:, :, 0] @ first, matrix, rtol=0, atol=1e-5)


def rebuilt(first: Tensor, core: Tensor, last: Tensor) -> Tensor:
    return torch.einsum("os,sr...,ri->oi...", last.double(), core.double(), first.double())


def hosvd_error(weight: Tensor, rank_in: int, rank_out: int) -> float:
    """By its definition, in numpy: projection on the singular vectors of both unfoldings."""
    array = weight.double().numpy()
    flat = array.reshape(*array.shape[:2], -1)
    u_out = np.linalg.svd(flat.reshape(len(flat), -1), full_matrices=True)[0][:, :rank_out]
    u_in = np.linalg.svd(flat.transpose(1, 0, 2).reshape(flat.shape[1], -1), full_matrices=True)[0][:, :rank_in]
    return float(np.linalg.norm(np.einsum("oik,ir,os,pr,qs->qpk", flat, u_in, u_out, u_in, u_out) - flat))


WEIGHTS = st.tuples(
    st.integers(1, 10), st.integers(1, 10), st.sampled_from([(2,), (3, 3), (1, 3), (2, 1, 2)]), st.integers(0, 10_000)
)


@settings(deadline=None, max_examples=60)
@given(WEIGHTS, st.data())
def test_tucker_is_never_worse_than_hosvd_of_its_rank_or_a_lower_one(
    drawn: tuple[int, int, tuple[int, ...], int], data: st.DataObject
) -> None:
    n_out, n_in, kernel, seed = drawn
    weight = normal(n_out, n_in, *kernel, seed=seed)
    ranks = data.draw(st.tuples(st.integers(1, n_in), st.integers(1, n_out)))
    error = float((rebuilt(*tucker_factors(weight, *ranks)) - weight).norm())
    for rank_in, rank_out in itertools.product({1, ranks[0]}, {1, ranks[1]}):
        assert error <= hosvd_error(weight, rank_in, rank_out) * (1 + 1e-5) + 1e-5


@pytest.mark.parametrize("seed", range(4))
def test_the_error_of_tucker_falls_with_the_rank(seed: int) -> None:
    weight = normal(16, 12, 3, 3, seed=seed)
    by_both = [float((rebuilt(*tucker_factors(weight, r, r)) - weight).norm()) for r in range(1, 13)]
    by_out = [float((rebuilt(*tucker_factors(weight, 5, r)) - weight).norm()) for r in range(1, 17)]
    for errors in (by_both, by_out):
        assert all(more < less + 1e-5 for less, more in itertools.pairwise(errors))


def test_tucker_finds_better_bases_than_hosvd() -> None:
    weight = normal(16, 12, 3, 3)
    assert float((rebuilt(*tucker_factors(weight, 5, 6)) - weight).norm()) < 0.999 * hosvd_error(weight, 5, 6)


@pytest.mark.parametrize("kernel", [(3,), (3, 2), (2, 3, 1)], ids=["1d", "2d", "3d"])
def test_factors_of_full_rank_give_the_weight_back(kernel: tuple[int, ...]) -> None:
    weight = normal(9, 14, *kernel)
    torch.testing.assert_close(rebuilt(*tucker_factors(weight, 14, 9)).float(), weight, rtol=0, atol=1e-5)
    matrix = weight.flatten(1)
    down, up = svd_factors(matrix, 9)
    torch.testing.assert_close(up @ down, matrix, rtol=0, atol=1e-5)
