"""A pass over an `ov.Model` that stores weights in as few bits as they need and keeps them in integer kernels.

`openvino.convert_model` stores fake-quantized weights as i8, or as i4 where 16 levels are enough, and converts them
straight to f32. From i4 that sends a layer with integer inputs to a floating-point kernel; a narrow type that is
converted to i8 first does not (facts: openvino-cpu.md, trap 4). A layer with float inputs, in contrast, has a kernel
for compressed weights only where the constant is converted straight to f32, in groups of a third axis if there are any.
"""

from collections.abc import Sequence

import numpy as np
import openvino
from openvino import Type
from openvino import opset13 as ops

from autocompress.deploy.packing import Integers, constant_of_bytes, packed_constant, unpack_constant

_INTEGER_TYPES = (Type.i4, Type.u4, Type.i8, Type.u8)
_ON_THE_WAY = ("Multiply", "Subtract", "Reshape", "Transpose", "Convert")
_WITH_WEIGHTS = (
    "Convolution",
    "GroupConvolution",
    "ConvolutionBackpropData",
    "GroupConvolutionBackpropData",
    "MatMul",
)
_NARROW = 6  # bits; wider grids are stored as i8


def pack_weights(model: openvino.Model) -> int:
    """Store the integer weights of `model` in as few bits as they need, in place.

    Returns:
        How many weights were stored anew.
    """
    n_packed = 0
    for op in model.get_ordered_ops():
        _merge_scales(op)
    for op in model.get_ordered_ops():
        if _converts_integers(op):
            layers = _layers(op)
            if any(_reads_integers(layer) for layer in layers):
                n_packed += _pack_for_integer_kernel(op, layers)
            elif len(layers) == 1:
                n_packed += _split_groups(op)
    model.validate_nodes_and_infer_types()
    return n_packed


def _merge_scales(op: openvino.Node) -> None:
    """Make one of two constants of one shape that multiply a weight: its step, and a batch norm's factor behind it."""
    if not _scales_by_constant(op) or not _scales_by_constant(first := op.input_value(0).get_node()):
        return
    if first.input_value(0).get_node().get_type_name() not in ("Convert", "Subtract"):  # a product of activations
        return
    constants = [node.input_value(1).get_node() for node in (first, op)]
    if len(first.output(0).get_target_inputs()) == 1 and constants[0].shape == constants[1].shape:
        merged = ops.constant(np.array(constants[0].data * constants[1].data))
        op.input(0).replace_source_output(first.input_value(0))
        op.input(1).replace_source_output(merged.output(0))


def _scales_by_constant(op: openvino.Node) -> bool:
    if op.get_type_name() != "Multiply":
        return False
    source = op.input_value(1).get_node()
    return bool(source.get_type_name() == "Constant" and source.get_element_type() == Type.f32)


def _converts_integers(op: openvino.Node) -> bool:
    if op.get_type_name() != "Convert" or op.get_output_element_type(0) != Type.f32:
        return False
    source = op.input_value(0).get_node()
    return source.get_type_name() == "Constant" and source.get_element_type() in _INTEGER_TYPES


def _layers(op: openvino.Node) -> list[openvino.Node]:
    """The layers whose weight `op` leads to; several where they share it, or where one is called repeatedly."""
    layers: list[openvino.Node] = []
    for reader in op.output(0).get_target_inputs():
        node = reader.get_node()
        if node.get_type_name() in _WITH_WEIGHTS and reader.get_index() == 1:
            layers.append(node)
        elif node.get_type_name() in _ON_THE_WAY:
            layers += _layers(node)
    return layers


def _reads_integers(layer: openvino.Node) -> bool:
    """Whether the first input of `layer` is fake-quantized, perhaps reshaped since."""
    op = layer.input_value(0).get_node()
    while op.get_type_name() in ("Reshape", "Transpose", "Unsqueeze", "Squeeze"):
        op = op.input_value(0).get_node()
    return str(op.get_type_name()) == "FakeQuantize"


def _pack_for_integer_kernel(convert: openvino.Node, layers: list[openvino.Node]) -> int:
    """Turn ``integers → Convert(f32) [→ Subtract]`` into ``narrow → Convert(i8) → Subtract(i8) → Convert(f32)``."""
    values = unpack_constant(convert.input_value(0).get_node())
    last, zero = _zero_point(convert)
    if zero is None:
        return 0
    if np.abs(values - zero).max(initial=0) > 127:
        return _subtract_zero_points(last, values - zero, layers)
    lowest, bits = _span(values, _next(last).input_value(1).get_shape(), last is convert)
    if bits > _NARROW:
        if last is convert:
            return 0
        integers = ops.constant((values - zero).astype(np.int8))
    else:
        narrow = ops.convert(packed_constant(values - lowest, bits), "i8")
        integers = ops.subtract(narrow, ops.constant((zero - lowest).astype(np.int8)))
    _replace(last, ops.convert(integers, "f32"))
    return 1


def _span(values: Integers, shape_of_steps: Sequence[int], no_zero_points: bool) -> tuple[Integers, int]:
    """What is subtracted from `values` so that few bits hold them: one value, or one a channel if that saves bits."""
    lowest = np.array(min(0, int(values.min(initial=0))), np.int16)
    bits = int(values.max(initial=0) - lowest).bit_length()
    if no_zero_points and lowest < 0:  # a symmetric grid: half of its steps is the zero point
        bits = int(np.abs(values).max()).bit_length() + 1
        lowest = np.array(1 - 2 ** (bits - 1), np.int16)
    shared = tuple(axis for axis, n in enumerate(shape_of_steps) if n == 1 and len(shape_of_steps) == values.ndim)
    of_channels = values.min(axis=shared, keepdims=True)
    bits_of_channels = int((values - of_channels).max()).bit_length()
    return (of_channels, bits_of_channels) if bits_of_channels < bits else (lowest, bits)


def _zero_point(convert: openvino.Node) -> tuple[openvino.Node, Integers | None]:
    """The last node before the multiplication by the step, and the zero points; None where they are not whole."""
    readers = [target.get_node() for target in convert.output(0).get_target_inputs()]
    if all(reader.get_type_name() != "Subtract" for reader in readers):
        return convert, np.zeros((1,) * len(convert.get_output_shape(0)), np.int16)
    reader, source = readers[0], readers[0].input_value(1).get_node()
    if len(readers) > 1 or source.get_type_name() != "Constant":
        return reader, None
    zero = np.array(source.data)
    whole = np.round(zero)
    return reader, whole.astype(np.int16) if np.abs(zero - whole).max(initial=0) < 1e-3 else None


def _subtract_zero_points(last: openvino.Node, differences: Integers, layers: list[openvino.Node]) -> int:
    """Keep OpenVINO from dropping the zero points of a transposed convolution with a symmetric input, as it does."""
    if all(layer.get_type_name() != "ConvolutionBackpropData" for layer in layers):
        return 0
    _replace(last, ops.convert(ops.constant(differences), "f32"))
    return 1


def _replace(old: openvino.Node, new: openvino.Node) -> None:
    for target in list(old.output(0).get_target_inputs()):
        target.replace_source_output(new.output(0))


def _split_groups(convert: openvino.Node) -> int:
    """Give weights in groups, stored as rows of one group each, the axes (rows, groups, columns of a group)."""
    multiply = _next(_zero_point(convert)[0])
    reshape = _next(multiply)
    rows, columns = convert.get_output_shape(0)[0], reshape.get_output_partial_shape(0)
    if reshape.get_type_name() != "Reshape" or columns.is_dynamic or len(columns) != 2:
        return 0
    shape = list(columns.to_shape())
    shape_of_groups = [shape[0], rows // shape[0], convert.get_output_shape(0)[1]]
    for node in (convert.input_value(0).get_node(), multiply.input_value(1).get_node()):
        _reshape_constant(node, shape_of_groups)
    if (subtract := _next(convert)) is not multiply:
        _reshape_constant(subtract.input_value(1).get_node(), shape_of_groups)
    reshape.input(1).replace_source_output(ops.constant(np.array(shape, np.int64)).output(0))
    return 1


def _next(op: openvino.Node) -> openvino.Node:
    return next(iter(op.output(0).get_target_inputs())).get_node()


def _reshape_constant(node: openvino.Node, shape: list[int]) -> None:
    """Replace a constant of shape (rows * groups, columns or 1) by one of shape (rows, groups, columns or 1)."""
    new_shape = [shape[0], shape[1], node.get_output_shape(0)[1]]
    data = np.array(node.data)
    if node.get_element_type() in (Type.i4, Type.u4):
        _replace(node, constant_of_bytes(data.view(np.uint8).reshape(-1), new_shape, node.get_element_type()))
    else:
        _replace(node, ops.constant(data.reshape(new_shape)))
