"""Post-training quantization by NNCF and by us: the same model, the same calibration samples."""

import contextlib
import copy
import logging
import sys
import time
from dataclasses import dataclass
from typing import Any

import openvino
import torch
from torch import nn

from autocompress import quantize
from autocompress.compress import CompressedModel
from autocompress.deploy import to_openvino
from autocompress.task import Batch, flatten
from examples.benchmarks.cases import Case


@dataclass(frozen=True)
class Quantized:
    """What a contender made.

    Attributes:
        model: To be deployed.
        ptq_seconds: Of quantizing, calibration included; None for the FP32 model.
        export_seconds: Of converting from torch to OpenVINO; None where the model was quantized in OpenVINO.
        module: The torch module, ready for training, where there is one.
    """

    model: openvino.Model
    ptq_seconds: float | None = None
    export_seconds: float | None = None
    module: nn.Module | None = None


def ours(
    model: nn.Module, example_input: Any, batches: list[Batch], weight_bits: int, activation_bits: int = 8
) -> tuple[openvino.Model, float, CompressedModel]:
    """Quantize every layer that can be.

    Args:
        model: FP32 module; not changed.
        example_input: Inputs of one inference.
        batches: Calibration batches of (inputs, targets).
        weight_bits: 2..8.
        activation_bits: 2..8.

    Returns:
        The deployed model, seconds of quantizing with calibration, the compressed model.
    """
    start = time.perf_counter()
    compressed = quantize(model, example_input, batches, weight_bits=weight_bits, activation_bits=activation_bits)
    seconds = time.perf_counter() - start
    with compressed.export_form() as module:
        return to_openvino(module, example_input), seconds, compressed


def quantize_ours(case: Case, weight_bits: int) -> Quantized:
    """Our INT8 activations with `weight_bits` weights."""
    start = time.perf_counter()
    model, seconds, compressed = ours(case.task.model, case.task.example_input, case.calibration, weight_bits)
    return Quantized(model, seconds, time.perf_counter() - start - seconds, compressed.module)


def quantize_nncf_torch(case: Case) -> Quantized:
    """`nncf.quantize` with its defaults on the torch module, then `openvino.convert_model`."""
    model = copy.deepcopy(case.task.model).eval()
    samples = case.calibration_samples
    start = time.perf_counter()
    quantized = _nncf(model, samples, case)
    middle = time.perf_counter()
    with torch.no_grad():
        deployed = openvino.convert_model(quantized, example_input=case.task.example_input)
    tensors = flatten(case.task.example_input)
    deployed.reshape({port: list(tensor.shape) for port, tensor in zip(deployed.inputs, tensors, strict=True)})
    return Quantized(deployed, middle - start, time.perf_counter() - middle, quantized)


def quantize_nncf_openvino(case: Case) -> Quantized:
    """`nncf.quantize` with its defaults on the converted FP32 model."""
    model = to_openvino(case.task.model, case.task.example_input)
    names = [port.any_name for port in model.inputs]
    arrays = [[tensor.numpy() for tensor in flatten(inputs)] for inputs in case.calibration_samples]
    samples = [dict(zip(names, row, strict=True)) for row in arrays]
    start = time.perf_counter()
    quantized = _nncf(model, samples, case)
    return Quantized(quantized, time.perf_counter() - start)


def _nncf(model: Any, samples: list[Any], case: Case) -> Any:
    import nncf  # type: ignore[import-untyped]

    kind = nncf.ModelType.TRANSFORMER if case.is_transformer else None
    with contextlib.redirect_stdout(sys.stderr):  # its progress bars
        return nncf.quantize(model, nncf.Dataset(samples), subset_size=len(samples), model_type=kind)


def quantize_float(case: Case) -> Quantized:
    """The FP32 model as it is."""
    start = time.perf_counter()
    model = to_openvino(case.task.model, case.task.example_input)
    return Quantized(model, None, time.perf_counter() - start, case.task.model)


FLOAT, NNCF_TORCH, NNCF_OPENVINO = "FP32", "NNCF, torch", "NNCF, OpenVINO"
OURS_8, OURS_7, OURS_4 = "ours W8A8", "ours W7A8", "ours W4A8"
OURS = {OURS_8: 8, OURS_7: 7, OURS_4: 4}  # weight bits
NNCF = (NNCF_TORCH, NNCF_OPENVINO)


def contenders() -> dict[str, Any]:
    """Functions from a case to what a contender makes of it, by row name; FP32 first."""
    mine = {name: (lambda case, bits=bits: quantize_ours(case, bits)) for name, bits in OURS.items()}
    return {FLOAT: quantize_float, NNCF_TORCH: quantize_nncf_torch, NNCF_OPENVINO: quantize_nncf_openvino, **mine}


def prepare_nncf() -> str:
    """Have NNCF's C++ extension for torch built, so that no measured time holds it; returns what it took, a sentence.

    NNCF builds it within the first quantization of a torch model on a machine, and gives up after 60 seconds.
    """
    import nncf.torch  # type: ignore[import-untyped]
    import nncf.torch.quantization.extensions  # type: ignore[import-untyped]  # registers what is to be built

    logging.getLogger("nncf").setLevel(logging.ERROR)
    start = time.perf_counter()
    nncf.torch.force_build_cpu_extensions()
    return f"Loading NNCF's torch extension took {time.perf_counter() - start:.1f} s, which no time below includes."
