"""From the text of a search space file to a `SearchSpace`; every law of the file format is checked here.

description: one sentence
layers:                      # rules in order; the last rule that matches a layer wins
  - match: "*"               # glob on the dotted layer name; or regex: ...; or type: Conv2d for the name of a class
    weight_bits: [32, 8, 4]  # 2..8, or 32 for float
    activation_bits: [8]     # asked only where the weights are not float
    sparsity: [0.0, 0.5]     # fractions of zero weights; may be left out, as rank_ratio may
    rank_ratio: [1.0, 0.5]   # fractions of the rank that is kept
pruning:                     # the same for channel groups; without it nothing is pruned
  - match: "*"
    pruning_ratio: [0.0, 0.25, 0.5]
ignored: [head]              # layers that stay as they are: a name, a glob, re:REGEX or type:Conv2d
importance: l1               # which filters go first (recipe.Importance); may be left out
sparsification:              # how sparse layers get their zeros (recipe.Sparsification); may be left out
  method: magnitude
calibration:                 # how quantized layers are set up from data (recipe.Calibration); may be left out
  rounding: gptq
"""

import math
import re
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from autocompress.errors import SearchSpaceError
from autocompress.recipe import FLOAT_BITS, INTEGER_BITS, Calibration, Importance, Sparsification, first_problem
from autocompress.space.search_space import Ignored, LayerRule, PruningRule, SearchSpace
from autocompress.space.yaml_node import Node, is_boolean, parse, shown

Rule = TypeVar("Rule")
Value = TypeVar("Value")
Settings = TypeVar("Settings", bound=BaseModel)

_BITS = (*INTEGER_BITS, FLOAT_BITS)
_SPACE_KEYS = ("description", "layers", "pruning", "ignored", "importance", "sparsification", "calibration")
_SELECTORS: tuple[Literal["match", "regex", "type"], ...] = ("match", "regex", "type")
_LAYER_KEYS = (*_SELECTORS, "weight_bits", "activation_bits", "sparsity", "rank_ratio")
_PRUNING_KEYS = ("match", "pruning_ratio")


def read_space(text: str, *, file: str, name: str) -> SearchSpace:
    """The search space in the YAML document `text`.

    Args:
        text: Contents of the file.
        file: What errors call it.
        name: Name of the space.

    Raises:
        SearchSpaceError: The text breaks a law of the format; the message starts with ``file:line``.
    """
    root = parse(text, file)
    entries = root.mapping("a search space", _SPACE_KEYS)
    if "description" not in entries:
        raise root.error("a search space must have a description, but the key is missing.")
    if "layers" not in entries and "pruning" not in entries:
        raise root.error("a search space must have layers or pruning, but both keys are missing.")
    description = entries["description"].text("description")
    layers = _rules(entries.get("layers"), "layers", _layer_rule)
    sparsification = _settings(entries.get("sparsification"), "sparsification", Sparsification)
    _check_pattern(layers, sparsification)
    return SearchSpace(
        name=name,
        description=description,
        layers=layers,
        pruning=_rules(entries.get("pruning"), "pruning", _pruning_rule),
        ignored=_rules(entries.get("ignored"), "ignored", lambda node: Ignored(node.text("ignored"), node.where)),
        importance=_importance(entries.get("importance")),
        sparsification=sparsification,
        calibration=_settings(entries.get("calibration"), "calibration", Calibration),
    )


def _rules(node: Node | None, what: str, read: Callable[[Node], Rule]) -> tuple[Rule, ...]:
    return tuple(read(item) for item in node.items(what)) if node else ()


def _settings(node: Node | None, what: str, kind: type[Settings]) -> Settings:
    """Settings of a recipe, at `node` or by default."""
    if node is None:
        return kind()
    entries = node.mapping(what, tuple(kind.model_fields))
    try:
        return kind.model_validate({key: entry.value for key, entry in entries.items()})
    except ValidationError as error:
        keys = [str(key) for key in error.errors()[0]["loc"]]
        where = entries[keys[0]] if keys else node
        raise where.error(f"{what}{'.' if keys else ' '}{first_problem(error).removeprefix('document: ')}.") from None


def _check_pattern(layers: tuple[LayerRule, ...], sparsification: Sparsification) -> None:
    """A pattern of N:M leaves no choice of the sparsity but 0 and 1 - N/M."""
    if sparsification.n_of_m is None:
        return
    n, m = sparsification.n_of_m
    for rule in layers:
        wrong = [sparsity for sparsity in rule.sparsity if sparsity and abs(sparsity - (1 - n / m)) > 1e-6]
        if wrong:
            law = f"sparsity must be 0 or {1 - n / m:g} with the pattern {n}:{m}"
            raise SearchSpaceError(f"{rule.where}: {law}, but got {wrong[0]:g}.")


def _importance(node: Node | None) -> Importance:
    kinds: tuple[Importance, ...] = get_args(Importance)
    found = [kind for kind in kinds if node is None or kind == node.value]
    if node is not None and not found:
        raise node.error(f"importance must be one of {', '.join(kinds)}, but got {shown(node.value)}.")
    return found[0]


def _layer_rule(node: Node) -> LayerRule:
    entries = node.mapping("a layer rule", _LAYER_KEYS)
    by, pattern = _selector(node, entries)
    if not {"weight_bits", "sparsity", "rank_ratio"} & set(entries):
        raise node.error("a layer rule must have weight_bits, sparsity or rank_ratio, but these keys are missing.")
    weight_bits = _choices(entries["weight_bits"], "weight_bits", _bits) if "weight_bits" in entries else (FLOAT_BITS,)
    activation_bits = _activation_bits(node, entries, weight_bits)
    sparsity = _choices(entries["sparsity"], "sparsity", _below_one) if "sparsity" in entries else (0.0,)
    rank_ratio = _choices(entries["rank_ratio"], "rank_ratio", _above_zero) if "rank_ratio" in entries else (1.0,)
    return LayerRule(pattern, by, weight_bits, activation_bits, node.where, sparsity, rank_ratio)


def _selector(node: Node, entries: dict[str, Node]) -> tuple[Literal["match", "regex", "type"], str]:
    given = [by for by in _SELECTORS if by in entries]
    if len(given) != 1:
        got = " and ".join(given) or "none of them"
        raise node.error(f"a layer rule must have exactly one of match, regex and type, but got {got}.")
    by = given[0]
    pattern = entries[by].text(by)
    if by == "regex":
        _check_regex(entries[by], pattern)
    return by, pattern


def _check_regex(node: Node, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        law = "regex must be a regular expression of Python's re"
        raise node.error(f"{law}, but got {shown(pattern)}: {error}.") from None


def _activation_bits(node: Node, entries: dict[str, Node], weight_bits: tuple[int, ...]) -> tuple[int, ...]:
    """Choices for the input; there must be some exactly where the weights can be integers."""
    given = entries.get("activation_bits")
    always_float = weight_bits == (FLOAT_BITS,)
    if given and always_float:
        raise given.error("activation_bits must be left out where weight_bits is only 32, but got some.")
    if given:
        return _choices(given, "activation_bits", _bits)
    if not always_float:
        raise node.error("a layer rule with integer weight_bits must have activation_bits, but the key is missing.")
    return ()


def _pruning_rule(node: Node) -> PruningRule:
    entries = node.mapping("a pruning rule", _PRUNING_KEYS)
    for key in _PRUNING_KEYS:
        if key not in entries:
            raise node.error(f"a pruning rule must have {key}, but the key is missing.")
    ratios = _choices(entries["pruning_ratio"], "pruning_ratio", _below_one)
    return PruningRule(entries["match"].text("match"), ratios, node.where)


def _choices(node: Node, what: str, read: Callable[[Node, str], Value]) -> tuple[Value, ...]:
    values: list[Value] = []
    for item in node.items(what):
        value = read(item, what)
        if value in values:
            raise item.error(f"{what} must not name a choice twice, but got {value} again.")
        values.append(value)
    return tuple(values)


def _bits(node: Node, what: str) -> int:
    value = node.value
    if isinstance(value, int) and not is_boolean(value) and value in _BITS:
        return int(value)
    number = _number(value)
    hint = "" if math.isnan(number) else f" Did you mean {min(_BITS, key=lambda bits: abs(bits - number))}?"
    raise node.error(f"{what} must be one of 2..8 or 32, but got {shown(value)}.{hint}")


def _below_one(node: Node, what: str) -> float:
    return _fraction(node, what, "[0, 1)", lambda value: 0 <= value < 1)


def _above_zero(node: Node, what: str) -> float:
    return _fraction(node, what, "(0, 1]", lambda value: 0 < value <= 1)


def _fraction(node: Node, what: str, interval: str, is_in: Callable[[float], bool]) -> float:
    value = node.value
    if isinstance(value, int | float) and not is_boolean(value) and is_in(value):
        return float(value)
    number = _number(value)
    meant = number / 100 if 1 < number < 100 else number
    hint = f" Did you mean {meant:g}?" if is_in(meant) else ""
    raise node.error(f"{what} must be a number in {interval}, but got {shown(value)}.{hint}")


def _number(value: Any) -> float:
    """The finite number that `value` is or spells, else NaN."""
    try:
        number = math.nan if is_boolean(value) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan
