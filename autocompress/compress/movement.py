"""Movement sparsity: scores that grow where training moves weights away from zero (Sanh et al. 2020)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autocompress.compress.sparsity import WeightMask

INITIAL_SCALE = 1e-3  # scores start as this multiple of magnitudes: an order, and small beside one step of training


class MovementMask(WeightMask):
    """Zeros where learned scores are lowest.

    The mask keeps the units with the top scores, Top_v of Sanh et al. 2020, section 3; the gradient passes it straight
    through, so ``dL/dS = dL/dW' * W``, for masked weights too, while ``dL/dW = dL/dW' * M`` (section 4). Scores
    therefore grow for weights that training moves away from zero.

    With blocks one score stands for `block_size` neighbouring rows (output channels) of a weight, and for their biases:
    its gradient is the sum over all of them. One mask may stand before several weights and biases of the same rows.

    Args:
        weights: What the mask is put on: one weight, or several with the same number of rows, if they share it.
        block_size: Rows of a unit; None means that each single weight is a unit.

    Attributes:
        scores: One a unit.
    """

    def __init__(self, weights: Sequence[Tensor], block_size: int | None = None) -> None:
        magnitude = torch.stack([_unit_magnitude(weight, block_size) for weight in weights]).mean(dim=0)
        super().__init__(magnitude.shape)
        self.block_size = block_size
        self.scores = nn.Parameter(INITIAL_SCALE * magnitude)

    def ranking(self, weight: Tensor) -> Tensor:
        """The scores."""
        return self.scores.detach()

    def spread(self, units: Tensor, weight: Tensor) -> Tensor:
        """`units`, shape of `scores`, in a shape that broadcasts to `weight`, a weight or a bias."""
        if self.block_size is None:
            return units
        return units.repeat_interleave(self.block_size).reshape(-1, *[1] * (weight.dim() - 1))

    def forward(self, weight: Tensor) -> Tensor:
        """`weight`, or a bias, with zeros, same shape."""
        if self.is_written or not self.learning:
            return super().forward(weight)
        passed = self.mask.to(self.scores.dtype) + (self.scores - self.scores.detach())
        return weight * self.spread(passed, weight)


def _unit_magnitude(weight: Tensor, block_size: int | None) -> Tensor:
    magnitude = weight.detach().abs()
    if block_size is None:
        return magnitude
    return torch.unflatten(magnitude, 0, (-1, block_size)).flatten(1).mean(dim=1)
