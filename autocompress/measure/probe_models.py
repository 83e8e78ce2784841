"""Small nets of one kind of layer, in the very form in which recipes are deployed, with random weights."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
from openvino import Type, op, opset1
from openvino import opset13 as ops

from autocompress.cpu_probe import LayerKind
from autocompress.recipe import BINARY_BITS, FLOAT_BITS, LayerRecipe

Array = npt.NDArray[Any]

LARGEST_INPUT = 3.0  # end of the range of every quantized input; activations have about unit size
_NARROW = 4  # bits; weights up to here are stored packed
_LEVELS = 256


@dataclass(frozen=True)
class ProbeNet:
    """A chain of layers of one kind, a ReLU after each; all layers read and give maps of one size.

    Args:
        kind: Of all layers.
        n_channels: Channels of the input and the output; for Linear layers, features.
        side: Height and width of the maps; for Linear layers, rows.
        layers: What is done to each: bits of 4, 7, 8 or 32 for weights, 1 for both binary, at least one layer.
        inner: Channels after the layers 1, 3, 5, ...; None for `n_channels`. Not for depthwise layers.
    """

    kind: LayerKind
    n_channels: int
    side: int
    layers: tuple[LayerRecipe, ...]
    inner: int | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Rows and features, or batch of one, channels, height and width."""
        rows = (self.side, self.n_channels)
        return rows if self.kind == "linear" else (1, self.n_channels, self.side, self.side)

    @property
    def shape_words(self) -> str:
        """Sizes in words."""
        if self.kind == "linear":
            return f"{self.n_channels} features, {self.side} row{'s' if self.side > 1 else ''}"
        return f"{self.n_channels} channels, {self.side}x{self.side}"


def build(net: ProbeNet, seed: int = 0) -> openvino.Model:
    """The net as a model with one float input and random weights.

    Their variance is 2 / fan-in, so that activations keep their size (He et al. 2015, equation 10).
    """
    rng = np.random.default_rng(seed)
    parameter = ops.parameter(list(net.input_shape), np.float32)
    x: openvino.Node = parameter
    widths = [net.n_channels if i % 2 == 0 else net.inner or net.n_channels for i in range(len(net.layers) + 1)]
    for layer, n_inputs, n_outputs in zip(net.layers, widths, widths[1:], strict=False):
        x = ops.relu(_layer(x, layer, _weight_shape(net.kind, n_inputs, n_outputs), net.kind, rng))
    return openvino.Model([x], [parameter], "probe")


def _weight_shape(kind: LayerKind, n_inputs: int, n_outputs: int) -> tuple[int, ...]:
    return {
        "conv3x3": (n_outputs, n_inputs, 3, 3),
        "conv1x1": (n_outputs, n_inputs, 1, 1),
        "depthwise": (n_outputs, 1, 1, 3, 3),
        "linear": (n_outputs, n_inputs),
    }[kind]


def _layer(
    x: openvino.Node, layer: LayerRecipe, shape: tuple[int, ...], kind: LayerKind, rng: np.random.Generator
) -> openvino.Node:
    if layer.weight_bits == BINARY_BITS:
        return _binary_convolution(x, shape, rng)
    weight = _weight(layer, shape, rng)
    read = x if layer.activation_bits == FLOAT_BITS else _quantized_input(x, layer.activation_bits)
    if kind == "linear":
        return ops.matmul(read, weight, False, True)
    convolution = ops.group_convolution if kind == "depthwise" else ops.convolution
    padding = [shape[-1] // 2] * 2
    return convolution(read, weight, [1, 1], padding, padding, [1, 1])


def _quantized_input(x: openvino.Node, bits: int) -> openvino.Node:
    """`x` on a grid of 2^bits steps; narrow grids as a clamp and 256 levels of the same step, as they are deployed."""
    highest = LARGEST_INPUT
    if bits < 8:
        highest = LARGEST_INPUT * (_LEVELS - 1) / (2**bits - 1)
        x = ops.clamp(x, 0.0, LARGEST_INPUT)
    ends = [np.float32(0), np.float32(highest)]
    return ops.fake_quantize(x, *ends, *ends, _LEVELS)


def _weight(layer: LayerRecipe, shape: tuple[int, ...], rng: np.random.Generator) -> openvino.Node:
    """Weights as they are stored, and how they become floats."""
    deviation = (2 / (np.prod(shape[1:]) * (1 - layer.sparsity))) ** 0.5
    kept = rng.random(shape) >= layer.sparsity
    if layer.weight_bits == FLOAT_BITS:
        return ops.constant((rng.normal(0, deviation, shape) * kept).astype(np.float32))
    largest = 2 ** (layer.weight_bits - 1) - 1
    values = (rng.integers(-largest, largest + 1, shape) * kept).astype(np.int8)
    n_scales = 1 if layer.weight_granularity == "per_tensor" else shape[0]
    scale = np.full((n_scales, *(1 for _ in shape[1:])), deviation / (largest / 3**0.5), np.float32)
    is_read_by_integers = layer.activation_bits != FLOAT_BITS
    return ops.multiply(_integers_as_floats(values, layer.weight_bits, is_read_by_integers), ops.constant(scale))


def _integers_as_floats(values: Array, bits: int, is_read_by_integers: bool) -> openvino.Node:
    """Eight bits as they are; four packed, and on the way through i8 where an integer kernel is to read them."""
    if bits > _NARROW:
        return ops.convert(ops.constant(values), "f32")
    if not is_read_by_integers:
        return ops.convert(_packed(values, Type.i4), "f32")
    lowest = 1 - 2 ** (bits - 1)
    integers = ops.convert(_packed(values - lowest, Type.u4), "i8")
    return ops.convert(ops.subtract(integers, ops.constant(np.array(-lowest, np.int8))), "f32")


def _packed(values: Array, kind: Type) -> op.Constant:
    """Two values a byte, the first in the lower half; their number must be even."""
    halves = (values.reshape(-1, 2) & 0xF).astype(np.uint8)
    return _constant_of_bytes(halves[:, 0] | halves[:, 1] << 4, values.shape, kind)


def _constant_of_bytes(content: Array, shape: tuple[int, ...], kind: Type) -> op.Constant:
    tensor = openvino.Tensor(kind, openvino.Shape(list(shape)))
    tensor.data.view(np.uint8).reshape(-1)[:] = content
    return op.Constant(tensor)


def _binary_convolution(x: openvino.Node, shape: tuple[int, ...], rng: np.random.Generator) -> openvino.Node:
    """A convolution of one-bit inputs and weights, with a scale and a shift for each filter.

    The bounds of the input are constants of their own: shared ones keep the processor from fusing it.
    """
    ends = [np.full((1, shape[1], 1, 1), 0.5), *(np.full((1, 1, 1, 1), bit) for bit in (0, 1))]
    threshold, zero, one = (end.astype(np.float32) for end in ends)
    bits = ops.fake_quantize(x, *(ops.constant(end) for end in (threshold, threshold.copy(), zero, one)), 2)
    signs = op.Constant(
        openvino.Tensor(rng.integers(0, 256, int(np.prod(shape)) // 8).astype(np.uint8), list(shape), Type.u1), False
    )
    padding = [shape[-1] // 2] * 2
    y = opset1.binary_convolution(bits, signs, [1, 1], padding, padding, [1, 1], "xnor-popcount", -1.0)
    factors = np.full((1, shape[0], 1, 1), np.prod(shape[1:]) ** -0.5, np.float32)
    return ops.add(ops.multiply(y, ops.constant(factors)), ops.constant(factors.copy()))
