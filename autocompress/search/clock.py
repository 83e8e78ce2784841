"""Time of one search: what is left, what a candidate will take, and how long to train."""

import time
from collections.abc import Callable

from autocompress.pareto import Candidate
from autocompress.search.budget import Budget

MIN_STEPS, MAX_STEPS = 25, 200
SHORT_SHARE = 0.5  # of the time for candidates, at most; the rest is for longer training of the best
LONG_FACTOR = 5  # times the short rung's steps
LONG_STEPS = 500  # which let a pruned candidate recover, where the budget has room for them
MAX_LONG_SHARE = 0.6  # of the time for candidates
N_FIRST = 5  # baseline and anchors, which come before anything is kept back for longer training
TRIALS_PER_LONG = 5  # of a number of trials every fifth is a longer training
TARGET_CANDIDATES = 10  # short ones that should fit
_STEPS_WITHOUT_LIMIT = 150
_PLANNING_SECONDS = 30.0  # for measuring before plans are made, where time is no limit
_LONG_MARGIN = 1.15  # a long training that is cut off by the end of the budget is lost
_FINISH_FIXED_SECONDS = 6.0
_FINALISTS_SHARE, _FINALISTS_SECONDS = 0.03, 12.0  # of the budget, and at most
_FINISH_PER_MEASURING = 2.0  # the test split is larger, and latency is measured longer


class SearchClock:
    """Keeps a search within its budget.

    Args:
        budget: Time or trials.
        now: Seconds, monotonic.
        start: When the budget began to count; now by default.
    """

    def __init__(self, budget: Budget, now: Callable[[], float] = time.monotonic, start: float | None = None) -> None:
        self._now = now
        self._budget = budget
        self.start = now() if start is None else start
        self.measuring_seconds = 3.0
        self.step_seconds = 0.1

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._now() - self.start

    @property
    def deadline(self) -> float | None:
        """When work under way must be killed so that there is time to finish; None without a time limit."""
        if self._budget.seconds is None:
            return None
        return self.start + self._budget.seconds - self.finish_seconds

    @property
    def finish_seconds(self) -> float:
        """Forecast of timing the finalists, the confirmation on the test split, the ONNX export and the report."""
        finish = _FINISH_FIXED_SECONDS + _FINISH_PER_MEASURING * self.measuring_seconds + self.finalist_seconds
        return min(finish, 0.4 * (self._budget.seconds or finish / 0.4))

    @property
    def finalist_seconds(self) -> float:
        """Seconds for timing the finalists together."""
        return self.share(_FINALISTS_SHARE, _FINALISTS_SECONDS)

    def share(self, share: float, at_most: float) -> float:
        """Seconds that are `share` of a budget of time, and `at_most`; without a time limit the latter."""
        return at_most if self._budget.seconds is None else min(at_most, share * self._budget.seconds)

    def planning_seconds(self, share: float, at_most: float, n_steps: int) -> float:
        """As `share`, but where trials are the budget half a minute, or the share of what they are forecast to take.

        Args:
            share: Of all the time.
            at_most: Seconds.
            n_steps: Training steps of a trial.
        """
        if self._budget.n_trials is None:
            return self.share(share, at_most)
        return min(at_most, max(_PLANNING_SECONDS, share * self._budget.n_trials * self.forecast(n_steps)))

    def seconds_left(self) -> float:
        """Seconds for candidates; infinite without a time limit."""
        return float("inf") if self.deadline is None else self.deadline - self._now()

    def seconds_to_end(self, n_left: int, n_steps: int) -> float:
        """Forecast of the seconds until all is done.

        Args:
            n_left: Candidates still to come; they count where there is no time limit.
            n_steps: Training steps of each.
        """
        if self._budget.seconds is None:
            return n_left * self.forecast(n_steps) + self.finish_seconds
        return max(0.0, self.seconds_left() + self.finish_seconds)

    def n_left(self, n_done: int, n_steps: int) -> int:
        """Forecast of how many candidates are still to come, the baseline not counted."""
        if self._budget.n_trials is not None:
            return max(0, self._budget.n_trials - n_done)
        return max(1, int(SHORT_SHARE * self.seconds_left() / self.forecast(n_steps)))

    def allows_short(self, n_done: int, n_steps: int, reserve: bool = True) -> bool:
        """Whether another candidate of the short rung should begin.

        Args:
            n_done: Trials of this search so far.
            n_steps: Training steps of the short rung.
            reserve: Keep something back for longer trainings.
        """
        if self._budget.n_trials is not None:
            return n_done < self._budget.n_trials - (self._budget.n_trials // TRIALS_PER_LONG if reserve else 0)
        reserved = self._reserved(n_steps) if reserve else 0.0
        return self.seconds_left() - reserved > self.forecast(n_steps)

    def _reserved(self, n_steps: int) -> float:
        """Seconds kept back for longer training: its share, or more where one such training needs more."""
        whole = (self.deadline or self.start) - self.start
        one = min(self.forecast(LONG_STEPS), MAX_LONG_SHARE * whole)
        reserved = max((1 - SHORT_SHARE) * whole, one)
        return reserved if whole - reserved > N_FIRST * self.forecast(n_steps) else 0.0

    def forecast(self, n_steps: int) -> float:
        """Seconds that a candidate with `n_steps` training steps takes."""
        return 1.1 * (self.measuring_seconds + n_steps * self.step_seconds)

    def plan(self, n_steps: int, planning_seconds: float = 0.0) -> str:
        """What the search is going to do with its budget, as forecast now, in one sentence.

        Args:
            n_steps: Training steps of the short rung.
            planning_seconds: For what is measured before plans are made.
        """
        each = self.forecast(n_steps)
        trained = f"trained for {n_steps} steps ({each:.0f} s each)"
        before = f"{planning_seconds:.0f} s for what single choices cost, " if planning_seconds >= 1 else ""
        if self._budget.n_trials is not None:
            n_long = self._budget.n_trials // TRIALS_PER_LONG
            longer = n_long * LONG_FACTOR * n_steps * self.step_seconds
            seconds = planning_seconds + self._budget.n_trials * each + longer
            counts = f"{self._budget.n_trials - n_long} candidates {trained}, {n_long} trained longer"
            return f"forecast: {before}{counts}, about {(seconds + self.finish_seconds) / 60:.0f} minutes in all"
        longer = self._reserved(n_steps)
        n_short = max(0, int((self.seconds_left() - longer - planning_seconds) / each))
        if n_short == 0:
            return "forecast: no time for a candidate; a longer budget would be needed"
        rest = f", {longer:.0f} s for training the best longer" if longer else ", no time for longer trainings"
        end = f"{self.finish_seconds:.0f} s to confirm the choice"
        return f"forecast: {before}about {n_short} candidates {trained}{rest}, {end}"

    def short_steps(self) -> int:
        """Training steps of the short rung that suit the budget."""
        if self._budget.seconds is None:
            return _STEPS_WITHOUT_LIMIT
        each = (self.seconds_left() - self._reserved(MIN_STEPS)) / TARGET_CANDIDATES - self.measuring_seconds
        return max(MIN_STEPS, min(MAX_STEPS, int(each / self.step_seconds)))

    def long_steps(self, n_done: int, n_short: int, step_seconds: float) -> int:
        """Training steps of the next longer training, 0 if the budget has no room for one worth its name.

        Args:
            n_done: Trials of this search so far.
            n_short: Training steps of the short rung.
            step_seconds: Of the candidate, as its short training was timed.
        """
        if self._budget.n_trials is not None:
            return LONG_FACTOR * n_short if n_done < self._budget.n_trials else 0
        possible = int((self.seconds_left() / _LONG_MARGIN - self.measuring_seconds) / step_seconds)
        n_steps = min(full_steps(n_short), possible)
        return n_steps if n_steps >= 2 * n_short else 0

    def learn(self, candidate: Candidate) -> None:
        """Take over how long a candidate really took; one that failed says nothing."""
        if candidate.measurement is None:
            return
        training = candidate.seconds.get("finetune", 0.0)
        if candidate.n_steps:
            self.step_seconds = 0.5 * self.step_seconds + 0.5 * training / candidate.n_steps
        self.measuring_seconds = 0.5 * self.measuring_seconds + 0.5 * (sum(candidate.seconds.values()) - training)


def full_steps(n_short: int) -> int:
    """Training steps of the long rung where there is time enough.

    Args:
        n_short: Those of the short rung.
    """
    return max(LONG_FACTOR * n_short, LONG_STEPS)
