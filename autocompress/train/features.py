"""Outputs of named layers: captured by hooks, and compared with the teacher's through adapters of channels."""

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, mse_loss

from autocompress.errors import TrainingError
from autocompress.task import flatten

_LEAST_VARIANCE = 1e-6
_ADAPTER_SEED = 0


def named_layers(module: nn.Module, names: tuple[str, ...], whose: str) -> dict[str, nn.Module]:
    """Layers of `module` by name.

    Args:
        module: Any module.
        names: Dotted names.
        whose: What error messages call the module.

    Raises:
        TrainingError: There is no layer of that name.
    """
    known = {name: layer for name, layer in module.named_modules(remove_duplicate=False) if name}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known) or list(known)[:3]
            hint = f"did you mean {' or '.join(near)}?" if near else "it has no layers"
            raise TrainingError(f"features of distillation must be layers of {whose}, but {name!r} is not one; {hint}")
    return {name: known[name] for name in names}


@contextmanager
def captured_features(module: nn.Module, names: tuple[str, ...]) -> Iterator[dict[str, Tensor]]:
    """Collects outputs of layers while the block runs.

    Args:
        module: Any module.
        names: Of its layers.

    Yields:
        Output by name of layer, filled and overwritten as layers run; of an output that holds several tensors, the
        first. They are copies, since a later layer may change its input in place.
    """
    features: dict[str, Tensor] = {}
    layers = named_layers(module, names, "the compressed model")
    hooks = [layer.register_forward_hook(_keep_output(features, name)) for name, layer in layers.items()]
    try:
        yield features
    finally:
        for hook in hooks:
            hook.remove()


def _keep_output(features: dict[str, Tensor], name: str) -> Callable[[nn.Module, Any, Any], None]:
    def hook(_: nn.Module, __: Any, output: Any) -> None:
        tensors = flatten(output)
        if tensors:
            features[name] = tensors[0].clone()

    return hook


def check_captured(features: dict[str, Tensor], names: tuple[str, ...], whose: str) -> None:
    """Check that each of the layers ran.

    Raises:
        TrainingError: One did not, or its output holds no tensor.
    """
    for name in names:
        if name not in features:
            raise TrainingError(
                f"features of distillation must be layers that run and give a tensor, but {name!r} of {whose} does "
                "not; name a layer that its forward calls"
            )


class ChannelAdapter(nn.Module):
    """A learnt linear map of channels, the same at every position: for images a 1x1 convolution.

    Args:
        n_inputs: Channels of the compressed model.
        n_outputs: Channels of the FP32 model.
        axis: Of the channels.
        generator: Draws the first weights, uniformly as `nn.Linear` does.
        like: Tells device and dtype of the parameters.
    """

    def __init__(self, n_inputs: int, n_outputs: int, axis: int, generator: torch.Generator, like: Tensor) -> None:
        super().__init__()
        bound = n_inputs**-0.5
        drawn = (2 * torch.rand(n_outputs, n_inputs + 1, generator=generator) - 1) * bound
        drawn = drawn.to(device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
        self.weight, self.bias = nn.Parameter(drawn[:, :-1].clone()), nn.Parameter(drawn[:, -1].clone())
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """Features (..., outputs, ...) for features (..., inputs, ...), channels at `axis`."""
        return linear(wide(x).movedim(self.axis, -1), self.weight, self.bias).movedim(-1, self.axis)


class FeatureDistillation(nn.Module):
    """How far outputs of layers are from the teacher's, through adapters where filters were removed.

    After FitNets (Romero et al. 2015, equation 3), but for any number of layers, and each squared difference in units
    of the variance of the teacher's features. The adapters' parameters are trained along and thrown away.

    Args:
        student_features: Outputs by name of layer of the compressed model for some batch; shapes are what counts.
        teacher_features: Outputs of the same layers of the FP32 model for the same batch.
        axes: Axis of the channels by name, if known; by default the one axis in which the shapes differ.

    Attributes:
        names: Of the layers.
        adapters: By name of layer, as "/body/0" for "body.0"; layers of unchanged width have none.

    Raises:
        TrainingError: Shapes differ in more than the number of channels.
    """

    def __init__(
        self, student_features: dict[str, Tensor], teacher_features: dict[str, Tensor], axes: dict[str, int]
    ) -> None:
        super().__init__()
        self.names = tuple(teacher_features)
        self.adapters = nn.ModuleDict()
        generator = torch.Generator().manual_seed(_ADAPTER_SEED)
        for name, wanted in teacher_features.items():
            got = student_features[name]
            if got.shape != wanted.shape:
                axis = _channel_axis(name, got, wanted, axes.get(name))
                adapter = ChannelAdapter(got.shape[axis], wanted.shape[axis], axis, generator, got)
                self.adapters[_key(name)] = adapter

    def forward(self, student_features: dict[str, Tensor], teacher_features: dict[str, Tensor]) -> Tensor:
        """Mean over layers of the squared difference in units of the teacher's variance.

        Args:
            student_features: Outputs of the compressed model by name of layer.
            teacher_features: Outputs of the FP32 model.

        Returns:
            Scalar >= 0.

        Raises:
            TrainingError: Shapes are others than those that the adapters were made for, but for the batch size.
        """
        terms = [
            relative_difference(
                self._adapted(name, student_features[name], teacher_features[name]), teacher_features[name]
            )
            for name in self.names
        ]
        return torch.stack(terms).mean() if terms else torch.zeros(())

    def _adapted(self, name: str, got: Tensor, wanted: Tensor) -> Tensor:
        shape, adapter = list(wanted.shape), dict(self.adapters.items()).get(_key(name))
        if isinstance(adapter, ChannelAdapter):
            shape[adapter.axis] = adapter.weight.shape[1]
        if list(got.shape) != shape:
            raise _unlike(name, got, wanted)
        return adapter(got) if isinstance(adapter, ChannelAdapter) else got


def _key(name: str) -> str:
    return "/" + name.replace(".", "/")  # a ModuleDict takes no dots, and no names of its methods, as "values"


def _channel_axis(name: str, got: Tensor, wanted: Tensor, axis: int | None) -> int:
    """Axis in which the shapes may differ, >= 1.

    Raises:
        TrainingError: They differ elsewhere, too, or in the number of axes.
    """
    if got.dim() != wanted.dim():
        raise _unlike(name, got, wanted)
    differing = [index for index in range(got.dim()) if got.shape[index] != wanted.shape[index]]
    known = differing if axis is None else [axis % got.dim()]
    if differing != known or len(known) != 1 or known == [0]:
        raise _unlike(name, got, wanted)
    return known[0]


def _unlike(name: str, got: Tensor, wanted: Tensor) -> TrainingError:
    return TrainingError(
        f"the output of layer {name!r} may differ from the FP32 model's, of shape {tuple(wanted.shape)}, in the number "
        f"of channels only, but has shape {tuple(got.shape)}; leave it out of the features of distillation"
    )


def relative_difference(values: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference in units of the variance of `wanted`, of a single value in units of its square."""
    wanted = wide(wanted)
    spread = wanted.var() if wanted.numel() > 1 else wanted.square().sum()
    return mse_loss(wide(values), wanted) / spread.clamp(min=_LEAST_VARIANCE)


def wide(values: Tensor) -> Tensor:
    """At least 32 bits, since sums over many values need them."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
