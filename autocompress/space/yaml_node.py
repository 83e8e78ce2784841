"""A YAML document whose every value knows its line, so that an error can point at it."""

import difflib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.scalarbool import ScalarBoolean

from autocompress.errors import SearchSpaceError


@dataclass(frozen=True)
class Node:
    """One value of a YAML document.

    Args:
        value: What ruamel.yaml's round-trip loader read; mappings and sequences carry their lines in ``lc``.
        file: What errors call the file.
        line: Where the value stands, from 1.
    """

    value: Any
    file: str
    line: int

    @property
    def where(self) -> str:
        """Place of the value as ``file:line``."""
        return f"{self.file}:{self.line}"

    def error(self, message: str) -> SearchSpaceError:
        """An error that points at this value."""
        return SearchSpaceError(f"{self.where}: {message}")

    def mapping(self, what: str, known: Sequence[str]) -> dict[str, "Node"]:
        """Values by key, in the order of the file; a value counts as standing at the line of its key.

        Raises:
            SearchSpaceError: This is not a mapping, or has a key that is not in `known`.
        """
        if not isinstance(self.value, Mapping):
            keys = ", ".join(known)
            raise self.error(f"{what} must be a mapping with the keys {keys}, but got {shown(self.value)}.")
        entries = {key: Node(value, self.file, self._line_of_key(key)) for key, value in self.value.items()}
        for key, node in entries.items():
            if key not in known:
                law = f"a key of {what} must be one of {', '.join(known)}"
                raise node.error(f"{law}, but got {shown(key)}.{did_you_mean(key, known)}")
        return entries

    def items(self, what: str) -> list["Node"]:
        """Values of a list that has at least one.

        Raises:
            SearchSpaceError: This is not a list, or is an empty one.
        """
        if not isinstance(self.value, list):
            hint = f" Did you mean [{shown(self.value)}]?" if isinstance(self.value, int | float) else ""
            raise self.error(f"{what} must be a list, but got {shown(self.value)}.{hint}")
        if not self.value:
            raise self.error(f"{what} must have at least one entry, but got an empty list.")
        lines = getattr(self.value, "lc", None)
        return [
            Node(value, self.file, lines.item(index)[0] + 1 if lines else self.line)
            for index, value in enumerate(self.value)
        ]

    def text(self, what: str) -> str:
        """A string that is not blank.

        Raises:
            SearchSpaceError: This is anything else.
        """
        if not isinstance(self.value, str) or not self.value.strip():
            hint = f' Did you mean "{self.value}"?' if isinstance(self.value, int | float) else ""
            raise self.error(f"{what} must be a string that is not empty, but got {shown(self.value)}.{hint}")
        return str(self.value)

    def _line_of_key(self, key: Any) -> int:
        try:
            return int(self.value.lc.key(key)[0]) + 1
        except (AttributeError, KeyError):  # a key that a YAML merge brought in
            return self.line


def parse(text: str, file: str) -> Node:
    """The root of the one YAML document in `text`.

    Raises:
        SearchSpaceError: `text` is not one YAML document, or is empty.
    """
    try:
        value = YAML(typ="rt").load(io.StringIO(text))
    except (YAMLError, ValueError) as error:  # ValueError: a date that does not exist, a number with too many digits
        raise _syntax_error(error, file) from None
    if value is None:
        raise Node(None, file, 1).error("a search space must have a description and rules, but the file is empty.")
    return Node(value, file, 1)


def shown(value: Any) -> str:
    """`value` as a user would recognize it in the file.

    >>> shown(None), shown(True), shown("a"), shown([1])
    ('nothing', 'true', "'a'", 'a list')
    """
    if value is None:
        return "nothing"
    if is_boolean(value):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return repr(str(value)) if isinstance(value, str) else str(value)


def is_boolean(value: Any) -> bool:
    """Whether YAML wrote a boolean; Python counts those as numbers, a search space does not."""
    return isinstance(value, bool | ScalarBoolean)


def did_you_mean(got: Any, known: Iterable[str]) -> str:
    """A sentence with the entry of `known` that is nearest to `got`, led by a space; empty if none is near.

    >>> did_you_mean("weigth_bits", ["weight_bits", "match"])
    ' Did you mean weight_bits?'
    """
    near = difflib.get_close_matches(str(got), list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _syntax_error(error: Exception, file: str) -> SearchSpaceError:
    marked = isinstance(error, MarkedYAMLError)
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) if marked else " ".join(str(error).split())
    in_alias = "alias" in str(getattr(error, "context", None))
    hint = '; quote a pattern that starts with an asterisk, as in match: "*"' if in_alias else ""
    node = Node(None, file, mark.line + 1 if mark else 1)
    return node.error(f"the file must be one YAML document: {problem}{hint}.")
