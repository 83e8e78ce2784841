"""The small network of the exhaustive table, and its data: Fashion-MNIST at 14x14, trained for half a minute."""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, pad

from autocompress.task import Task, TensorBatches, top1_accuracy
from autocompress.tasks.fashion import load_split

N_HALF = 2000  # images on which a search selects, and as many others on which it is judged
BATCH = 16  # images of one inference, so that its time is that of the kernels
SEED = 0
_N_EPOCHS = 20
_PEAK_RATE = 3e-3


class TableNet(nn.Module):
    """Four 3x3 convolutions with batch norm, a linear head; 1.3 million MACs an image.

    Maps images (N, 1, 14, 14), scaled to [-1, 1], to logits (N, 10).
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(1, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32)
        self.second, self.second_norm = nn.Conv2d(32, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32)
        self.third, self.third_norm = nn.Conv2d(32, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64)
        self.fourth, self.fourth_norm = nn.Conv2d(64, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (N, 10)."""
        for name in ("first", "second", "third", "fourth"):
            x = self.get_submodule(f"{name}_norm")(self.get_submodule(name)(x)).relu()
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


def images(split: str) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 14, 14) in [-1, 1], the means of 2x2 pixels, and class indices (n,) of a split."""
    pixels, labels = load_split(split)
    return avg_pool2d(pixels, 2), labels


def flip_and_shift(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images and move each batch by up to one pixel; shape (n, 1, 14, 14) stays."""
    mirrored = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
    top, left = (int(i) for i in torch.randint(0, 3, (2,), generator=generator))
    moved = pad(torch.where(mirrored, x.flip(-1), x), (1, 1, 1, 1), value=-1.0)
    return moved[..., top : top + x.shape[-2], left : left + x.shape[-1]]


def trained_net(n_epochs: int = _N_EPOCHS) -> TableNet:
    """The network after training, the same on every call; global random state is left as it was.

    Args:
        n_epochs: Passes over the 10,000 training images with AdamW and one cycle of the rate (Smith & Topin 2018).
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(SEED)
        net = TableNet()
        batches = TensorBatches(*images("train"), batch_size=64, shuffle=True, augment=flip_and_shift, seed=SEED)
        optimizer = torch.optim.AdamW(net.parameters(), lr=_PEAK_RATE, weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_RATE, n_epochs * len(batches))
        for epoch in range(n_epochs):
            batches.set_epoch(epoch)
            for x, y in batches:
                optimizer.zero_grad()
                torch.autograd.backward(cross_entropy(net(x), y, label_smoothing=0.05))
                optimizer.step()
                schedule.step()
    return net.eval()


def table_task(net: nn.Module) -> Task:
    """The network as a task: half A of the held-out images is its validation split, half B its test split."""
    (x_a, y_a), (x_b, y_b) = images("validation"), images("test")
    return Task(
        model=net.eval(),
        example_input=torch.zeros(BATCH, 1, 14, 14),
        train=TensorBatches(*images("train"), batch_size=64, shuffle=True, augment=flip_and_shift, seed=SEED),
        validation=TensorBatches(x_a[:N_HALF], y_a[:N_HALF], batch_size=250),
        test=TensorBatches(x_b[:N_HALF], y_b[:N_HALF], batch_size=250),
        loss=cross_entropy,
        score=top1_accuracy(),
        seed=SEED,
        name="table",
    )
