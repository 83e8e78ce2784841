"""A small network in the manner of MobileNetV2 for Fashion-MNIST, trained once and kept in the cache."""

import hashlib
import inspect
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autocompress.deploy import write_tensors
from autocompress.task import TensorBatches
from autocompress.tasks.fashion import DATA, flip_and_shift, load_split
from autocompress.train import channels_last
from examples.fetch import cache_folder

N_EPOCHS = 8
PEAK_RATE = 4e-3
SEED = 0
# Sandler et al. 2018, table 2, scaled down: expansion, channels, repeats, stride of the first
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 48, 3, 2), (6, 96, 3, 1))


def _conv(n_in: int, n_out: int, size: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution without bias, then batch norm."""
    convolution = nn.Conv2d(n_in, n_out, size, stride, size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(n_out)]


class InvertedResidual(nn.Module):
    """Expand with 1x1, depthwise 3x3, project with 1x1 without activation (Sandler et al. 2018, section 3.3).

    Args:
        n_in: Input channels.
        n_out: Output channels.
        stride: Of the depthwise convolution.
        expansion: Channels between, in units of `n_in`; 1 leaves the first convolution out.
    """

    def __init__(self, n_in: int, n_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = n_in * expansion
        self.body = nn.Sequential(
            *([*_conv(n_in, width, 1), nn.ReLU6()] if expansion > 1 else []),
            *(*_conv(width, width, 3, stride=stride, groups=width), nn.ReLU6()),
            *_conv(width, n_out, 1),
        )
        self.has_shortcut = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, n_in, H, W) to (N, n_out, H / stride, W / stride)."""
        y: Tensor = self.body(x)
        return x + y if self.has_shortcut else y


class SmallMobileNet(nn.Module):
    """Stem, inverted residuals at 28x28, 14x14 and 7x7, a 1x1 convolution, a linear head; 0.40 million parameters.

    Maps images (N, 1, 28, 28), scaled to [-1, 1], to logits (N, n_classes).
    """

    def __init__(self, n_classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = [*_conv(1, 16, 3), nn.ReLU6()]
        n_in = 16
        for expansion, n_out, repeats, first_stride in STAGES:
            for index in range(repeats):
                layers.append(InvertedResidual(n_in, n_out, first_stride if index == 0 else 1, expansion))
                n_in = n_out
        self.features = nn.Sequential(*layers, *_conv(n_in, 256, 1), nn.ReLU6())
        self.head = nn.Linear(256, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (N, n_classes)."""
        logits: Tensor = self.head(self.features(x).mean(dim=(2, 3)))
        return logits


def untrained_mobilenet() -> nn.Module:
    """The network with random weights, always the same ones, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return SmallMobileNet().eval()


def trained_mobilenet() -> nn.Module:
    """The network trained on the embedded data, in evaluation mode; from the cache where this code made it before."""
    model = untrained_mobilenet()
    path = cache_folder() / "benchmarks" / f"mobilenet-{code_digest(sys.modules[__name__], DATA)}.safetensors"
    if path.is_file():
        model.load_state_dict(load_file(path))
        return model
    print(f"training the MobileNetV2-style network for {N_EPOCHS} epochs, once", flush=True)
    train(model, N_EPOCHS)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(model.state_dict(), path)
    return model


def code_digest(module: object, *data: Path) -> str:
    """Twelve hexadecimal digits that change with the source of `module` and the bytes of `data`."""
    parts = [inspect.getsource(module).encode(), *(path.read_bytes() for path in data)]  # type: ignore[arg-type]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:12]


def train(model: nn.Module, n_epochs: int) -> None:
    """Train `model` in place with AdamW and one cycle of the rate (Smith & Topin 2018); evaluation mode afterwards."""
    batches = TensorBatches(*load_split("train"), batch_size=64, shuffle=True, augment=flip_and_shift, seed=SEED)
    model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=n_epochs * len(batches))
    for epoch in range(n_epochs):
        batches.set_epoch(epoch)
        for images, labels in batches:
            optimizer.zero_grad()
            cross_entropy(model(channels_last(images)), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
