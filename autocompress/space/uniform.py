"""One recipe for all layers, but for those that a user names."""

from collections.abc import Iterable

from autocompress.graph import select_layers
from autocompress.graph.model_graph import ModelGraph
from autocompress.recipe import FLOAT_BITS, Calibration, LayerRecipe, Recipe


def uniform_recipe(
    graph: ModelGraph, layer: LayerRecipe, ignored: Iterable[str] = (), calibration: Calibration | None = None
) -> Recipe:
    """The recipe that treats every layer of `graph` alike.

    Args:
        graph: The model's layers.
        layer: What is done to each. Layers that only have weights get a float input; options that a layer cannot have
            (groups other than in a Linear layer) are left out for it.
        ignored: Patterns of layers that stay float, as `select_layers` reads them.
        calibration: How the layers are set up from data.

    Raises:
        GraphError: A pattern matches no layer.
    """
    float_layers = set(select_layers(graph, ignored))
    layers = {}
    for known in graph.compressible:
        if known.name not in float_layers:
            changes: dict[str, int] = {"activation_bits": FLOAT_BITS} if known.weights_only else {}
            if layer.group_size and (known.kind != "Linear" or known.weight_shape[1] % layer.group_size):
                changes["group_size"] = 0
            layers[known.name] = layer.model_copy(update=changes)
    return Recipe(layers=layers, calibration=calibration or Calibration())
