"""The chosen recipe as rows: bit widths a layer, pruning ratio a channel group."""

from autocompress.record import StudyRecord
from autocompress.report.wording import bit_width, percent, printable

LayerRow = tuple[str, str, str, str]
GroupRow = tuple[str, str]


def layer_rows(record: StudyRecord) -> list[LayerRow]:
    """Layer, weight bits, activation bits and how it ran, for every layer that the chosen recipe quantizes.

    A layer that the recipe quantizes but that this CPU ran in floating point says so in its last cell.
    No rows where nothing is chosen.

    Raises:
        StudyError: The chosen candidate is not in the record.
    """
    if record.chosen is None:
        return []
    candidate = record.candidate(record.chosen.digest)
    in_float = set(candidate.measurement.float_layers) if candidate.measurement else set()
    return [
        (
            printable(name),
            bit_width(layer.weight_bits),
            bit_width(layer.activation_bits),
            "in floating point" if name in in_float else "as the recipe says",
        )
        for name, layer in sorted(candidate.recipe.layers.items())
    ]


def group_rows(record: StudyRecord) -> list[GroupRow]:
    """Channel group and percent of its filters removed, for every group that the chosen recipe prunes.

    Raises:
        StudyError: The chosen candidate is not in the record.
    """
    if record.chosen is None:
        return []
    recipe = record.candidate(record.chosen.digest).recipe
    return [(printable(name), percent(ratio)) for name, ratio in sorted(recipe.pruning.items())]
