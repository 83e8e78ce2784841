"""The result of a study in one sentence, from the test split where there is one."""

from autocompress.measurement import Interval, Measurement
from autocompress.pareto import Candidate
from autocompress.record import Chosen, StudyRecord
from autocompress.report.wording import candidate_count, points, points_interval, printable, threads_words, times

FP32_CHOSEN = "The FP32 model is chosen: no compressed model that was tried keeps every bound and is faster"


def headline(record: StudyRecord) -> tuple[str, str]:
    """What was reached, and where it was measured; plain text, for the caller to escape.

    Returns:
        Such as `3.41x [3.39, 3.44] faster than FP32, accuracy 0.30 points lower [-0.10, 0.80] on 5000 test samples,
        5.1x smaller` and `CPU X, one thread, OpenVINO 2026.0`.

    Raises:
        StudyError: The chosen candidate is not in the record.
    """
    return _result(record), _place(record)


def floor_sentence(record: StudyRecord) -> str:
    """Whether the accuracy floor holds, with the reason; plain text.

    Raises:
        StudyError: The chosen candidate is not in the record.
    """
    floor = f"a drop of at most {points(record.study.max_drop)} points"
    if record.chosen is None:
        return f"The floor is {floor}. Nothing is chosen yet."
    holds = "holds" if record.chosen.meets_wishes else "does not hold"
    reason = printable(record.chosen.reason).rstrip(".")
    return f"The floor, {floor}, {holds}: {reason}.{_test_sentence(record.chosen, record.study.max_drop)}"


def _result(record: StudyRecord) -> str:
    n_failed = sum(c.measurement is None for c in record.candidates)
    if record.chosen is None:
        return (
            f"Nothing is chosen yet: {candidate_count(len(record.candidates) - n_failed)} measured, {n_failed} failed"
        )
    candidate = record.candidate(record.chosen.digest)
    measured = record.chosen.test or candidate.measurement
    if measured is None:
        return f"The chosen candidate {candidate.digest} was not measured: {printable(candidate.failure or '')}"
    if candidate.recipe.is_identity:
        return FP32_CHOSEN
    return result_words(record, measured, "test" if record.chosen.test else "validation")


def result_words(record: StudyRecord, m: Measurement, split: str) -> str:
    """Speed, score and size of one model against FP32, as in `headline`; plain text.

    Args:
        record: Whose baseline and score.
        m: Of the model.
        split: Whose samples the score is from, such as `test`.
    """
    return f"{_speed(m)}, {_accuracy(record, m, split)}{_size(record.baseline, m)}"


def _speed(m: Measurement) -> str:
    return f"{times(m.speedup)} faster than FP32" if m.speedup.value >= 1 else f"{times(m.speedup)} the speed of FP32"


def _accuracy(record: StudyRecord, m: Measurement, split: str) -> str:
    drop, is_worse = m.whole_drop, m.whole_drop.value >= 0
    shown = drop if is_worse else Interval(value=-drop.value, low=-drop.high, high=-drop.low)
    way = "lower" if is_worse == record.study.higher_is_better else "higher"
    value, _, interval = points_interval(shown).partition(" ")
    return f"{printable(record.study.score)} {value} points {way} {interval} on {m.n_samples} {split} samples"


def _size(baseline: Candidate, m: Measurement) -> str:
    if baseline.measurement is None:
        return ""
    before = baseline.measurement
    ratio = before.size_bytes / m.size_bytes
    zipped = before.zipped_bytes / m.zipped_bytes if before.zipped_bytes and m.zipped_bytes else None
    if ratio < 1:
        return f", {1 / ratio:.1f}x larger" + (f" ({1 / zipped:.1f}x zipped)" if zipped else "")
    return f", {ratio:.1f}x smaller" + (f" ({zipped:.1f}x zipped)" if zipped else "")


def _place(record: StudyRecord) -> str:
    where = record.environment
    threads = threads_words(where.inference_threads)
    return f"{printable(where.cpu)}, {threads}, OpenVINO {printable(where.versions.get('openvino', 'unknown'))}"


def _test_sentence(chosen: Chosen, max_drop: float) -> str:
    if chosen.test is None:
        return " The test split was not measured."
    bound = chosen.test.accuracy_drop.high
    side = "within" if bound <= max_drop else "above"
    return f" On the test split the upper bound of the drop is {points(bound)} points, {side} the floor."
