"""Several studies side by side as rows and sentences: what each is, what each chose, and which choice is fastest."""

from collections.abc import Sequence

from autocompress.measurement import Measurement
from autocompress.report.compared import NamedStudy
from autocompress.report.fairness import is_rankable, openvino, study_seconds
from autocompress.report.health import hypervolume_history
from autocompress.report.plot_points import plot_points, staircase_points
from autocompress.report.wording import (
    candidate_count,
    duration,
    kilobytes,
    listed,
    points,
    points_interval,
    printable,
    times,
)

STUDY_HEAD = (
    "study",
    "task",
    "CPU",
    "threads",
    "OpenVINO",
    "sampler",
    "seed",
    "space",
    "floor, points",
    "candidates",
    "time",
)
CHOICE_HEAD = (
    "study",
    "chosen",
    "speed-up",
    "latency, ms",
    "drop, points",
    "measured on",
    "size, kB",
    "hypervolume",
    "digest",
)
FRONT_HEAD = ("study", "candidate", "speed-up", "latency, ms", "drop, points", "size, kB")
CHOICE_NOTE = (
    "Speed-up: baseline latency / candidate latency with its 95 % interval. Drop: 100 times the score, positive is "
    "worse, with its two-sided 90 % interval. Hypervolume: of the final front, as a share of the box between no drop, "
    "no time, no size and a drop of 5 points, the latency and size of FP32."
)
SESSIONS_DIFFER = 1.05  # speed-ups of two sessions differ by a few percent (facts: openvino-cpu.md)

Row = tuple[str, ...]


def study_rows(studies: Sequence[NamedStudy]) -> list[Row]:
    """One row a study under `STUDY_HEAD`; plain text, for the caller to escape."""
    return [_study_row(study) for study in studies]


def choice_rows(studies: Sequence[NamedStudy]) -> list[Row]:
    """One row a study under `CHOICE_HEAD`; plain text, for the caller to escape."""
    return [_choice_row(study) for study in studies]


def front_rows(studies: Sequence[NamedStudy]) -> list[Row]:
    """One row under `FRONT_HEAD` for each candidate that no other of its study dominates in speed-up and drop."""
    return [
        (study.letter, printable(p.candidate.name), *_numbers(p.measurement), kilobytes(p.measurement.size_bytes))
        for study in studies
        for p in staircase_points(plot_points(study.record))
    ]


def fastest_sentence(studies: Sequence[NamedStudy]) -> str:
    """Which choice is fastest among those within their floor, and which can't be told from it.

    Two speed-ups are told apart where their intervals are disjoint and they differ by more than two sessions do.

    Returns:
        Plain text; empty where fewer than two choices are within their floor, or speed-ups do not compare.
    """
    kept = [(s, s.chosen) for s in studies if s.record.chosen and s.record.chosen.meets_wishes]
    found = sorted(((s, m) for s, m in kept if m), key=lambda pair: -pair[1].speedup.value)
    if len(found) < 2 or not is_rankable(studies):
        return ""
    (best, m), others = found[0], found[1:]
    alike = [
        f"{s.letter}, {times(o.speedup)}"
        for s, o in others
        if o.speedup.high >= m.speedup.low or m.speedup.value < SESSIONS_DIFFER * o.speedup.value
    ]
    rest = f"; it can't be told apart from that of {listed(alike)}" if alike else ""
    numbers = f"{times(m.speedup)} at a drop of {points_interval(m.whole_drop)} points"
    return f"The fastest choice within its floor is that of {best.letter}, {numbers}{rest}."


def _study_row(study: NamedStudy) -> Row:
    record = study.record
    asked, where = record.study, record.environment
    n_failed = sum(c.measurement is None for c in record.candidates)
    return (
        study.title,
        printable(asked.task),
        printable(where.cpu),
        str(where.inference_threads),
        openvino(record),
        printable(asked.sampler),
        str(asked.seed),
        printable(asked.space),
        points(asked.max_drop),
        f"{len(record.candidates)}" + (f", {n_failed} failed" if n_failed else ""),
        duration(study_seconds(study)),
    )


def _choice_row(study: NamedStudy) -> Row:
    record, m = study.record, study.chosen
    volume = f"{hypervolume_history(record)[-1].volume:.3f}"
    if record.chosen is None or m is None:
        n_measured = sum(c.measurement is not None for c in record.candidates)
        return (study.title, f"nothing yet of {candidate_count(n_measured)}", "", "", "", "", "", volume, "")
    candidate = record.candidate(record.chosen.digest)
    name = (printable(candidate.label) or "unnamed") + ("" if record.chosen.meets_wishes else ", breaks a bound")
    samples = f"{m.n_samples} {study.split} samples"
    return (study.title, name, *_numbers(m), samples, kilobytes(m.size_bytes), volume, candidate.digest)


def _numbers(m: Measurement) -> tuple[str, str, str]:
    return times(m.speedup), f"{m.latency_ms:.3f}", points_interval(m.whole_drop)
