"""Integers of 1 to 8 bits as bytes, in the layouts that `openvino.op.Constant` uses."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import openvino
from openvino import Type, op

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int16]


def packed_constant(values: Integers, bits: int) -> op.Constant:
    """A constant that holds `values` in few bytes.

    Args:
        values: Integers in [0, 2^bits - 1], any shape.
        bits: 1..6.

    Returns:
        A constant of the narrowest type that holds `bits` bits and whose packed groups `values` fill: u2, u3, u4, u6
        or, where they fill none, i8.
    """
    flat = values.astype(np.uint8).reshape(-1)
    for width, kind, n_a_group, pack in _LAYOUTS:
        if bits <= width and flat.size % n_a_group == 0:
            return constant_of_bytes(pack(flat), values.shape, kind)
    return op.Constant(np.ascontiguousarray(values.astype(np.int8)))


def constant_of_bytes(packed: Bytes, shape: Sequence[int], kind: Type) -> op.Constant:
    """A constant of the type `kind` that owns its memory; one made from an array would point into the array."""
    tensor = openvino.Tensor(kind, openvino.Shape(list(shape)))
    tensor.data.view(np.uint8).reshape(-1)[:] = packed
    return op.Constant(tensor)


def unpack_constant(constant: op.Constant) -> Integers:
    """Values of an i4, u4, i8 or u8 constant, in its shape."""
    kind = constant.get_element_type()
    shape = tuple(constant.get_output_shape(0))
    if kind in (Type.i8, Type.u8):
        return np.array(constant.data, dtype=np.int16).reshape(shape)
    packed = np.array(constant.data).view(np.uint8).reshape(-1)
    halves = np.stack([packed & 0xF, packed >> 4], axis=1).reshape(-1)[: int(np.prod(shape))].astype(np.int16)
    return (halves - 16 * (halves > 7) if kind == Type.i4 else halves).reshape(shape)


def _pack_u2(values: Bytes) -> Bytes:
    """Four values a byte, the first in the lowest bits."""
    four = values.reshape(-1, 4)
    return np.asarray(four[:, 0] | four[:, 1] << 2 | four[:, 2] << 4 | four[:, 3] << 6, np.uint8)


def _pack_u4(values: Bytes) -> Bytes:
    """Two values a byte, the first in the lower half."""
    two = values.reshape(-1, 2)
    return np.asarray(two[:, 0] | two[:, 1] << 4, np.uint8)


def _pack_u3(values: Bytes) -> Bytes:
    """Eight values in three bytes: two of lower pairs of bits, one of highest bits, the first value highest."""
    low = (values & 3).reshape(-1, 2, 4)
    pairs = low[..., 0] << 6 | low[..., 1] << 4 | low[..., 2] << 2 | low[..., 3]
    high = np.packbits((values >> 2).reshape(-1, 8), axis=1)
    return np.concatenate([pairs, high], axis=1).reshape(-1)


def _pack_u6(values: Bytes) -> Bytes:
    """Four values in three bytes: two of lower halves, one of the upper pairs of bits, the first value highest."""
    low = (values & 0xF).reshape(-1, 2, 2)
    halves = low[..., 0] << 4 | low[..., 1]
    four = (values >> 4).reshape(-1, 4)
    high = four[:, 0] << 6 | four[:, 1] << 4 | four[:, 2] << 2 | four[:, 3]
    return np.concatenate([halves, high[:, None]], axis=1).reshape(-1)


_LAYOUTS = (  # bits, type, values that share their bytes, packer
    (2, Type.u2, 4, _pack_u2),
    (3, Type.u3, 8, _pack_u3),
    (4, Type.u4, 2, _pack_u4),
    (6, Type.u6, 4, _pack_u6),
)
