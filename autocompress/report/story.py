"""A study in a few sentences: what was reached, what it is compared with, what it cost, and how the search went.

All is plain text from the record, for the caller to escape; a sentence with nothing to say is empty.
"""

from autocompress.measurement import Measurement
from autocompress.pareto import Candidate, Wishes
from autocompress.record import StudyRecord
from autocompress.report.explanation import grouped_seconds
from autocompress.report.headline import floor_sentence, headline, result_words
from autocompress.report.health import failure_groups, hypervolume_history
from autocompress.report.plot_points import plot_points, staircase_points
from autocompress.report.wording import (
    candidate_count,
    duration,
    listed,
    percent,
    points_interval,
    printable,
    shortened,
    times,
)

INT8_LABEL = "int8"
NEARLY_ALL, LATE = 0.9, 0.75  # shares of the hypervolume and of the time that the sentence about the search tells
MAX_REASON = 160

Measured = tuple[Candidate, Measurement]


def story(record: StudyRecord) -> tuple[str, ...]:
    """What a person should know first, in this order, without those that have nothing to say.

    What was reached and where, whether the floor holds, what plain INT8 would have given, what can't be told apart,
    what the floor cost, where the time went, how the search went, and what failed.

    Raises:
        StudyError: The baseline was not measured, or the chosen candidate is not in the record.
    """
    sentences = (
        reached_sentence(record),
        floor_sentence(record),
        int8_sentence(record),
        *undecided_sentences(record),
        floor_cost_sentence(record),
        time_sentence(record),
        search_sentence(record),
        failures_sentence(record),
    )
    return tuple(sentence for sentence in sentences if sentence)


def reached_sentence(record: StudyRecord) -> str:
    """The headline and where it was measured.

    Such as `2.91x [2.84, 2.98] faster than FP32, accuracy 0.30 points lower [-0.20, 0.80] on 5000 test samples, 7.4x
    smaller; measured on CPU X, one thread, OpenVINO 2026.0.`
    """
    result, place = headline(record)
    return f"{result}; measured on {place}."


def int8_sentence(record: StudyRecord) -> str:
    """What INT8 everywhere would have given, whether it would have kept the floor, and how much faster the choice is.

    Empty where no such candidate was tried.
    """
    plain = next((c for c in record.candidates if c.label == INT8_LABEL), None)
    if plain is None:
        return ""
    if plain.measurement is None:
        return f"Plain INT8 could not be measured: {_reason(plain.failure or '')}."
    if record.chosen and record.chosen.digest == plain.digest:
        return "The choice is plain INT8: 8-bit weights and inputs in every layer, nothing else."
    m = plain.measurement
    trained = f", trained for {plain.n_steps} steps," if plain.n_steps else ""
    given = result_words(record, m, "validation")
    broken = Wishes(max_drop=record.study.max_drop).violations(m, _n_compressed(record))
    kept = f"INT8 would not have kept the floor: {'; '.join(broken)}." if broken else "INT8 would have kept the floor."
    return f"Plain INT8{trained} would have been {given}{_against(record, plain)}. {kept}"


def undecided_sentences(record: StudyRecord) -> tuple[str, ...]:
    """What the error of the measurements leaves open about the choice: which are as fast, and whether it lost accuracy.

    Candidates that were timed in the same rounds are compared by their ratio, else members of the front by their
    intervals, which sessions of different minutes make too narrow by a few percent. Empty where nothing is chosen.
    """
    if record.chosen is None or record.candidate(record.chosen.digest).recipe.is_identity:
        return ()
    return tuple(sentence for sentence in (_equal_speed(record), _no_loss(record)) if sentence)


def floor_cost_sentence(record: StudyRecord) -> str:
    """The fastest candidate within the floor, and the next one that is certainly faster, with its drop.

    Only candidates that no other dominates in speed and drop are named. The floor is that of the study, whatever was
    chosen later; other wishes are not in the record.
    """
    measured = _measured(record)
    keeping = Wishes(max_drop=record.study.max_drop).keeping(measured)
    if not keeping or _n_compressed(record) == 0:
        return ""
    within, best = max(keeping, key=lambda pair: pair[1].speedup.value)
    is_chosen = record.chosen is not None and record.chosen.digest == within.digest
    name = "the choice" if is_chosen else printable(within.name)
    where = f"{name} is the fastest that is sure to keep it, {_numbers(best)}"
    beyond = [p for p in staircase_points(plot_points(record)) if p.measurement.speedup.low > best.speedup.high]
    if not beyond:
        return f"The floor cost no speed: {where}; none of the others is certainly faster."
    loser, m = beyond[0].candidate, beyond[0].measurement
    verdict = "breaks it" if m.whole_drop.low > record.study.max_drop else "is not sure to keep it"
    return (
        f"What the floor cost: {where}; the next that is certainly faster, {printable(loser.name)}, {_numbers(m)}, "
        f"{verdict}."
    )


def time_sentence(record: StudyRecord) -> str:
    """Where the time went, the largest share first; empty where the record has no times."""
    groups = sorted(grouped_seconds(record.seconds), key=lambda group: -group.seconds)
    if not groups:
        return ""
    total = duration(sum(group.seconds for group in groups))
    shares = ", ".join(f"{g.name} {percent(round(g.share, 2))}" for g in groups)
    return f"It took {total}: {shares}."


def search_sentence(record: StudyRecord) -> str:
    """How soon the front was nearly as good as it became, by its hypervolume, and what the end still added."""
    history = hypervolume_history(record)
    n_candidates, seconds = history[-1].n_candidates, history[-1].seconds
    if n_candidates == 0:
        return "No candidate but the FP32 model was measured."
    if history[-1].share == 0:
        tried = candidate_count(n_candidates)
        return f"None of {tried} is faster and smaller than FP32 at a drop below 5 points: the hypervolume is 0."
    nearly = next(point for point in history if point.share >= NEARLY_ALL)
    before = max((point.share for point in history if point.seconds <= LATE * seconds), default=0.0)
    return (
        f"Search: {percent(NEARLY_ALL)} of the final hypervolume was there after {nearly.n_candidates} of "
        f"{n_candidates} candidates; the last quarter of their time added {percent(round(1 - before, 3))}."
    )


def failures_sentence(record: StudyRecord) -> str:
    """How many candidates failed and the most frequent reason; empty where none did."""
    groups = failure_groups(record)
    if not groups:
        return ""
    n_failed, first = sum(len(group.candidates) for group in groups), groups[0]
    which = "" if len(groups) == 1 else f", {len(first.candidates)} of them for one reason"
    return f"{n_failed} of {len(record.candidates)} candidates failed{which}: {_reason(first.reason)}."


def _n_compressed(record: StudyRecord) -> int:
    return sum(not c.recipe.is_identity for c, _ in _measured(record))


def _measured(record: StudyRecord) -> list[Measured]:
    return [(c, c.measurement) for c in record.candidates if c.measurement is not None]


def _numbers(m: Measurement) -> str:
    return f"{times(m.speedup)} at a drop of {points_interval(m.whole_drop)} points"


def _against(record: StudyRecord, plain: Candidate) -> str:
    """How fast the choice is against plain INT8, from the same rounds where there were some."""
    chosen = record.candidate(record.chosen.digest) if record.chosen else None
    if chosen is None or chosen.measurement is None or plain.measurement is None or chosen.recipe.is_identity:
        return ""
    for pair in record.finalists.pairs if record.finalists else ():
        if (pair.faster, pair.slower) == (chosen.digest, plain.digest):
            return f"; the choice is {times(pair.ratio)} as fast as that"
    ratio = chosen.measurement.speedup.value / plain.measurement.speedup.value
    return f"; the choice is about {ratio:.2f}x as fast as that"


def _equal_speed(record: StudyRecord) -> str:
    alike = _timed_alike(record) if record.finalists else _overlapping(record)
    if not alike:
        return ""
    names = listed([printable(record.candidate(digest).name) for digest in alike])
    return f"The latency of the choice can't be told apart from that of {names}."


def _timed_alike(record: StudyRecord) -> list[str]:
    """Digests of the finalists whose ratio to the choice holds 1, fastest first."""
    chosen, finalists = record.chosen, record.finalists
    if chosen is None or finalists is None:
        return []
    pairs = [{pair.faster, pair.slower} for pair in finalists.pairs if not pair.is_told_apart]
    return [d for d in finalists.digests if d != chosen.digest and {d, chosen.digest} in pairs]


def _overlapping(record: StudyRecord) -> list[str]:
    """Digests of members of the front whose interval of the speed-up meets that of the choice, fastest first."""
    chosen = record.candidate(record.chosen.digest) if record.chosen else None
    if chosen is None or chosen.measurement is None:
        return []
    mine = chosen.measurement.speedup
    others = [(c, c.measurement.speedup) for c in record.front().candidates if c.measurement and c != chosen]
    return [c.digest for c, speedup in others if speedup.low <= mine.high and mine.low <= speedup.high]


def _no_loss(record: StudyRecord) -> str:
    """That the interval of the drop holds 0, where it does."""
    chosen = record.chosen
    m = (chosen.test or record.candidate(chosen.digest).measurement) if chosen else None
    if chosen is None or m is None or not m.whole_drop.low <= 0 <= m.whole_drop.high:
        return ""
    split = "test" if chosen.test else "validation"
    return f"Whether the choice lost any accuracy can't be told from {m.n_samples} {split} samples."


def _reason(text: str) -> str:
    return shortened(text, MAX_REASON).rstrip(".")
