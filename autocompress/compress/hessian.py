"""Second moments of a layer's inputs, by streaming statistics: what rounding its weights has to keep in mind."""

import math
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from autocompress.errors import CompressionError

MAX_POSITIONS = 4096  # input vectors a batch that are looked at; more cost time and change the result little
MAX_COLUMNS = 8192  # the matrix has columns^2 entries a group: 256 MiB in float32, and its factor as much again

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


class InputHessian:
    """The mean of `x xᵀ` over the input vectors `x` of one layer.

    With `E` the error of one row of the weight, `E hessian Eᵀ` is the mean squared error of that row's output; the
    matrix is half the Hessian of that error in the weights (Frantar et al. 2023, GPTQ, section 3). The vectors of a
    convolution are its patches: one for each sample and output position, with the padding it really reads.

    Args:
        layer: The layer; `supports` must hold for it.
        seed: Seed of the choice of `MAX_POSITIONS` vectors from a batch that has more.

    Raises:
        CompressionError: The layer is not supported; the message says why.
    """

    def __init__(self, layer: nn.Module, seed: int = 0) -> None:
        reason = self.reason(layer)
        if reason or not isinstance(layer, nn.Linear | Convolution):
            raise CompressionError(f"no input statistics for this layer: {reason}; round it to nearest")
        self._layer = layer
        self._generator = torch.Generator().manual_seed(seed)
        self.n_vectors = 0
        self._mean: Tensor | None = None

    @staticmethod
    def reason(layer: nn.Module) -> str:
        """Why `layer` is not supported, as a clause; empty if it is."""
        if not isinstance(layer, nn.Linear | Convolution):
            return f"{type(layer).__name__} is none of Linear, Conv1d, Conv2d and Conv3d"
        n_columns = _n_columns(layer)
        return f"{n_columns} inputs of an output exceed {MAX_COLUMNS}" if n_columns > MAX_COLUMNS else ""

    @classmethod
    def supports(cls, layer: nn.Module) -> bool:
        """Whether `layer` is a Linear or (grouped) convolution with at most `MAX_COLUMNS` inputs of an output."""
        return not cls.reason(layer)

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Add the inputs of one batch.

        Args:
            x: What the layer's forward gets: (..., in_features) or ([N,] in_channels, *sizes).

        Raises:
            CompressionError: A value is NaN or infinite.
        """
        if not torch.isfinite(x).all():
            raise CompressionError("its input has values that are NaN or infinite in the calibration data")
        if x.numel() == 0:
            return
        vectors = self._vectors(x.detach())
        n_new = vectors.shape[1]
        self.n_vectors += n_new
        mean = torch.bmm(vectors.mT, vectors).div_(n_new)
        self._mean = mean if self._mean is None else self._mean.lerp_(mean, n_new / self.n_vectors)

    def hessian(self) -> Tensor:
        """The mean so far, float32, shape (groups, columns, columns); columns in the order of `as_rows`.

        Raises:
            CompressionError: No input was seen.
        """
        if self._mean is None:
            raise CompressionError("it got no input in the calibration data; round it to nearest")
        return self._mean.clone()

    def _vectors(self, x: Tensor) -> Tensor:
        """At most `MAX_POSITIONS` input vectors, shape (groups, positions, columns)."""
        if isinstance(self._layer, nn.Linear):
            rows = x.reshape(-1, x.shape[-1])
            return rows[self._positions(len(rows)).to(x.device)].float()[None]
        windows = _windows(self._layer, x)
        places = windows.shape[: -len(self._layer.kernel_size) - 1]
        patches = windows[torch.unravel_index(self._positions(math.prod(places)).to(x.device), places)]
        return patches.reshape(len(patches), self._layer.groups, -1).transpose(0, 1).float()

    def _positions(self, n_all: int) -> Tensor:
        if n_all <= MAX_POSITIONS:
            return torch.arange(n_all)
        return torch.randperm(n_all, generator=self._generator)[:MAX_POSITIONS]


def as_rows(layer: nn.Module, weight: Tensor) -> Tensor:
    """View `weight` as a matrix for each group of `layer`: a row an output, a column an input.

    Args:
        layer: A layer that `InputHessian` supports.
        weight: Its weight, shape (outputs, inputs a group, *kernel sizes); or a tensor with 1 in place of any size
            but the first, such as its per-channel scale.

    Returns:
        Shape (groups, outputs a group, columns).
    """
    groups = layer.groups if isinstance(layer, Convolution) else 1
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def from_rows(layer: nn.Module, rows: Tensor) -> Tensor:
    """Undo `as_rows`.

    Args:
        layer: A layer that `InputHessian` supports.
        rows: Shape (groups, outputs a group, columns).

    Returns:
        Shape of the weight of `layer`.
    """
    kernel = layer.kernel_size if isinstance(layer, Convolution) else ()
    return rows.reshape(rows.shape[0] * rows.shape[1], -1, *kernel)


def _n_columns(layer: nn.Linear | Convolution) -> int:
    if isinstance(layer, nn.Linear):
        return layer.in_features
    return layer.in_channels // layer.groups * math.prod(layer.kernel_size)


def _windows(layer: Convolution, x: Tensor) -> Tensor:
    """A view of every patch that a convolution reads, shape (samples, *output sizes, channels, *kernel sizes)."""
    n_axes = len(layer.kernel_size)
    samples = x if x.dim() == n_axes + 2 else x[None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    windows = pad(samples, _padding(layer), mode=mode)
    for axis in range(n_axes):
        span = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
        windows = windows.unfold(2 + axis, span, layer.stride[axis])[..., :: layer.dilation[axis]]
    return windows.movedim(1, n_axes + 1)


def _padding(layer: Convolution) -> list[int]:
    """Padding before and after each axis, last axis first; the odd one of 'same' comes after."""
    if layer.padding == "valid":
        return [0, 0] * len(layer.kernel_size)
    if layer.padding == "same":
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        ends = [(total // 2, total - total // 2) for total in totals]
    else:
        ends = [(int(size), int(size)) for size in layer.padding]
    return list(chain.from_iterable(reversed(ends)))
