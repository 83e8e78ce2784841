"""The fastest OpenVINO CPU model that keeps the accuracy, and the Pareto front behind that choice."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocompress.errors import AutocompressError
    from autocompress.own_training import own_loop
    from autocompress.pareto import Candidate, Choice, ParetoFront, Wishes
    from autocompress.ptq import quantize
    from autocompress.recipe import Calibration, Distillation, LayerRecipe, Recipe, Sparsification
    from autocompress.study import Study, create_study, load_study
    from autocompress.task import Score, Task, TensorBatches, top1_accuracy
    from autocompress.train import Hardware, TrainingBudget, adapt_batch_norm

__version__ = "0.1.0"

_HOMES = {  # public names are loaded when they are first used, so that reading a report needs no torch
    "errors": ["AutocompressError"],
    "own_training": ["own_loop"],
    "pareto": ["Candidate", "Choice", "ParetoFront", "Wishes"],
    "ptq": ["quantize"],
    "recipe": ["Calibration", "Distillation", "LayerRecipe", "Recipe", "Sparsification"],
    "study": ["Study", "create_study", "load_study"],
    "task": ["Score", "Task", "TensorBatches", "top1_accuracy"],
    "train": ["Hardware", "TrainingBudget", "adapt_batch_norm"],
}

__all__ = [
    "AutocompressError",
    "Calibration",
    "Candidate",
    "Choice",
    "Distillation",
    "Hardware",
    "LayerRecipe",
    "ParetoFront",
    "Recipe",
    "Score",
    "Sparsification",
    "Study",
    "Task",
    "TensorBatches",
    "TrainingBudget",
    "Wishes",
    "adapt_batch_norm",
    "create_study",
    "load_study",
    "own_loop",
    "quantize",
    "top1_accuracy",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"autocompress.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
