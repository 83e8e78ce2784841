"""Reading back which precision each layer really runs in."""

from collections.abc import Iterable, Mapping

import openvino
from openvino.properties import hint

from autocompress.latency import compile_model
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
