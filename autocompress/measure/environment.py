"""Where numbers are measured: processor, versions, and whether 8-bit arithmetic saturates."""

import os
import platform
from functools import cache
from importlib.metadata import version

import numpy as np
import openvino
import torch
from openvino import opset13 as ops

from autocompress.errors import MeasurementError
from autocompress.latency import compile_model
from autocompress.measurement import Environment

_PACKAGES = ("openvino", "torch", "optuna", "onnx", "torch-pruning", "numpy")


def describe_environment(n_threads: int) -> Environment:
    """The processor that this process runs on, for latencies measured with `n_threads` threads.

    Raises:
        MeasurementError: There are not that many cores.
    """
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not 1 <= n_threads <= n_cores:
        raise MeasurementError(f"threads must be in 1..{n_cores}, the cores that may be used here, but got {n_threads}")
    core = openvino.Core()
    return Environment(
        cpu=_cpu_name(core),
        capabilities=tuple(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
        n_cores=n_cores,
        inference_threads=n_threads,
        int8_saturates=int8_saturates(),
        versions={"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    )


def _cpu_name(core: openvino.Core) -> str:
    """Processor name and its vector instructions, which say more than a virtual machine's bare name."""
    name = str(core.get_property("CPU", "FULL_DEVICE_NAME")).strip()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


@cache
def int8_saturates() -> bool:
    """Whether 8-bit weights times 8-bit activations overflow the 16-bit sums of this processor's kernels.

    Runs a convolution of the largest weights and activations, whose exact result is known. Processors without VNNI or
    AMX add pairs of products in 16 bits with saturation; 7-bit weights are safe there.
    """
    n_inputs, largest = 64, 127
    x = ops.parameter([1, n_inputs, 8, 8], np.float32)
    levels = [np.float32(0), np.float32(255), np.float32(0), np.float32(255)]
    quantized = ops.fake_quantize(x, *levels, 256)
    integers = ops.constant(np.full((32, n_inputs, 3, 3), largest, np.int8))
    weight = ops.multiply(ops.convert(integers, "f32"), ops.constant(np.float32(1)))
    y = ops.convolution(quantized, weight, [1, 1], [0, 0], [0, 0], [1, 1])
    compiled = compile_model(openvino.Model([y], [x], "saturation"), n_threads=1)
    measured = compiled(np.full((1, n_inputs, 8, 8), 255, np.float32))[0]
    exact = 255.0 * largest * n_inputs * 9
    return bool(np.abs(measured / exact - 1).max() > 0.01)


def default_weight_bits() -> int:
    """Bits of weights that are exact on this processor: 7 where 8 saturate, else 8."""
    return 7 if int8_saturates() else 8
