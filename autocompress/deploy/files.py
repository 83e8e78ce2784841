"""Files of a deployed model: `.xml` with `.bin`, and tensors as safetensors."""

import shutil
from pathlib import Path
from tempfile import mkdtemp

import openvino
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from autocompress.errors import DeployError


def save_openvino(model: openvino.Model, folder: Path, name: str = "model") -> Path:
    """Write `model` as `<name>.xml` and `<name>.bin` in `folder`; returns the path of the `.xml`.

    Both are written elsewhere and renamed: writing over a `.bin` that is memory-mapped kills the process that has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = Path(mkdtemp(prefix=".saving-", dir=folder))
    try:
        openvino.save_model(model, partial / f"{name}.xml", compress_to_fp16=False)
        for suffix in (".bin", ".xml"):
            (partial / f"{name}{suffix}").replace(folder / f"{name}{suffix}")
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder / f"{name}.xml"


def load_openvino(path: Path) -> openvino.Model:
    """The model in an `.xml` (with its `.bin`) or `.onnx` file.

    Raises:
        DeployError: A file is missing or OpenVINO cannot read it.
    """
    if not path.is_file():
        raise DeployError(f"model {path} does not exist; give the path of an .xml or .onnx file")
    if path.suffix == ".xml" and not path.with_suffix(".bin").is_file():
        raise DeployError(f"model {path} has no {path.with_suffix('.bin').name} beside it; copy both files")
    try:
        return openvino.Core().read_model(path)
    except RuntimeError as error:
        first = next((line for line in reversed(str(error).splitlines()) if line.strip()), "")
        raise DeployError(f"OpenVINO cannot read {path}: {first.strip()}") from None


def size_bytes(path: Path) -> int:
    """Bytes of the deployed files: `.xml` and `.bin`, or `.onnx` alone."""
    files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    return sum(file.stat().st_size for file in files)


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors by name as safetensors, in one step."""
    partial = path.with_name(f".{path.name}.partial")
    save_file(tensors, partial)
    partial.replace(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name.

    Raises:
        DeployError: The file is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DeployError(f"weights {path} cannot be read: {error}") from None
