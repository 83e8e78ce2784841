"""Files of a deployed model: `.xml` with `.bin`, and tensors as safetensors."""

import shutil
import zlib
from pathlib import Path
from tempfile import mkdtemp

import onnx
import openvino
from google.protobuf.message import DecodeError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from autocompress.errors import DeployError
from autocompress.latency import reason

ZIP_LEVEL = 6  # of DEFLATE, what zip and zipfile take by default; takes 1.5 s for 50 MB of floats
_CHUNK_BYTES = 1 << 20
_HEAD_BYTES = 4096


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
        DeployError: A file is missing, is of another kind, or OpenVINO cannot read it.
    """
    if path.suffix not in _READABLE:
        raise DeployError(f"a model must be an .xml or .onnx file, but got {path}")
    if not path.is_file():
        raise DeployError(f"model {path} does not exist; give the path of an .xml or .onnx file")
    if path.suffix == ".xml" and not path.with_suffix(".bin").is_file():
        raise DeployError(f"model {path} has no {path.with_suffix('.bin').name} beside it; copy both files")
    if not _READABLE[path.suffix](path):  # OpenVINO would try the readers of all its formats, which fill the terminal
        raise DeployError(f"OpenVINO cannot read {path}: it is not {_FORMATS[path.suffix]}; copy or export it again")
    try:
        return openvino.Core().read_model(path)
    except RuntimeError as error:
        raise DeployError(
            f"OpenVINO {openvino.get_version().partition('-')[0]} cannot read {path}: {reason(error).strip(' -.!')}; "
            "if the file is whole, export the model again with standard operations"
        ) from None


def _is_ir(path: Path) -> bool:
    """Whether the file begins as OpenVINO's XML does."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return b"<net" in head and b"<layer" in head


def _is_onnx(path: Path) -> bool:
    """Whether the file holds an ONNX graph; weights in other files are not looked at."""
    try:
        return bool(onnx.load(path, load_external_data=False).graph.node)
    except DecodeError:
        return False


_READABLE = {".xml": _is_ir, ".onnx": _is_onnx}
_FORMATS = {".xml": "a model of OpenVINO", ".onnx": "an ONNX model"}


def size_bytes(path: Path) -> int:
    """Bytes of the deployed files: `.xml` and `.bin`, or `.onnx` alone."""
    return sum(file.stat().st_size for file in _files(path))


def zipped_bytes(path: Path) -> int:
    """Bytes of the same files in a zip archive, the entries of its directory (about 100 bytes a file) not counted.

    Each file is compressed by DEFLATE at level 6, 1 MB at a time, and not written anywhere. Runs of zeros take next to
    nothing there, so this is the size in which sparse weights show.
    """
    return sum(_deflated_bytes(file) for file in _files(path))


def _files(path: Path) -> list[Path]:
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def _deflated_bytes(path: Path) -> int:
    """Bytes of one file after raw DEFLATE, as in a zip archive."""
    compressor = zlib.compressobj(ZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    with path.open("rb") as file:
        n_bytes = sum(len(compressor.compress(chunk)) for chunk in iter(lambda: file.read(_CHUNK_BYTES), b""))
    return n_bytes + len(compressor.flush())


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
