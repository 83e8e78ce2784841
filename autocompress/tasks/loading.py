"""Finding a task by how a person names it: a built-in name, `path/to/file.py:function` or `module:function`."""

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from autocompress.errors import TaskError
from autocompress.task import Task
from autocompress.tasks import BUILT_IN

_FORMS = "give a built-in name, FILE.py:FUNCTION or MODULE:FUNCTION"


def load_task(reference: str) -> Task:
    """The task that `reference` names.

    Args:
        reference: For example ``fashion``, ``examples/digits_task.py:digits`` or ``package.module:function``; the
            function takes no arguments and returns a `Task`.

    Raises:
        TaskError: There is none, or its code fails; the message says where.
    """
    if reference in BUILT_IN:
        return BUILT_IN[reference]()
    where, separator, name = reference.rpartition(":")
    if not separator or not where or not name:
        raise TaskError(f"task {reference!r} is unknown{_near(reference, list(BUILT_IN))}; {_FORMS}")
    module = _module(where, reference)
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise TaskError(f"{where} has no function {name!r}{_near(name, known)}; {_FORMS}")
    task = _run(function, reference)
    if not isinstance(task, Task):
        raise TaskError(f"{reference} must return an autocompress.Task, but got {type(task).__name__}")
    return task


def find_task(reference: str, folder: Path) -> Task:
    """The task that a manifest in `folder` names: from here, or with its file beside or above that folder.

    Args:
        reference: As for `load_task`.
        folder: The folder `chosen/`, perhaps on another machine than where the reference was written.

    Raises:
        TaskError: There is none, or its code fails.
    """
    where, _, name = reference.rpartition(":")
    if where.endswith(".py") and not Path(where).is_file():
        near = [folder.resolve(), *folder.resolve().parents[:2]]
        places = [place / part for place in near for part in dict.fromkeys((where, Path(where).name))]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise TaskError(f"the task {reference} of the manifest is not found from here; give it with --task")
        return load_task(f"{found}:{name}")
    return load_task(reference)


def _module(where: str, reference: str) -> ModuleType:
    if where.endswith(".py"):
        return _from_file(Path(where), reference)
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return _run(lambda: importlib.import_module(where), reference)  # type: ignore[no-any-return]


def _from_file(path: Path, reference: str) -> ModuleType:
    if not path.is_file():
        raise TaskError(f"task file {path} does not exist; {_FORMS}")
    name = f"autocompress_task_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise TaskError(f"task file {path} cannot be imported; {_FORMS}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    loader = spec.loader
    _run(lambda: loader.exec_module(module), reference)
    cloudpickle.register_pickle_by_value(module)  # worker processes cannot import it
    return module


def _run(function: Callable[[], Any], reference: str) -> Any:
    try:
        return function()
    except TaskError:
        raise
    except Exception as error:  # the user's own code
        message = (str(error).strip().splitlines() or [""])[0]
        raise TaskError(f"task {reference} fails while it is made: {type(error).__name__}: {message}") from error


def _near(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known[:8])}" if known else ""
