"""A task so small that a candidate takes about a second, and variations of it that go wrong in one way each.

The command line reads this file as `tests/tiny.py:FUNCTION`, worker processes import it as `tests.tiny`.
"""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from autocompress import Score, Task, TensorBatches, top1_accuracy
from autocompress.task import Batch

N_CLASSES = 3
SPLITS = ("train", "validation", "test")
FILE = Path(__file__)


def images(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise (n, 1, 8, 8) with a bright stripe whose place is the class."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 8, 8, generator=generator)
    y = torch.arange(n) % N_CLASSES
    for c in range(N_CLASSES):
        x[y == c, :, :, 1 + 2 * c : 3 + 2 * c] += 1.2
    return x, y


def net() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 24, 3, padding=1, stride=2), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(24 * 16, N_CLASSES)),
    )


@cache
def trained_state(seed: int) -> dict[str, Tensor]:
    """Weights after a second of training; the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = net()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for epoch in range(6):
            batches = TensorBatches(*images(192, 1), batch_size=32, shuffle=True, epoch=epoch)
            for x, y in batches:
                optimizer.zero_grad()
                cross_entropy(model(x), y).backward()
                optimizer.step()
    return model.state_dict()


def tiny(seed: int = 0) -> Task:
    """The task without a fault."""
    model = net()
    model.load_state_dict(trained_state(seed))
    return Task(
        model=model.eval(),
        example_input=torch.zeros(1, 1, 8, 8),
        train=TensorBatches(*images(128, 1), batch_size=32, shuffle=True),
        validation=TensorBatches(*images(192, 2), batch_size=64),
        test=TensorBatches(*images(150, 3), batch_size=64),
        loss=cross_entropy,
        score=top1_accuracy(),
        name="tiny",
    )


def _nan(outputs: Tensor, targets: Tensor) -> float:
    return float("nan")


def nan_score() -> Task:
    """Its score is not a number."""
    return replace(tiny(), score=Score(_nan, name="nan"))


class NoBatches:
    """An iterable without a length and without batches."""

    def __iter__(self) -> Iterator[Batch]:
        return iter(())


def no_validation() -> Task:
    """Its validation split turns out to be empty when it is read."""
    return replace(tiny(), validation=NoBatches())


def no_train() -> Task:
    """Its training split turns out to be empty when it is read."""
    return replace(tiny(), train=NoBatches())


def nothing_to_compress() -> Task:
    """Its model has no convolution and no linear layer."""
    return replace(tiny(), model=nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)).eval())


def wrong_shape() -> Task:
    """Its example input does not fit its model."""
    return replace(tiny(), example_input=torch.zeros(1, 3, 8, 8))


def not_pairs() -> Task:
    """Its batches lack targets."""
    return replace(tiny(), validation=[images(64, 2)[0]])


def only_fp32_works() -> Task:
    """Its loss fails, so no candidate but the FP32 model is ever measured."""
    return replace(tiny(), loss=_failing_loss)


def _failing_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    raise RuntimeError("no loss today")


def killed_in_training() -> Task:
    """Its loss kills the process, as a lack of memory would."""
    return replace(tiny(), loss=_killing_loss)


def _killing_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def slow() -> Task:
    """Each training step takes at least a tenth of a second."""
    return replace(tiny(), loss=_slow_loss)


def _slow_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    time.sleep(0.1)
    return cross_entropy(outputs, targets)


def hangs() -> Task:
    """Its loss never returns."""
    return replace(tiny(), loss=_hanging_loss)


def _hanging_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    time.sleep(10_000)
    raise AssertionError


def one_class() -> Task:
    """All targets are equal."""
    x, _ = images(96, 1)
    batches = TensorBatches(x, torch.zeros(96, dtype=torch.long), batch_size=32)
    return replace(tiny(), train=batches, validation=batches, test=batches, name="one class")


class Shared(nn.Module):
    """The same convolution twice, and an output that is a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, N_CLASSES)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.stem(image).relu()
        x = self.twice(self.twice(x).relu()).relu()
        return {"logits": self.head(x.mean(dim=(2, 3)))}


def _error_of_logits(outputs: dict[str, Tensor], targets: Tensor) -> float:
    return float((outputs["logits"].argmax(dim=1) != targets).double().mean())


def _loss_of_logits(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    return cross_entropy(outputs["logits"], targets)


def shared_layers() -> Task:
    """A model in training mode with a shared layer, dict inputs, dict outputs and a score that falls."""
    torch.manual_seed(0)
    splits = {name: [({"image": x}, y)] for name, (x, y) in zip(SPLITS, (images(96, i) for i in range(3)), strict=True)}
    return Task(
        model=Shared().train(),
        example_input={"image": torch.zeros(1, 1, 8, 8)},
        loss=_loss_of_logits,
        score=Score(_error_of_logits, higher_is_better=False, name="error"),
        name="shared",
        **splits,
    )


def loader_processes() -> Task:
    """Its training data come from processes of a DataLoader."""
    data = TensorDataset(*images(96, 1))
    return replace(tiny(), train=DataLoader(data, batch_size=32, shuffle=True, num_workers=1), name="loader")


def mlp() -> Task:
    """A model without a convolution."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, N_CLASSES))
    return replace(tiny(), model=model.eval(), name="mlp")


def not_a_task() -> int:
    """Not a task."""
    return 3


def fails() -> Task:
    """Fails while it is made."""
    raise FileNotFoundError("data.csv")
