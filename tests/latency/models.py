"""Models to be timed, whose true ratio is known: the same convolution some times in a row."""

from pathlib import Path

import numpy as np
import openvino
from openvino import opset13 as ops


def chain(n: int, channels: int = 16, size: int = 14) -> openvino.Model:
    """`n` equal convolutions in a row."""
    weight = np.random.default_rng(0).standard_normal((channels, channels, 3, 3)).astype(np.float32) / channels
    x = ops.parameter([1, channels, size, size], np.float32, name="x")
    y = x
    for _ in range(n):
        y = ops.relu(ops.convolution(y, ops.constant(weight), [1, 1], [1, 1], [1, 1], [1, 1]))
    return openvino.Model([y], [x], "chain")


def saved(n: int, folder: Path) -> Path:
    """Such a model as a file."""
    path = folder / f"chain{n}.xml"
    openvino.save_model(chain(n), path, compress_to_fp16=False)
    return path
