"""The file with the whole state of a training."""

import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.train.checkpoint import (
    fits_module,
    generator_state,
    load_generator_state,
    load_module,
    load_optimizer,
    module_tensors,
    optimizer_tensors,
    read_checkpoint,
    write_checkpoint,
)
from autocompress.train.data_order import preserved_generators

TENSORS = [
    pytest.param(torch.tensor([1.0, float("nan"), float("inf"), -0.0]), id="floats that are not numbers"),
    pytest.param(torch.tensor([1.0, 2.5]).bfloat16(), id="bfloat16"),
    pytest.param(torch.tensor(2.5).bfloat16(), id="bfloat16 scalar"),
    pytest.param(torch.tensor([1.0, 2.5]).half(), id="float16"),
    pytest.param(torch.tensor([1.0, 1e-300]).double(), id="float64"),
    pytest.param(torch.tensor([True, False]), id="bool"),
    pytest.param(torch.tensor(7), id="integer scalar"),
    pytest.param(torch.zeros(0, 3), id="empty"),
    pytest.param(torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), id="channels_last"),
    pytest.param(torch.randn(4, 6)[:, ::2], id="a view with gaps"),
    pytest.param(torch.ones(3, requires_grad=True), id="with a gradient"),
]


@pytest.mark.parametrize("tensor", TENSORS)
def test_tensors_come_back_bit_for_bit(tensor: Tensor, tmp_path: Path) -> None:
    path, numbers = tmp_path / "c.npz", {"a": [1, 0.1, None], "b": {"c": "ü"}}
    write_checkpoint(path, {"file": tensor, "a.b/c": tensor}, numbers)
    found = read_checkpoint(path)
    assert found is not None
    assert found.numbers == numbers
    assert set(found.tensors) == {"file", "a.b/c"}
    for got in found.tensors.values():
        assert (got.dtype, got.shape) == (tensor.dtype, tensor.shape)
        assert bytes_of(got) == bytes_of(tensor)


def bytes_of(tensor: Tensor) -> list[int]:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist()


def test_a_checkpoint_replaces_the_last_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    for n in range(3):
        write_checkpoint(path, {"x": torch.full((2,), float(n))}, {"n": n})
    found = read_checkpoint(path)
    assert found is not None
    assert found.numbers == {"n": 2}
    assert list(tmp_path.iterdir()) == [path]


def test_a_writing_that_is_interrupted_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    write_checkpoint(path, {"x": torch.ones(2)}, {"n": 1})
    with pytest.raises(TypeError):
        write_checkpoint(path, {"x": torch.zeros(2)}, {"n": object()})
    found = read_checkpoint(path)
    assert found is not None
    assert found.tensors["x"].tolist() == [1.0, 1.0]


def test_a_missing_file_is_no_checkpoint(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path / "c.npz") is None


@settings(max_examples=150)
@given(data=st.data())
def test_a_damaged_file_is_no_checkpoint_or_the_same_one(data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "c.npz"
        write_checkpoint(path, {"x": torch.arange(8.0), "y": torch.arange(4)}, {"n": 1})
        content = bytearray(path.read_bytes())
        if data.draw(st.booleans()):
            content = content[: data.draw(st.integers(0, len(content) - 1))]
        else:
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(bytes(content))
        found = read_checkpoint(path)
    if found is not None:  # what was hit has no meaning, as a date
        assert found.numbers == {"n": 1}
        assert found.tensors["x"].tolist() == list(range(8))


OTHERS = [
    pytest.param(nn.Linear(3, 2), True, id="the same"),
    pytest.param(nn.Linear(3, 4), False, id="another shape"),
    pytest.param(nn.Linear(3, 2, bias=False), False, id="a tensor less"),
    pytest.param(nn.Sequential(nn.Linear(3, 2)), False, id="other names"),
]


@pytest.mark.parametrize(("module", "fits"), OTHERS)
def test_what_fits_a_module_is_told_before_anything_is_loaded(module: nn.Module, fits: bool) -> None:
    tensors = module_tensors(nn.Linear(3, 2), "model") | {"other.weight": torch.zeros(9)}
    assert fits_module(module, "model", tensors) == fits
    if fits:
        load_module(module, "model", tensors)
        assert all(torch.equal(tensors[f"model.{name}"], value) for name, value in module.state_dict().items())


def stepped(model: nn.Module, n_steps: int, optimizer: Any = None) -> torch.optim.Optimizer:
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for _ in range(n_steps):
        model(torch.ones(2, 3, 4, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


class Scaled(nn.Conv2d):
    """With a parameter without a dimension, as ranges of quantizers are."""

    def __init__(self) -> None:
        super().__init__(3, 4, 2)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


def built() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Scaled().to(memory_format=torch.channels_last)


def test_an_optimizer_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    model = built()
    optimizer = stepped(model, 3)
    write_checkpoint(tmp_path / "c", module_tensors(model, "model") | optimizer_tensors(optimizer), {})
    stepped(model, 2, optimizer)
    other = built()
    again = torch.optim.AdamW(other.parameters(), lr=0.1, fused=True)
    found = read_checkpoint(tmp_path / "c")
    assert found is not None
    load_module(other, "model", found.tensors)
    load_optimizer(again, found.tensors)
    stepped(other, 2, again)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_moments_are_laid_out_as_their_parameter(tmp_path: Path) -> None:
    model = built()
    optimizer = stepped(model, 1)
    write_checkpoint(tmp_path / "c", optimizer_tensors(optimizer), {})
    found = read_checkpoint(tmp_path / "c")
    assert found is not None
    load_optimizer(optimizer, found.tensors)
    assert optimizer.state[model.weight]["exp_avg"].stride() == model.weight.stride()


def test_an_optimizer_that_had_not_stepped_forgets_its_moments() -> None:
    model = built()
    optimizer = stepped(model, 2)
    load_optimizer(optimizer, {})
    assert not optimizer.state


def draw() -> tuple[float, ...]:
    return float(torch.rand(())), np.random.rand(), np.random.randn(), random.random(), random.gauss(0, 1)  # noqa: NPY002


@pytest.mark.parametrize("n_draws", [0, 1, 700])
def test_generators_go_on_where_they_were(n_draws: int, tmp_path: Path) -> None:
    with preserved_generators():
        for _ in range(n_draws):
            draw()
        tensors, numbers = generator_state()
        write_checkpoint(tmp_path / "c", tensors, numbers)
        expected = [draw() for _ in range(3)]
        found = read_checkpoint(tmp_path / "c")
        assert found is not None
        load_generator_state(found.tensors, found.numbers)
        assert [draw() for _ in range(3)] == expected
