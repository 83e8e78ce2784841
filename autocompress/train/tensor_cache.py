"""A cache on disk for what a deterministic module computes: keys by content, a safetensors file an entry."""

import hashlib
import itertools
import json
import os
import uuid
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from autocompress.task import flatten

MAX_STORED_WITHOUT_HIT = 2000  # entries; more of them without one that is wanted again means freshly augmented data
_DIGEST_BYTES = 16
_ORDERS = "checksum and orders of strides"  # key in the metadata of a file
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout)


def batch_key(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Digest of all that the outputs of a deterministic module depend on, beside the module.

    That is the content of the arguments, as for `content_digest`, and what makes torch round differently: its version,
    the instruction set, the number of threads, autocast.

    Returns:
        Hexadecimal digits; None where an argument is of a class whose content cannot be told.
    """
    circumstances = _circumstances(flatten((args, kwargs)))
    return content_digest((args, kwargs, circumstances))


def _circumstances(inputs: list[Tensor]) -> tuple[Any, ...]:
    """What makes the same torch operation on the same values round differently."""
    kinds = [
        kind for kind in sorted({t.device.type for t in inputs} | {"cpu"}) if torch.amp.is_autocast_available(kind)
    ]
    autocast = [(kind, torch.get_autocast_dtype(kind)) for kind in kinds if torch.is_autocast_enabled(kind)]
    instructions = torch.backends.cpu.get_cpu_capability()
    return str(torch.__version__), instructions, torch.get_num_threads(), torch.get_float32_matmul_precision(), autocast


def content_digest(value: Any) -> str | None:
    """BLAKE2b of a nested structure: of tensors content, dtype, shape, order of strides and kind of device.

    A dense tensor is hashed where it lies, whatever the order of its strides.

    Args:
        value: Dicts, tuples and lists of tensors, arrays and plain values.

    Returns:
        32 hexadecimal digits; None where an object is of another class, since its `repr` may well be that of another
        object.

    >>> content_digest([1, "a"]) == content_digest([1, "a"]) != content_digest((1, "a"))
    True
    >>> content_digest(object()) is None
    True
    """
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    try:
        _absorb(digest, value)
    except _UnknownContentError:
        return None
    return digest.hexdigest()


class _UnknownContentError(Exception):
    """A value is of a class that says nothing reliable about its content."""


def _absorb(digest: "hashlib.blake2b", value: Any) -> None:
    """Feed `value` into `digest` so that different values never feed the same bytes.

    Raises:
        _UnknownContentError: It holds an object of an unknown class.
    """
    if isinstance(value, Tensor):
        _absorb_tensor(digest, value)
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        digest.update(f"array {value.dtype.descr} {value.shape};".encode())
        digest.update(value.tobytes())
    elif isinstance(value, dict | tuple | list):
        digest.update(f"{type(value).__name__} {len(value)};".encode())
        for item in itertools.chain.from_iterable(value.items()) if isinstance(value, dict) else value:
            _absorb(digest, item)
    elif isinstance(value, _PLAIN):
        digest.update(f"{type(value).__name__} {value!r};".encode())
    else:
        raise _UnknownContentError


def _absorb_tensor(digest: "hashlib.blake2b", tensor: Tensor) -> None:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        raise _UnknownContentError
    order = _stride_order(tensor)
    digest.update(f"tensor {tensor.dtype} {tuple(tensor.shape)} {order} {tensor.device.type};".encode())
    digest.update(_bytes_of(tensor.detach().permute(order).resolve_conj().resolve_neg().cpu()))


def _stride_order(tensor: Tensor) -> tuple[int, ...]:
    """Axes from the slowest to the fastest in memory; permuted so, a dense tensor is contiguous."""
    strides = tensor.stride()
    return tuple(sorted(range(tensor.dim()), key=lambda axis: -strides[axis]))


def _bytes_of(tensor: Tensor) -> memoryview:
    """Bytes of a CPU tensor in the order of its axes; without a copy if it is contiguous."""
    if not tensor.numel():
        return memoryview(b"")
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def dense(tensor: Tensor) -> Tensor:
    """`tensor` detached, with its order of strides but without gaps, just as it would come from the cache."""
    order = _stride_order(tensor)
    permuted = tensor.detach().permute(order).contiguous()
    return _permuted_back(permuted.reshape(-1).view(permuted.shape), order)


def _permuted_back(tensor: Tensor, order: tuple[int, ...]) -> Tensor:
    return tensor.permute([order.index(axis) for axis in range(len(order))])


@dataclass
class TensorCache:
    """Tensors by name, a file `folder/<key>.safetensors` an entry; several processes may share the folder.

    Files are written elsewhere and renamed. Nothing is stored once the limit is reached, once
    `MAX_STORED_WITHOUT_HIT` entries were stored of which none was wanted again, or once writing has failed.

    Attributes:
        folder: Made with the first entry.
        root: The folder, or one above it, whose size is limited.
        max_bytes: Limit of the size of all files in `root`; each process counts what it finds before its first entry
            and what it writes itself.
    """

    folder: Path
    root: Path
    max_bytes: int
    _held_bytes: int | None = field(default=None, init=False)
    _n_stored: int = field(default=0, init=False)
    _had_hit: bool = field(default=False, init=False)
    _is_broken: bool = field(default=False, init=False)

    def read(self, key: str) -> dict[str, Tensor] | None:
        """Tensors stored for `key`, memory-mapped, laid out as `dense` gives them.

        Returns:
            Tensors on the CPU by name, in the order in which they were written; None where nothing is stored or the
            file is damaged.
        """
        try:
            found = _read(self._path(key))
        except (OSError, SafetensorError, LookupError, ValueError, TypeError, RuntimeError):
            return None
        self._had_hit = True
        return found

    def write(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Store tensors on any device, if there is room and it has proved of use; never fails."""
        if self._is_broken or (self._n_stored >= MAX_STORED_WITHOUT_HIT and not self._had_hit):
            return
        try:
            if self._held_bytes is None:
                self._held_bytes = _folder_bytes(self.root)
            if self._held_bytes + sum(t.numel() * t.element_size() for t in tensors.values()) > self.max_bytes:
                return
            self._held_bytes += _write(self._path(key), tensors)
            self._n_stored += 1
        except (OSError, SafetensorError, LookupError, ValueError, TypeError, RuntimeError):
            self._is_broken = True

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def _folder_bytes(folder: Path) -> int:
    """Bytes of the files in `folder` and below; a file that another process removes meanwhile does not count."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


def _write(path: Path, tensors: dict[str, Tensor]) -> int:
    """Write and rename; returns the bytes of the file."""
    orders = {name: _stride_order(tensor) for name, tensor in tensors.items()}
    laid_out = {name: t.permute(orders[name]).cpu().clone() for name, t in tensors.items()}  # none may share memory
    written = json.dumps(orders)
    metadata = {_ORDERS: f"{_checksum(written, laid_out)} {written}"}  # safetensors writes several in any order
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.{uuid.uuid4().hex}.partial")
    try:
        save_file(laid_out, partial, metadata)
        n_bytes = partial.stat().st_size
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return n_bytes


def _read(path: Path) -> dict[str, Tensor]:
    """What `_write` wrote.

    Raises:
        ValueError: The file is damaged; other errors of files, safetensors and JSON say the same.
    """
    with safe_open(path, framework="pt") as file:
        checksum, written = file.metadata()[_ORDERS].split(" ", maxsplit=1)
        orders: dict[str, list[int]] = json.loads(written)
        tensors = {name: file.get_tensor(name) for name in orders}
    if _checksum(written, tensors) != int(checksum):
        raise ValueError(f"{path} is damaged")
    return {name: _permuted_back(tensor, tuple(orders[name])) for name, tensor in tensors.items()}


def _checksum(orders: str, tensors: dict[str, Tensor]) -> int:
    """CRC-32 of all values; safetensors itself notices only files that are too short or have a bad header."""
    checksum = zlib.crc32(orders.encode())
    for tensor in tensors.values():
        checksum = zlib.crc32(_bytes_of(tensor), checksum)
    return checksum
