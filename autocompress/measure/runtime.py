"""Compiling for the CPU, and reading back which precision each layer really runs in."""

from collections.abc import Iterable, Mapping
from typing import Any

import openvino
from openvino import properties
from openvino.properties import hint

from autocompress.errors import MeasurementError
from autocompress.recipe import FLOAT_BITS, LayerRecipe

INTEGER_PRECISIONS = ("i8", "u1")
_SAME = {"u8": "i8", "i4": "i8", "u4": "i8", "bin": "u1"}
_WITH_WEIGHTS = (
    "BinaryConvolution",
    "Convolution",
    "Deconvolution",
    "FullyConnected",
    "Gather",
    "GroupConvolution",
    "MatMul",
)


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


def layer_precisions(compiled: openvino.CompiledModel, layers: Iterable[str]) -> dict[str, str]:
    """The precision in which the processor runs each of `layers`: `i8`, `u1` (binary), `f32`, `bf16`.

    A layer is found by the names of the operations that were fused into a node; one that cannot be found, because it
    was fused away, is not in the result.
    """
    kernels: dict[str, str] = {}
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if info["layerType"].astype(str) in _WITH_WEIGHTS:
            precision = info["primitiveType"].astype(str).rpartition("_")[2].lower()
            for original in info["originalLayersNames"].astype(str).split(","):
                kernels[original] = _SAME.get(precision, precision)
    found = {}
    for name in layers:
        prefix = f"__module.module.{name}/"
        mine = [precision for original, precision in kernels.items() if original.startswith(prefix)]
        if mine:
            found[name] = next((p for p in mine if p in INTEGER_PRECISIONS), mine[0])
    return found


def float_layers(precisions: Mapping[str, str], recipes: Mapping[str, LayerRecipe]) -> tuple[str, ...]:
    """Layers that should have run on integers, by their recipes, but ran in floating point.

    A layer with a float input is not among them: its integer weights are for size, and for speed at batch 1.
    """
    asked = (name for name, recipe in recipes.items() if FLOAT_BITS not in (recipe.weight_bits, recipe.activation_bits))
    return tuple(name for name in asked if precisions.get(name, "i8") not in INTEGER_PRECISIONS)


def default_precision_of(model: openvino.Model, n_threads: int) -> str:
    """Short name of the precision in which OpenVINO runs float layers of `model` by itself: f32, bf16 or f16."""
    compiled = compile_model(model, n_threads, fix_precision=False)
    return str(compiled.get_property(hint.inference_precision()).to_string())
