"""Exchanging two folders by one system call, so that neither name is ever without a whole folder."""

import ctypes
import os
from pathlib import Path

_HERE = -100  # AT_FDCWD: paths are relative to the working folder
_SWAP = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS


def exchange(a: Path, b: Path) -> bool:
    """Let two existing names of one file system change places, in one step.

    Uses renameat2 of Linux (3.15) or renamex_np of macOS (10.12).

    Returns:
        Whether it was done; False where the system or the file system cannot.
    """
    system = ctypes.CDLL(None)
    first, second = os.fsencode(a), os.fsencode(b)
    if hasattr(system, "renameat2"):
        return bool(system.renameat2(_HERE, first, _HERE, second, _SWAP) == 0)
    if hasattr(system, "renamex_np"):
        return bool(system.renamex_np(first, second, _SWAP) == 0)
    return False
