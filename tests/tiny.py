"""A task so small that a candidate takes about a second, and variations of it that go wrong in one way each.

The command line reads this file as `tests/tiny.py:FUNCTION`, worker processes import it as `tests.tiny`.
"""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autocompress import Task, TensorBatches, top1_accuracy

N_CLASSES = 3
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
