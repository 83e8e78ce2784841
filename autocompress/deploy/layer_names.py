"""Giving operations the names of the layers that they compute, where OpenVINO's converter has lost them.

`openvino.convert_model` folds a batch norm into the convolution before it, which then has a generated name. The layer
is found by its weight: a batch norm multiplies whole output channels, so the weight of each keeps its direction.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import openvino
import torch
from openvino import Type
from torch import nn

from autocompress.deploy.packing import unpack_constant

_CONVOLUTIONS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData")
_TOLERANCE = 1e-5  # of the cosine between two weights of one channel; other layers' are far from 1
NAME = "__module.module.{layer}/aten::_convolution/Convolution"  # as the converter names a convolution
_PREFIX = "__module."
_SMALLEST = 1e-30

Directions = npt.NDArray[np.float32]


def name_layers(model: openvino.Model, module: nn.Module) -> None:
    """Name each convolution of `model` that has lost its name after the layer of `module` with the same weight.

    Args:
        model: What was converted; names are changed in place. One whose weight is found nowhere keeps its name.
        module: What it was converted from, in the same form.
    """
    nameless = [op for op in model.get_ordered_ops() if _is_nameless(op)]
    if not nameless:
        return
    layers = dict(_layer_directions(module))
    for op in nameless:
        transposed = "Backprop" in op.get_type_name()
        directions = _stored_directions(op, transposed)
        name = next((n for n, known in layers.items() if directions is not None and _alike(directions, known)), None)
        if name is not None:
            op.set_friendly_name(NAME.format(layer=name))
            del layers[name]


def _is_nameless(op: openvino.Node) -> bool:
    return op.get_type_name() in _CONVOLUTIONS and not op.get_friendly_name().startswith(_PREFIX)


def _layer_directions(module: nn.Module) -> Iterator[tuple[str, Directions]]:
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    with torch.no_grad():
        for name, layer in module.named_modules():
            if isinstance(layer, kinds):
                axis = 1 if isinstance(layer, kinds[3:]) else 0
                yield name, _directions(layer.weight.detach().float().contiguous().numpy(), axis)


def _stored_directions(op: openvino.Node, transposed: bool) -> Directions | None:
    """Directions of the weight of `op`, from its constant; None where it is no constant."""
    node, zero = op.input_value(1).get_node(), np.zeros(1, np.float32)
    while node.get_type_name() in ("Multiply", "Subtract", "Convert", "Reshape"):
        if node.get_type_name() == "Subtract" and node.input_value(1).get_node().get_type_name() == "Constant":
            zero = np.array(node.input_value(1).get_node().data, np.float32)
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        return None
    is_float = node.get_element_type() in (Type.f32, Type.f16)
    values = np.array(node.data if is_float else unpack_constant(node), np.float32) - zero
    if op.get_type_name().startswith("Group") and values.ndim == len(op.get_input_partial_shape(1)):
        values = values.reshape(-1, *values.shape[2:])
    return _directions(values, int(transposed))


def _directions(weight: npt.NDArray[np.float32], axis: int) -> Directions:
    """Weights of each output channel, divided by their norm; shape (channels, weights)."""
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _SMALLEST), np.float32)


def _alike(a: Directions, b: Directions) -> bool:
    """Whether the channels of two weights have the same directions or opposite ones; channels of zeros fit any."""
    if a.shape != b.shape:
        return False
    cosines = np.abs((a * b).sum(axis=1))
    silent = (np.abs(a).max(axis=1) == 0) | (np.abs(b).max(axis=1) == 0)
    return bool((cosines[~silent] > 1 - _TOLERANCE).all() and not silent.all())
