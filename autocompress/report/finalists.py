"""What the session of all finalists says: their latencies, and which neighbours cannot be told apart."""

from itertools import pairwise

from autocompress.record import FinalistPair, StudyRecord
from autocompress.report.wording import printable, times

HEAD = ("name", "speed-up", "half-width", "median, ms", "p90, ms", "p99, ms", "over the next")


def finalist_rows(record: StudyRecord) -> list[list[str]]:
    """One row a finalist under `HEAD`, fastest first; plain text, for the caller to escape.

    Empty where no finalists were timed together.

    Raises:
        StudyError: A finalist is not in the record.
    """
    pairs = {pair.faster: pair for pair in neighbours(record)}
    digests = record.finalists.digests if record.finalists else ()
    return [_row(record, digest, pairs.get(digest)) for digest in digests]


def neighbours(record: StudyRecord) -> list[FinalistPair]:
    """Finalists that follow each other in speed, fastest first."""
    if record.finalists is None:
        return []
    known = {(pair.faster, pair.slower): pair for pair in record.finalists.pairs}
    return [known[two] for two in pairwise(record.finalists.digests)]


def alike_sentences(record: StudyRecord) -> list[str]:
    """One sentence for each two neighbours whose latencies cannot be told apart; plain text."""
    return [
        f"the latencies of {_name(record, pair.faster)} and {_name(record, pair.slower)} can't be told apart: "
        f"ratio {times(pair.ratio)}"
        for pair in neighbours(record)
        if not pair.is_told_apart
    ]


def _row(record: StudyRecord, digest: str, next_pair: FinalistPair | None) -> list[str]:
    candidate = record.candidate(digest)
    m = candidate.measurement
    if m is None:
        return [_name(record, digest), *[""] * (len(HEAD) - 1)]
    check = m.latency_check
    half_width = (m.speedup.high - m.speedup.low) / 2 / m.speedup.value
    return [
        _name(record, digest),
        times(m.speedup),
        f"{100 * half_width:.1f} %",
        f"{m.latency_ms:.3f}",
        f"{check.p90_ms:.3f}" if check else "",
        f"{check.p99_ms:.3f}" if check else "",
        _over_the_next(next_pair),
    ]


def _over_the_next(pair: FinalistPair | None) -> str:
    if pair is None:
        return ""
    return times(pair.ratio) + ("" if pair.is_told_apart else ", can't be told apart")


def _name(record: StudyRecord, digest: str) -> str:
    return printable(record.candidate(digest).name)
