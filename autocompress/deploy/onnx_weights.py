"""A pass over an exported ONNX graph that stores quantized weights as integers of the narrowest type.

What runtimes make of a DequantizeLinear was measured with onnxruntime 1.31 and OpenVINO 2026.4:

- Both have integer kernels for a layer with integer inputs only where its weight is int8 without a zero point (for
  onnxruntime also uint8 with one), and onnxruntime's Gemm only where that zero point is written out. 4-bit integers
  are therefore converted to int8 first; runtimes do that once, when they load the file.
- A layer with float inputs has kernels for 4-bit weights only where DequantizeLinear reads them directly.
- Gather after DequantizeLinear converts the whole table for each inference, so that order is turned around.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
from onnxscript import ir
from torch import Tensor

_TOLERANCE = 1e-3  # of a grid step; fused weights are still on their grid up to float32 rounding
_SMALLEST = 1e-30  # step of a channel without weights; a step must be above 0
_NARROW_OPSET = 21  # the first with 4-bit integers and with steps for blocks of an axis
_FLOAT, _INT8, _INT32 = ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.INT32
_TRANSPOSED = "_transposed"

Integers = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


class Layout(Protocol):
    """Which weights share a step."""

    @property
    def channel_axis(self) -> int | None:
        """Axis of the output channels; None means one step for the whole weight."""

    @property
    def group_size(self) -> int:
        """Columns of a row that share a step; 0 means all."""


class QuantizedWeight(Protocol):
    """A weight on an integer grid: ``weight = scale * (indices - zero)``."""

    @property
    def indices(self) -> Tensor:
        """Integers, the shape of the weight."""

    @property
    def scale(self) -> Tensor:
        """Steps > 0, one a slice."""

    @property
    def zero(self) -> Tensor:
        """Indices of 0.0, one a slice."""

    @property
    def bits(self) -> int:
        """1..8."""

    @property
    def layout(self) -> Layout:
        """Which weights share a step."""


@dataclass(frozen=True)
class StoredWeight:
    """How a quantized weight is stored.

    Attributes:
        type_name: ONNX type: `INT4`, `UINT4`, `INT8`, `UINT8`, or `FLOAT` where it is no integers.
        reason: Why it is `FLOAT`; empty otherwise.
    """

    type_name: str
    reason: str = ""


@dataclass(frozen=True)
class _Grid:
    """A weight as ``scale * centred``, its integers counted from the one of 0.0.

    Args:
        centred: The shape of the weight.
        scale: Shape () for the whole weight, (channels,), or that of the weight with `group_size` neighbours as one.
        zero: What makes the integers indices from 0 up when added, of the shape of `scale`.
        axis: Axis of the channels or groups; None if there are none.
        group_size: Neighbours on `axis` that share a step; 0 if there are no groups.
    """

    centred: Integers
    scale: Floats
    zero: Integers
    axis: int | None
    group_size: int

    def spread(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """`values`, of the shape of `scale`, in a shape that broadcasts to the weight."""
        return _spread(values, self.axis, self.group_size, self.centred.ndim)

    def transposed(self) -> Self:
        """The grid of the transposed weight, which has two axes."""
        axis = None if self.axis is None else 1 - self.axis
        return replace(self, centred=self.centred.T, scale=self.scale.T, zero=self.zero.T, axis=axis)

    def times(self, factor: Floats, axis: int, bits: int) -> Self:
        """The grid of the weight times `factor`, which has a value for each channel on `axis`."""
        by_channel = _spread(factor, axis, 0, self.centred.ndim)
        own = by_channel if self.group_size else factor
        scale = np.maximum(np.abs(self.scale * own), _SMALLEST).astype(np.float32)
        zero = np.where(own < 0, 2**bits - 1 - self.zero, self.zero)
        return replace(
            self,
            centred=np.where(by_channel < 0, -self.centred, self.centred),
            scale=scale,
            zero=zero,
            axis=axis if self.axis is None else self.axis,
        )

    def kind(self, narrow: bool) -> ir.DataType:
        """The narrowest type that holds the integers; of 4 bits only where `narrow` allows it."""
        indices = self.centred + self.spread(self.zero)
        if narrow and _within(self.centred, -8, 7):
            return ir.DataType.INT4
        if narrow and _within(indices, 0, 15):
            return ir.DataType.UINT4
        return _INT8 if _within(self.centred, -128, 127) else ir.DataType.UINT8


def _spread(values: npt.NDArray[Any], axis: int | None, group_size: int, n_axes: int) -> npt.NDArray[Any]:
    if axis is None:
        return values
    if group_size:
        return values.repeat(group_size, axis)
    return values.reshape([-1 if index == axis else 1 for index in range(n_axes)])


def _within(values: Integers, low: int, high: int) -> bool:
    return bool(values.min(initial=0) >= low and values.max(initial=0) <= high)


def _grid_of(weight: QuantizedWeight) -> _Grid:
    indices, layout = weight.indices.numpy().astype(np.int32), weight.layout
    axis = 1 if layout.group_size else layout.channel_axis
    shape: tuple[int, ...] = () if axis is None else (-1,)
    if layout.group_size:
        shape = (len(indices), -1)
    scale = weight.scale.detach().numpy().astype(np.float32).reshape(shape)
    zero = weight.zero.numpy().astype(np.int32).reshape(shape)
    centred = indices - _spread(zero, axis, layout.group_size, indices.ndim)
    return _Grid(centred, scale, zero, axis, layout.group_size)


def _fitted(stored: Floats, grid: _Grid, channel_axis: int, bits: int) -> _Grid | None:
    """The grid of `stored`, which may be the weight of `grid` times a factor for each output channel; or None."""
    if stored.shape != grid.centred.shape:
        return None
    steps = grid.spread(grid.scale).astype(np.float64)
    expected = grid.centred * steps
    if (np.abs(stored - expected) <= _TOLERANCE * steps).all():
        return grid
    others = tuple(axis for axis in range(stored.ndim) if axis != channel_axis)
    squared = (expected**2).sum(axis=others, keepdims=True)
    factor = (stored * expected).sum(axis=others, keepdims=True) / np.where(squared > 0, squared, 1.0)
    if (np.abs(stored - factor * expected) > _TOLERANCE * np.abs(factor) * steps).any():
        return None
    return grid.times(factor.reshape(-1).astype(np.float32), channel_axis, bits)


def lay_out_transposed(model: ir.Model, weights: set[str]) -> None:
    """Replace each Transpose of one of `weights`, in place, by a transposed weight under a name of its own.

    The exporter's optimizer would do so, too, but for small weights only and without a trace of where they come from.

    Args:
        model: As exported, not optimized yet.
        weights: Names of initializers; those of two axes are looked at.
    """
    graph = model.graph
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        if source is None or source.name not in weights or source.const_value is None:
            continue
        array = source.const_value.numpy()
        if array.ndim == 2 and not node.outputs[0].is_graph_output():
            name = f"{source.name}{_TRANSPOSED}"
            value = graph.initializers.get(name) or _constant(graph, name, array.T, _FLOAT)
            ir.convenience.replace_all_uses_with(node.outputs[0], value)
            graph.remove(node, safe=True)


def store_integer_weights(
    model: ir.Model, weights: Mapping[str, QuantizedWeight], names: Mapping[str, list[str]]
) -> dict[str, StoredWeight]:
    """Replace float weights by integers and what turns those into floats, in place.

    The exporter may have multiplied a weight by its batch norm, which scales whole output channels and so keeps it on
    a grid. One that is on no such grid is left as floats.

    Args:
        model: Exported and optimized; its weights as they were before, or transposed by `lay_out_transposed`.
        weights: Quantized weights by layer name.
        names: Names that the initializer of each may have.

    Returns:
        How each weight is stored, by layer name.
    """
    narrow = int(model.opset_imports.get("", 0)) >= _NARROW_OPSET
    stored = {}
    for layer, weight in weights.items():
        stored[layer] = StoredWeight("FLOAT", "the file has no weight under the name of this layer")
        for name in names[layer]:
            for transposed in (False, True):
                value = model.graph.initializers.get(f"{name}{_TRANSPOSED}" if transposed else name)
                if value is not None:
                    stored[layer] = _store(model.graph, value, weight, transposed, narrow)
    return stored


def _store(graph: ir.Graph, value: ir.Value, weight: QuantizedWeight, transposed: bool, narrow: bool) -> StoredWeight:
    if weight.layout.group_size and not narrow:
        return StoredWeight("FLOAT", f"groups need opset {_NARROW_OPSET}, to which the exporter could not convert")
    grid = _grid_of(weight)
    channel_axis = int(transposed or any(node.op_type == "ConvTranspose" for node, _ in value.uses()))
    floats = np.zeros(0, np.float32) if value.const_value is None else value.const_value.numpy().astype(np.float32)
    fitted = _fitted(floats, grid.transposed() if transposed else grid, channel_axis, weight.bits)
    if fitted is None:
        return StoredWeight("FLOAT", "the exporter changed the weight in a way that left its grid")
    writer = _Writer(graph, str(value.name), fitted, fitted.kind(narrow))
    for node, position in list(value.uses()):
        writer.feed(node, position)
    graph.initializers.pop(str(value.name))
    return StoredWeight(writer.kind.name)


class _Writer:
    """Writes one weight in the forms that its readers need.

    Args:
        graph: Where to.
        name: Of the float weight.
        grid: The weight.
        kind: Type of the stored integers.
    """

    def __init__(self, graph: ir.Graph, name: str, grid: _Grid, kind: ir.DataType) -> None:
        self.graph, self.name, self.grid, self.kind = graph, name, grid, kind
        self.unsigned = not kind.is_signed()
        stored = grid.centred + grid.spread(grid.zero) if self.unsigned else grid.centred
        self.integers = _constant(graph, f"{name}_{kind.name.lower()}", stored, kind)
        self._widened: ir.Value | None = None
        self._dequantized: dict[bool, ir.Value] = {}

    def feed(self, node: ir.Node, position: int) -> None:
        """Let `node` read the integers in the place of its input `position`."""
        if self._is_look_up(node, position):
            _replace(node, self._looked_up(node))
            return
        to_integer_kernel = not self.grid.group_size and _reads_integers(node)
        if to_integer_kernel not in self._dequantized:
            self._dequantized[to_integer_kernel] = self._dequantize(to_integer_kernel)
        node.replace_input_with(position, self._dequantized[to_integer_kernel])

    def _dequantize(self, to_integer_kernel: bool) -> ir.Value:
        source = self.widened() if to_integer_kernel else self.integers
        inputs = [source, self._of_slices("scale", self.grid.scale, _FLOAT)]
        kind = _INT8 if source is not self.integers else self.kind
        if not kind.is_signed():
            inputs.append(self._of_slices("zero", self.grid.zero, kind))
        elif to_integer_kernel:
            inputs.append(self._of_slices("no_zero", np.zeros_like(self.grid.zero), kind))
        attributes = {} if self.grid.axis is None else {"axis": self.grid.axis}
        if self.grid.group_size:
            attributes["block_size"] = self.grid.group_size
        return self._of_constants("DequantizeLinear", inputs, attributes)

    def widened(self) -> ir.Value:
        """The integers as 8 bits: those of 4 bits as int8, counted from the one of 0.0."""
        if self.kind.bitwidth == 8:
            return self.integers
        if self._widened is None:
            value = self.integers
            if self.unsigned:
                zero = _constant(self.graph, f"{self.name}_zero_int32", self.grid.spread(self.grid.zero), _INT32)
                value = self._of_constants("Cast", [value], {"to": int(_INT32)})
                value = self._of_constants("Sub", [value, zero], {})
            self._widened = self._of_constants("Cast", [value], {"to": int(_INT8)})
        return self._widened

    def _is_look_up(self, node: ir.Node, position: int) -> bool:
        axis = node.attributes.get_int("axis", 0)
        of_rows = position == axis == 0 and self.grid.axis in (None, 0) and not self.grid.group_size
        return node.op_type == "Gather" and of_rows and node.graph is self.graph

    def _looked_up(self, node: ir.Node) -> ir.Value:
        """What the Gather `node` gives, from integers that are looked up first and turned into floats then."""
        rows = self._before(node, "Gather", [self.widened(), node.inputs[1]])
        floats = self._before(node, "Cast", [rows], {"to": int(_FLOAT)})
        if self.kind == ir.DataType.UINT8:
            floats = self._before(node, "Sub", [floats, self._row_values(node, "row_zero", self.grid.zero)])
        return self._before(node, "Mul", [floats, self._row_values(node, "row_scale", self.grid.scale)])

    def _row_values(self, node: ir.Node, suffix: str, values: npt.NDArray[Any]) -> ir.Value:
        table = self._of_slices(suffix, self.grid.spread(values), _FLOAT)
        return table if self.grid.axis is None else self._before(node, "Gather", [table, node.inputs[1]])

    def _of_slices(self, suffix: str, values: npt.NDArray[Any], kind: ir.DataType) -> ir.Value:
        name = f"{self.name}_{suffix}"
        return self.graph.initializers.get(name) or _constant(self.graph, name, values, kind)

    def _before(
        self, node: ir.Node, op_type: str, inputs: list[Any], attributes: dict[str, Any] | None = None
    ) -> ir.Value:
        made = ir.node(op_type, inputs, attributes)
        self.graph.insert_before(node, made)
        return made.outputs[0]

    def _of_constants(self, op_type: str, inputs: list[ir.Value], attributes: dict[str, Any]) -> ir.Value:
        """The output of a new node at the start of the graph."""
        made, producer = ir.node(op_type, inputs, attributes), inputs[0].producer()
        if producer is None:
            self.graph.insert_before(self.graph[0], made)
        else:
            self.graph.insert_after(producer, made)
        return made.outputs[0]


def _replace(node: ir.Node, new: ir.Value) -> None:
    """Let `new` take the place, the name and the shape of the only output of `node`, which is removed."""
    old, graph = node.outputs[0], node.graph
    new.shape, new.type = old.shape, old.type
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    if graph is not None:
        graph.remove(node, safe=True)
    new.name = old.name


def _reads_integers(node: ir.Node) -> bool:
    """Whether one of the inputs of `node` comes from integers."""
    producers = [value.producer() for value in node.inputs if value is not None]
    return any(producer is not None and producer.op_type == "DequantizeLinear" for producer in producers)


def _constant(graph: ir.Graph, name: str, values: npt.NDArray[Any], kind: ir.DataType) -> ir.Value:
    tensor = ir.tensor(values.astype(kind.numpy(), order="C"), dtype=kind, name=name)
    value = ir.Value(name=name, shape=ir.Shape(values.shape), type=ir.TensorType(kind), const_value=tensor)
    graph.register_initializer(value)
    return value
