"""Exact bytes of the files of a deployed model, before they are written."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import openvino

NAME = "model"  # as `save_openvino` names it


def deployed_size(model: openvino.Model) -> int:
    """Bytes of the `.xml` and the `.bin` that `save_openvino` would write for `model`.

    OpenVINO writes them into memory where the system has files there (Linux); elsewhere into a folder that is deleted.

    Args:
        model: Deployed model; not changed.

    Returns:
        What `size_bytes` gives for the saved files.
    """
    return sum(file_sizes(model))


def file_sizes(model: openvino.Model) -> tuple[int, int]:
    """Bytes of the `.xml` and of the `.bin`, as in `deployed_size`."""
    with TemporaryDirectory(prefix="autocompress-") as folder:
        files = [Path(folder) / f"{NAME}{suffix}" for suffix in (".xml", ".bin")]
        handles = [_in_memory(file) for file in files] if hasattr(os, "memfd_create") else []
        try:
            openvino.save_model(model, files[0], compress_to_fp16=False)
            xml, binary = (file.stat().st_size for file in files)
        finally:
            for handle in handles:
                os.close(handle)
    return xml, binary


def _in_memory(path: Path) -> int:
    """Make `path` lead to a new file in memory, which lives until the handle that is returned is closed."""
    handle = os.memfd_create(path.name)
    path.symlink_to(f"/proc/self/fd/{handle}")
    return handle
