"""Numbers of the deployed model: accuracy, latency, and what the processor really ran."""

from autocompress.measure.accuracy import (
    Predictions,
    accuracy_drop,
    agreement,
    predict_deployed,
    predict_torch,
    score_of,
)
from autocompress.measure.environment import default_weight_bits, describe_environment, int8_saturates
from autocompress.measure.runtime import default_precision_of, float_layers, layer_precisions

__all__ = [
    "Predictions",
    "accuracy_drop",
    "agreement",
    "default_precision_of",
    "default_weight_bits",
    "describe_environment",
    "float_layers",
    "int8_saturates",
    "layer_precisions",
    "predict_deployed",
    "predict_torch",
    "score_of",
]
