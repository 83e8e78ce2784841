"""Who looks on while a module is trained, and what became of it."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from autocompress.measurement import CoursePoint


@dataclass(frozen=True)
class StepInfo:
    """What a watcher sees of a training.

    Attributes:
        step: Optimizer steps taken.
        n_steps: Optimizer steps in all.
        loss: Of that step, without the term of compression methods.
        learning_rate: Of the weights.
        score: Interim score, where one was just computed.
    """

    step: int
    n_steps: int
    loss: float
    learning_rate: float
    score: float | None = None


@dataclass(frozen=True)
class Watch:
    """Who looks on, and may give a hopeless training up.

    Attributes:
        on_step: Told of each step in order; True ends the training.
        score: Computes an interim score from the module, in evaluation mode.
        score_at: Rising shares of the steps after which the score is computed, in (0, 1).
    """

    on_step: Callable[[StepInfo], bool | None] | None = None
    score: Callable[[nn.Module], float] | None = None
    score_at: tuple[float, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a training.

    Attributes:
        n_steps: Optimizer steps taken.
        is_given_up: Whether a watcher ended it.
        n_rollbacks: How often it went back after a divergence.
        course: Points of its course, evenly spread.
        holds_statistics: Whether its last steps had the statistics of batch norms that the module now has.
    """

    n_steps: int
    is_given_up: bool = False
    n_rollbacks: int = 0
    course: tuple[CoursePoint, ...] = ()
    holds_statistics: bool = False
