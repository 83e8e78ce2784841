"""Statistics against counting by hand, and their bytes against the deployed file."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autocompress.compress import CompressedModel, calibrate, compress
from autocompress.compress.attaching import attach_weight
from autocompress.compress.quantization import Exportable
from autocompress.compress.statistics import COLUMN_TYPES, statistics
from autocompress.deploy import save_openvino, to_openvino
from autocompress.graph import inspect_model
from autocompress.recipe import Calibration, LayerRecipe, Recipe
from tests.deploy.deployed import quantized
from tests.nets import NETS

W8A8, W4A8, W3A8 = (LayerRecipe(weight_bits=bits, activation_bits=8) for bits in (8, 4, 3))
W4, W8 = (LayerRecipe(weight_bits=bits) for bits in (4, 8))


class Small(nn.Module):
    """Two convolutions with a batch norm behind the first, and a Linear layer with a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(8, 32, 3, bias=False), nn.BatchNorm2d(32)
        self.second, self.head, self.last = nn.Conv2d(32, 64, 1), nn.Linear(64, 24), nn.LayerNorm(24)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape))

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.norm(self.first(x)).relu()).relu()
        return self.last(self.head(x.mean(dim=(2, 3))))


class Twice(nn.Module):
    """Two Linear layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())


class Zeros(Exportable):
    """A mask: the weights of least magnitude become 0."""

    def __init__(self, weight: Tensor, sparsity: float) -> None:
        super().__init__()
        least = weight.detach().abs().flatten().argsort()[: int(sparsity * weight.numel())]
        mask = torch.ones(weight.numel())
        mask[least] = 0
        self.register_buffer("mask", mask.reshape(weight.shape))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask  # type: ignore[operator]


X = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))


def small() -> nn.Module:
    torch.manual_seed(3)
    return Small().eval()


def table(model: nn.Module, compressed: CompressedModel) -> pd.DataFrame:
    return statistics(model, compressed.module, compressed.recipe, compressed.example_input).set_index("layer")


def of(model: nn.Module, recipe: LayerRecipe | Recipe, x: Any = X) -> pd.DataFrame:
    return table(model, quantized(model, x, recipe))


def test_a_float_model_is_counted_as_it_is() -> None:
    rows = of(small(), Recipe())
    assert list(rows.index) == ["first", "second", "head", "other", "total"]
    assert list(rows.kind) == ["Conv2d", "Conv2d", "Linear", "", ""]
    # 4 x 4 positions are left of 6 x 6 by a 3 x 3 kernel; a batch of 2
    assert list(rows.macs) == [
        2 * 16 * 32 * 8 * 9,
        2 * 16 * 64 * 32,
        2 * 64 * 24,
        0,
        2 * (16 * 2304 + 16 * 2048 + 1536),
    ]
    assert list(rows.n_parameters) == [2304, 64 * 32 + 64, 64 * 24 + 24, 64 + 48, 2304 + 2112 + 1560 + 112]
    # of a batch norm only 32 shifts are stored
    assert list(rows.size_bytes) == [4 * 2304, 4 * 2112, 4 * 1560, 4 * (32 + 48), 4 * (2304 + 2112 + 1560 + 80)]
    for name in ("n_parameters", "macs", "size_bytes"):
        assert (rows[name] == rows[f"{name}_before"]).all()


@pytest.mark.parametrize("name", [name for name in NETS if name != "weight_norm"])  # its two factors become one weight
def test_the_total_has_the_parameters_of_the_model_and_the_macs_of_its_graph(name: str) -> None:
    model, x = NETS[name].build(), NETS[name].inputs()
    total = of(model, Recipe(), x).iloc[-1]
    in_use = {id(parameter): parameter.numel() for parameter in model.parameters()}
    assert total.n_parameters == total.n_parameters_before == sum(in_use.values())
    assert total.macs == total.macs_before == inspect_model(model, x, with_groups=False).macs


def test_the_columns_have_their_types() -> None:
    rows = statistics(small(), small(), Recipe(), X)
    assert {name: str(kind) for name, kind in rows.dtypes.items()} == {
        name: str(pd.Series(dtype=kind).dtype) for name, kind in COLUMN_TYPES.items()  # type: ignore[call-overload]
    }  # fmt: skip


def test_pruned_filters_parameters_and_macs_are_gone() -> None:
    model = small()
    recipe = Recipe(pruning={"first": 0.5})
    rows = table(model, compress(model, inspect_model(model, X), recipe, X))
    assert (rows.filters["first"], rows.filters_kept["first"]) == (32, 16)
    assert (rows.n_parameters["first"], rows.n_parameters["second"]) == (2304 // 2, 64 * 16 + 64)
    assert (rows.macs["first"], rows.macs["second"]) == (
        rows.macs_before["first"] // 2,
        rows.macs_before["second"] // 2,
    )
    assert (rows.n_parameters["other"], rows.n_parameters_before["other"]) == (32 + 48, 64 + 48)
    assert (rows.filters_kept["total"], rows.filters["total"]) == (104, 120)


@pytest.mark.parametrize("recipe", [LayerRecipe(), W8, W8A8, W3A8], ids=["float", "W8A32", "W8A8", "W3A8"])
def test_sparsity_is_the_share_of_zeros_among_the_deployed_weights(recipe: LayerRecipe) -> None:
    model = small()
    compressed = quantized(model, X, recipe)
    for name in ("first", "head"):
        _mask(compressed.module.get_submodule(name), 0.6)
    rows = table(model, compressed)
    frozen = compressed.freeze_weights()
    weights = [frozen.get_submodule(name).weight.detach().numpy() for name in ("first", "second", "head")]  # type: ignore[operator]
    zeros = [int(np.count_nonzero(weight == 0)) for weight in weights]
    assert rows.sparsity["first"] == zeros[0] / weights[0].size >= 0.6 * 2304 // 1 / 2304
    assert list(rows.sparsity[:3]) == [zero / weight.size for zero, weight in zip(zeros, weights, strict=True)]
    assert rows.sparsity["total"] == sum(zeros) / sum(weight.size for weight in weights)
    assert math.isnan(rows.sparsity["other"])


def _mask(layer: nn.Module, sparsity: float) -> None:
    """Put a mask before the quantizer, as compression does."""
    if not parametrize.is_parametrized(layer):
        attach_weight(layer, Zeros(layer.weight, sparsity))  # type: ignore[arg-type]
        return
    chain: Any = layer.parametrizations["weight"]  # type: ignore[index]
    chain.insert(0, Zeros(chain.original, sparsity))


def test_zeros_count_as_parameters_macs_and_bytes_like_all_others() -> None:
    model = small()
    dense, sparse = quantized(model, X, W8A8), quantized(model, X, W8A8)
    _mask(sparse.module.get_submodule("head"), 0.9)
    counted = ["n_parameters", "macs", "size_bytes"]
    assert table(model, dense)[counted].equals(table(model, sparse)[counted])


@pytest.mark.parametrize(
    ("recipe", "weights", "more"),
    [
        pytest.param(LayerRecipe(), 4 * 2048, 0, id="float"),
        pytest.param(W8, 2048, 4 * 64, id="W8A32: bytes and a step a filter"),
        pytest.param(W4, 1024, 4 * 64, id="W4A32: halves of bytes"),
        pytest.param(LayerRecipe(weight_bits=3), 1024, 4 * 64, id="W3A32: stored as 4 bits"),
        pytest.param(LayerRecipe(weight_bits=5), 2048, 4 * 64, id="W5A32: stored as 8 bits"),
        pytest.param(W8A8, 2048, 4 * 64 + 8, id="W8A8: and a range"),
        pytest.param(W4A8, 1024, 4 * 64 + 8, id="W4A8"),
        pytest.param(W3A8, 3 * 256, 4 * 64 + 8, id="W3A8: 8 weights in 3 bytes"),
        pytest.param(W3A8.model_copy(update={"weight_bits": 5}), 3 * 512, 4 * 64 + 8, id="W5A8: stored as 6 bits"),
        pytest.param(LayerRecipe(weight_bits=8, weight_granularity="per_tensor"), 2048, 4, id="one step"),
        pytest.param(LayerRecipe(weight_bits=4, weight_scheme="asymmetric"), 1024, 8 * 64, id="zero points"),
        pytest.param(W4A8.model_copy(update={"weight_scheme": "asymmetric"}), 1024, 5 * 64 + 8, id="small zero points"),
    ],
)
def test_a_quantized_layer_has_its_packed_bytes_steps_and_bias(recipe: LayerRecipe, weights: int, more: int) -> None:
    rows = of(small(), Recipe(layers={"second": recipe}))
    assert rows.size_bytes["second"] == weights + more + 4 * 64
    assert (rows.size_bytes["head"], rows.n_parameters["second"]) == (rows.size_bytes_before["head"], 2112)


def test_bits_stand_beside_each_layer() -> None:
    rows = of(small(), Recipe(layers={"second": W4A8, "head": W8}))
    assert list(rows.weight_bits[:3]) == [32, 4, 8] and list(rows.activation_bits[:3]) == [32, 8, 32]
    assert rows.loc[["other", "total"], ["weight_bits", "activation_bits"]].isna().all(axis=None)


@pytest.mark.parametrize(("recipe", "expected"), [(LayerRecipe(), 4 * 256), (W8, 256 + 64), (W8A8, 256 + 64 + 8)])
def test_a_shared_weight_counts_once(recipe: LayerRecipe, expected: int) -> None:
    x = torch.randn(2, 16)
    rows = of(Twice().eval(), recipe, x)
    inputs = 8 if recipe.activation_bits == 8 else 0
    assert list(rows.size_bytes) == [expected + 64, inputs + 64, 0, expected + inputs + 128]
    assert list(rows.n_parameters) == [256 + 16, 16, 0, 288]
    assert list(rows.sparsity.notna()) == [True, True, False, True]


def test_a_shared_weight_that_is_quantized_in_two_ways_counts_twice() -> None:
    rows = of(Twice().eval(), Recipe(layers={"a": W8, "b": W4}), torch.randn(2, 16))
    assert list(rows.size_bytes[:2]) == [256 + 64 + 64, 128 + 64 + 64]


def _factor(model: nn.Module, name: str, *factors: nn.Module) -> CompressedModel:
    module = copy.deepcopy(model)
    setattr(module, name, nn.Sequential(*factors))
    return CompressedModel(module, Recipe(layers={name: LayerRecipe(rank_ratio=0.5)}), X, {})


@pytest.mark.parametrize(
    ("name", "factors", "rank", "n_parameters", "macs"),
    [
        pytest.param(
            *("head", [nn.Linear(64, 8, bias=False), nn.Linear(8, 24)], "8 of 24"),
            *(64 * 8 + 8 * 24 + 24, 2 * (64 * 8 + 8 * 24)),
            id="SVD of a Linear layer",
        ),
        pytest.param(
            *("second", [nn.Conv2d(32, 8, 1, bias=False), nn.Conv2d(8, 64, 1)], "8 of 32"),
            *(32 * 8 + 8 * 64 + 64, 32 * (32 * 8 + 8 * 64)),
            id="SVD of a 1x1 convolution",
        ),
        pytest.param(
            *("first", [nn.Conv2d(8, 4, 1), nn.Conv2d(4, 16, 3), nn.Conv2d(16, 32, 1)], "4 x 16 of 8 x 32"),
            *(8 * 4 + 4 + 4 * 16 * 9 + 16 + 16 * 32 + 32, 2 * (36 * 8 * 4 + 16 * (4 * 16 * 9 + 16 * 32))),
            id="Tucker-2",
        ),
        pytest.param(
            *("first", [nn.Conv2d(8, 16, 3, bias=False), nn.Conv2d(16, 32, 1, bias=False)], "16 of 32"),
            *(8 * 16 * 9 + 16 * 32, 2 * 16 * (8 * 16 * 9 + 16 * 32)),
            id="Tucker-1",
        ),
    ],
)
def test_a_layer_in_low_rank_is_the_sum_of_its_factors(
    name: str, factors: list[nn.Module], rank: str, n_parameters: int, macs: int
) -> None:
    model = small()
    row = table(model, _factor(model, name, *factors)).loc[name]
    assert (row["rank"], row.n_parameters, row.macs, row.size_bytes) == (rank, n_parameters, macs, 4 * n_parameters)
    assert row.filters == row.filters_kept == {"first": 32, "second": 64, "head": 24}[name]
    assert row.macs_before == {"first": 73728, "second": 65536, "head": 3072}[name]


def test_zeros_bits_and_factors_of_one_layer_are_told_together() -> None:
    model = small()
    recipe = Recipe(layers={"head": LayerRecipe(weight_bits=8, activation_bits=8, sparsity=0.75, rank_ratio=0.4)})
    compressed = compress(model, inspect_model(model, X), recipe, X)
    calibrate(compressed.module, [(X, None)])
    row = table(model, compressed).loc["head"]
    assert (row["rank"], row.weight_bits, row.activation_bits) == ("8 of 24", 8, 8)
    assert row.sparsity >= 0.75
    assert row.size_bytes == (64 * 8 + 4 * 8 + 8) + (8 * 24 + 4 * 24 + 4 * 24 + 8)


def test_a_layer_called_total_is_a_layer() -> None:
    model = nn.ModuleDict({"total": nn.Linear(4, 3), "other": nn.Linear(3, 2)})
    model.forward = lambda x: model["other"](model["total"](x))  # type: ignore[method-assign]
    rows = statistics(model, copy.deepcopy(model), Recipe(), torch.randn(1, 4))
    assert list(rows.layer) == ["total", "other", "other", "total"]
    assert list(rows.n_parameters) == [15, 8, 0, 23]


def test_nothing_is_changed() -> None:
    model = small().train()
    compressed = quantized(model, X, W4A8)
    compressed.module.train()
    state = {name: tensor.clone() for name, tensor in compressed.module.state_dict().items()}
    table(model, compressed)
    assert model.training and compressed.module.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in compressed.module.state_dict().items())


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        pytest.param("residual", LayerRecipe(), id="float convolutions"),
        pytest.param("residual", W3A8, id="W3A8 convolutions"),
        pytest.param("residual", LayerRecipe(weight_bits=4, weight_scheme="asymmetric"), id="W4A32 convolutions"),
        pytest.param("residual", LayerRecipe(sparsity=0.7), id="sparse float convolutions"),
        pytest.param("encoder", W8A8, id="W8A8 transformer"),
        pytest.param("encoder", W4A8.model_copy(update={"weight_scheme": "asymmetric"}), id="W4A8 transformer"),
    ],
)
def test_the_total_is_the_size_of_the_bin_file(name: str, recipe: LayerRecipe, tmp_path: Path) -> None:
    model, x = NETS[name].build(), NETS[name].inputs()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.rand(parameter.shape))  # a bias of zeros would not be stored
    compressed = quantized(model, x, recipe)
    total = table(model, compressed).size_bytes["total"]
    shapes_and_axes = 250  # constants of the graph, in bytes
    with compressed.export_form() as module:
        path = save_openvino(to_openvino(module, x), tmp_path)
    assert total == pytest.approx(path.with_suffix(".bin").stat().st_size, rel=0.02, abs=shapes_and_axes)


def test_weights_in_groups_have_a_step_a_group() -> None:
    rows = of(small(), Recipe(layers={"head": LayerRecipe(weight_bits=4, group_size=16)}))
    assert rows.size_bytes["head"] == 24 * 64 // 2 + 4 * 24 * 64 // 16 + 4 * 24


def test_smoothing_and_bias_correction_hardly_change_the_bytes(tmp_path: Path) -> None:
    model = small()
    both = Calibration(smoothing=0.5, bias_correction=True)
    recipe = Recipe(layers=dict.fromkeys(("first", "second", "head"), W8A8), calibration=both)
    compressed = quantized(model, X, recipe)
    total = table(model, compressed).size_bytes["total"]
    with compressed.export_form() as module:
        path = save_openvino(to_openvino(module, X), tmp_path)
    assert total == pytest.approx(path.with_suffix(".bin").stat().st_size, rel=0.03)
