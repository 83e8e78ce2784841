"""A task of your own in one file: a small CNN on the 8x8 digits of scikit-learn.

autocompress search examples/digits_task.py:digits --budget 1m --out digits
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset, TensorDataset

from autocompress import Task, top1_accuracy


def digits() -> Task:
    """Train for a few seconds, then hand model and data over."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    dataset = TensorDataset(images, torch.tensor(data.target))
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    train, validation, test = (Subset(dataset, part) for part in (order[:997], order[997:1397], order[1397:]))
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10)),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(8):
        for x, y in DataLoader(train, batch_size=64, shuffle=True):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
    return Task(
        model=model.eval(),
        example_input=images[:1],
        train=DataLoader(train, batch_size=64, shuffle=True),
        validation=DataLoader(validation, batch_size=200),
        test=DataLoader(test, batch_size=200),
        loss=cross_entropy,
        score=top1_accuracy(),
        name="digits",
    )
