"""The fastest OpenVINO CPU model that keeps the accuracy, and the Pareto front behind that choice."""

from autocompress.errors import AutocompressError
from autocompress.pareto import Candidate, Choice, ParetoFront, Wishes
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.study import Study, create_study, load_study
from autocompress.task import Score, Task, TensorBatches, top1_accuracy

__version__ = "0.1.0"

__all__ = [
    "AutocompressError",
    "Candidate",
    "Choice",
    "LayerRecipe",
    "ParetoFront",
    "Recipe",
    "Score",
    "Study",
    "Task",
    "TensorBatches",
    "Wishes",
    "create_study",
    "load_study",
    "top1_accuracy",
]
