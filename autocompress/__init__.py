"""The fastest OpenVINO CPU model that keeps the accuracy, and the Pareto front behind that choice."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocompress.errors import AutocompressError
    from autocompress.pareto import Candidate, Choice, ParetoFront, Wishes
    from autocompress.ptq import quantize
    from autocompress.recipe import Calibration, LayerRecipe, Recipe, Sparsification
    from autocompress.study import Study, create_study, load_study
    from autocompress.task import Score, Task, TensorBatches, top1_accuracy
    from autocompress.train import adapt_batch_norm

__version__ = "0.1.0"

_HOMES = {  # public names are loaded when they are first used, so that reading a report needs no torch
    "errors": ["AutocompressError"],
    "pareto": ["Candidate", "Choice", "ParetoFront", "Wishes"],
    "ptq": ["quantize"],
    "recipe": ["Calibration", "LayerRecipe", "Recipe", "Sparsification"],
    "study": ["Study", "create_study", "load_study"],
    "task": ["Score", "Task", "TensorBatches", "top1_accuracy"],
    "train": ["adapt_batch_norm"],
}

__all__ = [
    "AutocompressError",
    "Calibration",
    "Candidate",
    "Choice",
    "LayerRecipe",
    "ParetoFront",
    "Recipe",
    "Score",
    "Sparsification",
    "Study",
    "Task",
    "TensorBatches",
    "Wishes",
    "adapt_batch_norm",
    "create_study",
    "load_study",
    "quantize",
    "top1_accuracy",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"autocompress.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
