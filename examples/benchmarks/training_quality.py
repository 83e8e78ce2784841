"""What fine-tuning gives back of the accuracy that few bits cost, and whether it can be repeated to the last bit."""

import dataclasses
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from autocompress.deploy import load_openvino
from autocompress.graph import inspect_model
from autocompress.measure import describe_environment, predict_torch, score_of
from autocompress.recipe import Distillation, LayerRecipe, Recipe
from autocompress.search.context import EvaluationContext, Rung
from autocompress.search.evaluate import export_candidate
from autocompress.search.folder import MODEL
from autocompress.search.training import finetune_default, train_candidate
from autocompress.space import uniform_recipe
from autocompress.task import Task, TensorBatches
from autocompress.tasks.fashion import fashion
from autocompress.train import FinetuneSettings, StepInfo, Watch
from examples.benchmarks.training_steps import quantized

ACTIVATION_BITS = 8
UNTRAINED, ALONE, DISTILLED = "calibrated only", "trained without distillation", "trained with distillation"


@dataclass(frozen=True)
class Recovery:
    """What training gives back at one number of bits.

    Attributes:
        weight_bits: Of every layer.
        fp32: Accuracy of the FP32 model, in [0, 1].
        accuracies: By what was done (`UNTRAINED`, `ALONE`, `DISTILLED`), one a seed.
        learning_rates: Of the trainings, by seed.
        n_samples: Behind each accuracy.
        deployed: Accuracy of the first distilled model after deployment.
    """

    weight_bits: int
    fp32: float
    accuracies: dict[str, list[float]]
    learning_rates: list[float]
    n_samples: int
    deployed: float

    def regained(self, name: str) -> list[float]:
        """Share of what `UNTRAINED` lost against FP32 that `name` has not lost, a seed each."""
        before = self.accuracies[UNTRAINED]
        return [(after - low) / (self.fp32 - low) for after, low in zip(self.accuracies[name], before, strict=True)]

    def mean_regained(self, name: str) -> float:
        """Of the mean accuracies, which does not suffer from a seed that loses nearly nothing."""
        low = fmean(self.accuracies[UNTRAINED])
        return (fmean(self.accuracies[name]) - low) / (self.fp32 - low)


def recoveries(
    bits: Iterable[int], n_steps: int, seeds: range, folder: Path, n_test: int | None = None
) -> list[Recovery]:
    """Train the built-in net at each number of bits, with the settings of a search.

    Args:
        bits: Of the weights of every layer; activations have 8.
        n_steps: Of each training.
        seeds: Each decides order and augmentation of the data.
        folder: Gets a study a seed.
        n_test: Test images at most.
    """
    contexts = {seed: _context(seed, folder / str(seed), n_test) for seed in seeds}
    return [_recovery(contexts, weight_bits, n_steps) for weight_bits in bits]


def _context(seed: int, folder: Path, n_test: int | None) -> EvaluationContext:
    task = fashion(seed)
    if n_test is not None and isinstance(task.test, TensorBatches):
        test = TensorBatches(task.test.inputs[:n_test], task.test.targets[:n_test], batch_size=250)
        task = dataclasses.replace(task, test=test)
    graph = inspect_model(task.model, task.example_input)
    return EvaluationContext(task, graph, folder, describe_environment(1).n_cores)


def _recovery(contexts: dict[int, EvaluationContext], weight_bits: int, n_steps: int) -> Recovery:
    layer = LayerRecipe(weight_bits=weight_bits, activation_bits=ACTIVATION_BITS)
    recipes = {name: _recipe(next(iter(contexts.values())), layer, name) for name in (UNTRAINED, ALONE, DISTILLED)}
    steps = {UNTRAINED: 0, ALONE: n_steps, DISTILLED: n_steps}
    accuracies: dict[str, list[float]] = {name: [] for name in recipes}
    rates = []
    for seed, context in contexts.items():
        for name, recipe in recipes.items():
            candidate = context.folder / f"{weight_bits} {name}"
            summary = train_candidate(context, recipe, candidate, Rung("benchmark", steps[name]), seed).summary
            accuracies[name].append(accuracy(context.task, context.restore(recipe, candidate).module))
        rates.append(summary.learning_rate if summary else 0.0)
    first = next(iter(contexts.values()))
    return Recovery(
        weight_bits=weight_bits,
        fp32=accuracy(first.task, first.fp32),
        accuracies=accuracies,
        learning_rates=rates,
        n_samples=predict_torch(first.fp32, first.task.test, "test").n_samples,
        deployed=_deployed(first, recipes[DISTILLED], first.folder / f"{weight_bits} {DISTILLED}"),
    )


def _recipe(context: EvaluationContext, layer: LayerRecipe, name: str) -> Recipe:
    recipe = uniform_recipe(context.graph, layer)
    return recipe.model_copy(update={"distillation": Distillation(weight=0)}) if name == ALONE else recipe


def accuracy(task: Task, module: torch.nn.Module) -> float:
    """Share of test images in the right class, in [0, 1], computed by torch."""
    return score_of(task, predict_torch(module, task.test, "test"))


def _deployed(context: EvaluationContext, recipe: Recipe, folder: Path) -> float:
    export_candidate(context, recipe, folder)
    return score_of(context.task, context.predict_deployed(load_openvino(folder / MODEL), "test"))


@dataclass(frozen=True)
class Sameness:
    """Whether trainings end in the same weights, to the last bit.

    Attributes:
        n_tensors: That were compared: weights, ranges and statistics.
        repeated: How many differ between two trainings.
        resumed: How many differ between a training and one that was stopped half-way and gone on with.
        other_seed: How many differ between two seeds, to see that the comparison can fail.
    """

    n_tensors: int
    repeated: int
    resumed: int
    other_seed: int


class _StoppedError(Exception):
    """Ends a training half-way."""


def sameness(n_steps: int, folder: Path) -> Sameness:
    """Train the built-in net with INT8 and distillation again and again.

    The first training computes what the teacher says, the others read it.

    Args:
        n_steps: Of each training, >= 2.
        folder: For checkpoints and what the teacher said.
    """
    context = _context(0, folder, None)
    unbroken = _weights(context, n_steps, folder / "unbroken")
    with suppress(_StoppedError):
        _weights(context, n_steps, folder / "stopped", stop_at=n_steps // 2 + 1)
    return Sameness(
        n_tensors=len(unbroken),
        repeated=_n_different(unbroken, _weights(context, n_steps, folder / "repeated")),
        resumed=_n_different(unbroken, _weights(context, n_steps, folder / "stopped")),
        other_seed=_n_different(unbroken, _weights(_context(1, folder, None), n_steps, folder / "other")),
    )


def _weights(context: EvaluationContext, n_steps: int, folder: Path, stop_at: int | None = None) -> dict[str, Tensor]:
    """State of the model after a training in `folder`, which goes on from the checkpoint there."""

    def stop(info: StepInfo) -> None:
        if info.step == stop_at:
            raise _StoppedError

    compressed = quantized(context.task, context.task.train)
    settings = FinetuneSettings(n_steps, seed=context.task.seed)
    finetune_default(context, compressed, settings, watch=Watch(on_step=stop), folder=folder)
    return compressed.state()


def _n_different(one: dict[str, Tensor], other: dict[str, Tensor]) -> int:
    """Tensors whose bits are not all the same."""
    return sum(not torch.equal(_bits(tensor), _bits(other[name])) for name, tensor in one.items())


def _bits(tensor: Tensor) -> Tensor:
    """NaN and the sign of zero count, too."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)
