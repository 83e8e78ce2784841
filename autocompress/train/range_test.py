"""A learning rate that suits the model: how large a rate its FP32 baseline bears."""

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.errors import TrainingError
from autocompress.latency import training
from autocompress.task import Batch
from autocompress.train.data_order import endless, preserved_generators
from autocompress.train.optimizer import make_optimizer, parameter_groups
from autocompress.train.settings import FinetuneSettings

LossOf = Callable[[nn.Module, Batch], Tensor]

SWEEPS = ((3e-5, 4e-2), (2.5e-8, 3e-5))  # first and last rate of AdamW; the second for what bears no rate of the first
FORGOTTEN = 0.25  # share of what a model knows that it may lose before a rate counts as too large
ERASED = 1e-6  # factor on weights that leaves a model that knows nothing; 0 divides by 0 in normed weights

# Measured on 20 nets (convolutions with and without batch norm, MLPs, transformers): half of the filters removed, INT8,
# 120 steps of AdamW with a cosine
USUAL_RESHAPED = 5e-3  # at 18 of them within 40 % of the least loss of any rate
CAUTIOUS_RESHAPED = 1e-3  # learns more slowly, and kills none, not even one whose weights are 1/30 of the usual
SAFETY = 0.5  # factor on the largest rate that is borne
SETTLING = 0.1  # rate to settle with in relation to that to learn again with


@dataclass(frozen=True)
class LearningRates:
    """Peak rates of AdamW; the defaults are for models of which nothing is known.

    Attributes:
        quantized: Of a model that only has to settle, > 0.
        reshaped: Of one that lost filters, ranks or weights and must learn again, > 0.
    """

    quantized: float = 2e-4
    reshaped: float = CAUTIOUS_RESHAPED


def find_learning_rates(
    model: nn.Module,
    batches: Iterable[Batch],
    loss_of: LossOf,
    *,
    n_steps: int = 25,
    max_seconds: float = 20.0,
    seed: int = 0,
) -> LearningRates:
    """Rates for compressed forms of `model`, from a range test on itself (Smith 2017, section 3.3).

    A copy in training mode takes steps of AdamW at rates that rise geometrically from 3e-5 to 4e-2; if not even the
    first two are borne, another copy does from 2.5e-8 to 3e-5. A trained model is
    in its minimum already, so that its loss cannot tell which rate learns fastest; it tells the largest one that is
    borne. The test ends where, on a batch and with the same chance, the loss is above that of the unchanged model by
    more than a quarter of what the model knows: the loss that it has once all its weights are next to 0, less its own.
    With x half of the rate before, the rate to learn again with is ``min(x, sqrt(5e-3 * x))``: half way, in logarithms,
    to what suits most models, but never above x. A tenth of it settles a quantized model.

    `model` and the global generators are left as they were. The result is the same for equal `seed`, batches and
    machine unless time runs out. The last rate of a test cut short counts as the largest one that is borne where that
    gives more than the default.

    Args:
        model: The trained FP32 module.
        batches: Training batches; the first ones are read, again from the start where they are used up.
        loss_of: ``loss_of(model, batch)``, a scalar tensor.
        n_steps: Steps of a sweep, >= 2.
        max_seconds: No step begins later than this after the first one, which loads libraries, >= 0.
        seed: Of everything random.

    Returns:
        The rates; the default ones where the loss is not finite or the same whatever the weights.

    Raises:
        TrainingError: There are no batches, the loss is not a scalar that depends on the model, every parameter is
            frozen, or `n_steps` is below 2.
    """
    if n_steps < 2:
        raise TrainingError(f"a range test needs n_steps of at least 2, but got {n_steps}")
    with preserved_generators(), torch.enable_grad(), training():
        stream = (batch for _, batch in endless(batches, seed))
        borne, is_over = 0.0, True
        for lowest, highest in SWEEPS:
            trial = _Trial(model, loss_of, seed)
            borne, is_over = _largest_borne_rate(trial, stream, lowest, highest, n_steps, max_seconds)
            if borne >= lowest:
                break
    found = _rates(borne)
    return found if is_over or found.reshaped > CAUTIOUS_RESHAPED else LearningRates()


def _rates(borne: float) -> LearningRates:
    """Rates for a model that bears `borne`; the default ones for 0, which says that the test saw nothing."""
    if borne == 0:
        return LearningRates()
    safe = SAFETY * borne
    reshaped = min(safe, math.sqrt(USUAL_RESHAPED * safe))
    return LearningRates(quantized=SETTLING * reshaped, reshaped=reshaped)


def _largest_borne_rate(
    trial: "_Trial", stream: Iterator[Any], lowest: float, highest: float, n_steps: int, max_seconds: float
) -> tuple[float, bool]:
    """The last rate that did no harm, below `lowest` if there is none, and whether the sweep came to its end in time.

    A loss shows what the step before has done, so harm is put down to the rate of that one.
    """
    growth = (highest / lowest) ** (1 / (n_steps - 1))
    rate, borne = lowest, 0.0
    knowledge = trial.knowledge(next(stream))
    if not 0 < knowledge < math.inf:
        return 0.0, True
    deadline = math.inf
    for step in range(n_steps):
        if step > 0 and time.monotonic() >= deadline:
            return borne, False
        harm = trial.step(next(stream), step, rate)
        if not harm <= FORGOTTEN * knowledge:
            return borne / growth, True
        rate, borne = rate * growth, rate
        if step == 0:
            deadline = time.monotonic() + max_seconds
    return borne, True


class _Trial:
    """A copy of a model that learns, beside one that does not."""

    def __init__(self, model: nn.Module, loss_of: LossOf, seed: int) -> None:
        self._trained, self._untouched = (copy.deepcopy(model).train() for _ in range(2))
        self._optimizer = make_optimizer(parameter_groups(self._trained, FinetuneSettings(n_steps=0)))
        self._loss_of, self._seed = loss_of, seed

    def knowledge(self, batch: Any) -> float:
        """By how much the loss rises when the model forgets everything; at least the size of the loss itself."""
        erased = copy.deepcopy(self._untouched)
        with torch.no_grad():
            for parameter in erased.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(ERASED)
        before = float(self._loss(self._untouched, batch, 0).detach())
        after = self._loss_if_any(erased, batch, 0)
        rise = float(after.detach()) - before if after is not None else math.nan
        return max(rise, abs(before)) if math.isfinite(rise) else abs(before)

    def step(self, batch: Any, step: int, rate: float) -> float:
        """Take a step; returns by how much the loss before it is above that of the model that does not learn."""
        before = float(self._loss(self._untouched, batch, step).detach())
        loss = self._loss_if_any(self._trained, batch, step)
        if loss is None:
            return math.inf
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return float(loss.detach()) - before

    def _loss_if_any(self, model: nn.Module, batch: Any, step: int) -> Tensor | None:
        """Loss of a batch that the model can do in principle; None where code of users refuses what it says."""
        try:
            return self._loss(model, batch, step)
        except Exception:
            return None

    def _loss(self, model: nn.Module, batch: Any, step: int) -> Tensor:
        """Loss of a batch, with the same chance for every model."""
        torch.manual_seed(self._seed + step)
        loss = self._loss_of(model, batch)
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise TrainingError(f"the loss must be a scalar tensor, but got {got}; return the mean over the batch")
        if not loss.requires_grad:
            raise TrainingError("the loss must depend on the model's parameters, but got a tensor without a gradient")
        return loss
