"""What every candidate of a study shares, and what a candidate's folder holds."""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from autocompress.compress import CompressedModel, compress, shrunk_recipe
from autocompress.deploy import load_openvino, read_tensors
from autocompress.graph import ModelGraph
from autocompress.latency import LatencyProcess
from autocompress.measure import Predictions, predict_deployed
from autocompress.recipe import Recipe
from autocompress.search.folder import MODEL, WEIGHTS
from autocompress.task import Task, call
from autocompress.train import Hardware

Split = Literal["validation", "test"]
Seconds = dict[str, float]
CACHE = ".cache"  # among the folders of candidates


@dataclass(frozen=True)
class Rung:
    """A fidelity step: its name and the number of training steps."""

    name: str
    n_steps: int


@dataclass
class EvaluationContext:
    """What every candidate of a study shares.

    Attributes:
        task: Model, data and score.
        graph: What `inspect_model` found.
        folder: Where candidates have their folders, by digest.
        n_cores: Threads for training and scoring.
        n_inference_threads: Threads for latency.
        hardware: On what to train.
        max_drop: Largest accuracy drop that is wished for, in units of the score; trainings that cannot come near it
            are given up. None for never.
        latency_seconds: For timing one candidate, at most, > 0; None for what its settings say.
    """

    task: Task
    graph: ModelGraph
    folder: Path
    n_cores: int
    n_inference_threads: int = 1
    hardware: Hardware = field(default_factory=Hardware)
    max_drop: float | None = None
    latency_seconds: float | None = None
    _baseline: dict[str, Predictions] = field(default_factory=dict, repr=False)
    _structure: list[Any] = field(default_factory=list, repr=False)
    _teacher: list[nn.Module] = field(default_factory=list, repr=False)
    _timer: list[LatencyProcess] = field(default_factory=list, repr=False)

    @property
    def timer(self) -> LatencyProcess:
        """The process that times models; it ends with the one that this object is in."""
        if not self._timer:
            self._timer.append(LatencyProcess())
        return self._timer[0]

    @property
    def baseline_folder(self) -> Path:
        """Folder of the FP32 candidate."""
        return self.folder / Recipe().digest()

    @property
    def cache(self) -> Path:
        """Folder of what is computed once a study: the teacher's outputs, learning rates."""
        return self.folder / CACHE

    @property
    def fp32(self) -> nn.Module:
        """A copy of the FP32 model that is laid out for speed."""
        if not self._teacher:
            self._teacher.append(channels_last_module(copy.deepcopy(self.task.model)).eval())
        return self._teacher[0]

    def baseline_predictions(self, split: Split) -> Predictions:
        """Outputs of the deployed FP32 model; computed once a process and split."""
        if split not in self._baseline:
            model = load_openvino(self.baseline_folder / MODEL)
            self._baseline[split] = self.predict_deployed(model, split)
        return self._baseline[split]

    def predict_deployed(self, model: Any, split: Split) -> Predictions:
        """Outputs of a deployed model on a split."""
        if not self._structure:
            with torch.no_grad():
                self._structure.append(call(self.fp32, self.task.example_input))
        return predict_deployed(model, getattr(self.task, split), self._structure[0], split, self.n_cores)

    def restore(self, recipe: Recipe, folder: Path) -> CompressedModel:
        """The trained compressed model, from its recipe and its weights in `folder`."""
        tensors = read_tensors(folder / WEIGHTS)
        if loses_rows(recipe):
            recipe = shrunk_recipe(recipe, self.graph, tensors)
        compressed = compress(self.task.model, self.graph, recipe, self.task.example_input, structure_only=True)
        compressed.load_state(tensors)
        return compressed


class Stopwatch:
    """Wall-clock seconds by phase."""

    def __init__(self) -> None:
        self.seconds: Seconds = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the block to the phase `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def loses_rows(recipe: Recipe) -> bool:
    """Whether rows and heads become zero in training, to be removed then."""
    return recipe.sparsification.structure != "weights"


def channels_last_module(module: nn.Module) -> nn.Module:
    """The module itself, weights of 2-d convolutions stored channels last; values don't change."""
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return module
