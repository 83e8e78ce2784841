"""What a recipe does to a module: filters removed, weights and inputs put on integer grids."""

from autocompress.compress.calibration import calibrate
from autocompress.compress.pipeline import CompressedModel, compress, parameter_groups

__all__ = ["CompressedModel", "calibrate", "compress", "parameter_groups"]
