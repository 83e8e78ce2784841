"""The four stages of training a binarized network (NNCF paper, section 4.2)."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from autocompress.errors import TrainingError

SHARES = (1 / 9, 2 / 9, 3 / 9, 3 / 9)  # 10, 20, 30, 30 of 90 epochs, NNCF's example for ResNet
POWER = 2.1  # of NNCF's polynomial fall of the learning rate


@dataclass(frozen=True)
class StageState:
    """What holds at one step.

    Attributes:
        binary_activations: Whether layer inputs are binarized.
        binary_weights: Whether weights are binarized.
        rate_factor: Share of the learning rate, in [0, 1].
        weight_decay: Whether weights decay.
    """

    binary_activations: bool
    binary_weights: bool
    rate_factor: float = 1.0
    weight_decay: bool = True


@dataclass(frozen=True)
class BinarizationStages:
    """Lengths of the four stages in optimizer steps, each >= 0.

    Attributes:
        n_float_steps: Stage 1, nothing is binarized.
        n_activation_steps: Stage 2, inputs only.
        n_binary_steps: Stage 3, inputs and weights, at the full learning rate.
        n_decay_steps: Stage 4, as stage 3; the rate falls to 0 and weights don't decay.
        power: Of the fall of the learning rate, > 0.

    Raises:
        TrainingError: A length or the power is out of its range.
    """

    n_float_steps: int
    n_activation_steps: int
    n_binary_steps: int
    n_decay_steps: int
    power: float = POWER

    def __post_init__(self) -> None:
        """Check the ranges."""
        for number, n_steps in enumerate(self.lengths, start=1):
            if n_steps < 0:
                raise TrainingError(f"a stage of binarization must last 0 or more steps, but stage {number}: {n_steps}")
        if not (math.isfinite(self.power) and self.power > 0):
            raise TrainingError(f"the power of the falling learning rate must be above 0, but got {self.power}")

    @property
    def lengths(self) -> tuple[int, int, int, int]:
        """Steps of the four stages."""
        return self.n_float_steps, self.n_activation_steps, self.n_binary_steps, self.n_decay_steps

    @property
    def n_steps(self) -> int:
        """Steps of all stages."""
        return sum(self.lengths)

    def at(self, step: int) -> StageState:
        """What holds at `step`, counted from 0; after the last stage both are binary and the rate is 0.

        In stage 4 the rate factor is ``(1 - k / n)^power`` at its k-th of n steps, as in NNCF's code.

        >>> stages = BinarizationStages(1, 1, 1, 2, power=1)
        >>> [(s.binary_activations, s.binary_weights, s.rate_factor) for s in map(stages.at, (0, 1, 2, 3, 4))]
        [(False, False, 1.0), (True, False, 1.0), (True, True, 1.0), (True, True, 1.0), (True, True, 0.5)]
        """
        activations_from = self.n_float_steps
        weights_from = activations_from + self.n_activation_steps
        decay_from = weights_from + self.n_binary_steps
        if step < decay_from:
            return StageState(step >= activations_from, step >= weights_from)
        left = max(0.0, 1 - (step - decay_from) / self.n_decay_steps) if self.n_decay_steps else 0.0
        return StageState(True, True, left**self.power, weight_decay=False)


def split_stages(
    n_steps: int, shares: tuple[float, float, float, float] = SHARES, power: float = POWER
) -> BinarizationStages:
    """Stages that last `n_steps` in all, each boundary rounded to the nearest step.

    Args:
        n_steps: Optimizer steps, >= 0.
        shares: Lengths of the four stages in relation to each other, each >= 0, not all 0.
        power: Of the fall of the learning rate, > 0.

    Raises:
        TrainingError: A share is negative or not finite, or all are 0.

    >>> split_stages(90).lengths
    (10, 20, 30, 30)
    """
    total = sum(shares)
    if not (all(share >= 0 for share in shares) and 0 < total < math.inf):
        raise TrainingError(f"shares of the four stages must be 0 or more and not all 0, but got {shares}")
    first, second, third = (round(n_steps * sum(shares[: n + 1]) / total) for n in range(3))
    return BinarizationStages(first, second - first, third - second, n_steps - third, power)


class StagedBinarization:
    """Applies the stages to a module and an optimizer.

    A binarizer is a submodule with the attributes `binarizes` ("activations" or "weights") and `enabled`. The rates
    and weight decays that the optimizer has at construction are those of the first three stages; `apply` sets both,
    so no other scheduler may.

    Args:
        module: The module with binarizers.
        optimizer: Its optimizer.
        stages: Lengths of the stages.

    Attributes:
        binarizers: What it switches; empty for a module without binary layers.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, stages: BinarizationStages) -> None:
        self.stages = stages
        self.binarizers = [m for m in module.modules() if hasattr(m, "binarizes") and hasattr(m, "enabled")]
        self._groups = [(group, group["lr"], group.get("weight_decay", 0.0)) for group in optimizer.param_groups]

    def apply(self, step: int) -> StageState:
        """Switch binarizers, learning rates and weight decays to what holds at `step`; call it before the step."""
        state = self.stages.at(step)
        switch_binarizers(self.binarizers, state)
        for group, rate, decay in self._groups:
            group["lr"] = rate * state.rate_factor
            group["weight_decay"] = decay if state.weight_decay else 0.0
        return state


def switch_binarizers(binarizers: list[nn.Module], state: StageState) -> None:
    """Switch each of `binarizers` on or off."""
    for binarizer in binarizers:
        on = state.binary_activations if binarizer.binarizes == "activations" else state.binary_weights
        binarizer.enabled = on  # type: ignore[assignment]
