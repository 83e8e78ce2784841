"""The data of the damage table: the first batches of training and of validation, cut to a number of samples."""

import itertools
from collections.abc import Iterable
from typing import Any

import torch

from autocompress.errors import MeasurementError
from autocompress.measure import take
from autocompress.search.context import EvaluationContext
from autocompress.search.training_data import training_pairs
from autocompress.task import Batch, flatten, split_batch
from autocompress.train import channels_last
from autocompress.train.layout import is_channels_last

SAMPLE_COUNTS = (256, 128, 64, 32)  # of training data for batch norms, and of validation data
N_CALIBRATION_BATCHES = 4  # of training data, for ranges
MAX_ADAPTATION_BATCHES = 10


class DamageData:
    """Batches of training and validation data, read once, images laid out as the model wants them.

    Args:
        context: The study's.
        n_samples: Of either split, at most.

    Attributes:
        train: Batches for batch norms.
        calibration: The first of them, for ranges.
        validation: Batches to judge by.
        first: The first of training and of validation, at most as long as the least of `SAMPLE_COUNTS`: they tell data
            of one content from another, whatever `n_samples`.

    Raises:
        MeasurementError: A split has no batches.
    """

    def __init__(self, context: EvaluationContext, n_samples: int) -> None:
        is_last = is_channels_last(context.fp32)
        train = itertools.islice(training_pairs(context), MAX_ADAPTATION_BATCHES)
        self.train = first_samples(train, "train", n_samples, is_last)
        self.validation = first_samples(context.task.validation, "validation", n_samples, is_last)
        self.calibration = self.train[:N_CALIBRATION_BATCHES]
        self.first = _at_most(self.train[0], SAMPLE_COUNTS[-1]), _at_most(self.validation[0], SAMPLE_COUNTS[-1])


def first_samples(batches: Iterable[Batch], split: str, n_samples: int, is_last: bool) -> list[Batch]:
    """Batches up to `n_samples` samples, the last one cut.

    Args:
        batches: Of the task.
        split: For messages.
        n_samples: At most, >= 1.
        is_last: Whether images are laid out channels last.

    Raises:
        MeasurementError: There are no batches.
    """
    found, n = [], 0
    for batch in batches:
        inputs, targets = split_batch(batch, split)
        inputs, targets = _at_most((inputs, targets), n_samples - n)
        found.append((channels_last(inputs) if is_last else inputs, targets))
        n += n_samples_of(inputs)
        if n >= n_samples:
            break
    if not found:
        raise MeasurementError(f"the task's {split} data has no batches; give at least one (inputs, targets) pair")
    return found


def _at_most(batch: Batch, n: int) -> Batch:
    """The batch, or its first `n` samples."""
    n_all = n_samples_of(batch[0])
    return batch if n_all <= n else (_first_samples(batch[0], n, n_all), _first_samples(batch[1], n, n_all))


def _first_samples(structure: Any, n: int, n_all: int) -> Any:
    """The first `n` of `n_all` samples; a list has an item a sample, or, as a batch of a loader, parts that have."""
    if isinstance(structure, list) and len(structure) != n_all:
        return [_first_samples(part, n, n_all) for part in structure]
    return take(structure, torch.arange(n))


def n_samples_of(inputs: Any) -> int:
    """Length of the first tensor."""
    return len(flatten(inputs)[0])
