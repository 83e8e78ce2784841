"""The chosen recipe: bit widths, zeros and rank a layer, pruning ratio a channel group, and how both were chosen."""

from autocompress.recipe import LayerRecipe, Recipe
from autocompress.record import StudyRecord
from autocompress.report.wording import bit_width, filters_by, percent, printable, zeros_by

LayerRow = tuple[str, str, str, str, str, str]
GroupRow = tuple[str, str]


def layer_rows(record: StudyRecord) -> list[LayerRow]:
    """Name, weight bits, activation bits, zeros, rank and how it ran, of every layer that the chosen recipe changes.

    Zeros and rank are in percent, and empty for a layer without zeros or of full rank. A layer that the recipe
    quantizes but that this CPU ran in floating point says so in its last cell. No rows where nothing is chosen.

    Raises:
        StudyError: The chosen candidate is not in the record.
    """
    if record.chosen is None:
        return []
    candidate = record.candidate(record.chosen.digest)
    in_float = set(candidate.measurement.float_layers) if candidate.measurement else set()
    return [_layer_row(name, layer, name in in_float) for name, layer in sorted(candidate.recipe.layers.items())]


def group_rows(record: StudyRecord) -> list[GroupRow]:
    """Channel group and percent of its filters removed, for every group that the chosen recipe prunes.

    Raises:
        StudyError: The chosen candidate is not in the record.
    """
    if record.chosen is None:
        return []
    recipe = record.candidate(record.chosen.digest).recipe
    return [(printable(name), percent(ratio)) for name, ratio in sorted(recipe.pruning.items())]


def recipe_sentences(record: StudyRecord) -> list[str]:
    """How much the chosen recipe changes, and how its filters and zeros were chosen; nothing where none is chosen.

    Raises:
        StudyError: The chosen candidate is not in the record.
    """
    if record.chosen is None:
        return []
    recipe = record.candidate(record.chosen.digest).recipe
    return [f"{_counts(recipe, record.study.n_layers)}.", *_methods(recipe)]


def _layer_row(name: str, layer: LayerRecipe, in_float: bool) -> LayerRow:
    return (
        printable(name),
        bit_width(layer.weight_bits),
        bit_width(layer.activation_bits),
        percent(layer.sparsity) if layer.sparsity else "",
        percent(layer.rank_ratio) if layer.rank_ratio < 1 else "",
        "in floating point" if in_float else "as the recipe says",
    )


def _counts(recipe: Recipe, n_layers: int) -> str:
    n_low_rank = sum(layer.rank_ratio < 1 for layer in recipe.layers.values())
    parts = [f"{len(recipe.quantized)} of {n_layers} layers quantized"]
    parts += [f"{len(recipe.sparse)} sparse"] if recipe.sparse else []
    parts += [f"{n_low_rank} in low rank"] if n_low_rank else []
    return ", ".join([*parts, f"{len(recipe.pruning)} channel groups pruned"])


def _methods(recipe: Recipe) -> list[str]:
    found = []
    if recipe.pruning and recipe.importance != "l1":
        found.append(f"The filters that stay were chosen by {filters_by(recipe.importance)}.")
    if recipe.sparse:
        how = recipe.sparsification
        start = f"from {percent(how.initial_sparsity)} " if how.initial_sparsity else ""
        span = f"the first {percent(how.end)} of the training" if how.end < 1 else "the whole training"
        found.append(f"Zeros were chosen by {zeros_by(how)}; schedule: {how.schedule}, {start}over {span}.")
    return found
