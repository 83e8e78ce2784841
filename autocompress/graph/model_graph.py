"""What a model is, as far as compression cares: its layers with their costs, and what can be pruned together."""

import difflib
from dataclasses import dataclass

from autocompress.errors import GraphError


@dataclass(frozen=True)
class Layer:
    """One module that computes with weights.

    Args:
        name: Dotted name, as in ``model.get_submodule(name)``.
        kind: Name of the module's class, for example ``"Conv2d"``.
        weight_shape: Shape of the weight as torch stores it, for example OIHW for a convolution.
        input_shape: Shape of the first input in one inference, batch axis included.
        output_shape: Shape of the output in one inference, batch axis included.
        macs: Multiply-accumulates of one inference, >= 0; summed over calls where the model calls it repeatedly.
        n_parameters: Weights and biases, counted, >= 0.
        shares_input_with: Name of the first layer that reads the same tensor; its own name if there is none.
        reason: Why the layer cannot be compressed, a clause without a full stop; empty if it can.
        weights_only: Whether it has weights to compress but no input to quantize, as an Embedding.
        shares_weight_with: Name of the first layer with the same weight parameter; its own name, also if left out,
            if there is none.
    """

    name: str
    kind: str
    weight_shape: tuple[int, ...]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    macs: int
    n_parameters: int
    shares_input_with: str
    reason: str = ""
    weights_only: bool = False
    shares_weight_with: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares_weight_with", self.shares_weight_with or self.name)


@dataclass(frozen=True)
class ChannelGroup:
    """Filters of several layers that can only be removed together.

    Args:
        name: Name of the layer whose filters lead the group.
        layers: Names of the layers that lose filters, in the order of the model; `name` is one of them.
        n_channels: Filters in the group, >= 1.
        reason: Why the group cannot be pruned, a clause without a full stop; empty if it can.
        unit: Neighbouring channels that go together, as those of an attention head, >= 1; `n_channels` is a multiple.
    """

    name: str
    layers: tuple[str, ...]
    n_channels: int
    reason: str = ""
    unit: int = 1


@dataclass(frozen=True)
class ModelGraph:
    """Layers and channel groups of one model, both in the order of execution.

    Args:
        layers: Every module that computes with weights, names unique; those with a `reason` stay as they are.
        groups: Every channel group, names unique; those with a `reason` stay as they are.
    """

    layers: tuple[Layer, ...]
    groups: tuple[ChannelGroup, ...]

    @property
    def compressible(self) -> tuple[Layer, ...]:
        """Layers that can be quantized, in order."""
        return tuple(layer for layer in self.layers if not layer.reason)

    @property
    def prunable(self) -> tuple[ChannelGroup, ...]:
        """Channel groups that can lose filters, in order."""
        return tuple(group for group in self.groups if not group.reason)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference, summed over all layers."""
        return sum(layer.macs for layer in self.layers)

    @property
    def n_parameters(self) -> int:
        """Weights and biases, summed over all layers; parameters of other modules, such as norms, are not in it."""
        return sum(layer.n_parameters for layer in self.layers)

    def layer(self, name: str) -> Layer:
        """The layer called `name`.

        Raises:
            GraphError: No layer has that name; the message lists the nearest names.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        names = [layer.name for layer in self.layers]
        near = difflib.get_close_matches(name, names) or names[:3]
        hint = f"did you mean {' or '.join(near)}?" if near else "it has no layers"
        raise GraphError(f"the model has no layer {name!r}; {hint}")
