"""A pass over an `ov.Model` that keeps weights of 4 bits and fewer in integer kernels.

`openvino.convert_model` already stores fake-quantized weights as integers: i8, or i4 where 16 levels are enough. An i4
constant that is converted straight to f32 sends the layer to a floating-point kernel, one that goes through i8 does not
(facts: openvino-cpu.md, trap 4).
"""

import numpy as np
import openvino
from openvino import opset13 as ops


def route_through_int8(model: openvino.Model) -> int:
    """Turn each `i4 → Convert(f32)` into `i4 → Convert(i8) → Subtract(0) → Convert(f32)`, in place.

    Returns:
        How many weights were re-routed.
    """
    n_rerouted = 0
    for op in model.get_ordered_ops():
        if op.get_type_name() != "Convert" or op.input_value(0).get_node().get_type_name() != "Constant":
            continue
        if op.get_input_element_type(0) == openvino.Type.i4 and op.get_output_element_type(0) == openvino.Type.f32:
            integers = ops.subtract(ops.convert(op.input_value(0), "i8"), ops.constant(np.int8(0)))
            op.input(0).replace_source_output(integers.output(0))
            n_rerouted += 1
    model.validate_nodes_and_infer_types()
    return n_rerouted
