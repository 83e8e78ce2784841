"""The size of the files that a model would have is the size that they then have."""

import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

from autocompress.compress import calibrate, compress
from autocompress.deploy import save_openvino, size_bytes, to_openvino
from autocompress.deploy.deployed_size import deployed_size, file_sizes
from autocompress.graph import inspect_model
from autocompress.recipe import LayerRecipe, Recipe

X = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
LAYERS = ("0", "3", "8")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10)),
    ).eval()


def uniform(weight_bits: int, activation_bits: int) -> Recipe:
    layer = LayerRecipe(weight_bits=weight_bits, activation_bits=activation_bits)
    return Recipe(layers=dict.fromkeys(LAYERS, layer))


RECIPES = [
    ("float", Recipe()),
    ("8 bits", uniform(8, 8)),
    ("4 bits", uniform(4, 8)),
    ("3 bits", uniform(3, 8)),
    ("weights only", uniform(8, 32)),
    ("binary", Recipe(layers={"3": LayerRecipe(weight_bits=1, activation_bits=1)})),
    ("pruned", Recipe(pruning={"0": 0.5, "3": 0.25})),
    ("all of it", uniform(4, 8).model_copy(update={"pruning": {"0": 0.5}})),
]


def model_of(recipe: Recipe) -> object:
    model = net()
    compressed = compress(model, inspect_model(model, X[:1]), recipe, X[:1])
    calibrate(compressed.module, [(X, None)])
    with compressed.export_form() as module:
        return to_openvino(module, X[:1])


@pytest.mark.parametrize("recipe", [pytest.param(recipe, id=name) for name, recipe in RECIPES])
def test_the_size_before_saving_is_that_of_the_saved_files(tmp_path: Path, recipe: Recipe) -> None:
    model = model_of(recipe)
    before = deployed_size(model), file_sizes(model)
    path = save_openvino(model, tmp_path)
    assert before[0] == size_bytes(path)
    assert before[1] == (path.stat().st_size, path.with_suffix(".bin").stat().st_size)


def test_asking_for_the_size_leaves_no_file_and_the_model_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = model_of(uniform(8, 8))
    assert deployed_size(model) == deployed_size(model)
    assert list(tmp_path.iterdir()) == []


def test_the_size_is_the_same_without_files_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(uniform(4, 8))
    in_memory = file_sizes(model)
    monkeypatch.delattr("os.memfd_create")
    assert file_sizes(model) == in_memory
