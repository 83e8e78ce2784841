"""Regularization-based sparsity: stochastic binary gates on weights (NNCF paper, section 4.3; Louizos et al. 2017)."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from autocompress.compress.sparsity import WeightMask

INITIAL_PROBABILITY = 0.99  # that a gate of a weight of 0 is open before training, as in NNCF's code
DENSITY_TOLERANCE = 0.05  # NNCF's `p`, "typically equals to 0.05" (its Pruning.md and the default of its RBLoss)
_SPREAD = 1.0  # of initial scores between weights of 0 and large ones
_SMALLEST_NOISE = 1e-6  # uniform noise stays this far from 0 and 1, as in NNCF's code, so that its logit is finite


class Gates(WeightMask):
    """A gate for each weight, open with a probability of sigmoid(score) during training.

    The gates are ``z = [sigmoid(s + logit(u)) > 0.5]`` with ``u ~ U(0, 1)`` (NNCF paper, section 4.3); the gradient
    passes the threshold as if it were the identity, so ``dz/ds = sigmoid'(s + logit(u))``. In evaluation mode a gate is
    open where ``s > 0``. Gates that are not learning are fixed to `mask`.

    Args:
        weight: What the gates are put on; larger weights start with higher scores.
        typical_magnitude: For `initial_scores`; None means that of `weight`.

    Attributes:
        scores: One a weight, the logit of the probability that its gate is open.
        noise: One draw of u for each gate, the same for every forward pass; None means that the next one draws.
        noise_each_pass: Whether every forward pass in training mode draws anew.
    """

    noise: Tensor | None
    noise_each_pass: bool = False

    def __init__(self, weight: Tensor, typical_magnitude: Tensor | None = None) -> None:
        super().__init__(weight.shape)
        self.scores = nn.Parameter(initial_scores(weight, typical_magnitude))
        self.register_buffer("noise", None, persistent=False)

    def ranking(self, weight: Tensor) -> Tensor:
        """The scores."""
        return self.scores.detach()

    def draw(self) -> None:
        """Draw new noise from torch's global generator."""
        self.noise = torch.rand_like(self.scores.detach())

    def probabilities(self) -> Tensor:
        """Probability that each gate is open, with a gradient to the scores; the shape of the weight."""
        return torch.sigmoid(self.scores)

    def sample(self) -> Tensor:
        """Gates of this step, 0.0 or 1.0, with a gradient to the scores; the shape of the weight."""
        if self.noise is None or self.noise_each_pass:
            self.draw()
        soft = torch.sigmoid(self.scores + torch.logit(self.noise, eps=_SMALLEST_NOISE))  # type: ignore[arg-type]
        return (soft > 0.5).to(soft.dtype) + (soft - soft.detach())

    def forward(self, weight: Tensor) -> Tensor:
        """`weight` where gates are open and 0 where they are closed, same shape."""
        if self.is_written:
            return weight
        if self.learning and self.training:
            return weight * self.sample()
        return self.apply_mask(weight, self.scores > 0 if self.learning else self.mask)


def initial_scores(weight: Tensor, typical_magnitude: Tensor | None = None) -> Tensor:
    """Scores before training: ``logit(0.99) + |w| / (|w| + r)``, r a typical magnitude.

    So gates that are frozen untrained, and gates that training pushes alike, close in the order of magnitudes; of
    several weights together, if they have the same r. NNCF starts all gates at logit(0.99).

    Args:
        weight: Any shape.
        typical_magnitude: r >= 0, a scalar; None means the root mean square of `weight`.

    Returns:
        In [logit(0.99), logit(0.99) + 1), the shape of `weight`.
    """
    magnitude = weight.detach().abs()
    typical = root_mean_square([weight]) if typical_magnitude is None else typical_magnitude
    scale = typical.clamp(min=torch.finfo(magnitude.dtype).tiny)
    lowest = math.log(INITIAL_PROBABILITY / (1 - INITIAL_PROBABILITY))
    return lowest + _SPREAD * magnitude / (magnitude + scale)


def root_mean_square(weights: Sequence[Tensor]) -> Tensor:
    """Of all values of `weights`, of which there is at least one; a scalar without a gradient."""
    squares = torch.stack([weight.detach().square().sum() for weight in weights]).sum()
    return (squares / sum(weight.numel() for weight in weights)).sqrt()


def density_loss(
    gates: Sequence[Gates], target_density: Sequence[float], scope: Literal["local", "global"] = "local"
) -> Tensor:
    """Penalty on open gates, ``((mean(sigmoid(s)) - target_density) / 0.05)^2`` (NNCF paper, equation 7).

    The paper calls its target SL, "percentage of non-zero weights"; here the name says so. The divisor of 0.05, which
    makes a density that is off by five points cost 1, is from NNCF's code.

    Args:
        gates: At least one.
        target_density: 1 - sparsity, in (0, 1], of each.
        scope: `local`, the mean of the penalties of each tensor; `global`, one penalty on the mean over all gates.

    Returns:
        Scalar >= 0 with a gradient to the scores.
    """
    if scope == "global":
        n_gates = sum(gate.n_units for gate in gates)
        mean = torch.stack([gate.probabilities().sum() for gate in gates]).sum() / n_gates
        target = sum(gate.n_units * density for gate, density in zip(gates, target_density, strict=True)) / n_gates
        return ((mean - target) / DENSITY_TOLERANCE).square()
    means = torch.stack([gate.probabilities().mean() for gate in gates])
    targets = torch.tensor(list(target_density), dtype=means.dtype, device=means.device)
    return ((means - targets) / DENSITY_TOLERANCE).square().mean()
