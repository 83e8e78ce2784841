"""Dense prediction, several inputs and outputs, three axes and one, and recurrent nets, by hand."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets import conv_bn


class UNet(nn.Module):
    """Ronneberger et al. 2015, figure 1, of two levels."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = conv_bn(3, 16), conv_bn(16, 32), conv_bn(32, 64)
        self.up2, self.join2 = nn.ConvTranspose2d(64, 32, 2, 2), conv_bn(64, 32)
        self.up1, self.join1 = nn.ConvTranspose2d(32, 16, 2, 2), conv_bn(32, 16)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = self.down1(x)
        middle = self.down2(F.max_pool2d(high, 2))
        low = self.bottom(F.max_pool2d(middle, 2))
        middle = self.join2(torch.cat([middle, self.up2(low)], dim=1))
        return self.out(self.join1(torch.cat([high, self.up1(middle)], dim=1)))


class FeaturePyramid(nn.Module):
    """Lin et al. 2017, figure 3: one output a level, by the same head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = conv_bn(3, 16), conv_bn(16, 32), conv_bn(32, 48)
        self.lateral = nn.ModuleList(nn.Conv2d(n, 32, 1) for n in (16, 32, 48))
        self.smooth, self.head = conv_bn(32, 32), nn.Conv2d(32, 6, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        first = self.first(x)
        second = self.second(F.max_pool2d(first, 2))
        third = self.third(F.max_pool2d(second, 2))
        level = self.lateral[2](third)
        levels = [level]
        for lateral, features in ((self.lateral[1], second), (self.lateral[0], first)):
            level = F.interpolate(level, scale_factor=2.0, mode="nearest") + lateral(features)
            levels.append(level)
        return tuple(self.head(self.smooth(each)) for each in levels)


def autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 2, 2), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(),
        nn.ConvTranspose2d(16, 3, 2, 2),
    )  # fmt: skip


def convolutions_1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 16, 5), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 32, 3), nn.ReLU(), nn.MaxPool1d(2),
        nn.Flatten(), nn.Linear(32 * 13, 32), nn.ReLU(), nn.Linear(32, 6),
    )  # fmt: skip


class Causal(nn.Module):
    """A residual block of dilated convolutions padded on the left (Bai et al. 2018, figure 1b)."""

    def __init__(self, n_in: int, n_out: int, dilation: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(n_in, n_out, 3, dilation=dilation)
        self.second = nn.Conv1d(n_out, n_out, 3, dilation=dilation)
        self.shortcut, self.pad = nn.Conv1d(n_in, n_out, 1), 2 * dilation

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(F.pad(x, (self.pad, 0))))
        return F.relu(self.second(F.pad(y, (self.pad, 0))) + self.shortcut(x))


class TemporalConvolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(Causal(4, 16, 1), Causal(16, 32, 2)), nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)[:, :, -1])


def convolutions_3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 16, 3, padding=1), nn.BatchNorm3d(16), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(16, 32, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(32, 6),
    )  # fmt: skip


class TwoInputs(nn.Module):
    """An image and a row of numbers, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.numbers = nn.Sequential(conv_bn(3, 16), conv_bn(16, 32)), nn.Linear(4, 24)
        self.join, self.head = nn.Linear(56, 32), nn.Linear(32, 6)

    def forward(self, image: Tensor, numbers: Tensor) -> Tensor:
        pooled = self.image(image).mean(dim=(2, 3))
        return self.head(F.relu(self.join(torch.cat([pooled, F.relu(self.numbers(numbers))], dim=1))))


class TwoOutputs(nn.Module):
    """A class and a box from one body."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.hidden = nn.Sequential(conv_bn(3, 16), conv_bn(16, 32)), nn.Linear(32, 24)
        self.classes, self.box = nn.Linear(32, 6), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        pooled = self.body(x).mean(dim=(2, 3))
        return {"classes": self.classes(pooled), "box": self.box(F.relu(self.hidden(pooled)))}


class Recurrent(nn.Module):
    """A linear layer, an LSTM or GRU, and a classifier of the last step with a hidden layer."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embed, self.recurrent = nn.Linear(4, 16), kind(16, 24, batch_first=True)
        self.hidden, self.head = nn.Linear(24, 32), nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        states = self.recurrent(F.relu(self.embed(x)))[0]
        return self.head(F.relu(self.hidden(states[:, -1])))


def lstm() -> nn.Module:
    return Recurrent(nn.LSTM)


def gru() -> nn.Module:
    return Recurrent(nn.GRU)
