"""What a running search tells those who watch it."""

from collections.abc import Callable
from dataclasses import dataclass

from autocompress.measurement import CoursePoint
from autocompress.pareto import Candidate


@dataclass(frozen=True)
class Progress:
    """State of a search, sent several times a second and at each change of phase.

    Attributes:
        phase: What is being done, for example `fine-tuning`.
        n_done: Candidates finished by this call, failed ones included, the baseline not counted.
        n_total: Forecast of how many there will be.
        seconds_elapsed: Since the start of this call.
        seconds_left: Forecast.
        best: The candidate that would be chosen now.
        finished: The candidate that has just finished, else None.
        message: A line for the log, else empty.
        training: Where the training under way is now; None while there is none, or before its first step.
        n_steps: Steps that this training is meant to take; 0 where that is not known.
    """

    phase: str
    n_done: int = 0
    n_total: int = 0
    seconds_elapsed: float = 0.0
    seconds_left: float = 0.0
    best: Candidate | None = None
    finished: Candidate | None = None
    message: str = ""
    training: CoursePoint | None = None
    n_steps: int = 0


OnProgress = Callable[[Progress], None]
