"""Models that are ready to be timed: compiled for the CPU, with inputs set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
from openvino import properties
from openvino.properties import hint

from autocompress.errors import MeasurementError

MAX_REASON = 200  # characters of OpenVINO's own words that a message repeats


def read_model(path: Path) -> openvino.Model:
    """The model in an `.xml` or `.onnx` file.

    Raises:
        MeasurementError: OpenVINO cannot read it.
    """
    try:
        return openvino.Core().read_model(path)
    except RuntimeError as error:
        raise MeasurementError(f"OpenVINO cannot read {path}: {reason(error)}") from None


def reason(error: Exception) -> str:
    """The last line of OpenVINO's message, which says what is wrong; the lines before it say where in its sources."""
    last = next((line for line in reversed(str(error).splitlines()) if line.strip()), "")
    return last.strip()[:MAX_REASON]


def compile_model(model: openvino.Model, n_threads: int, *, fix_precision: bool = True) -> openvino.CompiledModel:
    """`model` compiled for the CPU: latency hint, one stream, `n_threads` threads, float layers in f32.

    The precision is fixed because OpenVINO silently runs an FP32 model in bf16 where the processor can; without
    `fix_precision` it is left to OpenVINO. A single thread is the caller's own; OpenVINO does not bind it to a core,
    since that undoes what the caller chose, and stays on a core that another process keeps busy.

    Raises:
        MeasurementError: OpenVINO cannot compile the model.
    """
    configuration: dict[str, Any] = {
        hint.performance_mode(): hint.PerformanceMode.LATENCY,
        properties.num_streams(): 1,
        properties.inference_num_threads(): n_threads,
    }
    if n_threads == 1:
        configuration[hint.enable_cpu_pinning()] = False
    if fix_precision:
        configuration[hint.inference_precision()] = openvino.Type.f32
    try:
        return openvino.Core().compile_model(model, "CPU", configuration)
    except RuntimeError as error:
        raise MeasurementError(f"OpenVINO cannot compile the model: {reason(error)}") from None


def random_inputs(model: openvino.Model, seed: int = 0) -> list[npt.NDArray[Any]]:
    """Inputs in [0, 1) (integers: 0 or 1) at the static shapes of `model`; a dynamic batch dimension counts as 1.

    Raises:
        MeasurementError: A dimension other than the first is dynamic.
    """
    rng = np.random.default_rng(seed)
    arrays = []
    for port in model.inputs:
        shape = [1 if i == 0 and d.is_dynamic else d for i, d in enumerate(port.partial_shape)]
        if any(not isinstance(d, int) and d.is_dynamic for d in shape):
            raise MeasurementError(
                f"input {port.any_name} has the dynamic shape {port.partial_shape}; reshape the model to a static one"
            )
        sizes = [d if isinstance(d, int) else d.get_length() for d in shape]
        kind = port.element_type.to_dtype()
        arrays.append(
            rng.random(sizes).astype(kind) if np.issubdtype(kind, np.floating) else rng.integers(0, 2, sizes, kind)
        )
    return arrays


def runner(compiled: openvino.CompiledModel, inputs: list[npt.NDArray[Any]]) -> Callable[[], None]:
    """One inference of a compiled model on fixed inputs, as a call that returns when it is done.

    Raises:
        MeasurementError: The model does not take the inputs.
    """
    request = compiled.create_infer_request()
    try:
        for port, array in zip(compiled.inputs, inputs, strict=True):
            request.set_tensor(port, openvino.Tensor(np.array(array, order="C")))
        request.infer()
    except (RuntimeError, ValueError) as error:
        raise MeasurementError(f"the model does not take the given inputs: {reason(error)}") from None
    return request.infer  # type: ignore[no-any-return]
