"""The optimizer of a fine-tuning and its rates: weights, ranges of quantizers and scores of masks have their own."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from autocompress.errors import TrainingError
from autocompress.train.binarization_stages import StagedBinarization, split_stages
from autocompress.train.schedules import rate_factor
from autocompress.train.settings import FinetuneSettings


def parameter_groups(
    model: nn.Module,
    settings: FinetuneSettings,
    ranges: Iterable[nn.Parameter] = (),
    scores: Iterable[nn.Parameter] = (),
    adapters: Iterable[nn.Parameter] = (),
) -> list[dict[str, Any]]:
    """Parameters that train, in groups with a name, a rate and a weight decay, as optimizers take them.

    Args:
        model: The compressed module.
        settings: Rates and weight decay.
        ranges: Its parameters that are steps and ranges of quantizers; they do not decay.
        scores: Its parameters that masks come from; they do not decay.
        adapters: Parameters beside the model, trained as its weights.
    """
    ranges, scores = list(ranges), list(scores)
    of_methods = {id(p) for p in (*ranges, *scores)}
    weights = [p for p in (*model.parameters(), *adapters) if p.requires_grad and id(p) not in of_methods]
    rate, score_rate = settings.learning_rate, settings.score_travel / max(1, settings.n_steps)
    groups: list[dict[str, Any]] = [
        {"name": "weights", "params": [p for p in weights if p.dim() > 1], "lr": rate},
        {"name": "biases", "params": [p for p in weights if p.dim() <= 1], "lr": rate},
        {"name": "ranges", "params": ranges, "lr": settings.range_learning_rate},
        {"name": "scores", "params": scores, "lr": score_rate},
    ]
    decay = {"weights": settings.weight_decay}
    return [group | {"weight_decay": decay.get(group["name"], 0.0)} for group in groups if group["params"]]


def make_optimizer(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """AdamW, in one fused call over all parameters.

    Raises:
        TrainingError: There are no parameters.
    """
    if not groups:
        raise TrainingError("nothing can be trained: every parameter is frozen; call model.requires_grad_(True)")
    return torch.optim.AdamW(groups, fused=True)


class Rates:
    """Sets the rates of an optimizer before each step; the rates that it has at construction are the peaks.

    A model with binary layers goes through the four stages of `binarization_stages`, all others through the schedule
    of the settings.

    Args:
        model: The module.
        optimizer: Of `make_optimizer`.
        settings: How.

    Attributes:
        scale: Factor on all rates, for a training that goes on after a divergence.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, settings: FinetuneSettings) -> None:
        self.scale = 1.0
        self._settings = settings
        self._groups = [(group, group["lr"]) for group in optimizer.param_groups]
        self._staged = StagedBinarization(model, optimizer, split_stages(settings.n_steps))

    def apply(self, step: int) -> float:
        """Set all rates for `step`, counted from 0; returns that of the weights."""
        if self._staged.binarizers:
            self._staged.apply(step)
            for group, _ in self._groups:
                group["lr"] *= self.scale
        else:
            factor = self.scale * rate_factor(step, self._settings)
            for group, peak in self._groups:
                group["lr"] = peak * factor
        self.let_ranges_learn(step < self._settings.freeze_ranges_at * self._settings.n_steps)
        return float(self._groups[0][0]["lr"])

    def let_ranges_learn(self, learn: bool) -> None:
        """Let ranges of quantizers learn, or stay as they are, without the price of their gradients."""
        others = any(group["name"] != "ranges" for group, _ in self._groups)  # a loss needs something to depend on
        for group, _ in self._groups:
            if group["name"] == "ranges":
                group["lr"] *= learn
                for parameter in group["params"]:
                    parameter.requires_grad_(learn or not others)
