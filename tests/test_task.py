"""Tasks, batches and the structures that inputs and outputs come in."""

from collections import UserDict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autocompress.errors import TaskError
from autocompress.task import (
    Score,
    Task,
    TensorBatches,
    call,
    concatenate,
    flatten,
    like,
    split_batch,
    top1_accuracy,
)

X, Y = torch.arange(20.0).reshape(10, 2), torch.arange(10)
BATCHES = [(X, Y)]


def a_task(**changes: Any) -> Task:
    fields: dict[str, Any] = {
        "model": nn.Linear(2, 3),
        "example_input": X[:1],
        "train": BATCHES,
        "validation": BATCHES,
        "test": BATCHES,
        "loss": cross_entropy,
        "score": top1_accuracy(),
    }
    return Task(**{**fields, **changes})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"model": lambda x: x}, "model must be a torch.nn.Module, but got function", id="model a function"
        ),
        pytest.param({"train": iter(BATCHES)}, "train must be an iterable that can be read again", id="an iterator"),
        pytest.param({"test": (b for b in BATCHES)}, "test must be .* but got generator", id="a generator"),
        pytest.param({"validation": []}, "validation has no batches", id="an empty list"),
        pytest.param({"train": None}, "train must be .* but got NoneType", id="no data"),
        pytest.param({"train": TensorBatches(X[:0], Y[:0])}, "train has no batches", id="no samples"),
        pytest.param({"loss": "cross_entropy"}, "loss must be a callable .* but got 'cross_entropy'", id="loss a name"),
        pytest.param({"score": lambda o, t: 1.0}, "wrap it: autocompress.Score", id="a score without direction"),
        pytest.param({"score": None}, "score must be a callable with a higher_is_better", id="no score"),
    ],
)
def test_a_task_checks_what_it_is_given(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        a_task(**change)


@pytest.mark.parametrize("higher", [True, False])
def test_direction_and_name_come_from_the_score(higher: bool) -> None:
    task = a_task(score=Score(lambda o, t: 0, higher_is_better=higher, name="mine"))
    assert (task.higher_is_better, task.score_name) == (higher, "mine")


def test_any_callable_with_a_direction_is_a_score() -> None:
    def error(outputs: Tensor, targets: Tensor) -> float:
        return 0.0

    error.higher_is_better = False  # type: ignore[attr-defined]
    assert (a_task(score=error).score_name, a_task(score=error).higher_is_better) == ("error", False)


def test_a_task_is_frozen_and_can_be_varied() -> None:
    task = a_task()
    with pytest.raises(AttributeError):
        task.seed = 3  # type: ignore[misc]
    assert replace(task, seed=3).seed == 3


def test_top1_accuracy_counts_hits() -> None:
    outputs = torch.tensor([[1.0, 2, 0], [3, 0, 0], [0, 0, 9], [0, 5, 1]])
    assert top1_accuracy()(outputs, torch.tensor([1, 0, 1, 1])) == 0.75


def test_top1_accuracy_reads_the_logits_of_a_mapping() -> None:
    score, outputs, targets = top1_accuracy(), Outputs(hidden=-Y, logits=torch.eye(3)), torch.tensor([0, 2, 2])
    assert score(outputs, targets) == pytest.approx(2 / 3)
    assert score.per_sample and score.per_sample(outputs, targets).tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        pytest.param(X, "a Tensor of length 10", id="a tensor"),
        pytest.param((X,), "a tuple of length 1", id="inputs only"),
        pytest.param((X, Y, Y), "a tuple of length 3", id="three parts"),
        pytest.param({"x": X, "y": Y}, "a dict of length 2", id="a dict"),
        pytest.param(3, "a int", id="a number"),
    ],
)
def test_a_batch_must_be_a_pair(batch: Any, message: str) -> None:
    with pytest.raises(TaskError, match=f"a batch of test must be a pair .* got {message}"):
        split_batch(batch, "test")


@pytest.mark.parametrize("batch", [(X, Y), [X, Y]], ids=["tuple", "list"])
def test_a_pair_is_split(batch: Any) -> None:
    inputs, targets = split_batch(batch)
    assert inputs is X
    assert targets is Y


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"inputs": X, "targets": Y[:9]}, "equal length, but got 10 and 9", id="unequal lengths"),
        pytest.param({"inputs": X, "targets": Y, "batch_size": 0}, "at least 1, but got 0", id="batch of nothing"),
    ],
)
def test_bad_batches_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        TensorBatches(**arguments)


@pytest.mark.parametrize(("size", "lengths"), [(4, [4, 4, 2]), (5, [5, 5]), (10, [10]), (99, [10]), (1, [1] * 10)])
def test_batches_hold_every_sample_once(size: int, lengths: list[int]) -> None:
    for shuffle in (False, True):
        batches = TensorBatches(X, Y, batch_size=size, shuffle=shuffle)
        parts = list(batches)
        assert [len(x) for x, _ in parts] == lengths
        assert len(batches) == len(lengths)
        order = torch.cat([y for _, y in parts])
        assert sorted(order.tolist()) == list(range(10))
        assert torch.equal(torch.cat([x for x, _ in parts]), X[order])


def test_order_depends_on_seed_and_epoch_only() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batches = TensorBatches(X, Y, shuffle=True, seed=seed)
        batches.set_epoch(epoch)
        return next(iter(batches))[1].tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(*key)) for key in [(0, 0), (0, 1), (1, 0), (1, 1)]}) == 4
    state = torch.get_rng_state()
    order(0, 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_augmentation_gets_the_inputs_and_a_generator() -> None:
    def noise(x: Tensor, generator: torch.Generator) -> Tensor:
        return x + torch.rand(x.shape, generator=generator)

    batches = TensorBatches(X, Y, batch_size=4, augment=noise)
    first, again = list(batches), list(batches)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], X[:4])
    assert torch.equal(first[0][1], Y[:4])
    batches.set_epoch(1)
    assert not torch.equal(next(iter(batches))[0], first[0][0])


def test_arrays_are_taken_as_tensors() -> None:
    x, y = next(iter(TensorBatches(np.zeros((3, 2), np.float32), np.arange(3))))  # type: ignore[arg-type]
    assert isinstance(x, Tensor)
    assert isinstance(y, Tensor)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        pytest.param(torch.tensor(2.0), (2.0, 10.0), id="a tensor"),
        pytest.param((torch.tensor(2.0), torch.tensor(5.0)), (2.0, 5.0), id="a tuple, by position"),
        pytest.param([torch.tensor(2.0)], (2.0, 10.0), id="a list, by position"),
        pytest.param({"b": torch.tensor(5.0), "a": torch.tensor(2.0)}, (2.0, 5.0), id="a dict, by name"),
        pytest.param(UserDict(b=torch.tensor(5.0), a=torch.tensor(2.0)), (2.0, 5.0), id="a mapping, by name"),
    ],
)
def test_a_model_is_called_as_its_inputs_say(inputs: Any, expected: tuple[float, float]) -> None:
    def model(a: Tensor, b: float | Tensor = 10.0) -> tuple[float, float]:
        return float(a), float(b)

    assert call(model, inputs) == expected


class Outputs(dict):  # type: ignore[type-arg]
    """A mapping made by keyword, as a ModelOutput of transformers is."""


def test_a_mapping_that_is_no_dict_is_rebuilt_as_a_dict() -> None:
    tokens = UserDict(ids=Y, mask=X)  # what a tokenizer of transformers gives is one of these
    assert [tensor is part for tensor, part in zip(flatten(tokens), (Y, X), strict=True)] == [True, True]
    assert like(tokens, iter([X, Y])) == {"ids": X, "mask": Y}
    assert concatenate([tokens, tokens])["ids"].tolist() == [*range(10), *range(10)]


STRUCTURES = [
    pytest.param(X, 1, id="a tensor"),
    pytest.param((X, Y), 2, id="a tuple"),
    pytest.param({"b": X, "a": (Y, X)}, 3, id="nested"),
    pytest.param(Outputs(logits=X, hidden=Y), 2, id="a mapping of another class"),
    pytest.param((), 0, id="nothing"),
]


@pytest.mark.parametrize(("structure", "n"), STRUCTURES)
def test_a_structure_is_rebuilt_from_its_tensors(structure: Any, n: int) -> None:
    tensors = flatten(structure)
    assert len(tensors) == n
    rebuilt = like(structure, iter([t + 1 for t in tensors]))
    assert type(rebuilt) is type(structure)
    assert all(torch.equal(a, b + 1) for a, b in zip(flatten(rebuilt), tensors, strict=True))


@pytest.mark.parametrize(("structure", "n"), STRUCTURES[:4])
def test_parts_are_joined_along_the_samples(structure: Any, n: int) -> None:
    parts = [like(structure, iter([t[chosen] for t in flatten(structure)])) for chosen in (slice(0, 4), slice(4, 10))]
    joined = concatenate(parts)
    assert type(joined) is type(structure)
    assert all(torch.equal(a, b) for a, b in zip(flatten(joined), flatten(structure), strict=True))


def test_scalars_are_joined_to_a_vector() -> None:
    assert concatenate([torch.tensor(1.0), torch.tensor(2.0)]).tolist() == [1.0, 2.0]


def test_what_is_no_tensor_is_collected() -> None:
    assert concatenate([["a", "b"], ["c"]]) == ["a", "b", "c"]
    assert concatenate([None, None]) == [None, None]
