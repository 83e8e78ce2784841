"""Finding search spaces: the built-in ones by name, the user's own by path."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from autocompress.errors import SearchSpaceError
from autocompress.space.reading import read_space
from autocompress.space.search_space import SearchSpace
from autocompress.space.yaml_node import did_you_mean

DEFAULT_SPACE = "full"
_ENDINGS = (".yaml", ".yml")


def load_space(name_or_path: str | Path) -> SearchSpace:
    """A built-in search space by name, or the one in a file.

    Args:
        name_or_path: A path ends in ``.yaml`` or ``.yml``; anything else is the name of a built-in space.

    Raises:
        SearchSpaceError: There is no such space or file, or the file is wrong (``file:line: ...``).

    >>> load_space("int8").layers[0].activation_bits
    (8,)
    """
    text = str(name_or_path)
    if text.endswith(_ENDINGS):
        return _read(Path(text), text)
    built_in = _built_in_files()
    if text not in built_in:
        known = ", ".join(built_in)
        law = f"a search space must be one of {known} or the path of a .yaml file"
        raise SearchSpaceError(f"{law}, but got {text!r}.{did_you_mean(text, built_in)}")
    return _read(built_in[text], str(built_in[text]))


def built_in_spaces() -> dict[str, str]:
    """Descriptions of the built-in search spaces by name, in alphabetical order."""
    return {name: load_space(name).description for name in _built_in_files()}


def built_in_text(name: str) -> str:
    """The YAML of a built-in search space.

    Raises:
        SearchSpaceError: There is none of that name.
    """
    known = _built_in_files()
    if name not in known:
        law = f"a built-in search space must be one of {', '.join(known)}"
        raise SearchSpaceError(f"{law}, but got {name!r}.{did_you_mean(name, known)}")
    return known[name].read_text(encoding="utf-8")


def _read(file: Path | Traversable, shown_as: str) -> SearchSpace:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        law = "a search space file must be readable UTF-8 text"
        raise SearchSpaceError(f"{shown_as}:1: {law}, but {error}.") from None
    return read_space(text, file=shown_as, name=_name(file))


def _built_in_files() -> dict[str, Traversable]:
    folder = _folder()
    found = {_name(file): file for file in folder.iterdir() if file.name.endswith(_ENDINGS)}
    return {name: found[name] for name in sorted(found)}


def _folder() -> Traversable:
    """The installed `autocompress/search_spaces`, else `search_spaces` of the source tree."""
    installed = files("autocompress") / "search_spaces"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "search_spaces"


def _name(file: Path | Traversable) -> str:
    return Path(file.name).stem
