"""From a compressed module to an OpenVINO model and an ONNX model on disk.

`onnx_export` is not imported here: what it needs takes a second to import, and a search exports one model to ONNX.
"""

from autocompress.deploy.export import to_openvino
from autocompress.deploy.files import (
    load_openvino,
    read_tensors,
    save_openvino,
    size_bytes,
    write_tensors,
    zipped_bytes,
)

__all__ = [
    "load_openvino",
    "read_tensors",
    "save_openvino",
    "size_bytes",
    "to_openvino",
    "write_tensors",
    "zipped_bytes",
]
