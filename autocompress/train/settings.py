"""How to fine-tune: steps, rates, their schedule, and what divergence is."""

import math
from dataclasses import dataclass, field
from typing import Literal

from autocompress.errors import TrainingError
from autocompress.recipe import Distillation


@dataclass(frozen=True)
class FinetuneSettings:
    """How to fine-tune.

    Attributes:
        n_steps: Optimizer steps, >= 0.
        learning_rate: Peak rate of AdamW for weights, >= 0.
        range_learning_rate: Peak rate for the logarithms of quantizer steps and ranges, >= 0.
        score_travel: How far scores of gates can move in the whole training, >= 0; their peak rate is this over
            `n_steps`.
        weight_decay: Of weights only, >= 0.
        schedule: `cosine`, linear warm-up, then a cosine to 0 (Loshchilov & Hutter 2017, equation 5); `one_cycle`, half
            a cosine up over the first 30 % of the steps, then half a cosine down to 0 (Smith & Topin 2018, with the
            shares of torch's OneCycleLR). Binary models go through the four stages of `binarization_stages` instead.
        warm_up: Fraction of the steps of the `cosine` schedule over which the rate rises, in [0, 1].
        rewind_at: Rising shares of the steps, in (0, 1), at which the schedule starts over (Renda et al. 2020).
        freeze_ranges_at: Share of the steps after which ranges of quantizers stay as they are, in [0, 1].
        hold_statistics_at: Share of the steps after which batch norms keep the statistics of their input then,
            in [0, 1]; 1 for never. From there on the model is trained as it will be deployed: statistics of small
            batches, or of cut-outs of what is scored, differ from its (Krishnamoorthi 2018, batch normalization).
        distillation: What is learnt from the teacher.
        accumulate: Batches a step, >= 1; the gradient is their mean.
        clip_norm: Largest norm of the whole gradient, > 0; None means any.
        seed: Of everything random.

    Raises:
        TrainingError: A value is out of its range.
    """

    n_steps: int
    learning_rate: float = 1e-3
    range_learning_rate: float = 1e-3
    score_travel: float = 80.0
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "one_cycle"] = "cosine"
    warm_up: float = 0.1
    rewind_at: tuple[float, ...] = ()
    freeze_ranges_at: float = 0.8
    hold_statistics_at: float = 0.75
    distillation: Distillation = field(default_factory=Distillation)
    accumulate: int = 1
    clip_norm: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("n_steps", "learning_rate", "range_learning_rate", "score_travel", "weight_decay"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise TrainingError(f"{name} must be at least 0, but got {value}")
        for name in ("warm_up", "freeze_ranges_at", "hold_statistics_at"):
            if not 0 <= getattr(self, name) <= 1:
                raise TrainingError(f"{name} must be in [0, 1], but got {getattr(self, name)}")
        if self.schedule not in ("cosine", "one_cycle"):
            raise TrainingError(f"schedule must be cosine or one_cycle, but got {self.schedule!r}")
        if self.accumulate < 1:
            raise TrainingError(f"accumulate must be at least 1, but got {self.accumulate}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise TrainingError(f"clip_norm must be above 0, or None, but got {self.clip_norm}")
        if list(self.rewind_at) != sorted(set(self.rewind_at)) or not all(0 < share < 1 for share in self.rewind_at):
            raise TrainingError(f"rewind_at must be rising shares in (0, 1), but got {self.rewind_at}")
