"""Trainings of every kind for the tests of the loop, and ways to stop or spoil them."""

import csv
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from autocompress.compress import CompressedModel, calibrate, compress, parameter_groups
from autocompress.graph import inspect_model
from autocompress.recipe import LayerRecipe, Recipe, Sparsification
from autocompress.task import Batch, TensorBatches
from autocompress.train import FinetuneSettings, Objective, Outcome, finetune
from tests.nets import NETS

N_STEPS = 20
SETTINGS = FinetuneSettings(N_STEPS, learning_rate=0.01, range_learning_rate=0.01)
State = dict[str, Tensor]


class StoppedError(Exception):
    """Ends a training, as a signal or a lack of memory would."""


def rows(n: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


class Augmented(Dataset[Any]):
    """Rows with noise from each of the three generators that users draw from."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = rows()
        noise = torch.randn(6) + float(np.random.randn()) + random.gauss(0, 1)  # noqa: NPY002
        return x[index] + 0.1 * noise, y[index]


def plain() -> nn.Module:
    return NETS["mlp"].build()


def dropout() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))


def compressed(name: str, last: bool = False, layer: str = "", **recipe: Any) -> CompressedModel:
    net = NETS[name]
    model, x = net.build(), net.inputs()
    graph = inspect_model(model, x)
    kind = recipe.pop("kind", LayerRecipe(weight_bits=4, activation_bits=8))
    names = [layer] if layer else [info.name for info in graph.layers]
    result = compress(model, graph, Recipe(layers=dict.fromkeys(names, kind), **recipe), x)
    calibrate(result.module, net.batches())
    if last:
        result.module.to(memory_format=torch.channels_last)
    return result


def sparse(**how: Any) -> CompressedModel:
    return compressed("mlp", kind=LayerRecipe(sparsity=0.5), sparsification=Sparsification(**how))


@dataclass(frozen=True)
class Case:
    """What is trained, and on what."""

    build: Callable[[], nn.Module | CompressedModel]
    batches: Callable[[], Iterable[Batch]]


def mlp_batches() -> Iterable[Batch]:
    return TensorBatches(*rows(), batch_size=8, shuffle=True)


def image_batches() -> Iterable[Batch]:
    return NETS["residual"].batches(3)


CASES = {
    "dropout and an augmenting loader": Case(dropout, lambda: DataLoader(Augmented(), batch_size=8, shuffle=True)),
    "plain": Case(plain, mlp_batches),
    "quantized": Case(lambda: compressed("mlp"), mlp_batches),
    "gates": Case(lambda: sparse(method="regularization"), mlp_batches),
    "movement": Case(lambda: sparse(method="movement"), mlp_batches),
    "adaptive": Case(lambda: sparse(schedule="adaptive"), mlp_batches),
    "binary": Case(
        lambda: compressed("residual", layer="first.0", kind=LayerRecipe(weight_bits=1, activation_bits=1)),
        image_batches,
    ),
    "channels_last": Case(lambda: compressed("residual", last=True), image_batches),
}
ALL_CASES = pytest.mark.parametrize("name", CASES)


def train(
    name: str, how: FinetuneSettings = SETTINGS, loss: Any = cross_entropy, teacher: Any = None, **changes: Any
) -> tuple[State, Outcome]:
    """State and outcome of a training of a case that is built anew, as in another process."""
    case = CASES[name]
    model = case.build()
    module = model if isinstance(model, nn.Module) else model.module
    if isinstance(model, CompressedModel):
        changes |= {"ranges": parameter_groups(module)[1], "compression": model.training(how.n_steps)}
    outcome = finetune(module, case.batches(), Objective(loss, teacher=teacher), how, **changes)
    return {key: value.clone() for key, value in module.state_dict().items()}, outcome


@cache
def unbroken(name: str, how: FinetuneSettings = SETTINGS) -> State:
    return train(name, how)[0]


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class At:
    """A loss that does something else at some of its calls, counted from 0."""

    def __init__(self, calls: Iterable[int], instead: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.calls, self.instead, self.n = set(calls), instead, 0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.n += 1
        loss = cross_entropy(outputs, targets)
        return self.instead(loss, outputs) if self.n - 1 in self.calls else loss


def stop(*_: Any) -> Tensor:
    raise StoppedError


def to_nan(loss: Tensor, _: Tensor) -> Tensor:
    return loss * float("nan")


def to_nan_gradients(loss: Tensor, outputs: Tensor) -> Tensor:
    return loss + (0 * outputs).sum().sqrt()


def stopped(name: str, folder: Path, call: int, how: FinetuneSettings = SETTINGS, **changes: Any) -> None:
    with pytest.raises(StoppedError):
        train(name, how, At([call], stop), folder=folder, **changes)


def log_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "training.csv").open() as file:
        return list(csv.DictReader(file))
