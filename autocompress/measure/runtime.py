"""Compiling for the CPU, and reading back which precision each layer really runs in."""

from collections.abc import Iterable
from typing import Any

import openvino
from openvino import properties
from openvino.properties import hint

from autocompress.errors import MeasurementError


def compile_model(model: openvino.Model, n_threads: int, *, fix_precision: bool = True) -> openvino.CompiledModel:
    """`model` compiled for the CPU: latency hint, one stream, `n_threads` threads, float layers in f32.

    The precision is fixed because OpenVINO silently runs an FP32 model in bf16 where the processor can; without
    `fix_precision` it is left to OpenVINO.

    Raises:
        MeasurementError: OpenVINO cannot compile the model.
    """
    configuration: dict[str, Any] = {
        hint.performance_mode(): hint.PerformanceMode.LATENCY,
        properties.num_streams(): 1,
        properties.inference_num_threads(): n_threads,
    }
    if fix_precision:
        configuration[hint.inference_precision()] = openvino.Type.f32
    try:
        return openvino.Core().compile_model(model, "CPU", configuration)
    except RuntimeError as error:
        last = next((line for line in reversed(str(error).splitlines()) if line.strip()), "")
        raise MeasurementError(f"OpenVINO cannot compile the model: {last.strip()[:200]}") from None


def float_layers(compiled: openvino.CompiledModel, quantized: Iterable[str]) -> tuple[str, ...]:
    """Those of the layers `quantized` that the processor runs with floating-point weights and inputs.

    A layer is found by the names of the operations that were fused into a node; one that cannot be found, because it
    was fused away, is not reported.
    """
    kernels: dict[str, str] = {}
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        kernel = info["primitiveType"].astype(str)
        if info["layerType"].astype(str) in ("Convolution", "GroupConvolution", "FullyConnected", "MatMul"):
            for original in info["originalLayersNames"].astype(str).split(","):
                kernels[original] = kernel
    found = []
    for name in quantized:
        prefix = f"__module.module.{name}/"
        mine = [kernel for original, kernel in kernels.items() if original.startswith(prefix)]
        if mine and not any(kernel.lower().endswith(("i8", "u8")) for kernel in mine):
            found.append(name)
    return tuple(found)


def default_precision_of(model: openvino.Model, n_threads: int) -> str:
    """Short name of the precision in which OpenVINO runs float layers of `model` by itself: f32, bf16 or f16."""
    compiled = compile_model(model, n_threads, fix_precision=False)
    return str(compiled.get_property(hint.inference_precision()).to_string())
