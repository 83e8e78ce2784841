"""Data for the examples are there whole or not at all, and a sentence says why not; no network is used."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from examples import fetch as fetching
from examples.fetch import PACKAGES, FetchError, Package, cached, fetch

SCRIPT = Path(fetching.__file__)
FILES = {
    "package/index.json": b"[1]",
    "package/img/a.png": b"a",
    "package/img/b.png": b"b" * 2000,
    "package/sheets/large.png": b"not wanted",
}
WANTED = ("package/index.json", "package/img/")
UNPACKED = {"index.json": b"[1]", "img/a.png": b"a", "img/b.png": b"b" * 2000}


def tarball(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def wheel(path: Path) -> Path:
    info = "toy-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def npm(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Gives the package `toy` of npm; call it with what npm shall do, in sh, for a file $archive and a folder $to."""
    archive = tarball(tmp_path / "toy-1.0.tgz")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(PACKAGES, "toy", Package("npm", "1.0", digest, WANTED, 0.1, "MIT"))
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.defpath}")

    def install(commands: str) -> None:
        start = (
            f'archive={archive}\nfor word; do case "$word" in --pack-destination=*) to="${{word#*=}}";; esac; done\n'
        )
        (folder / "npm").write_text(f"#!/bin/sh\n{start}{commands}\n")
        (folder / "npm").chmod(0o755)

    return install


def test_only_wanted_files_of_an_npm_package_are_unpacked(npm: Callable[[str], None]) -> None:
    npm('cp "$archive" "$to"')
    folder = fetch("toy")
    assert contents(folder) == UNPACKED
    assert cached("toy") == folder and [path.name for path in folder.parent.iterdir()] == ["toy-1.0"]


def test_only_wanted_files_of_a_wheel_are_unpacked(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index").mkdir()
    archive = wheel(tmp_path / "index" / "toy-1.0-py3-none-any.whl")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(PACKAGES, "toy", Package("pip", "1.0", digest, WANTED, 0.1, "MIT"))
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(archive.parent), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    assert contents(fetch("toy")) == UNPACKED


def test_what_was_fetched_is_not_downloaded_again(npm: Callable[[str], None]) -> None:
    npm('cp "$archive" "$to"')
    folder = fetch("toy")
    npm("exit 1")
    assert fetch("toy") == folder


@pytest.mark.parametrize(
    ("commands", "message"),
    [
        pytest.param('echo other > "$to/toy-1.0.tgz"', "the SHA-256 of toy-1.0.tgz must be", id="another-file"),
        pytest.param('head -c 200 "$archive" > "$to/toy-1.0.tgz"', "the SHA-256 of toy-1.0.tgz", id="half-a-file"),
        pytest.param(
            'head -c 200 "$archive" > "$to/toy-1.0.tgz"; echo "npm error code E\nnpm error it failed: x" >&2; exit 1',
            "npm cannot download toy 1.0: it failed: x; connect",
            id="broken-off",
        ),
        pytest.param("exit 0", "npm cannot download toy 1.0: no file came", id="nothing"),
    ],
)
def test_a_failed_download_leaves_nothing(npm: Callable[[str], None], cache: Path, commands: str, message: str) -> None:
    npm(commands)
    with pytest.raises(FetchError, match=message):
        fetch("toy")
    assert cached("toy") is None and contents(cache) == {}
    npm('cp "$archive" "$to"')
    assert contents(fetch("toy")) == UNPACKED


def test_an_interrupted_unpacking_leaves_nothing(
    npm: Callable[[str], None], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npm('cp "$archive" "$to"')
    files = fetching._files

    def interrupted(*arguments: object) -> object:
        yield next(files(*arguments))  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "_files", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch("toy")
    assert cached("toy") is None and contents(cache) == {}
    assert contents(fetch("toy")) == UNPACKED


def test_what_a_killed_process_left_is_not_taken_for_the_whole(npm: Callable[[str], None], cache: Path) -> None:
    left = cache / "autocompress" / "data" / ".fetching-dead" / "files"
    left.mkdir(parents=True)
    (left / "index.json").write_bytes(b"[")
    npm('cp "$archive" "$to"')
    assert cached("toy") is None
    assert contents(fetch("toy")) == UNPACKED


def test_another_process_may_be_faster(npm: Callable[[str], None], cache: Path) -> None:
    folder = cache / "autocompress" / "data" / "toy-1.0"
    npm(f'cp "$archive" "$to"; mkdir {folder}; echo x > {folder}/theirs')
    assert contents(fetch("toy")) == {"theirs": b"x\n"}


def test_a_missing_npm_is_said(npm: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match="npm is needed to download toy, but is not on the PATH; install Node.js"):
        fetch("toy")


def test_a_missing_pip_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.distributions", lambda **name: iter(()))
    with pytest.raises(FetchError, match="pip is needed to download nilearn, but this Python has none"):
        fetch("nilearn")


def test_an_unknown_package_is_refused(cache: Path) -> None:
    for function in (fetch, cached):
        with pytest.raises(FetchError, match="package must be one of deepforest, .*, but got 'emojis'"):
            function("emojis")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


def test_help_names_every_package_with_size_and_licence() -> None:
    printed = run("--help").stdout
    for name, package in PACKAGES.items():
        (line,) = (line for line in printed.splitlines() if line.split()[:1] == [name])
        assert f"{package.megabytes:g} MB" in line and package.licence in line


def test_the_script_says_in_a_sentence_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    unknown, missing = run("emojis"), run("emoji-datasource-google")
    assert unknown.returncode == 2 and "invalid choice: 'emojis'" in unknown.stderr
    assert missing.returncode == 1 and missing.stderr.startswith("fetch.py: npm is needed to download emoji-")
    assert missing.stderr.count("\n") == 1


def test_every_package_says_what_it_is() -> None:
    for package in PACKAGES.values():
        assert package.client in ("pip", "npm") and package.wanted and package.licence
        assert len(package.sha256) == 64 and int(package.sha256, 16)
