"""A learning rate that suits the model."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from autocompress.task import Batch


@dataclass(frozen=True)
class LearningRates:
    """Peak rates."""

    quantized: float = 2e-4
    reshaped: float = 5e-3


def find_learning_rates(
    model: nn.Module,
    batches: Iterable[Batch],
    loss_of: Callable[[nn.Module, Batch], Tensor],
    *,
    n_steps: int = 40,
    max_seconds: float = 10.0,
    seed: int = 0,
) -> LearningRates:
    """Placeholder of the lead; helper B replaces this file."""
    return LearningRates()
