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
from autocompress.measure.latency import (
    LatencySettings,
    PairedLatency,
    default_precision_speedup,
    paired_latency,
    random_inputs,
)
from autocompress.measure.runtime import compile_model, default_precision_of, float_layers, layer_precisions

__all__ = [
    "LatencySettings",
    "PairedLatency",
    "Predictions",
    "accuracy_drop",
    "agreement",
    "compile_model",
    "default_precision_of",
    "default_precision_speedup",
    "default_weight_bits",
    "describe_environment",
    "float_layers",
    "int8_saturates",
    "layer_precisions",
    "paired_latency",
    "predict_deployed",
    "predict_torch",
    "random_inputs",
    "score_of",
]
