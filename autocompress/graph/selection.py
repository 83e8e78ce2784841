"""Layers by pattern: by name, by glob, by regular expression or by class."""

import difflib
import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from autocompress.errors import GraphError
from autocompress.graph.model_graph import Layer, ModelGraph

REGEX, TYPE = "re:", "type:"
N_EXAMPLES = 3


def select_layers(graph: ModelGraph, patterns: Iterable[str]) -> tuple[str, ...]:
    r"""Names of the layers that any of `patterns` matches, in the order of the model.

    Upper and lower case are distinguished. A pattern is one of:

    - a dotted name, of a layer or of a module: `encoder` matches all layers below it too;
    - a glob on the whole name, as `encoder.*.query`, whose `*` matches dots too;
    - `re:` and a regular expression that the whole name matches, as `re:encoder\.[0-3]\..*`;
    - `type:` and the name of a class, as `type:Conv2d`.

    A string counts as one pattern.

    Raises:
        GraphError: A pattern matches no layer, or is not a valid regular expression.
    """
    chosen: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matches = _matcher(pattern)
        found = {layer.name for layer in graph.layers if matches(layer)}
        if not found:
            raise _nothing(graph, pattern)
        chosen |= found
    return tuple(layer.name for layer in graph.layers if layer.name in chosen)


def _matcher(pattern: str) -> Callable[[Layer], bool]:
    if pattern.startswith(TYPE):
        kind = pattern.removeprefix(TYPE)
        return lambda layer: layer.kind == kind
    if pattern.startswith(REGEX):
        regex = _compiled(pattern)
        return lambda layer: regex.fullmatch(layer.name) is not None
    return lambda layer: (
        layer.name == pattern or layer.name.startswith(f"{pattern}.") or fnmatchcase(layer.name, pattern)
    )


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern.removeprefix(REGEX))
    except re.error as error:
        raise GraphError(
            f"a pattern after {REGEX} must be a regular expression of Python's re, but got {pattern!r}: {error}"
        ) from None


def _nothing(graph: ModelGraph, pattern: str) -> GraphError:
    is_type = pattern.startswith(TYPE)
    known = list(dict.fromkeys(layer.kind if is_type else layer.name for layer in graph.layers))
    near = difflib.get_close_matches(pattern.removeprefix(TYPE), known, n=N_EXAMPLES)
    prefix = TYPE if is_type else ""
    if near:
        hint = f"did you mean {' or '.join(prefix + name for name in near)}?"
    else:
        hint = f"it has {', '.join(known[:N_EXAMPLES]) or 'none'}{', ...' if len(known) > N_EXAMPLES else ''}"
    what = "the name of a class" if is_type else "a name, a glob or re: and a regular expression"
    return GraphError(f"a pattern must match a layer of the model, but got {pattern!r}, {what}; {hint}")
