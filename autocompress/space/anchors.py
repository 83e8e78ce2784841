"""Recipes that every search starts from, because a skilled engineer would try them first."""

from collections.abc import Iterable

from autocompress.graph.model_graph import ModelGraph
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.space.bound_space import BoundSpace
from autocompress.space.uniform import uniform_recipe

ANCHOR_RATIOS = {"prune25": 0.25, "prune50": 0.5}


def anchors(bound: BoundSpace, graph: ModelGraph, *, int8_saturates: bool = False) -> dict[str, Recipe]:
    """Starting recipes by label, all different, in the order in which they should be tried.

    `fp32` leaves the model as it is, whether or not the space holds that. `int8` has 8-bit weights and inputs
    everywhere, `int8-w7` 7-bit weights, which cannot saturate. `int8-prune25` and `int8-prune50` add to `int8` that
    every channel group loses that fraction of its filters; in a space without integer weights they are `prune25`
    and `prune50`. Each but `fp32` is replaced by the nearest recipe of the space (`BoundSpace.encode`), so a label
    names what was wanted; of equal recipes the first label stays.

    Args:
        bound: The space.
        graph: The model's layers and groups.
        int8_saturates: Whether products of 8-bit weights saturate on this CPU: then `int8-w7` comes before `int8`,
            and the pruned recipes add to `int8-w7` instead. Without effect in a space where the two are equal.
    """
    wide, narrow = (uniform_recipe(graph, LayerRecipe(weight_bits=bits, activation_bits=8)) for bits in (8, 7))
    labelled = [("int8", wide), ("int8-w7", narrow)]
    if int8_saturates and bound.nearest(narrow) != bound.nearest(wide):
        labelled.reverse()
    wanted = dict(labelled)
    prefix = "int8-" if bound.nearest(wide).layers else ""
    if any(ratio > 0 for group in bound.groups for ratio in group.pruning_ratio):
        pruned = {name: _pruned(labelled[0][1], graph, ratio) for name, ratio in ANCHOR_RATIOS.items()}
        wanted |= {f"{prefix}{name}": recipe for name, recipe in pruned.items()}
    return _distinct([("fp32", Recipe()), *((label, bound.nearest(recipe)) for label, recipe in wanted.items())])


def _pruned(recipe: Recipe, graph: ModelGraph, ratio: float) -> Recipe:
    return Recipe(layers=recipe.layers, pruning={group.name: ratio for group in graph.prunable})


def _distinct(labelled: Iterable[tuple[str, Recipe]]) -> dict[str, Recipe]:
    by_digest: dict[str, tuple[str, Recipe]] = {}
    for label, recipe in labelled:
        by_digest.setdefault(recipe.digest(), (label, recipe))
    return dict(by_digest.values())
