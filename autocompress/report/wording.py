"""How numbers and recipes are worded in every report: percent, points and kB appear here and nowhere below."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from autocompress.measurement import Interval, Speedup
from autocompress.recipe import FLOAT_BITS, LayerRecipe, Recipe, Sparsification

MAX_NAMES = 4
IMPORTANCE_WORDS = {
    "l1": "L1 norm",
    "l2": "L2 norm",
    "batch_norm": "batch-norm scale",
    "taylor": "Taylor score",
    "activation": "mean size of the output",
}

Key = TypeVar("Key", str, float)


def printable(text: str) -> str:
    r"""`text` on one line, with a blank for every line break, tab and control character.

    >>> printable("a\nb")
    'a b'
    """
    return "".join(character if character.isprintable() else " " for character in text)


def shortened(text: str, width: int) -> str:
    """`printable(text)`, cut to `width` characters, the last of them `…` where something is left out.

    >>> shortened("a very long name", 10)
    'a very lo…'
    """
    line = printable(text)
    return line if len(line) <= width else line[: width - 1] + "…"


def points(drop: float) -> str:
    """An accuracy drop in points, 100 times the units of the score, with two decimals and never `-0.00`.

    >>> points(0.0123), points(-0.00001)
    ('1.23', '0.00')
    """
    return f"{round(100 * drop, 2) + 0.0:.2f}"


def points_interval(drop: Interval) -> str:
    """Value and ends in points: `0.30 [-0.10, 0.80]`."""
    return f"{points(drop.value)} [{points(drop.low)}, {points(drop.high)}]"


def times(speedup: Speedup) -> str:
    """Value and ends: `3.41x [3.39, 3.44]`."""
    return f"{speedup.value:.2f}x [{speedup.low:.2f}, {speedup.high:.2f}]"


def kilobytes(size_bytes: float) -> str:
    """A size in kB, 1000 bytes each, with one decimal.

    >>> kilobytes(1_234_567)
    '1,234.6'
    """
    return f"{size_bytes / 1000:,.1f}"


def zipped(n_bytes: int | None) -> str:
    """A zipped size in kB; empty where it was not measured, as in records of older versions.

    >>> zipped(1_234_567), zipped(None)
    ('1,234.6', '')
    """
    return "" if n_bytes is None else kilobytes(n_bytes)


def listed(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`; at least one part."""
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)


def candidate_count(n: int) -> str:
    """`1 candidate`, `2 candidates`."""
    return f"{n} candidate" if n == 1 else f"{n} candidates"


def threads_words(n_threads: int) -> str:
    """`one thread`, or how many."""
    return "one thread" if n_threads == 1 else f"{n_threads} threads"


def duration(seconds: float) -> str:
    """Seconds in the unit in which they are read most easily: seconds, minutes or hours.

    >>> duration(8.26), duration(95), duration(582), duration(9000)
    ('8.3 s', '95 s', '9.7 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def percent(fraction: float) -> str:
    """A fraction in percent, three digits at most.

    >>> percent(0.1 + 0.2), percent(0.125)
    ('30 %', '12.5 %')
    """
    return f"{100 * fraction:.3g} %"


def bits(layer: LayerRecipe) -> str:
    """Bit widths of one layer: `W8A8`, `W4A32` or `float`.

    >>> bits(LayerRecipe(weight_bits=4, activation_bits=8))
    'W4A8'
    """
    return "float" if layer.is_float else f"W{layer.weight_bits}A{layer.activation_bits}"


def treatment(layer: LayerRecipe) -> str:
    """Everything that is done to one layer: its bit widths, then zeros and rank where there are any.

    >>> treatment(LayerRecipe(weight_bits=8, activation_bits=8, sparsity=0.7)), treatment(LayerRecipe(rank_ratio=0.25))
    ('W8A8 sparse 70 %', 'float rank 25 %')
    """
    zeros = f" sparse {percent(layer.sparsity)}" if layer.sparsity else ""
    rank = f" rank {percent(layer.rank_ratio)}" if layer.rank_ratio < 1 else ""
    return f"{bits(layer)}{zeros}{rank}"


def zeros_by(sparsification: Sparsification) -> str:
    """How zeros were chosen, in a few words: method, then what is not usual.

    >>> zeros_by(Sparsification(scope="global")), zeros_by(Sparsification(pattern="2:4"))
    ('magnitude over all sparse layers together', 'magnitude in the pattern 2:4')
    """
    together = " over all sparse layers together" if sparsification.scope == "global" else ""
    pattern = f" in the pattern {sparsification.pattern}" if sparsification.pattern else ""
    structure = f" of whole {sparsification.structure}" if sparsification.structure != "weights" else ""
    return f"{sparsification.method}{structure}{together}{pattern}"


def filters_by(importance: str) -> str:
    """What said which filters go, in words.

    >>> filters_by("geometric_median"), filters_by("l1")
    ('geometric median', 'L1 norm')
    """
    return IMPORTANCE_WORDS.get(importance, importance.replace("_", " "))


def bit_width(n_bits: int) -> str:
    """One bit width, `float` for 32."""
    return "float" if n_bits == FLOAT_BITS else str(n_bits)


def recipe_lines(recipe: Recipe, n_layers: int) -> list[str]:
    """The recipe in a few lines: the layers of each treatment, the groups of each pruning ratio, how zeros are chosen.

    Args:
        recipe: What is worded.
        n_layers: Compressible layers of the model; those that the recipe does not name are counted as float.

    Returns:
        Lines of plain text; layer names are as the model gives them, so escape before use in HTML.

    >>> recipe_lines(Recipe(layers={"conv": LayerRecipe(weight_bits=8)}, pruning={"fc": 0.5}), n_layers=3)
    ['W8A32: conv', 'float: 2 layers', '50 % of filters removed: fc']
    """
    lines = [f"{what}: {_some(names)}" for what, names in sorted(_by_treatment(recipe).items())]
    n_float = max(0, n_layers - len(recipe.layers))
    if n_float:
        lines.append(f"float: {n_float} layer{'s' if n_float > 1 else ''}")
    by_ratio = _grouped(recipe.pruning)
    lines += [f"{percent(ratio)} of filters removed: {_some(names)}" for ratio, names in sorted(by_ratio.items())]
    return [*lines, *_methods(recipe)]


def recipe_brief(recipe: Recipe) -> str:
    """The recipe in a few words: how many layers have which treatment, and the range of pruning ratios.

    >>> recipe_brief(Recipe(layers={"conv": LayerRecipe(weight_bits=8)}, pruning={"a": 0.5, "b": 0.25}))
    'W8A32 ×1, pruned 25-50 %'
    """
    parts = [f"{what} ×{len(names)}" for what, names in sorted(_by_treatment(recipe).items())]
    ratios = sorted(recipe.pruning.values())
    if ratios:
        ends = dict.fromkeys(f"{100 * ratio:.0f}" for ratio in (ratios[0], ratios[-1]))
        parts.append(f"pruned {'-'.join(ends)} %")
    return ", ".join(parts) or "as it is"


def phases(seconds: Mapping[str, float]) -> list[tuple[str, float, str]]:
    """Phase, seconds and share of the total, longest first and the total last.

    The total is the key `total`, or the sum of the phases where there is none; the share of nothing is empty.
    """
    parts = {name: spent for name, spent in seconds.items() if name != "total"}
    total = seconds.get("total", math.fsum(parts.values()))
    rows = sorted(parts.items(), key=lambda part: (-part[1], part[0]))
    return [
        (name, spent, f"{100 * spent / total:.1f} %" if total > 0 else "") for name, spent in [*rows, ("total", total)]
    ]


def _by_treatment(recipe: Recipe) -> dict[str, list[str]]:
    return _grouped({name: treatment(layer) for name, layer in recipe.layers.items()})


def _methods(recipe: Recipe) -> list[str]:
    """How filters and zeros are chosen, where that is not by the L1 norm and the magnitude of each layer."""
    lines = [f"filters chosen by {filters_by(recipe.importance)}"] if recipe.importance != "l1" else []
    unusual = recipe.sparsification != Sparsification()
    return lines + ([f"zeros chosen by {zeros_by(recipe.sparsification)}"] if recipe.sparse and unusual else [])


def _grouped(values: Mapping[str, Key]) -> dict[Key, list[str]]:
    groups: dict[Key, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(value, []).append(name)
    return groups


def _some(names: Iterable[str]) -> str:
    every = [printable(name) for name in names]
    more = len(every) - MAX_NAMES
    return ", ".join(every[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
