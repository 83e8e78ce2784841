"""Masks by magnitude and by pattern against brute force; masks on modules: exact numbers, chains, ties, state."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from autocompress.compress.attaching import attach_weight, attached_weight, freeze_parametrizations, output_axis
from autocompress.compress.mask_attaching import weight_before_mask
from autocompress.compress.sparsity import MagnitudeMask, keep_largest, keep_largest_of_all, n_of_m_mask, n_zero_units
from autocompress.compress.sparsity_training import attach_masks, masks
from autocompress.compress.weight_quantization import weight_quantizer
from autocompress.errors import CompressionError
from autocompress.recipe import LayerRecipe, Sparsification

pytest.importorskip("nncf")

import nncf
from nncf.torch.function_hook.pruning.magnitude.algo import get_pruned_modules

METHODS = pytest.mark.parametrize("method", ["magnitude", "regularization", "movement"])
small_integers = st.lists(st.integers(-3, 3), min_size=1, max_size=30)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def net(seed: int = 0) -> nn.Sequential:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10))
    with torch.no_grad():
        for k, parameter in enumerate(module.parameters()):
            parameter.copy_(random(*parameter.shape, seed=seed + k))
    return module


def brute_force(values: list[float], n_zeros: int) -> list[bool]:
    """What stays: zeros go by value and then by position."""
    gone = sorted(range(len(values)), key=lambda k: (values[k], k))[:n_zeros]
    return [k not in gone for k in range(len(values))]


def n_zeros_in(module: nn.Module) -> dict[str, int]:
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    return {name: int((layer.weight == 0).sum()) for name, layer in layers.items()}


@pytest.mark.parametrize(
    ("sparsity", "n", "wanted"),
    [
        pytest.param(0.7, 100, 70, id="a plain fraction"),
        pytest.param(0.333, 10, 3, id="rounded down"),
        pytest.param(0.38, 10, 4, id="rounded up"),
        pytest.param(0.0, 10, 0, id="nothing"),
        pytest.param(0.99, 10, 9, id="one always stays"),
        pytest.param(0.99, 1, 0, id="a single weight stays"),
        pytest.param(0.5, 0, 0, id="no weights"),
    ],
)
def test_the_number_of_zeros_is_rounded_and_never_all(sparsity: float, n: int, wanted: int) -> None:
    assert n_zero_units(sparsity, n) == wanted


@given(values=small_integers, share=st.floats(0, 1))
def test_the_lowest_go_and_of_equal_ones_the_lower_index(values: list[int], share: float) -> None:
    n_zeros = round(share * len(values))
    assert keep_largest(torch.tensor(values).float(), n_zeros).tolist() == brute_force(values, n_zeros)


@given(tensors=st.lists(small_integers, min_size=1, max_size=4), share=st.floats(0, 1))
def test_a_global_ranking_is_one_over_all_tensors_but_for_the_highest_of_each(
    tensors: list[list[int]], share: float
) -> None:
    joined: list[float] = []
    for values in tensors:
        last_highest = max(range(len(values)), key=lambda k: (values[k], k))
        joined += [99.0 if k == last_highest else value for k, value in enumerate(values)]
    n_zeros = round(share * (len(joined) - len(tensors)))
    kept = keep_largest_of_all([torch.tensor(values).float() for values in tensors], n_zeros)
    assert [value for mask in kept for value in mask.tolist()] == brute_force(joined, n_zeros)


LAYERS = {
    "Linear": lambda: nn.Linear(11, 4),
    "Conv1d": lambda: nn.Conv1d(8, 4, 3),
    "Conv2d": lambda: nn.Conv2d(6, 4, 3),
    "Conv2d, 2 groups": lambda: nn.Conv2d(16, 8, 3, groups=2),
    "Conv3d": lambda: nn.Conv3d(4, 2, 2),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4),
    "ConvTranspose1d": lambda: nn.ConvTranspose1d(9, 4, 3),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(8, 4, 3),
    "ConvTranspose2d, 2 groups": lambda: nn.ConvTranspose2d(12, 4, 3, groups=2),
    "ConvTranspose3d": lambda: nn.ConvTranspose3d(4, 3, 2),
    "Embedding": lambda: nn.Embedding(7, 10),
}


def pattern_by_brute_force(layer: nn.Module, n: int, m: int) -> np.ndarray:
    """One block after the other, in the layout (input channels of a group, everything else)."""
    axis = 1 - output_axis(layer)
    weight = np.moveaxis(np.abs(layer.weight.detach().numpy()), axis, 0)
    keep = np.ones(weight.shape, dtype=bool)
    n_groups = layer.groups if axis == 0 and hasattr(layer, "groups") else 1
    in_group = len(weight) // n_groups
    for position in np.ndindex(weight.shape[1:]):
        for group in range(n_groups):
            for start in range(group * in_group, (group + 1) * in_group - m + 1, m):
                rows = range(start, start + m)
                for row in sorted(rows, key=lambda row: (weight[(row, *position)], row))[: m - n]:
                    keep[(row, *position)] = False
    return np.moveaxis(keep, 0, axis)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 3)])
@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in LAYERS.items()])
def test_a_pattern_keeps_n_of_every_m_neighbours_along_the_input_channels(make: Any, n: int, m: int) -> None:
    module = nn.Sequential(make())
    with torch.no_grad():
        module[0].weight.mul_(6).round_()  # ties, too
    wanted = pattern_by_brute_force(module[0], n, m)
    attach_masks(module, {"0": 1 - n / m}, Sparsification(pattern=f"{n}:{m}"))
    (_, _, mask), *_ = masks(module)
    assert np.array_equal(mask.mask.numpy(), wanted)


def test_a_weight_with_a_remainder_keeps_it_dense() -> None:
    mask = n_of_m_mask(torch.tensor([[5.0, 1.0, 2.0, 4.0, 0.1, 0.2]]), 2, 4, axis=1)
    assert mask.int().tolist() == [[1, 0, 0, 1, 1, 1]]


def test_below_its_full_sparsity_a_pattern_loses_its_smallest_weights_first() -> None:
    weight = torch.tensor([[8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]])
    mask = MagnitudeMask(weight.shape, (2, 4))
    kept = keep_largest(mask.ranking(weight), mask.n_zero(0.25))
    assert kept.int().tolist() == [[1, 1, 1, 1, 1, 1, 0, 0]]


@METHODS
def test_every_method_sets_exactly_the_asked_number_to_zero_and_the_smallest(method: str) -> None:
    module = net()
    weight = module[3].weight.detach().clone()
    attach_masks(module, {"0": 0.5, "3": 0.7}, Sparsification(method=method))
    assert n_zeros_in(module) == {"0": 108, "3": 224}
    wanted = brute_force(weight.abs().flatten().tolist(), 224)
    assert (module[3].weight != 0).flatten().tolist() == wanted


@METHODS
def test_a_global_scope_takes_the_smallest_of_all_layers(method: str) -> None:
    module = net()
    weights = torch.cat([module[0].weight.flatten(), module[3].weight.flatten()]).detach()
    attach_masks(module, {"0": 0.5, "3": 0.7}, Sparsification(method=method, scope="global"))
    kept = torch.cat([module[0].weight.flatten(), module[3].weight.flatten()]) != 0
    assert kept.tolist() == brute_force(weights.abs().tolist(), 108 + 224)


class Wrapped(nn.Module):
    """Since a Sequential would run the hooks that NNCF adds as one more layer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize("ratio", [0.25, 0.7])
def test_local_masks_are_those_of_nncf(ratio: float) -> None:
    ours, theirs = net(), Wrapped()
    pruned = nncf.prune(
        theirs, mode=nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL, ratio=ratio, examples_inputs=random(1, 3, 4, 4)
    )
    wanted = {name.split(".")[1]: hook.binary_mask for name, hook in get_pruned_modules(pruned).items()}
    # theirs cuts at the index int((n - 1) * ratio), one or two weights beside ours, so we ask for their number
    attach_masks(ours, {name: float((~mask).float().mean()) for name, mask in wanted.items()}, Sparsification())
    assert {name: mask.mask.tolist() for name, _, mask in masks(ours)} == {n: m.tolist() for n, m in wanted.items()}


def test_a_masked_weight_gets_no_gradient_and_is_a_positive_zero() -> None:
    module = net()
    attach_masks(module, {"3": 0.7}, Sparsification())
    (_, layer, mask), *_ = masks(module)
    (layer.weight * random(10, 32, seed=5)).sum().backward()
    gradient = layer.parametrizations.weight.original.grad
    assert torch.equal(gradient, random(10, 32, seed=5) * mask.mask)
    assert not torch.signbit(layer.weight[~mask.mask]).any()


def quantized(weight: Tensor) -> nn.Module:
    return weight_quantizer(weight, LayerRecipe(weight_bits=4), 0, "mse", False)


@METHODS
def test_a_quantizer_behind_the_mask_is_still_found_and_frees_with_it(method: str) -> None:
    module = net()
    attach_masks(module, {"3": 0.7}, Sparsification(method=method))
    quantizer = quantized(module[3].weight.detach())
    attach_weight(module[3], quantizer)
    assert attached_weight(module[3]) is quantizer
    before = module[3].weight.detach().clone()
    freeze_parametrizations(module)
    assert isinstance(module[3].weight, nn.Parameter)
    assert torch.equal(module[3].weight, before)
    assert int((before == 0).sum()) >= 224


@METHODS
def test_a_mask_alone_becomes_permanent(method: str) -> None:
    module = net()
    attach_masks(module, {"3": 0.7}, Sparsification(method=method))
    before = module[3].weight.detach().clone()
    freeze_parametrizations(module)
    assert type(module[3]) is nn.Linear
    assert torch.equal(module[3].weight, before)


def test_a_mask_goes_before_a_quantizer_that_is_there_already() -> None:
    module = net()
    attach_weight(module[3], quantized(module[3].weight.detach()))
    attach_masks(module, {"3": 0.7}, Sparsification())
    kinds = [isinstance(link, MagnitudeMask) for link in module[3].parametrizations.weight]
    assert kinds == [True, False]
    assert int((module[3].weight == 0).sum()) >= 224


def test_a_mask_goes_behind_a_parametrization_of_the_users() -> None:
    module = nn.Sequential(weight_norm(nn.Linear(8, 4)))
    weight = module[0].weight.detach().clone()
    attach_masks(module, {"0": 0.5}, Sparsification())
    assert torch.equal(weight_before_mask(module[0]), weight)
    assert (module[0].weight != 0).flatten().tolist() == brute_force(weight.abs().flatten().tolist(), 16)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def test_a_mask_gets_the_weight_as_all_links_before_it_leave_it() -> None:
    module = nn.Sequential(nn.Linear(8, 4))
    for _ in range(2):
        parametrize.register_parametrization(module[0], "weight", Doubled())
    weight = module[0].weight.detach().clone()
    attach_masks(module, {"0": 0.5}, Sparsification())
    assert torch.equal(weight_before_mask(module[0]), weight)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(12, 8), nn.Linear(8, 12)
        self.head.weight = self.embedding.weight


@METHODS
def test_layers_that_share_a_weight_share_a_mask(method: str) -> None:
    module = Tied()
    attach_masks(module, {"embedding": 0.5, "head": 0.5}, Sparsification(method=method))
    first, second = (mask for _, _, mask in masks(module))
    assert first is second
    originals = [layer.parametrizations.weight.original for layer in (module.embedding, module.head)]
    assert originals[0] is originals[1]


def test_a_shared_weight_counts_once_in_a_global_scope() -> None:
    module = nn.Sequential(Tied(), nn.Linear(8, 8))
    attach_masks(module, {"0.embedding": 0.5, "0.head": 0.5, "1": 0.25}, Sparsification(scope="global"))
    assert int((module[0].head.weight == 0).sum()) + int((module[1].weight == 0).sum()) == 48 + 16


def test_a_shared_weight_with_two_sparsities_is_refused() -> None:
    with pytest.raises(CompressionError, match=r"the same sparsity, but 'embedding' has 0.5 and 'head' has 0.6"):
        attach_masks(Tied(), {"embedding": 0.5, "head": 0.6}, Sparsification())


def test_the_same_layer_under_two_names_has_one_mask() -> None:
    layer = nn.Linear(8, 8)
    module = nn.Sequential(layer, layer)
    attach_masks(module, {"0": 0.5, "1": 0.5}, Sparsification())
    assert len(layer.parametrizations.weight) == 1


@pytest.mark.parametrize(
    ("module", "sparsification", "said"),
    [
        pytest.param(nn.Sequential(nn.ReLU()), {}, "a weight of floats", id="no weight"),
        pytest.param(
            nn.Sequential(nn.Conv1d(2, 2, 1)),
            {"method": "movement", "structure": "rows"},
            "Linear",
            id="rows of a conv",
        ),
    ],
)
def test_what_cannot_be_masked_is_refused(module: nn.Module, sparsification: dict[str, Any], said: str) -> None:
    with pytest.raises(CompressionError, match=said):
        attach_masks(module, {"0": 0.5}, Sparsification(**sparsification))


def test_a_second_mask_is_refused() -> None:
    module = net()
    attach_masks(module, {"3": 0.5}, Sparsification())
    with pytest.raises(CompressionError, match="'3' already has one"):
        attach_masks(module, {"3": 0.5}, Sparsification())


@METHODS
def test_the_state_brings_the_mask_back(method: str) -> None:
    first, second = net(seed=0), net(seed=7)
    for module in (first, second):
        attach_masks(module, {"3": 0.7}, Sparsification(method=method))
    second.load_state_dict(first.state_dict())
    assert torch.equal(second[3].weight, first[3].weight)
    assert any(tensor.dtype == torch.bool for tensor in first.state_dict().values())


@METHODS
def test_a_copy_is_independent(method: str) -> None:
    module = net()
    attach_masks(module, {"3": 0.7}, Sparsification(method=method))
    before = module[3].weight.detach().clone()
    twin = copy.deepcopy(module)
    (_, _, mask), *_ = masks(twin)
    mask.mask.fill_(True)
    freeze_parametrizations(twin)
    assert torch.equal(module[3].weight, before)
    assert parametrize.is_parametrized(module[3], "weight")
