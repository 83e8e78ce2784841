"""How latency is measured, and what comes of it."""

from dataclasses import dataclass, replace

from autocompress.measurement import LatencyCheck, Speedup


@dataclass(frozen=True)
class LatencySettings:
    """How to measure.

    Attributes:
        n_threads: Inference threads.
        min_pairs: Rounds measured at least; each model runs one block in a round.
        max_pairs: Rounds measured at most.
        max_seconds: No further round is begun after this time, but for `min_pairs`.
        half_width: Relative half-width of the interval at which measuring ends early.
        block_seconds: Least length of one block; short inferences are repeated in it.
        seed: Of the order within rounds and of the bootstrap.
        min_seconds: Measuring does not end early before this time; slow changes of the machine need some to show.
        n_copies: How often each model is compiled, at most; twice where compiling takes long. Copies differ in where
            their memory lies, and so in speed.
        max_busy_share: Share of the cores' time, in [0, 1], that other processes may have; rounds in which they had
            more are measured again.
    """

    n_threads: int = 1
    min_pairs: int = 30
    max_pairs: int = 400
    max_seconds: float = 3.0
    half_width: float = 0.02
    block_seconds: float = 0.003
    seed: int = 0
    min_seconds: float = 0.5
    n_copies: int = 6
    max_busy_share: float = 0.1


LEAST_PAIRS = 6  # of rounds; the interval of fewer says nothing
FINALIST = LatencySettings(min_pairs=100, max_pairs=1000, max_seconds=8.0, half_width=0.01)


def lasting(settings: LatencySettings, candidate_seconds: float) -> LatencySettings:
    """Longer or shorter settings, in the proportion in which a candidate takes `candidate_seconds`.

    Args:
        settings: For a candidate, or for something that takes longer.
        candidate_seconds: In place of the seconds of the default settings, > 0.

    >>> lasting(FINALIST, 6.0).max_seconds, lasting(LatencySettings(), 6.0).max_pairs
    (16.0, 800)
    """
    factor = candidate_seconds / LatencySettings().max_seconds
    at_most_1 = min(factor, 1.0)
    return replace(
        settings,
        min_pairs=max(LEAST_PAIRS, round(at_most_1 * settings.min_pairs)),
        max_pairs=max(LEAST_PAIRS, round(factor * settings.max_pairs)),
        max_seconds=factor * settings.max_seconds,
        min_seconds=at_most_1 * settings.min_seconds,
        n_copies=max(2, round(at_most_1 * settings.n_copies)),
    )


@dataclass(frozen=True)
class PairedLatency:
    """Result of one comparison.

    Attributes:
        speedup: Baseline latency / candidate latency, with its interval; at one thread of the time that this thread
            itself worked, since a long inference is interrupted by others more often than a short one.
        latency_ms: Median of one inference of the candidate, milliseconds on the wall.
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
