"""A pass over an `ov.Model` that gives binarized convolutions OpenVINO's binary kernel.

An input of the two values 0 and s is ``s * b`` with bits b, a filter of the two values -a and a is ``a * w`` with signs
w. `BinaryConvolution` reads the bits as signs ``2b - 1`` and returns ``y = sum w (2b - 1)``, padding included where its
pad value is -1, the sign of the bit 0. So the convolution is ``sum s b a w = s a / 2 * (y + sum w)``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
from openvino import opset1
from openvino import opset13 as ops

Floats = npt.NDArray[np.float32]

CHANNELS_IN_A_BYTE = 8  # the kernel reads the input channels of a pixel as whole bytes and is wrong for others
LARGEST_SIDE_PADDING = 2  # columns the AVX2 kernel computes at once; those with more padding don't compile
LARGEST_KERNEL_WIDTH = 7  # wider ones don't compile with padding and strides
_TOLERANCE = 1e-5  # of a magnitude; fused scales are still one a filter up to float32 rounding


@dataclass(frozen=True)
class BinaryOperands:
    """What a binarized convolution computes with.

    Attributes:
        compared: Result of the comparison with the thresholds.
        thresholds: One a channel of the input, shape (1, channels, 1, 1).
        scale: The input's value where the comparison holds, not 0.
        magnitudes: Absolute weight of each filter, shape (filters,).
        positive: Where the weight is positive, shape (filters, channels, height, width).
    """

    compared: openvino.Node
    thresholds: Floats
    scale: float
    magnitudes: Floats
    positive: npt.NDArray[np.bool_]


def to_binary_convolutions(model: openvino.Model) -> int:
    """Rewrite each binarized convolution that the processor's kernel can run to `BinaryConvolution`, in place.

    Binarized means: the input is ``x > threshold`` a channel, converted to numbers and multiplied by one scale, and
    each filter of the constant weights is plus or minus one magnitude. Others are left as they are: those of dynamic
    shape, which the kernel refuses, and those beyond the limits of this module. The last node of a rewritten
    convolution has its name, and the names of its output tensor.

    Args:
        model: Converted and reshaped; weights may be packed integers or floats.

    Returns:
        How many convolutions were rewritten.
    """
    bits: dict[str, openvino.Node] = {}
    n_rewritten = 0
    for op in model.get_ordered_ops():
        operands = binary_operands(op) if op.get_type_name() == "Convolution" and _kernel_takes(op) else None
        if operands is None:
            continue
        name = operands.compared.get_name()
        if name not in bits:
            bits[name] = _binarize(operands.compared, operands.thresholds)
        _replace(op, _binary_convolution(op, bits[name], operands))
        n_rewritten += 1
    if n_rewritten:
        model.validate_nodes_and_infer_types()
    return n_rewritten


def binary_operands(convolution: openvino.Node) -> BinaryOperands | None:
    """Operands of a convolution of static shape; None where it is not binarized."""
    activation = _binary_input(convolution.input_value(0))
    weight = _value(convolution.input_value(1), {}) if activation else None
    if weight is None or activation is None:
        return None
    magnitudes = np.abs(weight).max(axis=(1, 2, 3))
    if (np.abs(np.abs(weight) - magnitudes.reshape(-1, 1, 1, 1)) > _TOLERANCE * magnitudes.reshape(-1, 1, 1, 1)).any():
        return None
    return BinaryOperands(*activation, magnitudes, weight > 0)


def _kernel_takes(convolution: openvino.Node) -> bool:
    """Whether the processor's binary kernel is right and compiles for this shape."""
    shapes = [convolution.get_input_partial_shape(0), convolution.get_output_partial_shape(0)]
    if any(shape.is_dynamic or len(shape) != 4 for shape in shapes):
        return False
    attributes = convolution.get_attributes()
    side_padding = [attributes["pads_begin"][1], attributes["pads_end"][1]]
    n_channels, output_width = shapes[0].to_shape()[1], shapes[1].to_shape()[3]
    return bool(
        n_channels % CHANNELS_IN_A_BYTE == 0
        and min(side_padding) >= 0
        and max(side_padding) <= min(LARGEST_SIDE_PADDING, output_width)
        and convolution.get_input_shape(1)[3] <= LARGEST_KERNEL_WIDTH
    )


def _binary_input(output: openvino.Output) -> tuple[openvino.Node, Floats, float] | None:
    """The comparison behind an input of the values 0 and scale, its thresholds and the scale; None for other inputs."""
    node = output.get_node()
    while node.get_type_name() in ("FakeQuantize", "Multiply"):
        node = _first_computed(node)
    if node.get_type_name() != "Convert" or _first_computed(node).get_type_name() != "Greater":
        return None
    compared = _first_computed(node)
    thresholds = _a_channel(_value(compared.input_value(1), {}), compared.get_output_shape(0))
    zero, one = (_value(output, {node.get_name(): np.full((1, 1, 1, 1), bit, np.float32)}) for bit in (0.0, 1.0))
    if thresholds is None or zero is None or one is None:
        return None
    if zero.any() or not one.all() or np.ptp(one) > 0:
        return None
    return compared, thresholds, float(one.flat[0])


def _first_computed(node: openvino.Node) -> openvino.Node:
    """The node of the first input that is no constant; the first one where all are."""
    nodes = [value.get_node() for value in node.input_values()]
    return next((n for n in nodes if n.get_type_name() != "Constant"), nodes[0])


def _a_channel(values: Floats | None, shape: Sequence[int]) -> Floats | None:
    """`values` as (1, channels, 1, 1) where they broadcast along the channels of `shape` only, else None."""
    if values is None or values.ndim > 4:
        return None
    padded = values.reshape((1,) * (4 - values.ndim) + values.shape)
    if not padded.shape[0] == padded.shape[2] == padded.shape[3] == 1 or padded.shape[1] not in (1, shape[1]):
        return None
    return np.broadcast_to(padded, (1, shape[1], 1, 1)).copy()


def _value(output: openvino.Output, known: dict[str, Floats]) -> Floats | None:
    """What `output` computes from constants and from `known` outputs, by name of node; None where it needs more."""
    tensor = _tensor(output, known)
    return None if tensor is None else np.array(tensor.data, dtype=np.float32)


def _tensor(output: openvino.Output, known: dict[str, Floats]) -> Any:
    node = output.get_node()
    if node.get_name() in known:
        return openvino.Tensor(known[node.get_name()])
    if node.get_type_name() == "Constant":
        return node.get_tensor_view()
    inputs = [_tensor(value, known) for value in node.input_values()]
    if not inputs or any(tensor is None for tensor in inputs):
        return None
    shape = [1] if known else output.get_shape()  # with known values, elementwise operations size it themselves
    result = openvino.Tensor(output.get_element_type(), openvino.Shape(shape))
    return result if node.evaluate([result], inputs) else None


def _binarize(compared: openvino.Node, thresholds: Floats) -> openvino.Node:
    """The comparison as a FakeQuantize of two levels, which the processor stores as bits.

    Each bound is a constant of its own: shared ones keep the processor from fusing it into the layer before.
    """
    zero, one = np.zeros((1, 1, 1, 1), np.float32), np.ones((1, 1, 1, 1), np.float32)
    bounds = [ops.constant(values) for values in (thresholds, thresholds, zero, one)]
    bits = ops.fake_quantize(compared.input_value(0), *bounds, 2)
    bits.set_friendly_name(f"{compared.get_friendly_name()}/FakeQuantize")
    return bits


def _binary_convolution(convolution: openvino.Node, bits: openvino.Node, operands: BinaryOperands) -> openvino.Node:
    """``scale * magnitude / 2 * (y + sum of signs)``, y the binary convolution of `bits` and signs."""
    attributes = convolution.get_attributes()
    y = opset1.binary_convolution(
        bits,
        _packed(operands.positive),
        attributes["strides"],
        attributes["pads_begin"],
        attributes["pads_end"],
        attributes["dilations"],
        "xnor-popcount",
        -1.0,
    )
    y.set_friendly_name(f"{convolution.get_friendly_name()}/BinaryConvolution")
    factors = operands.scale * operands.magnitudes.astype(np.float64) / 2
    sums = np.where(operands.positive, 1.0, -1.0).sum(axis=(1, 2, 3))
    return ops.add(ops.multiply(y, _a_filter(factors)), _a_filter(factors * sums))


def _packed(positive: npt.NDArray[np.bool_]) -> openvino.Node:
    """Signs as a u1 constant; the processor's kernel takes the lowest bit of a byte first."""
    packed = np.packbits(positive.reshape(-1), bitorder="little")
    return openvino.op.Constant(openvino.Tensor(packed, openvino.Shape(positive.shape), openvino.Type.u1), False)


def _a_filter(values: npt.NDArray[np.float64]) -> openvino.Node:
    return ops.constant(values.astype(np.float32).reshape(1, -1, 1, 1))


def _replace(old: openvino.Node, new: openvino.Node) -> None:
    """Put `new` where `old` was, with its names."""
    new.set_friendly_name(old.get_friendly_name())
    new.output(0).get_tensor().set_names(old.output(0).get_tensor().get_names())
    for reader in old.output(0).get_target_inputs():
        reader.replace_source_output(new.output(0))
