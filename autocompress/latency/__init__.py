"""Timing of compiled models: paired ratios with intervals, in a process of its own; needs no torch."""

from autocompress.latency.intervals import relative_half_width, verdict
from autocompress.latency.models import compile_model, random_inputs, read_model, reason
from autocompress.latency.process import LatencyProcess
from autocompress.latency.protocol import default_precision_speedup, joint_latency, paired_latency
from autocompress.latency.settings import FINALIST, JointLatency, LatencySettings, PairedLatency, lasting
from autocompress.latency.throughput import Throughput, throughput, throughput_speedup
from autocompress.latency.training_lock import quiet, training

__all__ = [
    "FINALIST",
    "JointLatency",
    "LatencyProcess",
    "LatencySettings",
    "PairedLatency",
    "Throughput",
    "compile_model",
    "default_precision_speedup",
    "joint_latency",
    "lasting",
    "paired_latency",
    "quiet",
    "random_inputs",
    "read_model",
    "reason",
    "relative_half_width",
    "throughput",
    "throughput_speedup",
    "training",
    "verdict",
]
