"""Image classifiers by hand: residuals, concatenations, groups, squeeze and excite, shuffles."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from tests.nets import conv_bn


class Pooled(nn.Module):
    """A body of convolutions, the mean over the image, and a linear layer."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(dim=(2, 3)))


class BasicBlock(nn.Module):
    """He et al. 2016, figure 5 left; the shortcut is a convolution where shapes differ."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out)
        self.conv2, self.bn2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False), nn.BatchNorm2d(n_out)
        same = stride == 1 and n_in == n_out
        down = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))
        self.shortcut = nn.Identity() if same else down

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def resnet(width: int = 16, blocks: tuple[int, ...] = (2, 2)) -> nn.Module:
    """Stages of basic blocks, each after the first of twice the width and half the size."""
    stages, n_in = [conv_bn(3, width)], width
    for stage, n_blocks in enumerate(blocks):
        for block in range(n_blocks):
            n_out = width * 2**stage
            stages.append(BasicBlock(n_in, n_out, 2 if stage and not block else 1))
            n_in = n_out
    return Pooled(nn.Sequential(*stages), n_in)


class Bottleneck(nn.Module):
    """Xie et al. 2017, figure 3c: a grouped convolution between two of size 1."""

    def __init__(self, n_in: int, width: int, n_groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn(n_in, width, 1), conv_bn(width, width, groups=n_groups), nn.Conv2d(width, n_in, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


def resnext() -> nn.Module:
    return Pooled(nn.Sequential(conv_bn(3, 32), Bottleneck(32, 64, 4), Bottleneck(32, 64, 4)), 32)


class DenseLayer(nn.Module):
    def __init__(self, n_in: int, growth: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(n_in), nn.Conv2d(n_in, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], dim=1)


def densenet() -> nn.Module:
    """Huang et al. 2017: every layer reads all layers before it."""
    layers = [DenseLayer(16 + 16 * index, 16) for index in range(3)]
    transition = nn.Sequential(nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 32, 1), nn.AvgPool2d(2))
    return Pooled(nn.Sequential(conv_bn(3, 16), *layers, transition, DenseLayer(32, 16)), 48)


class SqueezeExcite(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1))))
        return x * F.hardsigmoid(gate)


class InvertedResidual(nn.Module):
    """Sandler et al. 2018, figure 3; with squeeze and excite as in Howard et al. 2019, figure 4."""

    def __init__(self, n_in: int, inner: int, n_out: int, *, excite: int = 0, stride: int = 1) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(n_in, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.Hardswish()
        )
        self.excite = SqueezeExcite(inner, excite) if excite else nn.Identity()
        self.project = nn.Sequential(nn.Conv2d(inner, n_out, 1, bias=False), nn.BatchNorm2d(n_out))
        self.adds = n_in == n_out and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.excite(self.depthwise(self.expand(x))))
        return x + y if self.adds else y


def mobilenet_v2() -> nn.Module:
    blocks = [InvertedResidual(16, 48, 16), InvertedResidual(16, 48, 24, stride=2), InvertedResidual(24, 64, 24)]
    return Pooled(nn.Sequential(conv_bn(3, 16), *blocks, conv_bn(24, 64, 1)), 64)


def mobilenet_v3() -> nn.Module:
    blocks = [InvertedResidual(16, 48, 16, excite=16), InvertedResidual(16, 64, 24, excite=16, stride=2)]
    return Pooled(nn.Sequential(conv_bn(3, 16), *blocks, conv_bn(24, 64, 1), nn.Hardswish()), 64)


def efficientnet_lite() -> nn.Module:
    """EfficientNet without squeeze and excite and with ReLU6 (Liu 2020)."""
    blocks = [InvertedResidual(16, 32, 16), InvertedResidual(16, 64, 32, stride=2), InvertedResidual(32, 64, 32)]
    return Pooled(nn.Sequential(conv_bn(3, 16), *blocks, conv_bn(32, 64, 1), nn.Dropout(0.2)), 64)


def shuffle(x: Tensor, n_groups: int) -> Tensor:
    """Zhang et al. 2018, figure 1c: channels of every group spread over all groups."""
    n, channels, height, width = x.shape
    split = x.view(n, n_groups, channels // n_groups, height, width)
    return split.transpose(1, 2).reshape(n, channels, height, width)


class ShuffleUnit(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.first, self.depthwise = conv_bn(width, inner, 1, groups=2), nn.Conv2d(inner, inner, 3, 1, 1, groups=inner)
        self.last = nn.Conv2d(inner, width, 1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(shuffle(self.first(x), 2))
        return F.relu(x + self.last(y))


def shufflenet() -> nn.Module:
    return Pooled(nn.Sequential(conv_bn(3, 32), ShuffleUnit(32, 32), ShuffleUnit(32, 32), conv_bn(32, 64, 1)), 64)


class Fire(nn.Module):
    """Iandola et al. 2016, figure 1."""

    def __init__(self, n_in: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(n_in, squeezed, 1)
        self.small, self.large = nn.Conv2d(squeezed, expanded, 1), nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.small(x)), F.relu(self.large(x))], dim=1)


def squeezenet() -> nn.Module:
    """The last layer is a convolution to the classes, before the mean over the image."""
    body = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), Fire(16, 16, 24), nn.MaxPool2d(2), Fire(48, 16, 32))
    return nn.Sequential(body, nn.Conv2d(64, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def vgg() -> nn.Module:
    """Flattens an image of 4 by 4, so that each filter is 16 inputs of the linear layer."""
    return nn.Sequential(
        conv_bn(3, 16), conv_bn(16, 16), nn.MaxPool2d(2), conv_bn(16, 32), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(32 * 16, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


class Ghost(nn.Module):
    """Han et al. 2020, figure 1b: half of the output is a cheap depthwise convolution of the other half."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        half = n_out // 2
        self.primary, self.cheap = conv_bn(n_in, half, 1), conv_bn(half, half, groups=half)

    def forward(self, x: Tensor) -> Tensor:
        primary = self.primary(x)
        return torch.cat([primary, self.cheap(primary)], dim=1)


def ghostnet() -> nn.Module:
    return Pooled(nn.Sequential(conv_bn(3, 16), Ghost(16, 48), Ghost(48, 32), conv_bn(32, 32)), 32)


class InceptionBlock(nn.Module):
    """Szegedy et al. 2015, figure 2b."""

    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.one = conv_bn(n_in, 16, 1)
        self.three = nn.Sequential(conv_bn(n_in, 16, 1), conv_bn(16, 24))
        self.five = nn.Sequential(conv_bn(n_in, 16, 1), conv_bn(16, 16, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_bn(n_in, 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], dim=1)


def inception() -> nn.Module:
    return Pooled(nn.Sequential(conv_bn(3, 16), InceptionBlock(16), InceptionBlock(72)), 72)


class CrossStage(nn.Module):
    """Wang et al. 2020, figure 3: half of the channels go around the convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.join = conv_bn(3, 32), conv_bn(16, 24), conv_bn(24, 16), conv_bn(32, 32, 1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        around, through = self.stem(x).chunk(2, dim=1)
        y = torch.cat([around, self.two(self.one(through))], dim=1)
        return self.head(self.join(y).mean(dim=(2, 3)))


class GatedUnits(nn.Module):
    """One half of the channels gates the other (Dauphin et al. 2017, equation 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gated, self.last = conv_bn(3, 16), nn.Conv2d(16, 64, 3), conv_bn(32, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        values, gates = self.gated(self.stem(x)).chunk(2, dim=1)
        return self.head(self.last(values * gates.sigmoid()).mean(dim=(2, 3)))


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNextBlock(nn.Module):
    """Liu et al. 2022, figure 4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.0, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.narrow(F.gelu(self.wide(y)))
        return x + y.permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    down = nn.Sequential(LayerNorm2d(16), nn.Conv2d(16, 32, 2, 2))
    body = nn.Sequential(nn.Conv2d(3, 16, 4, 4), LayerNorm2d(16), ConvNextBlock(16), down, ConvNextBlock(32))
    return Pooled(body, 32)


class SharedBlock(nn.Module):
    """One block called three times, between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.last = conv_bn(3, 32), BasicBlock(32, 32), conv_bn(32, 48)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = self.block(x)
        return self.head(self.last(x).mean(dim=(2, 3)))


def weight_normed() -> nn.Module:
    """The first weight is a direction and a length; the layers behind it are plain."""
    body = nn.Sequential(weight_norm(nn.Conv2d(3, 16, 3)), nn.ReLU(), conv_bn(16, 32), conv_bn(32, 32))
    return Pooled(body, 32)


def spectral_normed() -> nn.Module:
    body = nn.Sequential(
        conv_bn(3, 16), spectral_norm(nn.Conv2d(16, 32, 3)), nn.ReLU(), conv_bn(32, 32), conv_bn(32, 32)
    )
    return Pooled(body, 32)


class StaticView(nn.Module):
    """A number of channels written into forward; the layers before and behind it don't depend on it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fixed, self.after = conv_bn(3, 32), nn.Conv2d(32, 32, 3, padding=1), conv_bn(16, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fixed(self.stem(x))
        y = y.view(-1, 16, 2, *y.shape[2:]).amax(dim=2)
        return self.head(self.after(y).mean(dim=(2, 3)))
