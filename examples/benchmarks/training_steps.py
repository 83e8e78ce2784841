"""The price of a training step: a bare FP32 loop, and our loop with quantization and distillation, in turns."""

import copy
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import torch
from torch import nn

from autocompress.compress import CompressedModel, calibrate, compress, parameter_groups
from autocompress.graph import ModelGraph, inspect_model
from autocompress.recipe import Distillation, LayerRecipe, Recipe
from autocompress.search.context import channels_last_module
from autocompress.space import uniform_recipe
from autocompress.task import Batch, Task, TensorBatches
from autocompress.tasks.fashion import fashion, flip_and_shift, load_split
from autocompress.train import (
    FinetuneSettings,
    Hardware,
    Objective,
    StepInfo,
    Teacher,
    Watch,
    channels_last,
    finetune,
    layout_of,
)
from autocompress.train.loop import N_CHECKPOINTS
from examples.benchmarks.networks import untrained_mobilenet
from examples.benchmarks.step_clock import Profile, StepClock, TimedBatches

PLAIN, FLOAT = "FP32, bare loop", "FP32, our loop"
QUANTIZED, CACHED, TAUGHT = "INT8", "INT8 + distillation, teacher cached", "INT8 + distillation, teacher run"
INT8 = LayerRecipe(weight_bits=8, activation_bits=8)
N_STEPS = 150  # of a training in a search, over which the cost of its checkpoints is spread
N_FIRST = 2  # steps of a block that are left out
RATE = 1e-5

Block = Callable[[], list[float]]


@dataclass(frozen=True)
class Turns:
    """How much of each training is measured.

    Attributes:
        seconds: For the turns of one net.
        n_rounds: At least, >= 2.
        n_block: Steps of a block, above `N_FIRST`.
        n_profiled: Steps of a training that is looked into, enough for a checkpoint of `N_CHECKPOINTS` in `N_STEPS`.
    """

    seconds: float = 60.0
    n_rounds: int = 5
    n_block: int = 10
    n_profiled: int = 46


@dataclass(frozen=True)
class Net:
    """What is trained.

    Attributes:
        name: What tables call it.
        task: Model and loss.
        batches: Training batches, made anew by the same augmentation in every epoch.
    """

    name: str
    task: Task
    batches: TensorBatches


@dataclass(frozen=True)
class StepCosts:
    """What a step of one net costs.

    Attributes:
        net: Its name.
        ms: Median milliseconds of a step by variant.
        ratios: Median over rounds, and the middle half of them, of the time over that of `PLAIN` in the same round.
        n_rounds: How many there were.
        profiles: Where the time goes.
    """

    net: str
    ms: dict[str, float]
    ratios: dict[str, tuple[float, float, float]]
    n_rounds: int
    profiles: list[Profile]


def nets() -> list[Net]:
    """The built-in net, and one in the manner of MobileNetV2 with random weights, both on the built-in data."""
    task = fashion()
    batches = TensorBatches(*load_split("train"), batch_size=64, shuffle=True, augment=flip_and_shift)
    mobile = dataclasses.replace(task, model=untrained_mobilenet())
    return [Net("fashion net", task, batches), Net("MobileNetV2 style", mobile, batches)]


def step_costs(net: Net, turns: Turns, folder: Path) -> StepCosts:
    """Time all variants in turns, then look inside three of them.

    Args:
        net: What is trained.
        turns: How much.
        folder: For what the teacher said.
    """
    variants = Variants(net, turns, folder)
    rounds = list(_rounds(variants.blocks(), turns))
    ratios = {name: [times[name] / times[PLAIN] for times in rounds] for name in rounds[0]}
    return StepCosts(
        net=net.name,
        ms={name: 1e3 * median(times[name] for times in rounds) for name in ratios},
        ratios={name: _middle(values) for name, values in ratios.items()},
        n_rounds=len(rounds),
        profiles=[variants.profile(name) for name in (FLOAT, QUANTIZED, CACHED)],
    )


def _middle(values: list[float]) -> tuple[float, float, float]:
    """Median and quartiles."""
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return middle, low, high


def _rounds(blocks: dict[str, Block], turns: Turns) -> Iterator[dict[str, float]]:
    """Median seconds of a step by variant, a dict a round; each round begins with the next variant.

    Every second round goes backwards, so that no variant always follows the same one.
    """
    names, end = list(blocks), time.monotonic() + turns.seconds
    for index in itertools.count():
        if index >= turns.n_rounds and time.monotonic() > end:
            return
        first = index % len(names)
        order = [*names[first:], *names[:first]][:: -1 if index % 2 else 1]
        times = {name: median(blocks[name]()) for name in order}
        yield {name: times[name] for name in names}


class Variants:
    """The trainings of one net that are compared.

    Args:
        net: What is trained.
        turns: How much.
        folder: For what the teacher said.

    Raises:
        RuntimeError: A batch that was to come from the cache was computed.
    """

    def __init__(self, net: Net, turns: Turns, folder: Path) -> None:
        self._net, self._turns, self._fabric = net, turns, Hardware().fabric()
        self._fp32 = channels_last_module(copy.deepcopy(net.task.model)).eval()
        self._compressed = quantized(net.task, net.batches)
        self._float = compress(net.task.model, _graph(net.task), Recipe(), net.task.example_input)
        channels_last_module(self._float.module)
        self._teachers = {CACHED: Teacher(self._fp32, cache=folder / "teacher"), TAUGHT: Teacher(self._fp32)}
        net.batches.set_epoch(0)
        for images, _ in itertools.islice(net.batches, max(turns.n_block, turns.n_profiled)):
            self._teachers[CACHED].outputs((layout_of(images, self._compressed.module),), {})
        self._n_computed = self._teachers[CACHED].n_computed

    def blocks(self) -> dict[str, Block]:
        """A block of steps of each variant, by name; called, it gives the seconds of each step."""
        ours = {name: self._block(name) for name in (FLOAT, QUANTIZED, CACHED, TAUGHT)}
        return {PLAIN: bare_block(self._fp32_copy(), self._net, self._turns.n_block)} | ours

    def profile(self, name: str) -> Profile:
        """Where the time of a step of the variant `name` goes, in a training of `N_STEPS`."""
        clock = StepClock()
        with clock.watching():
            self._train(
                name, TimedBatches(self._net.batches, clock), Watch(lambda info: info.step == self._turns.n_profiled)
            )
        return clock.profile(name, N_CHECKPOINTS / N_STEPS)

    def _fp32_copy(self) -> nn.Module:
        return copy.deepcopy(self._fp32)

    def _block(self, name: str) -> Block:
        def block() -> list[float]:
            ends: list[float] = []

            def note(step: StepInfo) -> bool:
                ends.append(time.perf_counter())
                return step.step == self._turns.n_block

            self._train(name, self._net.batches, Watch(on_step=note))
            return _differences(ends)

        return block

    def _train(self, name: str, batches: Iterable[Batch], watch: Watch) -> None:
        compressed = self._float if name == FLOAT else self._compressed
        distillation = Distillation() if name in self._teachers else Distillation(weight=0)
        finetune(
            compressed.module,
            batches,
            Objective(self._net.task.loss, teacher=self._teachers.get(name)),
            FinetuneSettings(N_STEPS, RATE, RATE, distillation=distillation),
            ranges=parameter_groups(compressed.module)[1],
            compression=compressed.training(N_STEPS),
            fabric=self._fabric,
            watch=watch,
        )
        if self._teachers[CACHED].n_computed > self._n_computed:
            raise RuntimeError(f"{name} on {self._net.name}: a batch was not found in the teacher's cache")


def bare_block(model: nn.Module, net: Net, n_steps: int) -> Block:
    """Steps as one would write them: forward, loss, backward, fused AdamW, channels last."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    loss = net.task.loss
    if loss is None:
        raise ValueError(f"{net.name} needs a loss, but its task has none")

    def block() -> list[float]:
        model.train()
        net.batches.set_epoch(0)
        ends = []
        for images, labels in itertools.islice(net.batches, n_steps):
            loss(model(channels_last(images)), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            ends.append(time.perf_counter())
        return _differences(ends)

    return block


def _differences(ends: list[float]) -> list[float]:
    """Seconds of each step but the first ones."""
    return [end - start for start, end in itertools.pairwise(ends)][N_FIRST - 1 :]


def quantized(task: Task, batches: Iterable[Batch], layer: LayerRecipe = INT8) -> CompressedModel:
    """The model of `task` with every layer as `layer` says, calibrated, channels last."""
    graph = _graph(task)
    compressed = compress(task.model, graph, uniform_recipe(graph, layer), task.example_input)
    channels_last_module(compressed.module)
    calibrate(compressed.module, batches)
    return compressed


def _graph(task: Task) -> ModelGraph:
    return inspect_model(task.model, task.example_input, with_groups=False)
