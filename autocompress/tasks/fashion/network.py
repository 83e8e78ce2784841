"""The residual network of the `fashion` task: three stages, one depthwise-separable block."""

from torch import Tensor, nn


def _conv(n_in: int, n_out: int, size: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, then batch norm."""
    padding = size // 2
    convolution = nn.Conv2d(n_in, n_out, size, stride, padding, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(n_out))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016); a 1x1 convolution where the shape changes."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.first = _conv(n_in, n_out, 3, stride=stride)
        self.second = _conv(n_out, n_out, 3)
        same = n_in == n_out and stride == 1
        self.shortcut = nn.Identity() if same else _conv(n_in, n_out, 1, stride=stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, n_in, H, W) to (N, n_out, H / stride, W / stride)."""
        y = self.second(self.relu(self.first(x)))
        total: Tensor = self.relu(y + self.shortcut(x))
        return total


class SeparableBlock(nn.Module):
    """Depthwise 3x3, then pointwise 1x1 convolution with a shortcut (Howard et al. 2017)."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.depthwise = _conv(n_channels, n_channels, 3, groups=n_channels)
        self.pointwise = _conv(n_channels, n_channels, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, n_channels, H, W) to the same shape."""
        y = self.pointwise(self.relu(self.depthwise(x)))
        total: Tensor = self.relu(x + y)
        return total


class FashionNet(nn.Module):
    """Stem, three residual stages of 32, 64 and 128 channels, a separable block, a linear head.

    Maps images (N, 1, 28, 28), scaled to [-1, 1], to logits (N, 10); 52 million MACs at batch 1.
    """

    def __init__(self, n_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv(1, 32, 3), nn.ReLU())
        self.stage1 = ResidualBlock(32, 32, stride=1)
        self.stage2 = nn.Sequential(ResidualBlock(32, 64, stride=2), ResidualBlock(64, 64, stride=1))
        self.stage3 = ResidualBlock(64, 128, stride=2)
        self.separable = SeparableBlock(128)
        self.head = nn.Linear(128, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (N, n_classes)."""
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        logits: Tensor = self.head(self.separable(x).mean(dim=(2, 3)))
        return logits
