"""What may be tried: YAML files, their binding to a model, and recipes to and from parameter values."""

from autocompress.space.anchors import anchors
from autocompress.space.bound_space import BoundSpace
from autocompress.space.built_in import DEFAULT_SPACE, built_in_spaces, built_in_text, load_space
from autocompress.space.presets import PRESETS, preset
from autocompress.space.rewards import left_out, without
from autocompress.space.search_space import SearchSpace
from autocompress.space.uniform import uniform_recipe

__all__ = [
    "DEFAULT_SPACE",
    "PRESETS",
    "BoundSpace",
    "SearchSpace",
    "anchors",
    "built_in_spaces",
    "built_in_text",
    "left_out",
    "load_space",
    "preset",
    "uniform_recipe",
    "without",
]
