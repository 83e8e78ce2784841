"""Batches over and over, in an order that the seed decides."""

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from autocompress.errors import TrainingError
from autocompress.task import TensorBatches
from autocompress.train.data_order import Position, endless, preserved_generators, seed_generators


def draw() -> tuple[float, float, float]:
    return float(torch.rand(())), np.random.rand(), random.random()  # noqa: NPY002


class Drawing:
    """Three batches an epoch, each with numbers from all generators."""

    def __iter__(self) -> Iterator[Any]:
        for index in range(3):
            yield index, draw()


def read(batches: Any, n: int, **how: Any) -> list[tuple[Position, Any]]:
    with preserved_generators():
        return list(islice(endless(batches, **{"seed": 0, **how}), n))


def test_batches_are_read_again_and_again_with_the_position_behind_each() -> None:
    got = read("ab", 5)
    assert [batch for _, batch in got] == list("ababa")
    assert [(p.epoch, p.index) for p, _ in got] == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1)]


def test_every_epoch_draws_anew_and_every_seed_otherwise() -> None:
    drawn = [batch[1] for _, batch in read(Drawing(), 6)] + [batch[1] for _, batch in read(Drawing(), 6, seed=1)]
    assert len(set(drawn)) == 12


@pytest.mark.parametrize("seed", [0, 1, -3, 2**40], ids=str)
def test_the_same_seed_draws_the_same(seed: int) -> None:
    assert read(Drawing(), 7, seed=seed) == read(Drawing(), 7, seed=seed)


@given(n_read=st.integers(0, 9), n_between=st.integers(0, 2))
def test_from_any_position_on_it_goes_as_if_it_had_been_read_to_there(n_read: int, n_between: int) -> None:
    def reading(stream: Iterator[Any]) -> Iterator[Any]:
        for item in stream:  # a model draws, too, between two batches
            yield item, [draw() for _ in range(n_between)]

    with preserved_generators():
        stream = reading(endless(Drawing(), 0))
        position = ([Position()] + [item[0][0] for item in islice(stream, n_read)])[-1]
        states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
        expected = list(islice(stream, 5))

        def restore() -> None:
            torch.set_rng_state(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            random.setstate(states[2])

        assert list(islice(reading(endless(Drawing(), 0, position, restore)), 5)) == expected


@pytest.mark.parametrize("n_workers", [0, pytest.param(1, id="1, slow", marks=pytest.mark.slow)])
def test_a_shuffled_loader_goes_on_in_its_order(n_workers: int) -> None:
    loader = DataLoader(TensorDataset(torch.arange(12)), batch_size=3, shuffle=True, num_workers=n_workers)
    everything = [batch[0].tolist() for _, batch in read(loader, 8)]
    assert sorted(sum(everything[:4], [])) == sorted(sum(everything[4:], [])) == list(range(12))
    assert everything[:4] != everything[4:]
    rest = read(loader, 3, start=Position(1, 1), on_start=lambda: None)
    assert [batch[0].tolist() for _, batch in rest] == everything[5:]


def test_a_loader_that_has_set_epoch_is_told_the_epoch() -> None:
    batches = TensorBatches(torch.arange(8), torch.arange(8), batch_size=4, shuffle=True)
    assert [batch[0].tolist() for _, batch in read(batches, 4)] == [
        batch.tolist() for epoch in (0, 1) for batch in epoch_of(epoch)
    ]
    assert batches.epoch == 1


def epoch_of(epoch: int) -> list[torch.Tensor]:
    batches = TensorBatches(torch.arange(8), torch.arange(8), batch_size=4, shuffle=True, epoch=epoch)
    return [inputs for inputs, _ in batches]


@pytest.mark.parametrize("batches", [[], iter(())], ids=["empty", "used up"])
def test_no_batches_are_an_error(batches: Any) -> None:
    with pytest.raises(TrainingError, match="train data has no batches; give at least one"):
        read(batches, 1)


def test_a_loader_that_has_become_shorter_than_the_position_is_read_from_its_next_epoch_on() -> None:
    assert [batch for _, batch in read("ab", 2, start=Position(0, 5))] == ["a", "b"]


def test_the_block_leaves_all_generators_as_they_were_even_after_an_error() -> None:
    def states() -> list[Any]:
        return [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()]  # noqa: NPY002

    before = states()
    with pytest.raises(ValueError, match="stop"), preserved_generators():
        seed_generators(5)
        draw()
        raise ValueError("stop")
    assert states() == before


def test_seeding_does_not_start_cuda() -> None:
    with preserved_generators():
        seed_generators(3)
        expected = torch.Generator().manual_seed(3).initial_seed()
        assert torch.initial_seed() == expected
    assert not torch.cuda.is_initialized()
