"""Time and memory of one `compress` call on a network of the size of ResNet-18, in a process of its own."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from autocompress.compress import compress
from autocompress.graph import ModelGraph, inspect_model
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.space import uniform_recipe

INT8 = LayerRecipe(weight_bits=8, activation_bits=8)


@dataclass(frozen=True)
class Cost:
    """Of one call.

    Attributes:
        name: Of the recipe.
        seconds: Fastest of three calls.
        memory: Peak of the process's memory above what it held before, in units of the model's parameters.
    """

    name: str
    seconds: float
    memory: float


class _Block(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False), nn.BatchNorm2d(n_out))
        self.shortcut = nn.Sequential()
        if stride > 1 or n_in != n_out:
            self.shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, n_in, H, W) to (N, n_out, H / stride, W / stride)."""
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


def resnet18() -> nn.Module:
    """Layers of ResNet-18 (He et al. 2016, table 1) with random weights: 11.7 million parameters."""
    torch.manual_seed(0)
    stages = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
    blocks = [_Block(a if first else b, b, s if first else 1) for a, b, s in stages for first in (True, False)]
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)).eval()


def recipes(graph: ModelGraph) -> dict[str, Recipe]:
    """What is timed, by name."""
    pruning = {group.name: 0.5 for group in graph.prunable}
    layers = {
        "INT8": INT8,
        "70 % sparse + INT8": INT8.model_copy(update={"sparsity": 0.7}),
        "rank x 0.5 + INT8": INT8.model_copy(update={"rank_ratio": 0.5}),
    }
    alone = {name: uniform_recipe(graph, layer) for name, layer in layers.items()}
    return {
        **alone,
        "half of the filters": Recipe(pruning=pruning),
        "half of the filters + 70 % sparse + INT8": Recipe(layers=alone["70 % sparse + INT8"].layers, pruning=pruning),
    }


def costs() -> list[Cost]:
    """Costs of every recipe, each measured in a fresh process."""
    names = list(recipes(inspect_model(resnet18(), torch.randn(1, 3, 64, 64))))
    return [_in_a_process(name) for name in names]


def _in_a_process(name: str) -> Cost:
    done = subprocess.run([sys.executable, "-m", __name__, name], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"measuring {name!r} failed:\n{done.stderr}")
    return Cost(name, **json.loads(done.stdout.splitlines()[-1]))


def _measure(name: str) -> dict[str, float]:
    model, x = resnet18(), torch.randn(1, 3, 64, 64)
    graph = inspect_model(model, x)
    recipe = recipes(graph)[name]
    small, small_x = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)).eval(), torch.randn(1, 3, 8, 8)
    compress(small, inspect_model(small, small_x), Recipe(), small_x)  # imports and allocators are not the call's
    with _PeakMemory() as peak:
        seconds = [_seconds(model, graph, recipe, x)]
    seconds += [_seconds(model, graph, recipe, x) for _ in range(2)]
    n_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    return {"seconds": min(seconds), "memory": peak.n_bytes / n_bytes}


def _seconds(model: nn.Module, graph: ModelGraph, recipe: Recipe, x: Tensor) -> float:
    start = time.perf_counter()
    compress(model, graph, recipe, x)
    return time.perf_counter() - start


class _PeakMemory:
    """Peak of resident memory inside the block above that at its start, in bytes, as Linux counts it."""

    def __enter__(self) -> "_PeakMemory":
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is held now
        self._start, self.n_bytes = _status("VmRSS"), 0
        return self

    def __exit__(self, *_: object) -> None:
        self.n_bytes = _status("VmHWM") - self._start


def _status(key: str) -> int:
    """A size that the kernel keeps about this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1])))
