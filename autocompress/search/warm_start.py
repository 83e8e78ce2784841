"""Warm start: which finished candidate a new one starts from, and its start."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist

from autocompress.compress import CompressedModel
from autocompress.compress.inheritance import inherit, rank_ratios, why_not_inherited
from autocompress.errors import AutocompressError
from autocompress.recipe import FLOAT_BITS, LayerRecipe, Recipe
from autocompress.search.context import EvaluationContext

_FLOAT = Recipe()
_NORMAL = NormalDist()


def warm_start(context: EvaluationContext, compressed: CompressedModel, parents: Sequence[Recipe]) -> str:
    """Start `compressed` from the nearest finished candidate that can be read.

    A candidate whose folder is missing or damaged is passed over for the next nearest.

    Args:
        context: The study's.
        compressed: As `compress` returned it; where a parent is found it must neither be calibrated nor have its batch
            norms adapted afterwards, where none is found it is as before.
        parents: Recipes of finished candidates; the recipe of `compressed` may be one of them.

    Returns:
        Digest of the parent; empty if `compressed` starts from the FP32 model.
    """
    macs = {layer.name: layer.macs for layer in context.graph.layers}
    left = list(parents)
    while (parent := nearest(compressed.recipe, left, macs)) is not None:
        if _starts_from(context, compressed, parent):
            return parent.digest()
        left = [recipe for recipe in left if recipe != parent]
    return ""


def _starts_from(context: EvaluationContext, compressed: CompressedModel, parent: Recipe) -> bool:
    before = compressed.state()
    try:
        trained = context.restore(parent, context.folder / parent.digest())
        inherit(compressed, trained, context.task.train)
    except AutocompressError:
        compressed.load_state(before)
        return False
    return True


def nearest(recipe: Recipe, finished: Iterable[Recipe], macs: Mapping[str, int]) -> Recipe | None:
    """The finished recipe that `recipe` had best start from.

    It is compressed nowhere more than `recipe`, can be inherited from, and is nearer than the FP32 model, from which
    every candidate can start. Of equally near ones that of `recipe` itself comes first, then the lowest digest.

    Args:
        recipe: Of the candidate to be trained.
        finished: Of trained candidates, in any order.
        macs: Multiply-accumulates by layer.

    Returns:
        One of `finished`; None where the FP32 model is nearest.
    """
    limit = distance(recipe, _FLOAT, macs)
    found = [
        (distance(recipe, parent, macs), parent != recipe, parent.digest(), parent)
        for parent in finished
        if _is_gentler(parent, recipe) and not why_not_inherited(recipe, parent)
    ]
    closer = [candidate for candidate in found if candidate[0] < limit]
    return min(closer, key=lambda candidate: candidate[:3])[3] if closer else None


def distance(a: Recipe, b: Recipe, macs: Mapping[str, int]) -> float:
    """How much training has to repair to get from one recipe to the other.

    Mean over layers, weighted by multiply-accumulates, of the relative errors (`rounding_error`, `sparsity_error`) of
    weights and inputs in which the two differ. Errors of two grids, as those of 8 and of 4 bits, have nothing in common
    and add up: a model trained at 8 bits is no nearer to 4 bits than the FP32 model. So do zeros that come about in
    different ways, while of two sparsities only the difference counts.

    Args:
        a: A recipe.
        b: A recipe for the same model; the order of the two does not matter.
        macs: Multiply-accumulates by layer, >= 0; a layer counts at least as one, so that none is free.

    Returns:
        At least 0; infinite where filters or ranks differ, 0 for equal recipes.
    """
    if (a.pruning, a.importance, rank_ratios(a)) != (b.pruning, b.importance, rank_ratios(b)):
        return math.inf
    names = sorted({*macs, *a.layers, *b.layers})
    same_zeros = a.sparsification == b.sparsification or not (a.sparse and b.sparse)
    weights = {name: max(1, macs.get(name, 0)) for name in names}
    total = sum(weights[name] * _layer_distance(a.layer(name), b.layer(name), same_zeros) for name in names)
    return total / max(1, sum(weights.values()))


def rounding_error(bits: int) -> float:
    """Root mean square error of rounding, relative to that of the values: ``sqrt(3) * 2^-bits``, 0 for floats.

    A step of ``6 sigma / 2^bits`` covers three standard deviations on both sides, and an error that is uniform over a
    step has the root mean square ``step / sqrt(12)``.

    >>> [round(rounding_error(bits), 4) for bits in (2, 4, 8, 32)]
    [0.433, 0.1083, 0.0068, 0.0]
    """
    return 0.0 if bits == FLOAT_BITS else math.sqrt(3) * 2.0**-bits


def sparsity_error(sparsity: float) -> float:
    """Root mean square error of setting the smallest normal weights to zero, relative to that of the weights.

    ``sqrt(s - 2 t phi(t))``, where ``|w| < t`` has the probability `s`: the integral of ``w^2 phi(w)`` over that
    range, by parts.

    Args:
        sparsity: In [0, 1).

    >>> [round(sparsity_error(sparsity), 4) for sparsity in (0.0, 0.5, 0.9)]
    [0.0, 0.2671, 0.7488]
    """
    threshold = _NORMAL.inv_cdf((1 + sparsity) / 2)
    return math.sqrt(max(0.0, sparsity - 2 * threshold * _NORMAL.pdf(threshold)))


def _layer_distance(a: LayerRecipe, b: LayerRecipe, same_zeros: bool) -> float:
    weights = 0.0 if _weight_grid(a) == _weight_grid(b) else sum(rounding_error(r.weight_bits) for r in (a, b))
    inputs = 0.0 if _input_grid(a) == _input_grid(b) else sum(rounding_error(r.activation_bits) for r in (a, b))
    zeros_a, zeros_b = sparsity_error(a.sparsity), sparsity_error(b.sparsity)
    return weights + inputs + (abs(zeros_a - zeros_b) if same_zeros else zeros_a + zeros_b)


def _weight_grid(layer: LayerRecipe) -> tuple[int | str, ...]:
    return layer.weight_bits, layer.weight_scheme, layer.weight_granularity, layer.group_size, layer.binarization


def _input_grid(layer: LayerRecipe) -> tuple[int | str, ...]:
    return layer.activation_bits, layer.activation_scheme, layer.activation_granularity


def _is_gentler(parent: Recipe, recipe: Recipe) -> bool:
    """Whether `parent` has at least the bits and at most the zeros of `recipe` in every layer."""
    pairs = [(parent.layer(name), recipe.layer(name)) for name in {*parent.layers, *recipe.layers}]
    return all(
        p.weight_bits >= r.weight_bits and p.activation_bits >= r.activation_bits and p.sparsity <= r.sparsity
        for p, r in pairs
    )
