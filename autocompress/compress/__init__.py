"""What a recipe does to a module: filters removed, weights and inputs put on integer grids."""

from autocompress.compress.calibration import calibrate
from autocompress.compress.pipeline import CompressedModel, compress

__all__ = ["CompressedModel", "calibrate", "compress"]
