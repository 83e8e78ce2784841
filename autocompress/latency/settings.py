"""How latency is measured, and what comes of it."""

from dataclasses import dataclass

from autocompress.measurement import LatencyCheck, Speedup


@dataclass(frozen=True)
class LatencySettings:
    """How to measure.

    Attributes:
        n_threads: Inference threads.
        min_pairs: Paired blocks measured at least.
        max_pairs: Paired blocks measured at most.
        max_seconds: No further block is begun after this time.
        half_width: Relative half-width of the interval at which measuring ends early.
        block_seconds: Least length of one block; short inferences are repeated in it.
        seed: Of the order within rounds and of the bootstrap.
    """

    n_threads: int = 1
    min_pairs: int = 30
    max_pairs: int = 400
    max_seconds: float = 3.0
    half_width: float = 0.02
    block_seconds: float = 0.003
    seed: int = 0


FINALIST = LatencySettings(min_pairs=100, max_pairs=1000, max_seconds=8.0, half_width=0.01)


@dataclass(frozen=True)
class PairedLatency:
    """Result of one comparison.

    Attributes:
        speedup: Baseline latency / candidate latency, with its interval.
        latency_ms: Median of one inference of the candidate, milliseconds.
        baseline_ms: The same of the baseline.
        check: Percentiles, noise floor, and how busy the machine was.
    """

    speedup: Speedup
    latency_ms: float
    baseline_ms: float
    check: LatencyCheck


@dataclass(frozen=True)
class JointLatency:
    """Result of one session over several candidates.

    Attributes:
        results: Each candidate against the baseline, in their order.
        between: ``between[i][j]`` is latency of candidate i / latency of candidate j, from the same rounds.
    """

    results: tuple[PairedLatency, ...]
    between: tuple[tuple[Speedup, ...], ...]
