"""Small hand-written networks, each with one trait that compression has to cope with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


def conv_bn(n_in: int, n_out: int, size: int = 3, *, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, size, padding=size // 2, groups=groups, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()
    )


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = conv_bn(3, 16), conv_bn(16, 32), conv_bn(32, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.second(self.first(x))
        return self.head(x.mean(dim=(2, 3)))


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(3, 16), conv_bn(16, 16, groups=16), conv_bn(16, 24, 1))
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(dim=(2, 3)))


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(3, 16), conv_bn(16, 32, groups=4), conv_bn(32, 16, 1))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(dim=(2, 3)))


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.join = nn.Conv2d(3, 16, 1), nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(40, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.left(x), self.right(x)], dim=1).relu()
        return self.head(self.join(y).relu().mean(dim=(2, 3)))


class DictNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.numbers, self.head = nn.Conv2d(3, 16, 3), nn.Linear(4, 16), nn.Linear(16, 5)

    def forward(self, image: Tensor, numbers: Tensor) -> dict[str, Tensor]:
        joined = self.image(image).relu().mean(dim=(2, 3)) + self.numbers(numbers)
        return {"logits": self.head(joined), "joined": joined}


class TwoInTwoOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.first, self.second = (nn.Linear(*s) for s in ((6, 16), (4, 16), (16, 5), (16, 3)))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        joined = (self.a(x) + self.b(y)).relu()
        return self.first(joined), self.second(joined)


class Shared(nn.Module):
    """One layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.twice(self.twice(self.stem(x).relu()).relu()).relu())


class FixedView(nn.Module):
    """A channel count written into forward: the convolution cannot lose filters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hidden, self.head = nn.Conv2d(3, 16, 3), nn.Linear(16 * 36, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.conv(x).relu().view(-1, 16 * 36)).relu())


class Attention(nn.Module):
    """`nn.MultiheadAttention`, which uses the weights of `out_proj` without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention = nn.Linear(4, 16), nn.MultiheadAttention(16, 2, batch_first=True)
        self.hidden, self.head = nn.Linear(16, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.hidden(x).relu().mean(dim=1))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, dim_feedforward=32, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x)).mean(dim=1))


class QueryKeyValue(nn.Module):
    """Three layers that read one tensor, with a fixed number of heads."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.head = (
            nn.Linear(8, 16),
            nn.Linear(8, 16),
            nn.Linear(8, 16),
            nn.Linear(16, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (2, 8)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        weights = (q @ k.transpose(-1, -2)).softmax(dim=-1)
        return self.head((weights @ v).transpose(1, 2).flatten(2).mean(dim=1))


class Upsampling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ConvTranspose2d(16, 16, 2, stride=2)
        self.out = nn.Conv2d(16, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.up(self.down(x).relu()).relu())


class NeverCalled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused, self.head = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.used(x).relu())


class Tied(nn.Module):
    """Embedding and output layer share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden, self.out = nn.Embedding(20, 16), nn.Linear(16, 16), nn.Linear(16, 20, bias=False)
        self.out.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.hidden(self.words(tokens)).relu()).mean(dim=1)


class WeightNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = weight_norm(nn.Conv2d(3, 16, 3)), nn.Conv2d(16, 16, 3)
        self.head = weight_norm(nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).relu()).relu().mean(dim=(2, 3)))


class Frozen(Residual):
    """Parameters that want no gradient, as after `requires_grad_(False)`."""

    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 5))


def conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 16, 5),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Conv1d(16, 24, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * 10, 5),
    )


def volume() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 16, 3), nn.BatchNorm3d(16), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(16, 5)
    )


def plain() -> nn.Module:
    """Neither bias nor batch norm: a filter of zeros is the same as a filter that is gone."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, bias=False), nn.ReLU(), nn.Conv2d(32, 24, 3, bias=False), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


def no_layers() -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Softmax(dim=-1))


IMAGE, SEQUENCE, ROW = (3, 8, 8), (7, 4), (6,)


@dataclass(frozen=True)
class Net:
    """A network's maker and the shapes of its inputs for one sample."""

    name: str
    make: Callable[[], nn.Module]
    shapes: Any = IMAGE
    prunable: bool = True

    def build(self, seed: int = 0) -> nn.Module:
        """The network with weights and batch-norm statistics that differ from the start; evaluation mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.make()
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias, std=0.3)
                    module.running_mean.normal_(std=0.3)
                    module.running_var.uniform_(0.5, 1.5)
        return model.eval()

    def inputs(self, n: int = 1, seed: int = 1) -> Any:
        """Inputs of `n` samples."""
        generator = torch.Generator().manual_seed(seed)
        if self.make is Tied:
            return torch.randint(0, 20, (n, 6), generator=generator)
        if isinstance(self.shapes, dict):
            return {key: torch.randn(n, *shape, generator=generator) for key, shape in self.shapes.items()}
        if isinstance(self.shapes, list):
            return tuple(torch.randn(n, *shape, generator=generator) for shape in self.shapes)
        return torch.randn(n, *self.shapes, generator=generator)

    def batches(self, n_batches: int = 2, size: int = 8) -> list[tuple[Any, Tensor]]:
        """Batches with class indices as targets."""
        targets = torch.arange(size) % 3
        return [(self.inputs(size, seed=10 + index), targets) for index in range(n_batches)]


NETS = {
    net.name: net
    for net in (
        Net("residual", Residual),
        Net("depthwise", Depthwise),
        Net("grouped", Grouped),
        Net("conv1d", conv1d, (2, 16)),
        Net("mlp", mlp, ROW),
        Net("concat", Concat),
        Net("dict", DictNet, {"image": IMAGE, "numbers": (4,)}, prunable=False),
        Net("two_in_two_out", TwoInTwoOut, [(6,), (4,)]),
        Net("shared", Shared, ROW),
        Net("fixed_view", FixedView),
        Net("attention", Attention, SEQUENCE),
        Net("encoder", Encoder, SEQUENCE),
        Net("query_key_value", QueryKeyValue, (7, 8), prunable=False),
        Net("upsampling", Upsampling),
        Net("volume", volume, (1, 4, 6, 6)),
        Net("never_called", NeverCalled, ROW),
        Net("tied", Tied),
        Net("weight_norm", WeightNorm, prunable=False),
        Net("frozen", Frozen),
        Net("plain", plain),
        Net("no_layers", no_layers, prunable=False),
    )
}
