"""Recipes by name, for whoever wants one known mix of methods without a search."""

from collections.abc import Callable

from autocompress.errors import RecipeError
from autocompress.graph.model_graph import ChannelGroup, ModelGraph
from autocompress.recipe import LayerRecipe, Recipe, Sparsification
from autocompress.space.uniform import uniform_recipe

JPQD_SPARSITY = 0.4
SPARSITY = 0.7


def preset(name: str, graph: ModelGraph, weight_bits: int = 8) -> Recipe:
    """The recipe called `name`, for the model of `graph`.

    - `int8`: 8-bit inputs and weights everywhere.
    - `int8-prune50`: the same, and half of the filters of every channel group removed.
    - `int8-sparse70`: 8 bits, and 70 % of all weights zero, which makes the zipped files smaller.
    - `jpqd`: joint pruning, quantization and distillation of transformers: in training, which distils from the FP32
      model, 40 % of the attention heads and of the widths between Linear layers become zero by movement, at 8 bits;
      then they are removed.

    Args:
        name: One of `PRESETS`.
        graph: The model's layers and groups.
        weight_bits: Bits of the weights; 7 where products of 8-bit weights saturate.

    Raises:
        RecipeError: There is no such preset, or the model has nothing that it could prune.
    """
    if name not in PRESETS:
        raise RecipeError(f"a preset must be one of {', '.join(PRESETS)}, but got {name!r}")
    return PRESETS[name](graph, LayerRecipe(weight_bits=weight_bits, activation_bits=8))


def _int8(graph: ModelGraph, layer: LayerRecipe) -> Recipe:
    return uniform_recipe(graph, layer)


def _int8_prune50(graph: ModelGraph, layer: LayerRecipe) -> Recipe:
    return Recipe(layers=uniform_recipe(graph, layer).layers, pruning={group.name: 0.5 for group in graph.prunable})


def _int8_sparse70(graph: ModelGraph, layer: LayerRecipe) -> Recipe:
    sparse = uniform_recipe(graph, layer.model_copy(update={"sparsity": SPARSITY}))
    return Recipe(layers=sparse.layers, sparsification=Sparsification(scope="global"))


def _jpqd(graph: ModelGraph, layer: LayerRecipe) -> Recipe:
    removable = {name for group in graph.prunable if _is_inner(group, graph) for name in group.layers}
    if not removable:
        raise RecipeError("the preset jpqd needs attention heads or Linear layers whose width can be pruned")
    layers = dict(uniform_recipe(graph, layer).layers)
    for name in removable:
        layers[name] = layers.get(name, LayerRecipe()).model_copy(update={"sparsity": JPQD_SPARSITY})
    return Recipe(layers=layers, sparsification=Sparsification(method="movement", structure="rows"))


def _is_inner(group: ChannelGroup, graph: ModelGraph) -> bool:
    """Whether the group is heads of one attention or the outputs of one Linear layer: one vector of scores."""
    all_linear = all(graph.layer(name).kind.endswith("Linear") for name in group.layers)
    return all_linear and (group.unit > 1 or len(group.layers) == 1)


PRESETS: dict[str, Callable[[ModelGraph, LayerRecipe], Recipe]] = {
    "int8": _int8,
    "int8-prune50": _int8_prune50,
    "int8-sparse70": _int8_sparse70,
    "jpqd": _jpqd,
}
