"""Fashion-MNIST (MIT, Zalando SE): a subset of the data and a small residual CNN trained on it."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from autocompress.task import Task, TensorBatches, top1_accuracy
from autocompress.tasks.fashion.network import FashionNet

FOLDER = Path(__file__).parent
DATA = FOLDER / "data.npz"
WEIGHTS = FOLDER / "weights.safetensors"


def load_split(split: str) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 28, 28) in [-1, 1] and class indices (n,) of `train`, `validation` or `test`."""
    with np.load(DATA) as data:
        images, labels = data[f"{split}_images"], data[f"{split}_labels"]
    return torch.from_numpy(images).float().div(127.5).sub(1.0)[:, None], torch.from_numpy(labels).long()


def flip_and_shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images and move each batch by up to two pixels; shape (n, 1, 28, 28) stays."""
    mirrored = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    images = torch.where(mirrored, images.flip(-1), images)
    top, left = (int(i) for i in torch.randint(0, 5, (2,), generator=generator))
    height, width = images.shape[-2:]
    return pad(images, (2, 2, 2, 2), value=-1.0)[..., top : top + height, left : left + width]


def fashion(seed: int = 0) -> Task:
    """The default task: 10,000 training, 6,000 validation and 5,000 test images of ten kinds of clothing."""
    model = FashionNet()
    model.load_state_dict(load_file(WEIGHTS))
    return Task(
        model=model.eval(),
        example_input=torch.zeros(1, 1, 28, 28),
        train=TensorBatches(*load_split("train"), batch_size=64, shuffle=True, augment=flip_and_shift, seed=seed),
        validation=TensorBatches(*load_split("validation"), batch_size=250),
        test=TensorBatches(*load_split("test"), batch_size=250),
        loss=cross_entropy,
        score=top1_accuracy(),
        seed=seed,
        name="fashion",
    )
