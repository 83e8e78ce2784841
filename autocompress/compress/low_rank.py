"""Low rank: a layer as two or three smaller ones, by SVD for matrices and by Tucker-2 for spatial convolutions."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autocompress.compress.attaching import parameter_uses
from autocompress.compress.calibration import naming
from autocompress.compress.factored_layer import FactoredLayer
from autocompress.errors import CompressionError

RANK_STEP = 8  # kernels of CPUs compute channels in such blocks, so ranks between them cost the same
N_SWEEPS = 2  # of HOOI; 30 of them lower the error of trained and of random weights by less than 0.4 % of it
_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


def kept_rank(largest: int, rank_ratio: float) -> int:
    """Rank that stays: `rank_ratio * largest` rounded to a multiple of 8, at least 8, never above `largest`.

    Args:
        largest: Largest rank that the weight can have, >= 0.
        rank_ratio: In (0, 1]; 1 keeps the largest rank.

    >>> kept_rank(64, 0.25), kept_rank(64, 0.01), kept_rank(20, 0.9), kept_rank(5, 0.1), kept_rank(20, 1.0)
    (16, 8, 16, 5, 20)
    """
    if rank_ratio == 1:
        return largest
    rounded = RANK_STEP * int(rank_ratio * largest / RANK_STEP + 0.5)
    return min(largest, max(RANK_STEP, rounded))


def svd_factors(weight_matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The two matrices of `rank` whose product is closest to a matrix (Eckart & Young 1936).

    With ``W = U S V^T`` they are ``sqrt(S) V^T`` and ``U sqrt(S)``, cut to the largest singular values; each column of
    U, or of V where the matrix has more rows than columns, has its largest entry positive. The squared error is the
    sum of the squared singular values that were dropped.

    Args:
        weight_matrix: Shape (outputs, inputs), finite.
        rank: In 1..min(outputs, inputs).

    Returns:
        Shapes (rank, inputs) and (outputs, rank), dtype and device of `weight_matrix`, without gradients; the second
        times the first is near `weight_matrix`.

    Raises:
        CompressionError: The rank is out of range, or a weight is not finite.

    >>> down, up = svd_factors(torch.tensor([[4.0, 0.0], [0.0, 1.0]]), 1)
    >>> down.tolist(), up.tolist()
    ([[2.0, 0.0]], [[2.0], [0.0]])
    """
    exact = _exact(weight_matrix)
    _check_rank("rank", rank, min(exact.shape))
    is_tall = exact.shape[0] > exact.shape[1]
    wide = exact.T if is_tall else exact
    basis = _basis(wide, rank)
    rest = basis.T @ wide  # S V^T
    root = _sizes(rest).sqrt()
    down, up = rest / root[:, None], basis * root
    if is_tall:
        down, up = up.T, down.T
    return _like(down, weight_matrix), _like(up, weight_matrix)


def tucker_factors(weight: Tensor, rank_in: int, rank_out: int) -> tuple[Tensor, Tensor, Tensor]:
    """The Tucker-2 decomposition of the weight of a convolution (Kim et al. 2016, section 3.1, equation 4).

    ``weight[o, i, :]`` is nearly the sum over s and r of ``last[o, s] core[s, r, :] first[r, i]``. The basis of the
    inputs starts as the largest left singular vectors of their unfolding (HOSVD); then the best basis of the outputs
    for that of the inputs is found, and the other way round, in turns (HOOI, De Lathauwer et al. 2000b, algorithm 4.2),
    which never raises the error. So the squared error is at most that of HOSVD, which is at most the sum of the squared
    singular values that both unfoldings dropped (De Lathauwer et al. 2000a, property 10). At last each channel of the
    core hands on the cube root of its size to the map outside, so that the three have weights of like sizes.

    Args:
        weight: Shape (outputs, inputs, *kernel), finite.
        rank_in: In 1..inputs.
        rank_out: In 1..outputs.

    Returns:
        `first` of shape (rank_in, inputs), `core` of shape (rank_out, rank_in, *kernel), `last` of shape (outputs,
        rank_out); dtype and device of `weight`, without gradients.

    Raises:
        CompressionError: A rank is out of range, or a weight is not finite.
    """
    exact = _exact(weight).flatten(2)
    _check_rank("rank_in", rank_in, exact.shape[1])
    _check_rank("rank_out", rank_out, exact.shape[0])
    basis_in = _basis(_unfolded(exact, 1), rank_in)
    for _ in range(N_SWEEPS):
        basis_out = _basis(_unfolded(torch.einsum("oik,ir->ork", exact, basis_in), 0), rank_out)
        short = torch.einsum("oik,os->sik", exact, basis_out)
        basis_in = _basis(_unfolded(short, 1), rank_in)
    core = torch.einsum("sik,ir->srk", short, basis_in)
    size_out, size_in = (_sizes(_unfolded(core, axis)) ** (1 / 3) for axis in (0, 1))
    core = core / size_out[:, None, None] / size_in[:, None]
    core = core.reshape(rank_out, rank_in, *weight.shape[2:])
    return _like((basis_in * size_in).T, weight), _like(core, weight), _like(basis_out * size_out, weight)


def why_not_low_rank(layer: nn.Module) -> str:
    """Why `layer` can't be factored, as a clause; empty where it can.

    Linear layers and convolutions over 1 to 3 axes in one group can, and their subclasses that compute the same.
    """
    if not isinstance(layer, _KINDS):
        return f"{type(layer).__name__} is neither a Linear layer nor a convolution"
    if isinstance(layer, Convolution) and layer.groups != 1:
        return f"a convolution in {layer.groups} groups has no channels to mix"
    if not _computes_as_usual(layer):
        return f"{type(layer).__name__} has a forward, a parametrization or hooks of its own"
    if not layer.weight.is_floating_point():
        return f"its weight is {layer.weight.dtype}, not floating point"
    return ""


def factorize(layer: nn.Module, rank_ratio: float, input_size: Sequence[int] = ()) -> FactoredLayer | None:
    """Layers of low rank that compute nearly what `layer` computes; `layer` is not changed.

    A Linear layer or 1x1 convolution becomes two by `svd_factors`: the first has stride and padding, the second the
    bias. Another convolution becomes three by `tucker_factors`: 1x1, the kernel with stride, padding and dilation, and
    1x1 with the bias; a 1x1 whose rank is all its channels is left out (Tucker-1, Kim et al. 2016, section 3.1).
    Ranks are `kept_rank` of the largest ones, which are min(outputs, inputs) and, for convolutions, min(inputs,
    outputs * positions in the kernel) and min(outputs, inputs * positions in the kernel).

    Args:
        layer: Any module.
        rank_ratio: Fraction of the largest rank that is kept, in (0, 1].
        input_size: Of a convolution, the length of each axis of its input that the kernel moves along. A first 1x1
            runs at input positions and the others at output positions; without the size, there are as many of the
            former for one of the latter as the strides say.

    Returns:
        The layers, with new parameters of the dtype, device, mode and `requires_grad` of those of `layer`; None where
        they would need as many multiply-accumulates as `layer`, or where `why_not_low_rank` has a reason.

    Raises:
        CompressionError: `rank_ratio` is not in (0, 1], `input_size` has another number of axes than the kernel, or
            a weight is not finite.
    """
    if not 0 < rank_ratio <= 1:
        raise CompressionError(f"rank_ratio must be in (0, 1], but got {rank_ratio}; 1 keeps the layer whole")
    if not isinstance(layer, _KINDS) or why_not_low_rank(layer):
        return None
    if isinstance(layer, Convolution) and math.prod(layer.kernel_size) > 1:
        return _spatial(layer, rank_ratio, input_size)
    return _pointwise(layer, rank_ratio)


def apply_low_rank(
    module: nn.Module, ranks: Mapping[str, float], input_shapes: Mapping[str, Sequence[int]] | None = None
) -> dict[str, tuple[str, ...]]:
    """Replace layers of `module` by layers of low rank where that saves multiply-accumulates; `module` is changed.

    A layer that is in the module at several places is replaced at all of them by one object. A layer stays whole where
    `factorize` gives None, where another module uses one of its parameters, and where it is `module` itself.

    Args:
        module: Any module.
        ranks: `rank_ratio` in (0, 1] by dotted layer name.
        input_shapes: Shape of the input by dotted layer name, as `Layer.input_shape` has it; those that are missing
            are replaced by a guess from the strides, as in `factorize`.

    Returns:
        Dotted names of its factors, in their order, by the name of each layer in `ranks` that was replaced.

    Raises:
        CompressionError: A layer does not exist, a ratio is not in (0, 1], one layer gets two ratios by two names, or
            a weight is not finite.
    """
    n_uses = parameter_uses(module)
    found: dict[str, tuple[str, ...]] = {}
    for names in _by_layer(module, ranks):
        layer = module.get_submodule(names[0])
        if layer is module or any(n_uses[id(p)] > 1 for p in layer.parameters(recurse=False)):
            continue
        with naming(names[0]):
            made = factorize(layer, ranks[names[0]], _size(layer, input_shapes, names[0]))
        if made is not None:
            _replace(module, layer, made)  # one by one, so that no two models are in memory
            found |= {name: tuple(f"{name}.{i}" for i in range(len(made))) for name in names}
    return {name: found[name] for name in ranks if name in found}


def _exact(weight: Tensor) -> Tensor:
    """On the CPU, so that every device gives the same factors, and in single precision at least."""
    exact = weight.detach().cpu()
    exact = exact if exact.dtype == torch.float64 else exact.float()
    if not exact.isfinite().all():
        raise CompressionError(
            "a weight that is factored must be finite, but it has NaN or infinite values; train anew"
        )
    return exact


def _like(exact: Tensor, weight: Tensor) -> Tensor:
    return exact.to(weight).contiguous()


def _check_rank(name: str, rank: int, largest: int) -> None:
    if not 1 <= rank <= largest:
        raise CompressionError(f"{name} must be in 1..{largest}, the largest rank of the weight, but got {rank}")


def _unfolded(tensor: Tensor, axis: int) -> Tensor:
    """Matrix with a row for each index of `axis`."""
    return tensor.movedim(axis, 0).flatten(1)


def _basis(matrix: Tensor, rank: int) -> Tensor:
    """Largest left singular vectors, shape (rows, rank): those of the Gram matrix, several times faster than an SVD."""
    gram = (matrix @ matrix.T).double()
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors.flip(1)[:, :rank].to(matrix)
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    return vectors * largest.sign()


def _sizes(matrix: Tensor) -> Tensor:
    """Norms of the rows, 1 where a row is zero."""
    norms = matrix.norm(dim=1)
    return torch.where(norms > 0, norms, 1.0)


def _computes_as_usual(layer: nn.Module) -> bool:
    """Whether nothing but weight and bias of `layer` says what it computes."""
    kind = _kind(layer)
    same = all(getattr(type(layer), name, None) is getattr(kind, name, None) for name in ("forward", "_conv_forward"))
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return same and "forward" not in vars(layer) and not parametrize.is_parametrized(layer) and not any(hooks)


def _kind(layer: nn.Module) -> Any:
    return next(kind for kind in _KINDS if isinstance(layer, kind))


def _pointwise(layer: nn.Linear | Convolution, rank_ratio: float) -> FactoredLayer | None:
    """Two factors; both run at output positions, so their number has no say."""
    n_out, n_in = layer.weight.shape[:2]
    rank = kept_rank(min(n_out, n_in), rank_ratio)
    if rank * (n_in + n_out) >= n_in * n_out:
        return None
    kernel = layer.weight.shape[2:]
    down, up = (factor.reshape(*factor.shape, *kernel) for factor in svd_factors(layer.weight.flatten(1), rank))
    return _chain(layer, [_made(layer, down, **_geometry(layer)), _made(layer, up)])


def _spatial(layer: Convolution, rank_ratio: float, input_size: Sequence[int]) -> FactoredLayer | None:
    """Three factors, or two where a rank is all channels."""
    n_out, n_in, n_kernel = *layer.weight.shape[:2], math.prod(layer.kernel_size)
    rank_in = kept_rank(min(n_in, n_out * n_kernel), rank_ratio)
    rank_out = kept_rank(min(n_out, n_in * n_kernel), rank_ratio)
    n_before, n_after = _positions(layer, input_size)
    macs = rank_in * rank_out * n_kernel * n_after
    macs += n_in * rank_in * n_before if rank_in < n_in else 0
    macs += rank_out * n_out * n_after if rank_out < n_out else 0
    if macs >= n_in * n_out * n_kernel * n_after:
        return None
    first, core, last = tucker_factors(layer.weight, rank_in, rank_out)
    core = torch.einsum("sr...,ri->si...", core, first) if rank_in == n_in else core
    core = torch.einsum("os,sr...->or...", last, core) if rank_out == n_out else core
    before = [_made(layer, _one_position(layer, first))] if rank_in < n_in else []
    after = [_made(layer, _one_position(layer, last))] if rank_out < n_out else []
    return _chain(layer, [*before, _made(layer, core, **_geometry(layer)), *after])


def _one_position(layer: Convolution, matrix: Tensor) -> Tensor:
    return matrix.reshape(*matrix.shape, *[1] * len(layer.kernel_size))


def _positions(layer: Convolution, input_size: Sequence[int]) -> tuple[int, int]:
    """Positions of input and output; of many of them only the ratio, where the size of the input is not known."""
    if not input_size:
        return math.prod(layer.stride), 1
    n_axes = len(layer.kernel_size)
    if len(input_size) != n_axes:
        raise CompressionError(f"input_size must have {n_axes} axes, as the kernel has, but got {tuple(input_size)}")
    if layer.padding == "same":
        return math.prod(input_size), math.prod(input_size)
    padding = layer.padding if isinstance(layer.padding, tuple) else (0,) * n_axes
    parts = zip(input_size, padding, layer.dilation, layer.kernel_size, layer.stride, strict=True)
    return math.prod(input_size), math.prod((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in parts)


def _geometry(layer: nn.Linear | Convolution) -> dict[str, Any]:
    """How a convolution moves along its input."""
    names = ("stride", "padding", "dilation", "padding_mode") if isinstance(layer, Convolution) else ()
    return {name: getattr(layer, name) for name in names}


def _made(layer: nn.Linear | Convolution, weight: Tensor, **geometry: Any) -> nn.Module:
    """A layer of the kind of `layer` without bias; made without touching the state of chance."""
    kernel = (tuple(weight.shape[2:]),) if isinstance(layer, Convolution) else ()
    made: nn.Module = _kind(layer)(weight.shape[1], weight.shape[0], *kernel, bias=False, device="meta", **geometry)
    made.weight = nn.Parameter(weight.contiguous(), layer.weight.requires_grad)
    return made


def _chain(layer: nn.Linear | Convolution, factors: Iterable[nn.Module]) -> FactoredLayer:
    """The factors in the mode of `layer`, the last one with its bias."""
    chain = FactoredLayer(factors, layer)
    if layer.bias is not None:
        chain[-1].bias = nn.Parameter(layer.bias.detach().clone(), layer.bias.requires_grad)
    return chain.train(layer.training)


def _named(module: nn.Module, name: str) -> nn.Module:
    try:
        return module.get_submodule(name)
    except AttributeError:
        raise CompressionError(
            f"the recipe has a rank_ratio for {name!r}, but the model has no such layer; take it out"
        ) from None


def _by_layer(module: nn.Module, ranks: Mapping[str, float]) -> list[list[str]]:
    """Names of each layer in `ranks`; several where one object is at several places."""
    names: dict[nn.Module, list[str]] = {}
    for name in ranks:
        others = names.setdefault(_named(module, name), [])
        others.append(name)
        if ranks[name] != ranks[others[0]]:
            ratios = f"{ranks[others[0]]} and {ranks[name]}"
            raise CompressionError(
                f"{others[0]!r} and {name!r} are one layer and need one rank_ratio, but got {ratios}"
            )
    return list(names.values())


def _size(layer: nn.Module, input_shapes: Mapping[str, Sequence[int]] | None, name: str) -> Sequence[int]:
    """Length of each axis of the input that a convolution moves along; empty where it is not known."""
    shape = (input_shapes or {}).get(name, ())
    return shape[-len(layer.kernel_size) :] if isinstance(layer, Convolution) else ()


def _replace(module: nn.Module, layer: nn.Module, made: nn.Module) -> None:
    """Put what was made of `layer` in all places of it."""
    for parent in list(module.modules()):
        for key, child in list(parent._modules.items()):
            if child is layer:
                parent._modules[key] = made
