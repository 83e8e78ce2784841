"""The candidates as a table for pandas, one documented column a number."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from autocompress.measurement import TrainingSummary
from autocompress.pareto import Candidate, ParetoFront
from autocompress.recipe import Recipe
from autocompress.record import StudyRecord


class Column(NamedTuple):
    """What a column of `frame` holds.

    Attributes:
        name: Of the column.
        dtype: Of pandas, the same whatever the record holds; only those that can be missing are nullable.
        unit: Of its numbers, empty for text and truth values.
        meaning: One sentence.
    """

    name: str
    dtype: str
    unit: str
    meaning: str


COLUMNS = tuple(
    Column(*row)
    for row in (
        ("digest", "string", "", "names the recipe and the candidate's folder"),
        ("label", "string", "", "name of an anchor such as int8; missing for others"),
        ("rung", "string", "", "how far it came: baseline, short or long training"),
        ("failure", "string", "", "why there is no measurement; missing where there is one"),
        ("accuracy", "float64", "score", "score of the deployed model on validation samples"),
        ("torch_accuracy", "float64", "score", "score of the torch model that it was exported from, same samples"),
        ("accuracy_drop", "float64", "score", "how much worse than FP32 on the same samples; positive is worse"),
        ("accuracy_drop_low", "float64", "score", "lower end of its two-sided 90 % interval"),
        ("accuracy_drop_high", "float64", "score", "upper end, which is the one-sided 95 % bound"),
        ("speedup", "float64", "ratio", "latency of FP32 / latency of the candidate, from paired runs"),
        ("speedup_low", "float64", "ratio", "lower end of its 95 % interval"),
        ("speedup_high", "float64", "ratio", "upper end of its 95 % interval"),
        ("n_pairs", "Int64", "count", "pairs of runs behind the speed-up"),
        ("latency_ms", "float64", "ms", "median of one inference"),
        ("latency_p90_ms", "float64", "ms", "nine of ten inferences took at most this; missing in older records"),
        ("latency_p99_ms", "float64", "ms", "the same for 99 of 100"),
        ("noise_floor", "float64", "fraction", "how much FP32 seemed to differ from itself in the same session"),
        ("is_noisy", "boolean", "", "whether the machine was too busy for a narrow interval"),
        ("size_bytes", "Int64", "bytes", "model.xml and model.bin"),
        ("zipped_bytes", "Int64", "bytes", "both in a zip archive; missing where it was not measured"),
        ("macs", "Int64", "count", "multiply-accumulates of one inference"),
        ("agreement", "float64", "fraction", "samples on which torch and deployed model decide alike"),
        ("on_front", "bool", "", "whether it is on the Pareto front; never for a failed one or without a baseline"),
        ("seconds", "float64", "s", "wall-clock time that the candidate took"),
        ("n_steps", "Int64", "count", "training steps taken"),
        (
            "learning_rate",
            "float64",
            "",
            "peak rate of the weights; 0 in a loop of one's own; missing without training",
        ),
        ("started_from", "string", "", "digest of whose weights it started from; missing without training"),
        ("stopped_at", "Int64", "step", "where training was given up; missing where all steps were taken"),
        ("n_rollbacks", "Int64", "count", "how often training diverged and went back; missing without training"),
    )
)
COLUMN_TYPES = {column.name: column.dtype for column in COLUMNS}


def column_table() -> str:
    """The columns with type, unit and meaning as lines of text; it ends the docstrings of `frame` and `Study.frame`."""
    width = max(len(column.name) for column in COLUMNS)
    return "\n".join(
        f"    {column.name:<{width}}  {column.dtype:<8} {column.unit:<9} {column.meaning}" for column in COLUMNS
    )


def with_column_table(text: str | None) -> str:
    """A docstring followed by the columns."""
    return f"{(text or '').rstrip()}\n\n    Columns: name, dtype, unit, meaning.\n\n{column_table()}\n"


def frame(record: StudyRecord) -> pd.DataFrame:
    """One row a candidate, in the order of the record; measured numbers of a failed one are missing.

    Columns and their types are the same for every record, one without candidates included. `to_csv(index=False)` and
    `read_frame` give it back.
    """
    front = _front(record)
    rows = [_row(c, on_front=c.measurement is not None and c.digest in front) for c in record.candidates]
    return pd.DataFrame(rows, columns=list(COLUMN_TYPES)).astype(COLUMN_TYPES)


frame.__doc__ = with_column_table(frame.__doc__)


def read_frame(path: str | Path) -> pd.DataFrame:
    """What `frame` gave, from the CSV file that `to_csv(path, index=False)` wrote: equal in values and types.

    Args:
        path: Of the CSV file.
    """
    return pd.read_csv(
        path,
        dtype=COLUMN_TYPES,
        keep_default_na=False,  # a reason may be a word such as None
        na_values=[""],
    )


def _front(record: StudyRecord) -> set[str]:
    """Digests on the front; none where the baseline was not measured."""
    baseline = next((c for c in record.candidates if c.recipe.is_identity and c.measurement), None)
    if baseline is None:
        return set()
    return {c.digest for c in ParetoFront.of(record.candidates, baseline, record.study.objectives).candidates}


def _row(candidate: Candidate, on_front: bool) -> dict[str, Any]:
    seconds = candidate.seconds
    row: dict[str, Any] = {
        "digest": candidate.digest,
        "label": candidate.label or None,
        "rung": candidate.rung,
        "failure": candidate.failure,
        "on_front": on_front,
        "seconds": seconds.get("total", math.fsum(seconds.values())),
        "n_steps": candidate.n_steps,
        **(_of_training(candidate.training) if candidate.training else {}),
    }
    m = candidate.measurement
    if m is None:
        return row
    drop, speedup, check = m.whole_drop, m.speedup, m.latency_check
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


def _of_training(training: TrainingSummary) -> dict[str, Any]:
    """Its columns; weights of the FP32 model are those of its digest."""
    return {
        "learning_rate": training.learning_rate,
        "started_from": training.started_from or Recipe().digest(),
        "stopped_at": training.stopped_at,
        "n_rollbacks": training.n_rollbacks,
    }
