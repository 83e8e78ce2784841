"""Importance of filters: which of them go first, from the weights alone or from training data."""

import copy
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autocompress.compress.attaching import run_with, weight_of
from autocompress.errors import CompressionError
from autocompress.graph import ChannelDependencies, unfold_attention
from autocompress.recipe import Importance
from autocompress.task import Batch, call, evaluating, split_batch

N_BATCHES = 8
_COLUMNS = 512  # of a weight that are held in double precision at a time
_FROM_DATA = ("taylor", "activation")
_AXES_BEHIND_CHANNELS = {nn.Linear: 0, nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
Loss = Callable[[Any, Any], Tensor]


def needs_data(kind: Importance) -> bool:
    """Whether importance of that kind is computed from training data.

    >>> needs_data("taylor"), needs_data("l2")
    (True, False)
    """
    return kind in _FROM_DATA


def importance_scores(
    model: nn.Module,
    example_input: Any,
    kind: Importance,
    groups: Iterable[str] | None = None,
    batches: Iterable[Batch] | None = None,
    loss: Loss | None = None,
    n_batches: int = N_BATCHES,
) -> dict[str, Tensor]:
    """Importance of every channel of the groups; low goes first, and of equal channels the one of lower index.

    A layer of filters `F_i` with values `w`, whose channel `i` leaves it with the values `y_i`, has the scores

    - `l1`: ``sum |w|`` (Li et al. 2017, section 3.1);
    - `l2`: ``sqrt(sum w^2)`` (He et al. 2018, soft filter pruning, equation 1 with p = 2);
    - `batch_norm`: ``|gamma_i|`` of the batch norm that reads the layer's output (Liu et al. 2017, section 3); a
      layer without one is scored by `l2`;
    - `geometric_median`: ``sum_j ||F_i - F_j||``, over all filters of the layer (He et al. 2019, equation 6);
    - `taylor`: ``(dE/dz_i)^2`` for a gate ``z_i = 1`` that multiplies the channel, which is the squared sum of gradient
      times value over all that is removed with it (Molchanov et al. 2019, equation 8), a mean over batches;
    - `activation`: ``mean |y_i|`` over samples and positions (Molchanov et al. 2017, section 2.2).

    For the last two a channel leaves the layer behind its batch norm, where one reads the layer's output. The scores
    of each layer of a group are scaled to mean 1 and added up, and the channels of a unit, such as an attention head,
    all get the sum over the unit.

    Args:
        model: Module; never changed. Its groups are those of `inspect_model`, with attention unfolded.
        example_input: Inputs of one inference.
        kind: Which importance.
        groups: Names of channel groups; by default all groups of the model.
        batches: Batches of (inputs, targets); `taylor` and `activation` read them.
        loss: ``loss(outputs, targets)``, a scalar tensor; `taylor` needs it.
        n_batches: How many batches are read at most.

    Returns:
        By group, shape (channels,), float, >= 0.

    Raises:
        CompressionError: A group does not exist, data or loss is missing, or scores are not finite.
    """
    data = _data(kind, batches, loss, n_batches)
    unfolded = copy.deepcopy(model)
    unfold_attention(unfolded)
    with untouched(unfolded):
        dependencies = ChannelDependencies(unfolded, example_input)
        names = dependencies.groups if groups is None else tuple(groups)
        return group_scores(unfolded, example_input, dependencies, names, kind, data)


@dataclass(frozen=True)
class Data:
    """Batches that importance is computed from, at least one, and the loss of a batch if it takes part."""

    batches: Sequence[Batch]
    loss: Loss | None


def _data(kind: Importance, batches: Iterable[Batch] | None, loss: Loss | None, n_batches: int) -> Data | None:
    if not needs_data(kind):
        return None
    if batches is None:
        raise CompressionError(f"importance {kind!r} needs training data, but got none; give batches, or use 'l2'")
    read = [split_batch(batch, "train") for batch in itertools.islice(batches, n_batches)]
    if not read:
        raise CompressionError(f"importance {kind!r} needs at least one batch of training data, but got none")
    return Data(read, loss)


def group_scores(
    model: nn.Module,
    example_input: Any,
    dependencies: ChannelDependencies,
    groups: Collection[str],
    kind: Importance,
    data: Data | None = None,
) -> dict[str, Tensor]:
    """`importance_scores` for dependencies that are known already.

    Raises:
        CompressionError: A group does not exist, `data` is missing, or scores are not finite.
    """
    check_groups(groups, dependencies)
    layers = {part.layer: None for group in groups for part in dependencies.slices(group)}
    by_layer = _layer_scores(model, example_input, list(layers), kind, data)
    return {group: _group_score(group, dependencies, by_layer) for group in groups}


def check_groups(groups: Iterable[str], dependencies: ChannelDependencies) -> None:
    """See that the groups exist.

    Raises:
        CompressionError: One does not; the message names it and those that do.
    """
    for group in groups:
        if group not in dependencies.groups:
            known = ", ".join(dependencies.groups)
            raise CompressionError(f"the recipe prunes {group!r}, but the model's channel groups are: {known}")


def _group_score(group: str, dependencies: ChannelDependencies, by_layer: dict[str, Tensor]) -> Tensor:
    total = torch.zeros(dependencies.n_channels(group))
    for part in dependencies.slices(group):
        scores = by_layer[part.layer][list(part.filters)]
        if not scores.isfinite().all():
            raise CompressionError(
                f"importance must be finite numbers, but {part.layer!r} has {scores[~scores.isfinite()][0].item()}; "
                "look for weights, data or a loss that are not finite"
            )
        total.index_add_(0, torch.tensor(part.channels), to_mean_1(scores))
    return over_units(total, dependencies.unit(group))


def to_mean_1(scores: Tensor) -> Tensor:
    """Scores >= 0 scaled to mean 1; zeros stay zeros.

    >>> to_mean_1(torch.tensor([1e-30, 3e-30])).tolist(), to_mean_1(torch.zeros(2)).tolist()
    ([0.5, 1.5], [0.0, 0.0])
    """
    mean = scores.double().mean()
    return scores if mean == 0 else (scores.double() / mean).to(scores.dtype)


def over_units(scores: Tensor, unit: int) -> Tensor:
    """Scores with those of each `unit` neighbours, a divisor of their number, replaced by their sum.

    >>> over_units(torch.tensor([1.0, 2.0, 3.0, 4.0]), unit=2).tolist()
    [3.0, 3.0, 7.0, 7.0]
    """
    return scores.reshape(-1, unit).sum(dim=1).repeat_interleave(unit)


def _layer_scores(
    model: nn.Module, example_input: Any, layers: Sequence[str], kind: Importance, data: Data | None
) -> dict[str, Tensor]:
    """One score a filter, shape (filters,), of each layer."""
    if kind in _OF_WEIGHTS:
        return {name: _of_weights(model, name, kind) for name in layers}
    norms = batch_norms_behind(model, example_input, layers)
    if kind == "batch_norm":
        scales = {name: norm.weight.detach().abs().float() for name, norm in norms.items()}
        return {name: scales[name] if name in scales else _of_weights(model, name, "l2") for name in layers}
    if data is None:
        raise CompressionError(f"importance {kind!r} needs training data; give scores made by importance_scores")
    exits = {name: _Exit.of(model.get_submodule(name), norms.get(name)) for name in layers}
    with untouched(model):
        return _mean_activations(model, exits, data) if kind == "activation" else _taylor(model, exits, data)


def _of_weights(model: nn.Module, name: str, kind: Importance) -> Tensor:
    return _OF_WEIGHTS[kind](weight_of(model.get_submodule(name)).detach().flatten(1).float())


def _distances(filters: Tensor) -> Tensor:
    """For each row the sum of its distances to all rows; equal rows get exactly equal sums."""
    rows, which, counts = torch.unique(filters, dim=0, return_inverse=True, return_counts=True)
    products = torch.zeros(len(rows), len(rows), dtype=torch.double)
    for part in rows.split(_COLUMNS, dim=1):
        products.addmm_(part.double(), part.double().T)
    squares = products.diagonal()
    distances = (squares + squares[:, None] - 2 * products).clamp(min=0).sqrt().fill_diagonal_(0)
    sums: Tensor = (distances @ counts.double())[which]
    return sums.float()


_OF_WEIGHTS: dict[Importance, Callable[[Tensor], Tensor]] = {
    "l1": lambda filters: filters.abs().sum(dim=1),
    "l2": lambda filters: filters.norm(dim=1),
    "geometric_median": _distances,
}


@dataclass(frozen=True)
class _Exit:
    """Where the channels of a layer leave it: a module, and the axis of the channels in its output."""

    module: nn.Module
    axis: int
    n_channels: int

    @classmethod
    def of(cls, layer: nn.Module, norm: _BatchNorm | None) -> "_Exit":
        return cls(norm or layer, _channel_axis(layer), len(weight_of(layer)))


def _channel_axis(layer: nn.Module) -> int:
    """Axis of the channels in the output of `layer`, counted from the end."""
    return -1 - next((n for kind, n in _AXES_BEHIND_CHANNELS.items() if isinstance(layer, kind)), 0)


def _mean_activations(model: nn.Module, exits: dict[str, _Exit], data: Data) -> dict[str, Tensor]:
    """Sums over all samples and positions: means, up to a factor that each layer's scores are scaled by anyway."""
    totals = {name: torch.zeros(exit_.n_channels) for name, exit_ in exits.items()}

    def watch(name: str, exit_: _Exit) -> Callable[..., None]:
        def add(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            totals[name] += output.movedim(exit_.axis, 0).flatten(1).abs().float().sum(dim=1)

        return add

    def run() -> None:
        with torch.no_grad():
            for inputs, _ in data.batches:
                call(model, inputs)

    run_with([exit_.module.register_forward_hook(watch(name, exit_)) for name, exit_ in exits.items()], run)
    return totals


def _taylor(model: nn.Module, exits: dict[str, _Exit], data: Data) -> dict[str, Tensor]:
    """Sums over batches of squared derivatives by gates of 1, put on each exit."""
    gates = {name: torch.ones(exit_.n_channels, requires_grad=True) for name, exit_ in exits.items()}
    totals = {name: torch.zeros(exit_.n_channels) for name, exit_ in exits.items()}

    def multiply(name: str, exit_: _Exit) -> Callable[..., Tensor]:
        shape = (-1, *[1] * (-exit_.axis - 1))
        return lambda _module, _inputs, output: output * gates[name].to(output.dtype).reshape(shape)

    def run() -> None:
        for batch in data.batches:
            value = _loss_value(model, batch, data.loss)
            gradients = torch.autograd.grad(value, list(gates.values()), allow_unused=True)
            for total, gradient in zip(totals.values(), gradients, strict=True):
                total += 0 if gradient is None else gradient.square()

    with torch.enable_grad():
        run_with([exit_.module.register_forward_hook(multiply(name, exit_)) for name, exit_ in exits.items()], run)
    return totals


def _loss_value(model: nn.Module, batch: Batch, loss: Loss | None) -> Tensor:
    if loss is None:
        raise CompressionError("importance 'taylor' needs the loss of a batch, but got none; give loss, or use 'l2'")
    value = loss(call(model, batch[0]), batch[1])
    if value.numel() != 1 or not value.requires_grad:
        raise CompressionError(
            f"loss must be a scalar tensor that depends on the outputs, but got shape {tuple(value.shape)} "
            f"{'with' if value.requires_grad else 'without'} a gradient; give the loss that the model trains with"
        )
    return value.sum()


def batch_norms_behind(model: nn.Module, example_input: Any, layers: Iterable[str]) -> dict[str, _BatchNorm]:
    """The batch norm with learned scales that reads the output of each layer, where there is one.

    Found by execution: the batch norm's input is the very tensor that the layer returned, its channels on axis 1. Of
    several the first one that runs counts.

    Args:
        model: Module; evaluated, and not changed.
        example_input: Inputs of one inference.
        layers: Names of layers.
    """
    writers: dict[int, tuple[str, Tensor]] = {}  # holds the tensors, so that no identity is used twice
    found: dict[str, _BatchNorm] = {}

    def wrote(name: str) -> Callable[..., None]:
        def note(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
            if output.dim() + _channel_axis(layer) == 1:
                writers[id(output)] = name, output

        return note

    def read(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and id(inputs[0]) in writers and isinstance(norm, _BatchNorm):
            found.setdefault(writers[id(inputs[0])][0], norm)

    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.affine]
    hooks = [model.get_submodule(name).register_forward_hook(wrote(name)) for name in layers]
    hooks += [norm.register_forward_pre_hook(read) for norm in norms]
    with untouched(model), torch.no_grad():
        run_with(hooks, lambda: call(model, example_input))
    return found


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode in the block; afterwards every module's own mode and the random state are as they were."""
    with torch.random.fork_rng(devices=[]), evaluating(model):
        yield
