"""ONNX with QuantizeLinear / DequantizeLinear: inputs from the exporter, weights stored as integers by us."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxscript import FLOAT, INT32, ir, opset18
from torch import Tensor, nn

from autocompress.deploy.export import FlatModule, input_names
from autocompress.deploy.onnx_weights import QuantizedWeight, StoredWeight, lay_out_transposed, store_integer_weights
from autocompress.errors import DeployError
from autocompress.task import flatten

OPSET = 21  # the first with 4-bit integers and with steps for blocks of an axis
_TRACED_BATCH = 2  # the exporter takes a batch of 1 for a constant


def write_onnx(
    module: nn.Module,
    example_input: Any,
    weights: Mapping[str, QuantizedWeight],
    path: Path,
    *,
    dynamic_batch: bool = False,
) -> dict[str, StoredWeight]:
    """Write `module` as ONNX.

    Args:
        module: Evaluation mode, weights frozen on their grids, input quantizers in export form.
        example_input: Inputs of one inference.
        weights: Quantized weights by layer name.
        path: File to write; replaced in one step.
        dynamic_batch: Whether the first axis of every input is the symbolic `batch`, for any number of samples;
            otherwise the shapes are those of the example input.

    Returns:
        How each of `weights` is stored in the file, by layer name.

    Raises:
        DeployError: The exporter cannot follow the module, or its inputs have no common batch.
    """
    names = input_names(module, example_input)
    tensors = tuple(flatten(example_input))
    shapes = None
    if dynamic_batch:
        tensors, shapes = _batched(dict(zip(names, tensors, strict=True)))
    program = _export(FlatModule(module, example_input).eval(), tensors, names, shapes)
    if dynamic_batch:
        _check_symbolic(program.model)
    named = {name: _initializer_names(module, name) for name in weights}
    lay_out_transposed(program.model, {initializer for initializers in named.values() for initializer in initializers})
    with _quiet():
        program.optimize()
    stored = store_integer_weights(program.model, weights, named)
    model = program.model_proto
    onnx.checker.check_model(model)
    partial = path.with_name(f".{path.name}.partial")
    onnx.save_model(model, str(partial))
    partial.replace(path)
    return stored


def _export(module: nn.Module, tensors: tuple[Tensor, ...], names: list[str], shapes: Any) -> torch.onnx.ONNXProgram:
    """What the exporter makes of `module`, before it optimizes."""
    try:
        with _quiet(), torch.no_grad(), _shape_functions():
            program = torch.onnx.export(
                module,
                tensors,
                dynamo=True,
                verbose=False,
                optimize=False,
                opset_version=OPSET,
                input_names=names,
                dynamic_shapes=shapes,
                custom_translation_table={
                    torch.ops.aten.fake_quantize_per_channel_affine.default: _fake_quantize_channels
                },
            )
    except Exception as error:  # the exporter raises whatever the user's forward makes it meet
        raise DeployError(
            f"torch.onnx.export cannot follow the model: {_first_line(error)}; check that "
            f"torch.onnx.export(model, example_input, dynamo=True) works on your FP32 model"
            f"{', with a batch of any size' if shapes else ''}"
        ) from error
    if program is None:
        raise DeployError("torch.onnx.export must return a program, but returned None; update torch")
    return program


def _fake_quantize_channels(
    x: FLOAT, scale: FLOAT, zero_point: INT32, axis: int, quant_min: int, quant_max: int
) -> FLOAT:
    """Fake quantization of an input with a range for each channel, indices in [0, 255].

    Without a DequantizeLinear, since onnxruntime would fuse it into a kernel that takes one range only and then fail.
    """
    op: Any = opset18
    n_axes = len(x.shape)  # type: ignore[arg-type]
    zero = op.Cast(zero_point, to=int(ir.DataType.UINT8))
    indices = op.Cast(op.QuantizeLinear(x, scale, zero, axis=axis), to=int(ir.DataType.FLOAT))
    shape = op.Constant(value_ints=[-1] + [1] * (n_axes - axis - 1))
    zeros = op.Reshape(op.Cast(zero_point, to=int(ir.DataType.FLOAT)), shape)
    output: FLOAT = op.Mul(op.Sub(indices, zeros), op.Reshape(scale, shape))
    return output


def _first_line(error: BaseException) -> str:
    """The first line of what caused `error`, since the exporter wraps it in advice for its own developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {line}"


def _batched(inputs: dict[str, Tensor]) -> tuple[tuple[Tensor, ...], Any]:
    """Inputs of more than one sample, and the symbolic shapes for `FlatModule`.

    Raises:
        DeployError: The first axes of the inputs differ.
    """
    sizes = {name: len(tensor) if tensor.dim() else 0 for name, tensor in inputs.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        described = ", ".join(f"{name}: {size or 'none'}" for name, size in sizes.items())
        raise DeployError(
            f"a dynamic batch needs inputs with the same number of samples, but got {described}; export a fixed batch"
        )
    batch = torch.export.Dim("batch")
    tensors = tuple(
        torch.cat([tensor] * _TRACED_BATCH) if len(tensor) < _TRACED_BATCH else tensor for tensor in inputs.values()
    )
    return tensors, (tuple({0: batch} for _ in tensors),)


def _check_symbolic(model: ir.Model) -> None:
    """Check that the exporter has kept the batch symbolic.

    Raises:
        DeployError: The model works for one batch only.
    """
    for value in model.graph.inputs:
        if value.shape is not None and isinstance(value.shape[0], int):
            raise DeployError(
                f"a dynamic batch needs a model for any number of samples, but its forward fixes that of "
                f"{value.name} to {value.shape[0]}; write -1 or x.shape[0] there, or export a fixed batch"
            )


def _initializer_names(module: nn.Module, layer: str) -> list[str]:
    """Names that the exporter may give to the weight of `layer`: those of every layer that holds the same tensor."""
    weight = module.get_submodule(layer).weight
    return [f"module.{name}" for name, tensor in module.state_dict(keep_vars=True).items() if tensor is weight]


@contextlib.contextmanager
def _shape_functions() -> Iterator[None]:
    """Tell torch the shapes that `torch.fake_quantize_*` gives; it lacks that for a symbolic batch."""
    library = torch.library.Library("aten", "IMPL", "Meta")  # type: ignore[no-untyped-call]
    for kind in ("tensor", "channel"):
        library.impl(f"fake_quantize_per_{kind}_affine_cachemask", _shapes_of_fake_quantize)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        del library  # which takes them back


def _shapes_of_fake_quantize(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x, dtype=torch.bool)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings, and the exporter's chatter about optional packages."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
