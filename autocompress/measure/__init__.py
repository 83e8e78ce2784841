"""Numbers of the deployed model: accuracy, latency, and what the processor really ran."""

from autocompress.measure.accuracy import Predictions, predict_deployed, predict_torch, score_of, split_for_choice, take
from autocompress.measure.environment import default_weight_bits, describe_environment, int8_saturates
from autocompress.measure.paired_drop import accuracy_drop, discordant_pairs, mcnemar_p
from autocompress.measure.parity import Parity, agreement, explain_parity, is_suspect, parity
from autocompress.measure.probe import probe_cpu
from autocompress.measure.probe_cache import keep_probe, known_probe
from autocompress.measure.profile import profile_layers
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
    "split_for_choice",
    "take",
    "int8_saturates",
    "is_suspect",
    "keep_probe",
    "known_probe",
    "layer_precisions",
    "mcnemar_p",
    "parity",
    "predict_deployed",
    "predict_torch",
    "probe_cpu",
    "profile_layers",
    "score_of",
]
