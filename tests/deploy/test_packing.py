"""Packed constants against OpenVINO itself, which unpacks them on the CPU."""

import gc

import numpy as np
import openvino
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from openvino import Type
from openvino import opset13 as ops

from autocompress.deploy.packing import Integers, packed_constant, unpack_constant
from autocompress.latency import compile_model

BITS = range(1, 7)
# bits of a stored value: the narrowest of these that has room and whose groups of values fill
WIDTHS = {Type.u2: 2, Type.u3: 3, Type.u4: 4, Type.u6: 6, Type.i8: 8}


def read_by_openvino(constant: openvino.Node, zero: int = 0) -> np.ndarray:
    """Constant → Convert(i8) → Subtract → Convert(f32), added to an input of zeros so that it is not folded away."""
    x = ops.parameter(list(constant.get_output_shape(0)), np.float32)
    integers = ops.subtract(ops.convert(constant, "i8"), ops.constant(np.int8(zero)))
    model = openvino.Model([ops.add(x, ops.convert(integers, "f32"))], [x])
    return compile_model(model, 1)(np.zeros(constant.get_output_shape(0), np.float32))[0]


def indices(n: int, bits: int) -> Integers:
    """All values of the grid, in an order without a pattern."""
    return (np.arange(n, dtype=np.int64) * 7919 % 2**bits).astype(np.int16)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 20, 24, 40, 63, 64, 144])
def test_openvino_reads_what_was_packed(n: int, bits: int) -> None:
    values = indices(n, bits)
    assert np.array_equal(read_by_openvino(packed_constant(values, bits)), values)


@pytest.mark.parametrize("bits", BITS)
def test_every_value_at_every_place_of_a_group_survives(bits: int) -> None:
    """A group of all types is at most eight values: each place takes each value, among zeros and among ones."""
    rows = []
    for background in (0, 2**bits - 1):
        for place in range(8):
            for value in range(2**bits):
                row = np.full(8, background, np.int16)
                row[place] = value
                rows.append(row)
    values = np.stack(rows)
    assert np.array_equal(read_by_openvino(packed_constant(values, bits)), values)


@settings(max_examples=25, suppress_health_check=[HealthCheck.data_too_large])
@given(st.data(), st.sampled_from(BITS), st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(-60, 60))
def test_any_values_of_any_shape_are_read_back_with_their_zero_point(
    data: st.DataObject, bits: int, shape: list[int], zero: int
) -> None:
    values = data.draw(arrays(np.int16, tuple(shape), elements=st.integers(0, 2**bits - 1)))
    assert np.array_equal(read_by_openvino(packed_constant(values, bits), zero), values - zero)


@pytest.mark.parametrize(
    ("n", "bits", "kind"),
    [
        pytest.param(8, 1, Type.u2, id="1 bit in 2"),
        pytest.param(4, 2, Type.u2, id="2 bits"),
        pytest.param(6, 2, Type.u4, id="2 bits that fill no byte of four"),
        pytest.param(5, 2, Type.i8, id="2 bits, an odd number"),
        pytest.param(24, 3, Type.u3, id="3 bits"),
        pytest.param(12, 3, Type.u4, id="3 bits that fill no three bytes"),
        pytest.param(9, 3, Type.i8, id="3 bits, an odd number"),
        pytest.param(6, 4, Type.u4, id="4 bits"),
        pytest.param(4, 5, Type.u6, id="5 bits in 6"),
        pytest.param(12, 6, Type.u6, id="6 bits"),
        pytest.param(10, 6, Type.i8, id="6 bits that fill no three bytes"),
        pytest.param(0, 2, Type.u2, id="no values"),
    ],
)
def test_the_type_is_the_narrowest_that_the_values_fill(n: int, bits: int, kind: Type) -> None:
    constant = packed_constant(indices(n, bits), bits)
    assert constant.get_element_type() == kind
    assert constant.get_byte_size() == n * WIDTHS[kind] // 8


@pytest.mark.parametrize("bits", [1, 3, 4, 6])
@pytest.mark.parametrize("n", [4096, 4095], ids=["packed", "plain"])
def test_a_constant_owns_its_memory(bits: int, n: int) -> None:
    values = indices(n, bits)
    expected = values.copy()
    constant = packed_constant(values, bits)
    values[:] = 0
    del values
    gc.collect()
    overwriting = [np.full(n, 85, np.uint8) for _ in range(50)]
    assert np.array_equal(read_by_openvino(constant), expected)
    del overwriting


@pytest.mark.parametrize("kind", [Type.i4, Type.u4, Type.i8, Type.u8], ids=lambda kind: kind.to_string())
@pytest.mark.parametrize("shape", [(), (1,), (5,), (6,), (3, 5), (2, 3, 4)], ids=str)
def test_unpacking_gives_the_values_that_openvino_sees(kind: Type, shape: tuple[int, ...]) -> None:
    bits = 4 if kind in (Type.i4, Type.u4) else 8
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if kind in (Type.i4, Type.i8) else (0, 2**bits - 1)
    values = np.random.default_rng(0).integers(low, high + 1, shape)
    constant = openvino.op.Constant(kind, openvino.Shape(list(shape)), values.reshape(-1).tolist())
    unpacked = unpack_constant(constant)
    assert unpacked.shape == shape
    assert np.array_equal(unpacked, values)
    tensor = openvino.Tensor(Type.f32, openvino.Shape(list(shape)))
    assert ops.convert(constant, "f32").evaluate([tensor], [constant.get_tensor_view()])
    assert np.array_equal(np.array(tensor.data).reshape(shape), values)
