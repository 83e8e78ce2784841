"""Numbers with their unit and spread, as measured on the deployed model, and how it was trained."""

import math
from statistics import NormalDist
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
CHOICE_SHARE = 0.7  # of the validation samples: those by which no candidate is proposed, but one is chosen


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Interval(_Frozen):
    """A value with the ends of its interval; `low <= value <= high` need not hold for a skewed bootstrap.

    An accuracy drop carries its two-sided 90 % interval, so that `high` is the one-sided 95 % upper bound.
    """

    value: Finite
    low: Finite
    high: Finite

    @model_validator(mode="after")
    def _ordered(self) -> "Interval":
        if self.low > self.high:
            raise ValueError(f"low <= high must hold, but got {self.low} and {self.high}")
        return self

    @property
    def standard_error(self) -> float:
        """Of the value, if the interval is a two-sided 90 % one of a normal distribution."""
        return (self.high - self.low) / (2 * NormalDist().inv_cdf(0.95))


class Speedup(_Frozen):
    """Baseline latency / candidate latency: median of `n_pairs` paired ratios and its 95 % interval."""

    value: Positive
    low: Positive
    high: Positive
    n_pairs: Annotated[int, Field(ge=1)]


class LatencyCheck(_Frozen):
    """What speaks for and against one measurement of latency.

    Attributes:
        p90_ms: Nine of ten inferences of the candidate took at most this long, milliseconds on the wall.
        p99_ms: The same for 99 of 100.
        noise_floor: How much the baseline seemed to differ from itself in the same session, as a fraction of 1: the
            larger distance of the ends of the interval of that ratio from 1.
        busy_share: Share of the measured time in which other processes had the processor, in [0, 1].
        n_discarded: Rounds that were measured again because the machine was busy.
        is_noisy: Whether rounds from a busy machine had to be used, or the interval is wider than was asked for.
    """

    p90_ms: Positive
    p99_ms: Positive
    noise_floor: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    busy_share: Annotated[float, Field(ge=0, le=1)]
    n_discarded: Annotated[int, Field(ge=0)] = 0
    is_noisy: bool = False


class Environment(_Frozen):
    """Where numbers were measured.

    Attributes:
        cpu: Name of the processor.
        capabilities: What OpenVINO says the processor can run, for example INT8.
        n_cores: Cores that the process may use.
        inference_threads: Threads of every latency measurement.
        int8_saturates: Whether 8-bit weights times 8-bit activations overflow on this processor.
        versions: Version by package name.
    """

    cpu: str
    capabilities: tuple[str, ...]
    n_cores: int
    inference_threads: int
    int8_saturates: bool
    versions: dict[str, str]


class Measurement(_Frozen):
    """What one deployed model does; never NaN, never partly measured.

    Attributes:
        accuracy: Score of the deployed model on `n_samples` validation samples.
        torch_accuracy: Score of the torch model that it was exported from: that of the deployed one plus the difference
            on the samples that both were run on.
        accuracy_drop: How much worse than the deployed baseline on the same samples, in units of the score,
            positive when worse whatever the direction of the score; two-sided 90 % interval. In a search, on those
            validation samples by which candidates are proposed.
        selection_drop: The same on the others, by which nothing but the choice is decided; None where the validation
            split is too small to be divided, on the test split, and in records of older versions.
        agreement: Fraction of samples on which torch and deployed model decide alike.
        largest_difference: Between two outputs of torch and deployed model, in units of the outputs; None in records of
            older versions.
        speedup: Paired latency ratio to the baseline.
        latency_ms: Median of one inference, milliseconds.
        latency_check: What speaks for and against the two numbers before; None in records of older versions.
        size_bytes: Bytes of the deployed `.xml` and `.bin`.
        zipped_bytes: Bytes of the same files compressed as in a zip archive; None where it was not measured.
        macs: Multiply-accumulates of one inference.
        ran_in: Precision in which the processor ran each layer of the recipe, as far as it could be found.
        float_layers: Those of them that the recipe wants to run on integers but that ran in floating point here.
        n_samples: Samples behind `accuracy`.
    """

    accuracy: Finite
    torch_accuracy: Finite
    accuracy_drop: Interval
    selection_drop: Interval | None = None
    agreement: Annotated[float, Field(ge=0, le=1)]
    largest_difference: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    speedup: Speedup
    latency_ms: Positive
    latency_check: LatencyCheck | None = None
    size_bytes: Annotated[int, Field(gt=0)]
    zipped_bytes: Annotated[int, Field(gt=0)] | None = None
    macs: Annotated[int, Field(ge=0)]
    ran_in: dict[str, str] = {}
    float_layers: tuple[str, ...] = ()
    n_samples: Annotated[int, Field(gt=0)]

    @property
    def whole_drop(self) -> Interval:
        """The drop on all samples, as pictures and tables show it: the mean of both, weighted with their samples.

        Exact for a score that is a mean over samples. Its error is that of a sum of two independent ones.
        """
        seen, held_out = self.accuracy_drop, self.selection_drop
        if held_out is None:
            return seen
        parts = (1 - CHOICE_SHARE, seen), (CHOICE_SHARE, held_out)
        value = sum(share * drop.value for share, drop in parts)
        low = value - math.hypot(*(share * (drop.value - drop.low) for share, drop in parts))
        high = value + math.hypot(*(share * (drop.high - drop.value) for share, drop in parts))
        return Interval(value=value, low=low, high=high)


class CoursePoint(_Frozen):
    """One point of a training's course: optimizer steps taken so far, the loss there, and the rate of the weights."""

    step: Annotated[int, Field(ge=1)]
    loss: Finite
    learning_rate: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class TrainingSummary(_Frozen):
    """How a candidate was trained.

    Attributes:
        n_steps: Optimizer steps that its training was meant to take.
        learning_rate: Peak rate of the weights; 0 where the user's own loop chose it.
        started_from: Digest of the candidate whose weights it started from; empty where those were the FP32 model's.
        stopped_at: The step at which it was given up as hopeless; None for a training that took all its steps.
        n_rollbacks: How often it diverged, and went on from an earlier state with a smaller rate.
        course: At most about 50 points, evenly spread, losses being means over the steps since the point before.
    """

    n_steps: Annotated[int, Field(ge=0)]
    learning_rate: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    started_from: str = ""
    stopped_at: int | None = None
    n_rollbacks: Annotated[int, Field(ge=0)] = 0
    course: tuple[CoursePoint, ...] = ()
