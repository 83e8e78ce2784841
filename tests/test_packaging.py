"""The package finds its files from a wheel, from an editable installation and from a bare checkout."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip")
OFFLINE = ("--no-index", "--no-deps", "--quiet", "--disable-pip-version-check")
BUILD = (*OFFLINE, "--no-build-isolation")  # with the setuptools that is installed here

# The package must come from under argv[1], and give its built-in search spaces and task from there.
USE = """
import pathlib, site, sys
home = pathlib.Path(sys.argv[1])
if len(sys.argv) > 2:  # put before the installation that this Python has
    sys.path.insert(0, sys.argv[2])
    for name in [name for name in sys.modules if name.startswith("__editable__")]:
        del sys.modules[name]
    finders = list(sys.meta_path)
    site.addsitedir(sys.argv[2])
    sys.meta_path.sort(key=lambda finder: finder in finders)
import autocompress
from autocompress.space import built_in_spaces, load_space
from autocompress.space.built_in import _folder
from autocompress.tasks import BUILT_IN
assert home in pathlib.Path(autocompress.__file__).parents, autocompress.__file__
assert home in pathlib.Path(str(_folder())).parents, _folder()
task = BUILT_IN["fashion"]()
inputs, targets = next(iter(task.test))
accuracy = task.score(task.model(inputs), targets)
assert accuracy > 0.7, accuracy
print(*built_in_spaces())
"""


def _files(folder: Path) -> set[str]:
    return {
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def _run(*command: str | Path, cwd: Path, search: Path | None = None) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if search:
        environment["PYTHONPATH"] = str(search)
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is under version control that a build reads; nothing is built in the source tree."""
    copy = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in ("autocompress", "search_spaces"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    _run(*PIP, "wheel", *BUILD, "--wheel-dir", target, checkout, cwd=target)
    (file,) = target.glob("*.whl")
    return file


def _spaces() -> str:
    return " ".join(sorted(file.stem for file in (ROOT / "search_spaces").glob("*.yaml")))


def test_every_folder_with_code_is_listed_as_a_package() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {file.parent.relative_to(ROOT) for file in (ROOT / "autocompress").rglob("*.py")}
    found = {".".join(folder.parts) for folder in folders}
    assert sorted(found | {"autocompress.search_spaces"}) == listed


def test_a_bare_checkout_finds_its_files(checkout: Path, tmp_path: Path) -> None:
    assert _run(sys.executable, "-c", USE, checkout, cwd=tmp_path, search=checkout) == _spaces()


def test_the_wheel_holds_every_file_of_the_package(checkout: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")}
        licences = {Path(name).name for name in archive.namelist() if "/licenses/" in name}
    code = {f"autocompress/{name}" for name in _files(checkout / "autocompress")}
    assert packed == code | {f"autocompress/search_spaces/{name}" for name in _files(checkout / "search_spaces")}
    assert licences == {"LICENSE", "NOTICE"}


def test_an_installed_wheel_finds_its_files(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "installed"
    _run(*PIP, "install", *OFFLINE, "--target", home, wheel, cwd=tmp_path)
    assert _run(sys.executable, "-c", USE, home, cwd=tmp_path, search=home) == _spaces()


def test_an_editable_installation_finds_its_files(checkout: Path, tmp_path: Path) -> None:
    home = tmp_path / "prefix"
    _run(*PIP, "install", *BUILD, "--ignore-installed", "--prefix", home, "--editable", checkout, cwd=tmp_path)
    (site_packages,) = home.glob("lib*/python*/site-packages")
    assert _run(sys.executable, "-c", USE, checkout, site_packages, cwd=tmp_path) == _spaces()
