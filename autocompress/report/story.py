"""A study in a few sentences: what plain INT8 would have given, what cannot be told apart, what the floor cost."""

from collections.abc import Iterator

from autocompress.measurement import Measurement
from autocompress.pareto import Candidate, Choice, Wishes, choose
from autocompress.record import StudyRecord
from autocompress.report.explanation import grouped_seconds
from autocompress.report.finalists import alike_sentences
from autocompress.report.wording import points, points_interval, printable, times

MAX_NAMES = 4
PLAIN = "int8"


def story(record: StudyRecord) -> list[tuple[str, str]]:
    """A title and a few sentences each, in the order in which they should be read; plain text.

    What a record does not tell is left out.

    Raises:
        StudyError: The baseline was not measured, or the chosen candidate is not in the record.
    """
    parts = [
        ("Plain INT8", _plain_sentence(record)),
        ("What can't be told apart", _alike(record)),
        ("What the floor cost", _floor_cost(record)),
        ("Where the time went", _time_sentence(record)),
    ]
    return [(title, text) for title, text in parts if text]


def _chosen(record: StudyRecord) -> tuple[Candidate, Measurement] | None:
    candidate = record.candidate(record.chosen.digest) if record.chosen else None
    return (candidate, candidate.measurement) if candidate and candidate.measurement else None


def _plain_sentence(record: StudyRecord) -> str:
    plain = next((c for c in record.candidates if c.label == PLAIN), None)
    if plain is None:
        return ""
    if plain.measurement is None:
        return f"INT8 everywhere failed: {printable(plain.failure or '')}"
    m, baseline = plain.measurement, record.baseline.measurement
    smaller = f", {baseline.size_bytes / m.size_bytes:.1f}x smaller" if baseline else ""
    given = f"INT8 everywhere gives {times(m.speedup)}, drop {points_interval(m.accuracy_drop)} points{smaller}."
    chosen = _chosen(record)
    if chosen is None:
        return given
    if chosen[0].digest == plain.digest:
        return f"{given} It is the chosen model."
    ratio = chosen[1].speedup.value / m.speedup.value
    return f"{given} The chosen model is {ratio:.2f}x as fast as that."


def _alike(record: StudyRecord) -> str:
    finalists = [f"{sentence[0].upper()}{sentence[1:]}." for sentence in alike_sentences(record)]
    return " ".join([*finalists, *_overlapping(record)])


def _overlapping(record: StudyRecord) -> Iterator[str]:
    """One sentence on those whose speed-up and drop both have intervals that reach into those of the chosen one."""
    chosen = _chosen(record)
    if chosen is None:
        return
    own = chosen[1]
    names = [
        c.label or c.digest
        for c in record.candidates
        if (m := c.measurement)
        and c.digest != chosen[0].digest
        and min(m.speedup.high, own.speedup.high) >= max(m.speedup.low, own.speedup.low)
        and min(m.accuracy_drop.high, own.accuracy_drop.high) >= max(m.accuracy_drop.low, own.accuracy_drop.low)
    ]
    if not names:
        yield "No other candidate has both a speed-up and a drop within the error of the chosen one's."
        return
    shown = ", ".join(printable(name) for name in names[:MAX_NAMES])
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    yield f"Within the error of the chosen one's speed-up and drop: {shown}{more}."


def _floor_cost(record: StudyRecord) -> str:
    floor, candidates = record.study.max_drop, record.candidates
    kept = choose(candidates, Wishes(max_drop=floor))
    free = choose(candidates, Wishes())
    if not kept.meets_wishes or kept.candidate.measurement is None or free.candidate.measurement is None:
        return ""
    if free.candidate.digest == kept.candidate.digest:
        return "Nothing: no candidate is faster than the one that keeps the floor."
    at = f"With a drop of at most {points(floor)} points: {_reached(kept)}."
    doubled = choose(candidates, Wishes(max_drop=2 * floor))
    if floor and doubled.candidate.digest not in (kept.candidate.digest, free.candidate.digest):
        at += f" With {points(2 * floor)} points: {_reached(doubled)}."
    lower = points(free.candidate.measurement.accuracy_drop.value)
    return f"{at} Without a floor: {_reached(free)}, {lower} points lower."


def _reached(choice: Choice) -> str:
    m = choice.candidate.measurement
    return f"{m.speedup.value:.2f}x" if m else ""


def _time_sentence(record: StudyRecord) -> str:
    groups = sorted(grouped_seconds(record.seconds), key=lambda group: -group.seconds)
    if not groups:
        return ""
    parts = ", ".join(f"{g.name} {100 * g.share:.0f} %" for g in groups)
    n_failed = sum(c.failure is not None for c in record.candidates)
    failed = f", {n_failed} failed" if n_failed else ""
    total = sum(g.seconds for g in groups)
    return f"{total:,.0f} s for {len(record.candidates)} candidates{failed}: {parts}."
