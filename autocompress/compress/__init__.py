"""What a recipe does to a module: filters removed, layers factored, weights masked, weights and inputs quantized."""

from autocompress.compress.calibration import calibrate
from autocompress.compress.compressed_model import CompressedModel, parameter_groups
from autocompress.compress.filter_pruning import global_pruning_ratios
from autocompress.compress.importance import importance_scores, needs_data
from autocompress.compress.pipeline import compress
from autocompress.compress.shrinking import shrink, shrunk_recipe
from autocompress.compress.sparsity_training import SparsityTraining
from autocompress.compress.weight_quantization import IntegerWeight

__all__ = [
    "CompressedModel",
    "IntegerWeight",
    "SparsityTraining",
    "calibrate",
    "compress",
    "global_pruning_ratios",
    "importance_scores",
    "needs_data",
    "parameter_groups",
    "shrink",
    "shrunk_recipe",
]
