"""What training does to masks: sparsity rises by a schedule, gates have a loss term, and in the end masks freeze."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.compress.gates import Gates, density_loss
from autocompress.compress.mask_attaching import attach_masks, attached_mask, mask_parameters, masks, set_masks
from autocompress.compress.sparsity import WeightMask
from autocompress.compress.sparsity_schedules import AdaptiveProgress, level
from autocompress.errors import CompressionError
from autocompress.recipe import Sparsification

__all__ = ["SparsityTraining", "attach_masks", "mask_parameters", "masks"]

N_RENEWALS = 100  # of masks by magnitude or movement at most (Zhu & Gupta 2017 renew them every 100 to 1000 steps)


@dataclass(frozen=True)
class _Target:
    mask: WeightMask
    layer: nn.Module
    sparsity: float


class SparsityTraining:
    """Moves the masks that `attach_masks` put on a module through one training.

    Order of calls: construct it once, then for each batch: forward, ``(task_loss + training.loss()).backward()``,
    ``optimizer.step()``, ``training.step(task_loss)``; after the last batch `finish`. A loop that counts epochs gives
    `steps_per_epoch`, and calls `epoch_step` after each epoch instead of `step`, or beside it, which then changes
    nothing; gates draw noise at every forward pass. After the share `Sparsification.end` of the steps the target is
    reached and masks are frozen: their scores get no more gradient and gates are no more random.

    Everything random comes from torch's global generator, during forward passes in training mode. With no steps, or no
    sparse layers, it does nothing, and the masks stay as `attach_masks` set them.

    Args:
        module: With masks; weights may have quantizers behind them.
        sparse: Sparsity in (0, 1) by dotted layer name, as for `attach_masks`.
        settings: As for `attach_masks`.
        n_steps: Optimizer steps of the training, >= 0.
        steps_per_epoch: Optimizer steps of an epoch, >= 1, if `epoch_step` will be called without `step`.

    Raises:
        CompressionError: A layer has no mask.
    """

    def __init__(
        self,
        module: nn.Module,
        sparse: Mapping[str, float],
        settings: Sparsification,
        n_steps: int,
        steps_per_epoch: int | None = None,
    ) -> None:
        self._settings, self._steps_per_epoch = settings, steps_per_epoch
        self._targets = _targets(module, sparse)
        self._n_units = sum(target.mask.n_units for target in self._targets)
        self._n_rising = min(n_steps, max(1, round(settings.end * n_steps)))
        self._n_done, self._n_renewals = 0, 0
        self._adaptive: AdaptiveProgress | None = None
        self._steps_are_told = False
        self._frozen = n_steps == 0 or not self._targets
        if not self._frozen:
            self._start()

    @property
    def level(self) -> float:
        """The sparsity that the schedule asks for now: mean of the layers, weighted by their units; 0.0 without any."""
        return sum(t.mask.n_units * self._level_of(t) for t in self._targets) / max(1, self._n_units)

    @property
    def scores(self) -> list[nn.Parameter]:
        """Scores that training moves, each once: they want a rate of their own and no weight decay."""
        return [parameter for target in self._targets for parameter in target.mask.parameters()]

    @property
    def is_frozen(self) -> bool:
        """Whether masks are final."""
        return self._frozen

    def loss(self) -> Tensor:
        """Term to be added to the loss: `density_loss` while gates learn, otherwise 0; a scalar."""
        gates = [t.mask for t in self._targets if isinstance(t.mask, Gates)]
        if self._frozen or not gates:
            return torch.zeros(())
        densities = [1 - self._level_of(target) for target in self._targets]
        return density_loss(gates, densities, self._settings.scope)

    def step(self, loss: float | None = None) -> None:
        """Go on by one optimizer step; call it after that.

        Args:
            loss: The training loss of the step, without our term; only the `adaptive` schedule needs it.

        Raises:
            CompressionError: The schedule is `adaptive` and there is no loss.
        """
        self._steps_are_told = True
        self._advance(1, loss)

    def epoch_step(self, loss: float | None = None) -> None:
        """Go on by one epoch, unless its steps were told by `step`; call it after the epoch.

        Args:
            loss: The mean training loss of the epoch, without our term; only the `adaptive` schedule needs it.

        Raises:
            CompressionError: Nobody said how many steps an epoch has, or the schedule is `adaptive` and there is no
                loss.
        """
        if self._steps_are_told:
            self._steps_are_told = False
        elif self._steps_per_epoch is None:
            raise CompressionError("epoch_step needs steps_per_epoch, but got None; give it, or call step")
        else:
            self._advance(self._steps_per_epoch, loss)

    @property
    def needs_loss(self) -> bool:
        """Whether `step` must be told the loss."""
        return not self._frozen and self._settings.schedule == "adaptive"

    def state(self) -> dict[str, Any]:
        """How far it is, as numbers that JSON can hold; with the module's state it restores a training."""
        adaptive = vars(self._adaptive) if self._adaptive else None
        return {
            "n_done": self._n_done,
            "n_renewals": self._n_renewals,
            "frozen": self._frozen,
            "adaptive": copy.deepcopy(adaptive),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go back, or on, to what `state` said; the module's own state is restored by whoever saved it."""
        self._n_done, self._n_renewals = state["n_done"], state["n_renewals"]
        self._frozen = state["frozen"]
        self._adaptive = None
        if state["adaptive"]:
            self._adaptive = AdaptiveProgress(1)
            vars(self._adaptive).update(copy.deepcopy(state["adaptive"]))
        for target in self._targets:
            target.mask.learning = not self._frozen
            if isinstance(target.mask, Gates):
                target.mask.noise = None

    def finish(self) -> None:
        """Bring every mask to its full sparsity and freeze it: exactly the asked number of zeros, the lowest go."""
        if self._frozen:
            return
        self._n_done, self._frozen = self._n_rising, True
        for target in self._targets:
            target.mask.learning = False
        self._set_masks()

    def _start(self) -> None:
        for target in self._targets:
            target.mask.learning = True
            if isinstance(target.mask, Gates):
                target.mask.noise_each_pass = self._steps_per_epoch is not None
        self._renew()

    def _level_of(self, target: _Target) -> float:
        if self._frozen or self._n_done >= self._n_rising:
            return target.sparsity
        return level(self._progress(), target.sparsity, self._settings)

    def _progress(self) -> float:
        if self._settings.schedule == "adaptive":
            return self._adaptive.progress if self._adaptive else 0.0
        return self._n_done / self._n_rising

    def _advance(self, n_steps: int, loss: float | None) -> None:
        if self._frozen:
            return
        if self._settings.schedule == "adaptive":
            if loss is None:
                raise CompressionError("the adaptive schedule needs the training loss, but got None; give it to step")
            if self._adaptive is None:
                self._adaptive = AdaptiveProgress(max(1, math.ceil(self._n_rising / n_steps)))
            self._adaptive.step(loss)
        self._n_done = min(self._n_done + n_steps, self._n_rising)
        if self._n_done == self._n_rising:
            self.finish()
        else:
            self._renew()

    def _renew(self) -> None:
        """Let gates be drawn, and rank other masks anew if it is time for one of the renewals."""
        if self._settings.method == "regularization":
            for target in self._targets:
                _renew_gates(target.mask)
        elif self._n_done * N_RENEWALS // self._n_rising >= self._n_renewals:
            self._n_renewals = self._n_done * N_RENEWALS // self._n_rising + 1
            self._set_masks()

    def _set_masks(self) -> None:
        levels = [(target.mask, target.layer, self._level_of(target)) for target in self._targets]
        set_masks(levels, self._settings.scope)


def _renew_gates(mask: WeightMask) -> None:
    """Let the next forward pass draw noise, and the mask say what evaluation keeps, for whoever saves it in between."""
    if isinstance(mask, Gates):
        mask.noise = None
        mask.mask.copy_(mask.scores > 0)


def _targets(module: nn.Module, sparse: Mapping[str, float]) -> list[_Target]:
    """One for each mask."""
    found: dict[WeightMask, _Target] = {}
    for name, sparsity in sparse.items():
        layer = module.get_submodule(name)
        mask = attached_mask(layer)
        if mask is None:
            raise CompressionError(f"a sparse layer needs a mask, but {name!r} has none; call attach_masks first")
        found.setdefault(mask, _Target(mask, layer, sparsity))
    return list(found.values())
