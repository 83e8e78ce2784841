"""Imports go down: the layer table of the design, enforced on the source."""

import ast
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "autocompress"

# Part of the package -> level; a module may import from parts of a lower level only, and freely inside its own part.
LEVELS = {
    "errors": 0,
    "processes": 5,
    "recipe_parts": 9,
    "recipe": 10,
    "measurement": 11,
    "task": 12,
    "cpu_probe": 12,
    "notebook": 12,
    "explanation": 20,
    "pareto": 20,
    "record": 21,  # holds candidates of pareto
    "schema": 22,
    "graph": 22,
    "planning": 24,  # mathematics of the search
    "latency": 25,  # light, so that the measuring process starts fast
    "space": 30,
    "compress": 30,
    "train": 30,
    "deploy": 30,
    "measure": 30,
    "search": 40,
    "report": 40,
    "ptq": 45,  # compresses without a search
    "own_training": 45,
    "study": 50,  # holds a search and its report
    "tasks": 50,
    "terminal": 55,
    "commands": 58,
    "cli": 60,
    "__main__": 65,
    "": 70,  # autocompress/__init__.py
}
LIGHT_PARTS = {  # must not reach these, not even through other modules
    "report": {"torch", "optuna", "openvino"},
    "latency": {"torch", "optuna", "scipy"},
    "planning": {"torch", "optuna", "openvino"},
}
ONLY_IN = {"optuna": "search"}
ONE_FILE = {"torch_pruning"}


def modules_of(source: Path) -> dict[str, set[str]]:
    """What each module of the package in `source` imports, as dotted names."""
    files = {_module_name(file, source): file for file in sorted(source.rglob("*.py"))}
    return {name: _imports(file, name, files) for name, file in files.items()}


def _module_name(file: Path, source: Path) -> str:
    parts = file.relative_to(source.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(file: Path, module: str, known: Mapping[str, Path]) -> set[str]:
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, package)
            submodules = {f"{base}.{alias.name}" for alias in node.names} & set(known)
            found |= submodules if len(submodules) == len(node.names) else submodules | {base}
    return found


def _base(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    above = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])])


def part_of(module: str) -> str:
    """Part of the package that `module` belongs to; empty for the package itself."""
    return (module.split(".") + [""])[1]


def violations(source: Path) -> list[str]:
    """Every broken law of the layer table, one sentence each."""
    modules = modules_of(source)
    unknown = {part_of(name) for name in modules} - set(LEVELS)
    if unknown:
        return [f"{part} has no level" for part in sorted(unknown)]
    inner = {name: {target for target in targets if target in modules} for name, targets in modules.items()}
    return [*_upward(inner), *_cycles(inner), *_outer(modules), *_reached(modules, inner)]


def _upward(inner: Mapping[str, set[str]]) -> list[str]:
    return [
        f"{name} must not import {target}"
        for name, targets in inner.items()
        for target in sorted(targets)
        if part_of(name) != part_of(target) and LEVELS[part_of(name)] <= LEVELS[part_of(target)]
    ]


def _cycles(inner: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(inner).prepare()
    except CycleError as error:
        return [f"a cycle: {' imports '.join(reversed(error.args[1]))}"]
    return []


def _outer(modules: Mapping[str, set[str]]) -> list[str]:
    """Libraries that belong to one part or to one file."""
    users: dict[str, list[str]] = {}
    for name, targets in modules.items():
        for library in {target.split(".")[0] for target in targets}:
            users.setdefault(library, []).append(name)
    strangers = [
        f"{name} must not import {library}, only {part} may"
        for library, part in ONLY_IN.items()
        for name in users.get(library, [])
        if part_of(name) != part
    ]
    crowds = [f"only one file may import {lib}, not {users[lib]}" for lib in ONE_FILE if len(users.get(lib, [])) > 1]
    return strangers + crowds


def _reached(modules: Mapping[str, set[str]], inner: Mapping[str, set[str]]) -> list[str]:
    """Libraries that a light part reaches, directly or through modules of ours."""
    found = []
    for part, forbidden in LIGHT_PARTS.items():
        reached, waiting = set(), [name for name in modules if part_of(name) == part]
        while waiting:
            name = waiting.pop()
            reached.add(name)
            waiting += sorted(_loaded_with(inner[name], modules) - reached)
        imported = {(name, target.split(".")[0]) for name in reached for target in modules[name]}
        hits = sorted((name, library) for name, library in imported if library in forbidden)
        found += [f"{part} must not reach {library}, but {name} does" for name, library in hits]
    return found


def _loaded_with(targets: set[str], modules: Mapping[str, set[str]]) -> set[str]:
    """`targets` and the packages that Python runs on the way to them, except autocompress itself."""
    packages = {target.rpartition(".")[0] for target in targets if target.count(".") > 1}
    return targets | (packages & set(modules))


def test_imports_go_down() -> None:
    assert violations(SOURCE) == []


def test_every_part_of_the_table_that_exists_was_read() -> None:
    parts = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    assert {part_of(name) for name in modules_of(SOURCE)} == parts - {"__init__"} | {""}


PLANTED = [  # id, files, what the violation says
    ("nothing wrong", {"recipe": "import autocompress.errors", "search/a": "import optuna"}, None),
    ("an import of a higher layer", {"recipe": "from autocompress.graph import x"}, "recipe must not import"),
    ("an import of a sibling", {"space/a": "import autocompress.train.a"}, "space.a must not import"),
    ("a submodule as a name", {"space/a": "from autocompress.train import a"}, "must not import autocompress.train.a"),
    ("a name beside a submodule", {"space/a": "from autocompress.train import a, b"}, "must not import"),
    ("a relative import", {"space/a": "from ..train import a"}, "space.a must not import autocompress.train.a"),
    ("an import in a function", {"task": "def f():\n    from autocompress import cli"}, "task must not import"),
    ("an import of the public names", {"cli": "from autocompress import Task"}, "cli must not import autocompress"),
    ("a cycle inside a part", {"train/a": "from . import b", "train/b": "from .a import x"}, "a cycle: "),
    ("optuna outside search", {"train/a": "import optuna.trial"}, "only search may"),
    ("torch in report", {"report/a": "from torch import nn"}, "report must not reach torch"),
    ("torch through a module", {"report/a": "from autocompress.task import x", "task": "import torch"}, "task does"),
    (
        "torch through a package",
        {"report/a": "import autocompress.graph.a", "graph/__init__": "import torch"},
        "autocompress.graph does",
    ),
    (
        "torch_pruning in two files",
        {"graph/a": "import torch_pruning", "train/a": "import torch_pruning as tp"},
        "only one file may import torch_pruning",
    ),
    ("a part without a level", {"utils": ""}, "utils has no level"),
]


@pytest.mark.parametrize(("files", "said"), [pytest.param(*row[1:], id=row[0]) for row in PLANTED])
def test_the_checker_finds_what_is_planted(tmp_path: Path, files: dict[str, str], said: str | None) -> None:
    names = ["__init__", *(f"{part}/{name}" for part in ("space", "train", "graph") for name in ("__init__", "a"))]
    skeleton = dict.fromkeys([*names, "errors", "cli", "train/b", "report/__init__"], "")
    for name, text in (skeleton | files).items():
        file = tmp_path / "autocompress" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    found = violations(tmp_path / "autocompress")
    if said is None:
        assert found == []
    else:
        assert said in "; ".join(found)
