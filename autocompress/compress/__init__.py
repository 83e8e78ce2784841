"""What a recipe does to a module: filters removed, weights and inputs put on integer grids."""

from autocompress.compress.calibration import calibrate
from autocompress.compress.compressed_model import CompressedModel, parameter_groups
from autocompress.compress.pipeline import compress
from autocompress.compress.weight_quantization import IntegerWeight

__all__ = ["CompressedModel", "IntegerWeight", "calibrate", "compress", "parameter_groups"]
