"""What one processor rewards, as measured on small nets: rows with intervals, and what follows from them."""

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from autocompress.measurement import Speedup

PROBE_VERSION = 1  # raise it when other nets are timed; older probes are then not read any more
NO_TIME = "no time was left for it"
NEGLIGIBLE = 0.05  # ratios that lie within this distance of 1 are no reward that a search could notice
MOST_UNCLEAR = 0.25  # of all rows
MOST_UNASKED = 0.1  # of the comparisons; on a slow machine the last few find no time
GRANULARITIES = (1, 4, 8, 16)
_LARGEST_RESIDUAL = 0.06  # of the latency at most channels; a staircase that fits worse is none
_CLEARLY_BETTER = 1.4  # how much smaller the sum of squares of the best staircase must be than the next one's

LayerKind = Literal["conv3x3", "conv1x1", "depthwise", "linear"]
Verdict = Literal["faster", "slower", "same", "unclear"]
Question = Literal[
    "int8",
    "weights_only_int8",
    "weights_only_int4",
    "narrow_weights",
    "seven_bits",
    "narrow_inputs",
    "per_tensor",
    "binary",
    "sparse",
    "float_precision",
    "switches",
    "channels",
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProbeRow(_Frozen):
    """One comparison of two nets that differ in one thing.

    Attributes:
        question: What is asked.
        kind: Kind of the layers.
        shape: Sizes in words, for example `128 channels, 7 x 7`.
        variant: What is tried, in words, for example `INT8`.
        baseline: What it is compared with, in words.
        speedup: Latency of `baseline` / latency of `variant`.
        noise_floor: How much the baseline seemed to differ from itself, as a fraction of 1.
        is_noisy: Whether the machine was busy, or the interval is wider than asked for.
        n_channels: Channels between the layers, in rows of the question `channels` only.
    """

    question: Question
    kind: LayerKind
    shape: str
    variant: str
    baseline: str
    speedup: Speedup
    noise_floor: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    is_noisy: bool = False
    n_channels: Annotated[int, Field(ge=1)] | None = None

    @property
    def verdict(self) -> Verdict:
        """What the interval allows to say.

        `same` where all of it lies within `NEGLIGIBLE` of 1; `faster` or `slower` where it leaves 1 out and the value
        differs from 1 by more than the noise floor; else `unclear`, which is noise.
        """
        value, low, high = self.speedup.value, self.speedup.low, self.speedup.high
        if self.is_not_faster and low >= 1 - NEGLIGIBLE:
            return "same"
        if low > 1 and value > 1 + self.noise_floor:
            return "faster"
        return "slower" if high < 1 and value < 1 - self.noise_floor else "unclear"

    @property
    def is_not_faster(self) -> bool:
        """Whether the interval rules out a gain of more than `NEGLIGIBLE`, and noise is no larger than that."""
        return self.speedup.high <= 1 + NEGLIGIBLE and self.noise_floor <= NEGLIGIBLE


class CpuProbe(_Frozen):
    """What this processor rewards with this OpenVINO.

    Attributes:
        version: Of the questions, `PROBE_VERSION` at that time.
        cpu: Name of the processor.
        capabilities: What OpenVINO says that it can run.
        openvino: Version.
        n_threads: Threads of every inference.
        isa_limit: Value of ONEDNN_MAX_CPU_ISA, which may forbid instructions; empty where it is not set.
        int8_saturates: Whether 8-bit weights times 8-bit activations overflow.
        float_precision: In what OpenVINO runs float layers by itself: f32, bf16 or f16.
        rows: The comparisons, in the order of the questions.
        unanswered: Why a comparison has no row, by what it was.
        seconds: How long it took.
    """

    version: int = PROBE_VERSION
    cpu: str
    capabilities: tuple[str, ...]
    openvino: str
    n_threads: Annotated[int, Field(ge=1)]
    isa_limit: str = ""
    int8_saturates: bool
    float_precision: str = "f32"
    rows: tuple[ProbeRow, ...]
    unanswered: dict[str, str] = {}
    seconds: Annotated[float, Field(ge=0)] = 0.0

    def rows_of(self, question: Question, kind: LayerKind | None = None) -> tuple[ProbeRow, ...]:
        """The rows of a question, for one kind of layer or for all."""
        return tuple(row for row in self.rows if row.question == question and kind in (None, row.kind))

    def is_faster(self, question: Question, kind: LayerKind | None = None) -> bool | None:
        """Whether it makes layers of that kind faster at some size; None where that is not known.

        True needs one row that says `faster`; False needs rows, and that each of them rules out a gain.
        """
        rows = self.rows_of(question, kind)
        if any(row.verdict == "faster" for row in rows):
            return True
        return False if rows and all(row.verdict == "slower" or row.is_not_faster for row in rows) else None

    @property
    def is_complete(self) -> bool:
        """Whether time was left for all but a tenth; what this processor cannot run counts as asked."""
        n_left = sum(reason == NO_TIME for reason in self.unanswered.values())
        return n_left <= MOST_UNASKED * (len(self.rows) + len(self.unanswered))

    @property
    def is_clear(self) -> bool:
        """Whether noise left at most a quarter of the comparisons without a verdict."""
        return sum(row.verdict == "unclear" for row in self.rows) <= MOST_UNCLEAR * len(self.rows)

    @property
    def default_weight_bits(self) -> int:
        """Bits of weights that are exact on this processor: 7 where 8 saturate, else 8."""
        return 7 if self.int8_saturates else 8

    def granularity(self, variant: str) -> int | None:
        """Channels that are computed as one block in nets of that variant (`FP32`, `INT8`); None where not known."""
        rows = [row for row in self.rows_of("channels") if row.variant == variant and row.n_channels]
        latencies = {row.n_channels: 1 / row.speedup.value for row in rows if row.n_channels}
        return staircase(latencies | {row_baseline(row): 1.0 for row in rows}) if rows else None


def row_baseline(row: ProbeRow) -> int:
    """Channels of the net that a row of the question `channels` is compared with.

    Raises:
        ValueError: `baseline` does not start with a number.
    """
    return int(row.baseline.split()[0])


def staircase(latencies: Mapping[int, float]) -> int | None:
    """The size of the blocks in which channels are computed, from latencies by number of channels.

    Fits latency = a + b * (channels rounded up to the block) by least squares for each block of `GRANULARITIES`, and
    takes the one with the least squared error, if the fit is good and clearly better than the others.

    Args:
        latencies: Any unit; at least five numbers of channels.

    Returns:
        One of `GRANULARITIES`; 1 means that each channel counts. None where the latencies don't tell.

    >>> staircase({40: 5.0, 44: 6.0, 48: 6.0, 49: 7.0, 56: 7.0, 60: 8.0, 64: 8.0})
    8
    """
    if len(latencies) < 5:
        return None
    counts = np.array(sorted(latencies))
    times = np.array([latencies[count] for count in counts]) / latencies[int(counts[-1])]
    fits = sorted((*_fit(counts, times, block), block) for block in GRANULARITIES)
    (error, slope, block), (next_error, *_) = fits[:2]
    is_good = slope > 0 and (error / len(counts)) ** 0.5 <= _LARGEST_RESIDUAL
    return block if is_good and next_error >= _CLEARLY_BETTER * error and next_error > 1e-9 else None


def _fit(counts: npt.NDArray[np.int64], times: npt.NDArray[np.float64], block: int) -> tuple[float, float]:
    """Sum of squared errors and slope of the line through the times at `counts` rounded up to `block`."""
    rounded = -(-counts // block) * block
    columns = np.stack([np.ones(len(counts)), rounded], axis=1)
    (intercept, slope), *_ = np.linalg.lstsq(columns, times, rcond=None)
    return float(np.square(intercept + slope * rounded - times).sum()), float(slope)
