"""ONNX with QuantizeLinear / DequantizeLinear: inputs from the exporter, weights stored as int8 by us."""

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from autocompress.deploy.export import FlatModule, input_names
from autocompress.errors import DeployError
from autocompress.task import flatten

_TOLERANCE = 1e-3  # of a grid step; fused weights are still on their grid up to float32 rounding
Indices = dict[str, npt.NDArray[np.int8]]


def write_onnx(module: nn.Module, example_input: Any, weight_indices: dict[str, Tensor], path: Path) -> None:
    """Write `module` as ONNX at the shapes of its example input.

    Args:
        module: Evaluation mode, weights frozen on their grids, input quantizers in export form.
        example_input: Inputs of one inference.
        weight_indices: Grid indices in [-127, 127] of each quantized weight, by layer name.
        path: File to write; replaced in one step.

    Raises:
        DeployError: The exporter cannot follow the module.
    """
    tensors = tuple(flatten(example_input))
    try:
        with warnings.catch_warnings(), _quiet(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                FlatModule(module, example_input).eval(),
                tensors,
                dynamo=True,
                verbose=False,
                input_names=input_names(module, example_input),
            )
    except Exception as error:  # the exporter raises whatever the user's forward makes it meet
        first = (str(error).strip().splitlines() or [""])[0]
        raise DeployError(f"torch.onnx.export cannot follow the model: {first}") from error
    if program is None:
        raise DeployError("torch.onnx.export returned nothing")
    model = program.model_proto
    store_integer_weights(model, {f"module.{name}.weight": i.numpy() for name, i in weight_indices.items()})
    onnx.checker.check_model(model)
    partial = path.with_name(f".{path.name}.partial")
    onnx.save_model(model, str(partial))
    partial.replace(path)


@contextlib.contextmanager
def _quiet() -> Any:
    """Silence the exporter's chatter about optional packages."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def store_integer_weights(model: onnx.ModelProto, weight_indices: Indices) -> list[str]:
    """Replace float weights by int8 and a DequantizeLinear, in place.

    The exporter may have multiplied a weight by its batch norm, which scales whole output channels and so keeps it
    on a grid: the step of each channel is the one that maps the known indices to the stored floats.

    Args:
        model: Exported model.
        weight_indices: Grid indices by name of initializer; output channels first.

    Returns:
        Names of the initializers that were replaced; one that is on no such grid is left as floats.
    """
    replaced = []
    graph = model.graph
    floats = {tensor.name: tensor for tensor in graph.initializer}
    for name, indices in weight_indices.items():
        if name not in floats:
            continue
        weight = numpy_helper.to_array(floats[name])
        fitted = _fit_scale(weight, indices)
        if fitted is None:
            continue
        integers, scale = fitted
        graph.initializer.remove(floats[name])
        graph.initializer.append(numpy_helper.from_array(integers, f"{name}_int8"))
        graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
        node = onnx.helper.make_node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], axis=0)
        graph.node.insert(0, node)
        replaced.append(name)
    return replaced


def _fit_scale(
    weight: npt.NDArray[np.float32], indices: npt.NDArray[np.int8]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]] | None:
    """Indices and a positive step a channel that give `weight` back, or None."""
    if weight.shape != indices.shape:
        return None
    flat, grid = (
        weight.reshape(len(weight), -1).astype(np.float64),
        indices.reshape(len(indices), -1).astype(np.float64),
    )
    squared = (grid**2).sum(axis=1)
    scale = np.where(squared > 0, (flat * grid).sum(axis=1) / np.maximum(squared, 1), 0.0)
    if np.abs(flat - grid * scale[:, None]).max(initial=0) > _TOLERANCE * np.abs(scale).max(initial=0):
        return None
    signs = np.where(scale < 0, -1, 1)
    integers = (grid * signs[:, None]).astype(np.int8).reshape(indices.shape)
    return integers, np.maximum(np.abs(scale), 1e-30).astype(np.float32)
