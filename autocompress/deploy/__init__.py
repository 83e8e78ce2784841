"""From a compressed module to an OpenVINO model and an ONNX model on disk."""

from autocompress.deploy.export import to_openvino
from autocompress.deploy.files import (
    load_openvino,
    read_tensors,
    save_openvino,
    size_bytes,
    write_tensors,
    zipped_bytes,
)
from autocompress.deploy.onnx_export import write_onnx

__all__ = [
    "load_openvino",
    "read_tensors",
    "save_openvino",
    "size_bytes",
    "to_openvino",
    "write_onnx",
    "write_tensors",
    "zipped_bytes",
]
