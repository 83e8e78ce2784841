"""A small U-Net (Ronneberger et al. 2015), with batch norms and upsampling by repetition."""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate


class UNet(nn.Module):
    """Says of every pixel to which class it belongs.

    Args:
        n_classes: Classes.
        width: Channels at full resolution; twice as many at each lower one.
        depth: Times that the resolution is halved.
    """

    def __init__(self, n_classes: int = 3, width: int = 16, depth: int = 3) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.down = nn.ModuleList([two_layers(1, width), *(two_layers(n_in, n_out) for n_in, n_out in pairs)])
        self.narrow = nn.ModuleList(nn.Conv2d(n_below, n, 1) for n, n_below in reversed(pairs))
        self.up = nn.ModuleList(two_layers(2 * n, n) for n, _ in reversed(pairs))
        self.head = nn.Conv2d(width, n_classes, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (n, n_classes, height, width).

        Args:
            x: Shape (n, 1, height, width); both are multiples of `2 ** depth`.
        """
        x = self.down[0](x)
        passed = []
        for layers in self.down[1:]:
            passed.append(x)
            x = layers(self.pool(x))
        for narrow, layers in zip(self.narrow, self.up, strict=True):
            x = layers(torch.cat([passed.pop(), interpolate(narrow(x), scale_factor=2.0)], dim=1))
        logits: Tensor = self.head(x)
        return logits


def two_layers(n_in: int, n_out: int) -> nn.Sequential:
    """Two convolutions with batch norm and ReLU."""
    first, second = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
    return nn.Sequential(first, nn.BatchNorm2d(n_out), nn.ReLU(), second, nn.BatchNorm2d(n_out), nn.ReLU())
