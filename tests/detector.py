"""A detector so small that a candidate takes about a second: images with one bright box each, and two losses."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss

from autocompress import Score, Task

SIZE, CELLS = 24, 6  # pixels and cells of the heat map, in each direction
STRIDE = SIZE // CELLS


def boxes(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise (n, 1, 24, 24) with a bright box; boxes (n, 4) as x0, y0, width, height in pixels."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(4, 12, (n, 2), generator=generator)
    corners = (torch.rand(n, 2, generator=generator) * (SIZE - sizes)).long()
    images = 0.3 * torch.randn(n, 1, SIZE, SIZE, generator=generator)
    for image, (x, y), (w, h) in zip(images, corners.tolist(), sizes.tolist(), strict=True):
        image[:, y : y + h, x : x + w] += 1.0
    return images, torch.cat([corners, sizes], dim=1).float()


class Boxes:
    """Batches of (images, boxes), read again and again."""

    def __init__(self, n: int, seed: int, batch_size: int = 32) -> None:
        self._data, self._size = boxes(n, seed), batch_size

    def __len__(self) -> int:
        return -(-len(self._data[0]) // self._size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(*(part.split(self._size) for part in self._data), strict=True)


class Detector(nn.Module):
    """A heat map of centres (n, 1, 6, 6), as logits, and offsets and sizes (n, 4, 6, 6) in cells."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 32, 5, padding=2), nn.BatchNorm2d(32), nn.ReLU()),
        )
        self.heat, self.box = nn.Conv2d(32, 1, 1), nn.Conv2d(32, 4, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(images)
        return self.heat(features), self.box(features)


def _wanted(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the centre's cell (n,), and offset in it and size (n, 4), in cells."""
    centres = (targets[:, :2] + targets[:, 2:] / 2) / STRIDE
    cells = centres.floor().clamp(max=CELLS - 1)
    index = (cells[:, 1] * CELLS + cells[:, 0]).long()
    return index, torch.cat([centres - cells, targets[:, 2:] / STRIDE], dim=1)


def _at(maps: Tensor, index: Tensor) -> Tensor:
    """Values (n, c) of maps (n, c, 6, 6) at one cell of each."""
    return maps.flatten(2)[torch.arange(len(maps)), :, index]


def detection_step(model: nn.Module, batch: Any) -> Tensor:
    """Heat map by binary cross-entropy, box by L1 at the centre's cell."""
    images, targets = batch
    heat, box = model(images)
    index, wanted = _wanted(targets)
    centre = torch.zeros_like(heat).flatten(1).scatter(1, index[:, None], 1.0)
    weight = torch.full((), float(CELLS**2 - 1))
    return binary_cross_entropy_with_logits(heat.flatten(1), centre, pos_weight=weight) + l1_loss(
        _at(box, index), wanted
    )


def mean_iou(outputs: tuple[Tensor, Tensor], targets: Tensor) -> float:
    """Mean overlap of the decoded boxes with the true ones, in [0, 1]."""
    heat, box = outputs
    index = heat.flatten(1).argmax(dim=1)
    found = _at(box, index)
    cells = torch.stack([index % CELLS, index // CELLS], dim=1)
    sizes = found[:, 2:].clamp(min=0) * STRIDE
    low = (cells + found[:, :2]) * STRIDE - sizes / 2
    shared = torch.minimum(low + sizes, targets[:, :2] + targets[:, 2:]) - torch.maximum(low, targets[:, :2])
    overlap = shared.clamp(min=0).prod(dim=1)
    return float((overlap / (sizes.prod(dim=1) + targets[:, 2:].prod(dim=1) - overlap)).mean())


@cache
def trained_state() -> dict[str, Tensor]:
    """Weights after a few seconds of training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Detector()
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=20 * len(Boxes(384, 1)))
        for _ in range(20):
            for batch in Boxes(384, 1):
                optimizer.zero_grad()
                detection_step(model, batch).backward()
                optimizer.step()
                schedule.step()
    return model.state_dict()


def detector() -> Task:
    """Finds the box in an image; trained by two losses."""
    model = Detector()
    model.load_state_dict(trained_state())
    return Task(
        model=model.eval(),
        example_input=torch.zeros(1, 1, SIZE, SIZE),
        train=Boxes(384, 1),
        validation=Boxes(128, 2, 64),
        test=Boxes(128, 3, 64),
        training_step=detection_step,
        score=Score(mean_iou, name="mean IoU"),
        name="boxes",
    )
