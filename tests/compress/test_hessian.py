"""Input statistics against the layer's own forward: with a one-hot weight, its output is the input vectors."""

import copy

import pytest
import torch
from torch import nn

from autocompress.compress.hessian import MAX_COLUMNS, MAX_POSITIONS, InputHessian, as_rows, from_rows
from autocompress.errors import CompressionError

LAYERS = {
    "linear": (nn.Linear(5, 3), (6, 5)),
    "linear on sequences": (nn.Linear(5, 3), (2, 3, 4, 5)),
    "linear on one vector": (nn.Linear(5, 3), (5,)),
    "conv1d": (nn.Conv1d(3, 4, 3), (2, 3, 9)),
    "conv1d circular": (nn.Conv1d(3, 4, 3, padding=2, padding_mode="circular"), (2, 3, 9)),
    "conv2d 1x1": (nn.Conv2d(6, 4, 1), (2, 6, 4, 5)),
    "conv2d 1x1 strided": (nn.Conv2d(6, 4, 1, stride=2), (2, 6, 5, 5)),
    "conv2d padded": (nn.Conv2d(3, 4, 3, padding=1), (2, 3, 6, 7)),
    "conv2d all uneven": (nn.Conv2d(3, 4, (2, 3), (2, 1), (1, 2), (2, 3)), (2, 3, 9, 11)),
    "conv2d valid": (nn.Conv2d(3, 4, 3, padding="valid"), (2, 3, 6, 7)),
    "conv2d same, even kernel": (nn.Conv2d(3, 4, (4, 3), padding="same", dilation=(1, 2)), (2, 3, 6, 7)),
    "conv2d reflect": (nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="reflect"), (2, 3, 6, 7)),
    "conv2d replicate, same": (nn.Conv2d(3, 4, 4, padding="same", padding_mode="replicate"), (2, 3, 6, 7)),
    "conv2d grouped": (nn.Conv2d(6, 4, 3, padding=1, groups=2), (2, 6, 5, 5)),
    "conv2d depthwise": (nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6), (2, 6, 7, 7)),
    "conv2d depthwise, two outputs a channel": (nn.Conv2d(4, 8, 3, groups=4), (2, 4, 5, 5)),
    "conv2d without batch dimension": (nn.Conv2d(3, 4, 3, padding=1), (3, 6, 7)),
    "conv2d of one sample": (nn.Conv2d(3, 4, 3, padding=1), (1, 3, 3, 3)),
    "conv3d": (nn.Conv3d(2, 4, (1, 2, 3), padding=(0, 1, 1), groups=2), (2, 2, 3, 4, 5)),
}
cases = pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS.keys())


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vectors_by_forward(layer, x):
    """Input vectors of `layer`, shape (groups, columns, vectors)."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1]).T[None]
    n_columns, per_group = layer.weight[0].numel(), layer.weight.shape[1:]
    reader = copy.deepcopy(layer)
    reader.bias = None
    reader.out_channels = layer.groups * n_columns
    reader.weight = nn.Parameter(torch.eye(n_columns).repeat(layer.groups, 1).reshape(-1, *per_group))
    batched = x if x.dim() == layer.weight.dim() else x[None]
    output = reader(batched).detach().movedim(1, 0)
    return output.reshape(layer.groups, n_columns, -1)


def mean_product(vectors):
    return (vectors.double() @ vectors.double().mT / vectors.shape[-1]).float()


def hessian_of(layer, *batches, seed=0):
    statistics = InputHessian(layer, seed)
    for batch in batches:
        statistics.update(batch)
    return statistics.hessian()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@cases
def test_it_is_the_mean_product_of_what_the_layer_reads(layer, shape):
    x = random(*shape)
    torch.testing.assert_close(hessian_of(layer, x), mean_product(vectors_by_forward(layer, x)))


@cases
def test_it_predicts_the_error_of_the_output(layer, shape):
    x, changed = random(*shape), copy.deepcopy(layer)
    with torch.no_grad():
        changed.weight += random(*layer.weight.shape, seed=1) * 0.1
        difference = (changed(x) - layer(x)).square()
    error = as_rows(layer, changed.weight.detach() - layer.weight.detach())
    predicted = ((error @ hessian_of(layer, x)) * error).sum()
    n_vectors = difference.numel() / layer.weight.shape[0]
    torch.testing.assert_close(predicted, difference.sum() / n_vectors)


@cases
def test_rows_become_the_weight_again(layer, shape):
    rows = as_rows(layer, layer.weight)
    assert rows.shape[0] == getattr(layer, "groups", 1)
    assert torch.equal(rows.flatten(0, 1), layer.weight.flatten(1))
    assert torch.equal(from_rows(layer, rows), layer.weight)


def test_rows_of_a_scale_a_channel_have_one_column():
    layer = nn.Conv2d(6, 4, 3, groups=2)
    assert torch.equal(as_rows(layer, torch.arange(4.0).reshape(4, 1, 1, 1))[:, :, 0], torch.tensor([[0.0, 1], [2, 3]]))


@pytest.mark.parametrize("sizes", [(4, 4), (1, 2, 5), (7, 1), (8, 0)], ids=str)
def test_batches_of_any_sizes_equal_the_whole(sizes):
    layer, x = nn.Conv2d(3, 4, 3, padding=1), random(8, 3, 6, 6)
    torch.testing.assert_close(hessian_of(layer, *x.split([*sizes, 8 - sum(sizes)])), hessian_of(layer, x))


def test_a_later_update_leaves_what_was_returned_alone():
    statistics = InputHessian(nn.Linear(3, 2))
    statistics.update(random(4, 3))
    first = statistics.hessian()
    before = first.clone()
    statistics.update(random(4, 3, seed=1))
    assert torch.equal(first, before)


def test_a_constant_input_gives_a_matrix_of_rank_one():
    assert torch.equal(hessian_of(nn.Linear(3, 2), torch.full((5, 3), 2.0)), torch.full((1, 3, 3), 4.0))


def test_half_precision_inputs_are_summed_in_float32():
    x = torch.full((4000, 2), 3.0, dtype=torch.bfloat16)
    assert torch.equal(hessian_of(nn.Linear(2, 2), x), torch.full((1, 2, 2), 9.0))


class TestSampling:
    x = random(8, 2, 40, 40)
    layer = nn.Conv2d(2, 4, 3, padding=1)

    def test_it_looks_at_no_more_vectors_than_it_may(self):
        statistics = InputHessian(self.layer)
        assert self.x[:, 0].numel() > MAX_POSITIONS
        assert statistics._vectors(self.x).shape == (1, MAX_POSITIONS, 18)

    def test_it_estimates_the_whole_without_bias_to_any_place(self):
        """Every place of the picture has its own value, so a choice by a fixed stride would be far off."""
        x = torch.stack(torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij"))[None].repeat(8, 1, 1, 1)
        whole = mean_product(vectors_by_forward(self.layer, x))
        torch.testing.assert_close(hessian_of(self.layer, x), whole, rtol=0.05, atol=0.0)

    def test_the_same_seed_chooses_the_same_and_another_others(self):
        first, again, other = (hessian_of(self.layer, self.x, seed=seed) for seed in (3, 3, 4))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_each_batch_is_sampled_anew(self):
        assert not torch.equal(hessian_of(self.layer, self.x), hessian_of(self.layer, self.x, self.x))

    def test_chance_elsewhere_is_left_alone(self):
        state = torch.random.get_rng_state()
        hessian_of(self.layer, self.x)
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_linear_layers_are_sampled_too(self):
        assert InputHessian(nn.Linear(3, 2))._vectors(random(2, 4000, 3)).shape == (1, MAX_POSITIONS, 3)


UNSUPPORTED = {
    "transposed": (nn.ConvTranspose2d(2, 2, 3), "ConvTranspose2d is none of Linear"),
    "embedding": (nn.Embedding(3, 2), "Embedding is none of Linear"),
    "too wide": (nn.Linear(MAX_COLUMNS + 1, 1), "8193 inputs of an output exceed 8192"),
    "too wide by its kernel": (nn.Conv2d(911, 1, 3), "8199 inputs of an output exceed 8192"),
}


@pytest.mark.parametrize(("layer", "reason"), UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_an_unsupported_layer_says_why(layer, reason):
    assert not InputHessian.supports(layer)
    with pytest.raises(CompressionError, match=reason):
        InputHessian(layer)


@pytest.mark.parametrize("layer", [nn.Linear(MAX_COLUMNS, 1), nn.Conv2d(9000, 9000, 3, groups=9000)], ids=str)
def test_a_layer_is_as_wide_as_one_group(layer):
    assert InputHessian.supports(layer)
    assert InputHessian.reason(layer) == ""


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf], ids=str)
def test_an_input_that_is_not_finite_is_an_error_even_where_not_sampled(value):
    x = torch.zeros(3 * MAX_POSITIONS, 2)
    x[-1, 1] = value
    with pytest.raises(CompressionError, match="NaN or infinite"):
        InputHessian(nn.Linear(2, 2)).update(x)


@pytest.mark.parametrize("batches", [[], [torch.zeros(0, 2)]], ids=["no batch", "an empty batch"])
def test_no_input_is_an_error(batches):
    with pytest.raises(CompressionError, match="no input"):
        hessian_of(nn.Linear(2, 2), *batches)
