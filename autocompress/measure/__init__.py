"""Numbers of the deployed model: accuracy, latency, and what the processor really ran."""

from autocompress.measure.accuracy import Predictions, predict_deployed, predict_torch, score_of
from autocompress.measure.environment import default_weight_bits, describe_environment, int8_saturates
from autocompress.measure.paired_drop import accuracy_drop, discordant_pairs, mcnemar_p
from autocompress.measure.parity import Parity, agreement, explain_parity, is_suspect, parity
from autocompress.measure.runtime import default_precision_of, float_layers, layer_precisions

__all__ = [
    "Parity",
    "Predictions",
    "accuracy_drop",
    "agreement",
    "default_precision_of",
    "default_weight_bits",
    "describe_environment",
    "discordant_pairs",
    "explain_parity",
    "float_layers",
    "int8_saturates",
    "is_suspect",
    "layer_precisions",
    "mcnemar_p",
    "parity",
    "predict_deployed",
    "predict_torch",
    "score_of",
]
