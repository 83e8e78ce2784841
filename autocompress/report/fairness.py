"""What keeps studies from being compared fairly, in plain words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autocompress.measurement import Measurement
from autocompress.record import StudyRecord
from autocompress.report.compared import NamedStudy, by_value, letters
from autocompress.report.wording import duration, listed, phases, points, printable, threads_words

LONGER = 1.1  # times that differ by less than this factor count as the same
SAME_SIZE, SAME_SCORE = 1.01, 0.001  # factor and difference between baselines of one model with one set of data


@dataclass(frozen=True)
class _Check:
    """Something that should be the same in all studies.

    Attributes:
        what: Its name.
        of: Its value in one study, in words.
        consequence: What a difference means.
        forbids_ranking: Whether the speed-ups of choices must not be ranked where it differs.
    """

    what: str
    of: Callable[[NamedStudy], str]
    consequence: str
    forbids_ranking: bool = True


_TASK = _Check("task", lambda s: printable(s.record.study.task), "these are other models and data")
_CHECKS = (
    _TASK,
    _Check("score", lambda s: _score(s.record), "points of one are not points of another"),
    _Check(
        "CPU",
        lambda s: printable(s.record.environment.cpu),
        "each speed-up is against FP32 on its own CPU, milliseconds don't compare, and each CPU rewards other choices",
    ),
    _Check(
        "number of inference threads",
        lambda s: threads_words(s.record.environment.inference_threads),
        "the baselines have as many, so neither milliseconds nor speed-ups compare",
    ),
    _Check(
        "accuracy floor",
        lambda s: f"{points(s.record.study.max_drop)} points",
        "a looser floor allows a faster choice; compare the fronts",
    ),
    _Check(
        "version of OpenVINO",
        lambda s: openvino(s.record),
        "another version has other kernels",
        forbids_ranking=False,
    ),
    _Check(
        "list of objectives",
        lambda s: listed([printable(name) for name in s.record.study.objectives]),
        "their fronts and hypervolumes mean different things",
        forbids_ranking=False,
    ),
    _Check(
        "search space",
        lambda s: printable(s.record.study.space),
        "what one does not offer it could not find",
        forbids_ranking=False,
    ),
)


def unfair_sentences(studies: Sequence[NamedStudy]) -> list[str]:
    """What differs between the studies beside what one may want to compare, and what follows; plain text."""
    groups = [(check, by_value(studies, check.of)) for check in _CHECKS]
    found = [
        f"The {check.what} differs ({_grouped(values)}): {check.consequence}."
        for check, values in groups
        if len(values) > 1
    ]
    others = (_other_models(studies), _longer(studies), _chance(studies), _unconfirmed(studies), _noisy(studies))
    return [*found, *(sentence for sentence in others if sentence)]


def is_rankable(studies: Sequence[NamedStudy]) -> bool:
    """Whether the speed-ups of the choices answer one question: same task, score, CPU, threads and floor."""
    return not _other_models(studies) and all(
        len(by_value(studies, check.of)) == 1 for check in _CHECKS if check.forbids_ranking
    )


def study_seconds(study: NamedStudy) -> float:
    """Wall-clock seconds of the whole study."""
    return phases(study.record.seconds)[-1][1]


def openvino(record: StudyRecord) -> str:
    """The version of OpenVINO; plain text."""
    return printable(record.environment.versions.get("openvino", "unknown"))


def _score(record: StudyRecord) -> str:
    return f"{printable(record.study.score)}, {'higher' if record.study.higher_is_better else 'lower'} is better"


def _grouped(groups: Mapping[str, Sequence[NamedStudy]]) -> str:
    return "; ".join(f"{letters(members)}: {value}" for value, members in groups.items())


def _other_models(studies: Sequence[NamedStudy]) -> str:
    """Studies of one task by name whose baselines are not alike."""
    for members in by_value(studies, _TASK.of).values():
        first = members[0].record.baseline
        others = [s for s in members[1:] if not _alike(first.measurement, s.record.baseline.measurement)]
        if others:
            return (
                f"The FP32 baseline of {letters(others)} is not that of {members[0].letter}, though the task has the "
                "same name: its MACs, size, score or number of validation samples differ, so these are other weights "
                "or data."
            )
    return ""


def _alike(a: Measurement | None, b: Measurement | None) -> bool:
    if a is None or b is None:
        return False
    ratio = max(a.size_bytes, b.size_bytes) / min(a.size_bytes, b.size_bytes)
    counts = (a.macs, a.n_samples) == (b.macs, b.n_samples)
    return counts and ratio <= SAME_SIZE and abs(a.accuracy - b.accuracy) <= SAME_SCORE


def _longer(studies: Sequence[NamedStudy]) -> str:
    spent = [study_seconds(s) for s in studies]
    if max(spent) <= LONGER * min(spent):
        return ""
    each = ", ".join(f"{s.letter} {duration(took)}" for s, took in zip(studies, spent, strict=True))
    return f"The searches did not take the same time ({each}): a longer one had more chances."


def _chance(studies: Sequence[NamedStudy]) -> str:
    """Samplers that are compared by one run each."""
    groups = by_value(studies, lambda s: printable(s.record.study.sampler))
    alone = [sampler for sampler, members in groups.items() if len(members) == 1]
    if len(groups) < 2 or not alone:
        return ""
    verb = "has" if len(alone) == 1 else "have"
    return (
        f"Of the samplers, {listed(alone)} {verb} one run only: what looks like a better sampler can be chance; repeat "
        "with other seeds."
    )


def _unconfirmed(studies: Sequence[NamedStudy]) -> str:
    missing = [s for s in studies if s.record.chosen and s.record.chosen.test is None]
    if not missing:
        return ""
    return (
        f"The choice of {letters(missing)} was not confirmed on the test split: numbers of the validation split, by "
        "which it was chosen, look better than they are."
    )


def _noisy(studies: Sequence[NamedStudy]) -> str:
    checks = [(s, s.chosen.latency_check if s.chosen else None) for s in studies]
    noisy = [s for s, check in checks if check and check.is_noisy]
    if not noisy:
        return ""
    return f"The latency of the choice of {letters(noisy)} was measured on a busy machine: its speed-up is less sure."
