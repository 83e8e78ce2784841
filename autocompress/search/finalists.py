"""The best candidates, timed together at the end of a search: ratios of different minutes differ by a few percent."""

from collections.abc import Sequence

from autocompress.latency import JointLatency
from autocompress.pareto import Candidate, ParetoFront, Wishes
from autocompress.record import FinalistPair, Finalists

MAX_FINALISTS = 6


def choose_finalists(front: ParetoFront, chosen: Candidate, wishes: Wishes, n_compared: int) -> list[Candidate]:
    """Between which the choice falls: the present one, then the fastest of the front that keep the wishes.

    Where fewer than `MAX_FINALISTS` keep them, the fastest others of the front follow.

    Args:
        front: Of all candidates.
        chosen: The present choice, which held-out data may have kept off the front.
        wishes: What the choice must keep.
        n_compared: Candidates that were measured on the same samples.

    Returns:
        At most `MAX_FINALISTS`, none of them the baseline; empty where there are less than two to compare.
    """
    others = [c for c in front.candidates if c.digest != chosen.digest]
    compressed = [c for c in (chosen, *others) if not c.recipe.is_identity]
    ranked = sorted(compressed, key=lambda c: (c.digest != chosen.digest, not _keeps(c, wishes, n_compared)))
    return ranked[:MAX_FINALISTS] if len(ranked) > 1 else []


def _keeps(candidate: Candidate, wishes: Wishes, n_compared: int) -> bool:
    return candidate.measurement is not None and not wishes.violations(candidate.measurement, n_compared)


def with_latencies(candidates: Sequence[Candidate], timed: JointLatency) -> list[Candidate]:
    """The same candidates with the latencies of one session in place of those of their own."""
    updated = []
    for candidate, result in zip(candidates, timed.results, strict=True):
        measurement = candidate.measurement and candidate.measurement.model_copy(
            update={"speedup": result.speedup, "latency_ms": result.latency_ms, "latency_check": result.check}
        )
        updated.append(candidate.model_copy(update={"measurement": measurement}))
    return updated


def compared(candidates: Sequence[Candidate], timed: JointLatency) -> Finalists:
    """What one session says about every two of `candidates`."""
    digests = [c.digest for c in candidates]
    order = sorted(range(len(digests)), key=lambda i: -timed.results[i].speedup.value)
    pairs = [
        FinalistPair(faster=digests[i], slower=digests[j], ratio=timed.between[j][i])
        for n, i in enumerate(order)
        for j in order[n + 1 :]
    ]
    return Finalists(digests=tuple(digests[i] for i in order), pairs=tuple(pairs))
