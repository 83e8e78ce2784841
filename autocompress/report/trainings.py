"""How candidates were trained: which of them a report shows, and how their trainings are worded."""

from collections.abc import Iterable
from dataclasses import dataclass

from autocompress.measurement import TrainingSummary
from autocompress.pareto import Candidate
from autocompress.record import StudyRecord
from autocompress.report.wording import printable, shortened

MAX_OTHERS = 5
SHORT_DIGEST = 6
MAX_LABEL = 24
DECADE = 10.0


@dataclass(frozen=True)
class ShownTraining:
    """One training of a picture.

    Attributes:
        candidate: Whose it is.
        training: Its summary; the course has at least one point.
        is_chosen: Whether the study chose the candidate.
    """

    candidate: Candidate
    training: TrainingSummary
    is_chosen: bool

    @property
    def n_steps_taken(self) -> int:
        """Steps until it ended or was given up."""
        stopped_at = self.training.stopped_at
        return self.training.n_steps if stopped_at is None else stopped_at

    @property
    def name(self) -> str:
        """Label or short digest, and what did not go as planned; plain text, for the caller to escape."""
        own = shortened(self.candidate.label, MAX_LABEL) or self.candidate.digest[:SHORT_DIGEST]
        return ", ".join([f"chosen: {own}" if self.is_chosen else own, *incidents(self.training)])


def shown_trainings(record: StudyRecord) -> list[ShownTraining]:
    """The trainings that a picture shows: that of the chosen candidate first, then at most five others.

    The others are those that took the most steps, of equally many steps anchors first, then in the order of the record.
    If none of them was given up, the last makes room for the one that was given up latest, where there is one.

    Returns:
        Only trainings with a course; none for records of older versions.
    """
    digest = record.chosen.digest if record.chosen else None
    found = [ShownTraining(c, c.training, c.digest == digest) for c in record.candidates if c.training]
    found = [shown for shown in found if shown.training.course]
    others = sorted((s for s in found if not s.is_chosen), key=lambda s: (-s.n_steps_taken, not s.candidate.label))
    kept = others[:MAX_OTHERS]
    given_up = [shown for shown in others if shown.training.stopped_at is not None]
    if given_up and given_up[0] not in kept:
        kept[-1] = given_up[0]
    return [shown for shown in found if shown.is_chosen] + kept


def incidents(training: TrainingSummary) -> list[str]:
    """What did not go as planned, a few words each.

    >>> incidents(TrainingSummary(n_steps=150, stopped_at=60, n_rollbacks=1))
    ['rolled back once', 'given up at step 60 of 150']
    """
    found = []
    if training.n_rollbacks:
        found.append(f"rolled back {_often(training.n_rollbacks)}")
    if training.stopped_at is not None:
        found.append(f"given up at step {training.stopped_at} of {training.n_steps}")
    return found


def failure_sentence(candidate: Candidate) -> str:
    """Why a candidate failed; one that was given up early says when. Plain text, for the caller to escape."""
    reason = candidate.failure or ""
    if candidate.training is None or candidate.training.stopped_at is None:
        return reason
    words = incidents(candidate.training)[-1]
    return reason if words in reason else f"{words}: {reason}"


def training_line(record: StudyRecord, training: TrainingSummary) -> str:
    """A training in one line: `150 steps at a rate of 2.0e-04, started from int8 (1a2b3c)`, and what went wrong."""
    rate = f" at a rate of {rate_words(training.learning_rate)}" if training.learning_rate else ""
    start = f"started from {start_words(record, training.started_from)}"
    return ", ".join([f"{training.n_steps} steps{rate}", start, *incidents(training)])


def start_words(record: StudyRecord, digest: str) -> str:
    """Whose weights a training started from: `FP32`, or label and short digest. Plain text, for the caller to escape.

    Args:
        record: Where the label is looked up.
        digest: As in `TrainingSummary.started_from`.
    """
    if not digest:
        return "FP32"
    label = next((c.label for c in record.candidates if c.digest == digest), "")
    short = printable(digest[:SHORT_DIGEST])
    return f"{shortened(label, MAX_LABEL)} ({short})" if label else short


def rate_words(rate: float) -> str:
    """A learning rate in two digits; empty for 0, where the user's own loop chose it.

    >>> rate_words(0.0031), rate_words(0.0)
    ('3.1e-03', '')
    """
    return f"{rate:.1e}" if rate else ""


def loss_words(loss: float) -> str:
    """A loss in three digits.

    >>> loss_words(0.41), loss_words(123.4), loss_words(12345.0)
    ('0.410', '123', '1.23e+04')
    """
    return f"{loss:#.3g}".rstrip(".")


def spans_a_decade(losses: Iterable[float]) -> bool:
    """Whether losses are better seen on a logarithmic axis: all above 0, and the largest ten times the smallest.

    >>> spans_a_decade([0.2, 2.0]), spans_a_decade([0.2, 1.9]), spans_a_decade([0.0, 5.0]), spans_a_decade([])
    (True, False, False, False)
    """
    every = list(losses)
    return bool(every) and min(every) > 0 and max(every) >= DECADE * min(every)


def training_counts(record: StudyRecord) -> str:
    """How many candidates were trained, given up and rolled back, in one or two sentences."""
    trained = [c.training for c in record.candidates if c.training]
    n_given_up = sum(t.stopped_at is not None for t in trained)
    n_diverged = sum(t.n_rollbacks > 0 for t in trained)
    first = f"{_candidates(len(trained))} trained" + (f", {n_given_up} of them given up early." if n_given_up else ".")
    if not n_diverged:
        return first
    return f"{first} {_candidates(n_diverged)} rolled back after a loss that exploded, and went on at a smaller rate."


def _often(n_times: int) -> str:
    return {1: "once", 2: "twice"}.get(n_times, f"{n_times} times")


def _candidates(n: int) -> str:
    return f"{n} candidate was" if n == 1 else f"{n} candidates were"
