"""The candidates as a table for pandas."""

import math
from typing import Any

import pandas as pd

from autocompress.pareto import Candidate
from autocompress.record import StudyRecord

COLUMN_TYPES = {
    "digest": "str",
    "label": "str",
    "rung": "str",
    "failure": "str",
    "accuracy": "float64",
    "torch_accuracy": "float64",
    "accuracy_drop": "float64",
    "accuracy_drop_low": "float64",
    "accuracy_drop_high": "float64",
    "speedup": "float64",
    "speedup_low": "float64",
    "speedup_high": "float64",
    "n_pairs": "Int64",
    "latency_ms": "float64",
    "latency_p90_ms": "float64",
    "latency_p99_ms": "float64",
    "noise_floor": "float64",
    "is_noisy": "boolean",
    "size_bytes": "Int64",
    "zipped_bytes": "Int64",
    "macs": "Int64",
    "agreement": "float64",
    "on_front": "bool",
    "seconds": "float64",
    "n_steps": "Int64",
    "learning_rate": "float64",
    "started_from": "str",
    "stopped_at": "Int64",
    "n_rollbacks": "Int64",
}


def frame(record: StudyRecord) -> pd.DataFrame:
    """One row a candidate, in the order of the record; measured numbers of a failed one are missing.

    Columns:
        digest, label, rung, failure: As in `Candidate`; `failure` is missing where there is a measurement.
        accuracy, torch_accuracy: Score of the deployed and of the torch model, validation split.
        accuracy_drop, accuracy_drop_low, accuracy_drop_high: In units of the score, positive is worse; 90 % interval.
        speedup, speedup_low, speedup_high, n_pairs: Paired ratio to the baseline; 95 % interval; pairs behind it.
        latency_ms, latency_p90_ms, latency_p99_ms: Median and upper percentiles of one inference, milliseconds.
        noise_floor, is_noisy: As in `LatencyCheck`; missing in records of older versions, as the percentiles.
        size_bytes, zipped_bytes, macs, agreement: As in `Measurement`.
        on_front: Whether the candidate is on the Pareto front; False for a failed one.
        seconds: Wall-clock seconds that the candidate took: its phase `total`, else the sum of its phases.
        n_steps: Training steps, as in `Candidate`.
        learning_rate, started_from, stopped_at, n_rollbacks: As in `TrainingSummary`, also for a failed candidate;
            missing where there was no training. `stopped_at` is missing too where the training took all its steps.

    Raises:
        StudyError: The baseline was not measured.
    """
    front = {c.digest for c in record.front().candidates}
    rows = [_row(c, on_front=c.measurement is not None and c.digest in front) for c in record.candidates]
    return pd.DataFrame(rows, columns=list(COLUMN_TYPES)).astype(COLUMN_TYPES)


def _row(candidate: Candidate, on_front: bool) -> dict[str, Any]:
    seconds = candidate.seconds
    row: dict[str, Any] = {
        "digest": candidate.digest,
        "label": candidate.label,
        "rung": candidate.rung,
        "failure": candidate.failure,
        "on_front": on_front,
        "seconds": seconds.get("total", math.fsum(seconds.values())),
        "n_steps": candidate.n_steps,
    }
    if candidate.training:
        row |= candidate.training.model_dump(include={"learning_rate", "started_from", "stopped_at", "n_rollbacks"})
    m = candidate.measurement
    if m is None:
        return row
    drop, speedup, check = m.accuracy_drop, m.speedup, m.latency_check
    if check:
        row |= {"latency_p90_ms": check.p90_ms, "latency_p99_ms": check.p99_ms}
        row |= {"noise_floor": check.noise_floor, "is_noisy": check.is_noisy}
    return row | {
        "accuracy": m.accuracy,
        "torch_accuracy": m.torch_accuracy,
        "accuracy_drop": drop.value,
        "accuracy_drop_low": drop.low,
        "accuracy_drop_high": drop.high,
        "speedup": speedup.value,
        "speedup_low": speedup.low,
        "speedup_high": speedup.high,
        "n_pairs": speedup.n_pairs,
        "latency_ms": m.latency_ms,
        "size_bytes": m.size_bytes,
        "zipped_bytes": m.zipped_bytes,
        "macs": m.macs,
        "agreement": m.agreement,
    }
