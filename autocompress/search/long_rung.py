"""The long rung: what is faster than the present choice and may keep the floor is trained again, for longer."""

from collections import Counter
from collections.abc import Callable, Mapping

from autocompress.measurement import Interval, Measurement
from autocompress.pareto import Candidate
from autocompress.processes import OutOfTimeError
from autocompress.search.clock import SearchClock
from autocompress.search.context import Rung
from autocompress.search.evaluator import Evaluator
from autocompress.search.folder import StudyFolder
from autocompress.search.ledger import Ledger
from autocompress.search.recovery import AGAIN, HOPED_SHARE, PRIOR_SHARE, Recovery, margin, most_promising

LONG = "long"
MOST_TRAININGS = 3  # longer ones of one candidate in one search
LEAST_ALLOWED = 0.25  # of the floor: a drop that is sought even where the error of measuring leaves less


class LongRung:
    """Trains the most promising candidates for longer, then the choice once more with another seed.

    A candidate that misses the floor by little goes on from where it is, if that promises more than another one.

    Args:
        folder: Of the study.
        ledger: What was found so far.
        clock: Of the search.
        max_drop: Largest accuracy drop, in units of the score.
        score: Of the baseline.
        n_short: Training steps of the short rung.
    """

    def __init__(
        self, folder: StudyFolder, ledger: Ledger, clock: SearchClock, max_drop: float, score: float, n_short: int
    ) -> None:
        self._folder, self._ledger, self._clock = folder, ledger, clock
        self._max_drop, self._score, self._n_short = max_drop, score, n_short
        self._given_up: set[str] = set()
        self._n_trainings: Counter[str] = Counter()

    def recovery(self, short_drops: Mapping[str, Interval], prior: float = PRIOR_SHARE) -> Recovery:
        """What longer trainings have left of drops so far.

        Args:
            short_drops: Drops after the short training, by digest.
            prior: Share that counts before any was seen.
        """
        pairs = [
            (short_drops[c.digest].value, c.measurement.accuracy_drop.value)
            for c in self._ledger.candidates.values()
            if c.measurement and c.rung == LONG and c.digest in short_drops
        ]
        return Recovery.learned(pairs, self._score, prior)

    def largest_short_drop(self, short_drops: Mapping[str, Interval]) -> float:
        """Drop after the short training up to which a candidate may keep the floor after a longer one.

        The bound that decides is above the drop, by about as much as for the candidates so far.

        Args:
            short_drops: Drops after the short training, by digest.
        """
        measured = [c.measurement for c in self._ledger.candidates.values() if c.measurement and c.n_steps]
        margins = [margin(m.selection_drop or m.accuracy_drop) for m in measured]
        allowed = self._max_drop - min(margins, default=0.0)
        return max(allowed, LEAST_ALLOWED * self._max_drop) / self.recovery(short_drops, HOPED_SHARE).share

    def run(self, evaluator: Evaluator, short_drops: Mapping[str, Interval]) -> None:
        """Train what is worth it while there is time.

        Args:
            evaluator: Does the work.
            short_drops: Drops after the short training, by digest.
        """
        try:
            while candidate := self._next(short_drops):
                n_steps = self._n_steps(evaluator, candidate)
                if n_steps == 0:
                    return
                is_kept = self._is_better_than(candidate) if candidate.rung == LONG else lambda _: True
                with self._folder.claim(candidate.digest) as is_ours:
                    longer = (
                        evaluator.run(candidate.recipe, candidate.label, Rung(LONG, n_steps), is_kept=is_kept)
                        if is_ours
                        else None
                    )
                self._n_trainings[candidate.digest] += 1
                if longer is None or longer.failure:
                    self._given_up.add(candidate.digest)
            self._second_seed(evaluator)
        except OutOfTimeError:
            return

    def _next(self, short_drops: Mapping[str, Interval]) -> Candidate | None:
        self._ledger.refresh()
        chosen = self._ledger.best().candidate.measurement
        possible = [
            c
            for c in self._ledger.candidates.values()
            if c.n_steps and c.digest not in self._given_up and self._n_trainings[c.digest] < MOST_TRAININGS
        ]
        first = self.recovery(short_drops)
        prospects = {
            c.digest: (c.measurement.accuracy_drop, Recovery(AGAIN))
            if c.rung == LONG
            else (short_drops[c.digest], first)
            for c in possible
            if c.measurement and (c.rung == LONG or c.digest in short_drops)
        }
        return most_promising(possible, prospects, self._max_drop, chosen.speedup.value if chosen else 1.0)

    def _n_steps(self, evaluator: Evaluator, candidate: Candidate) -> int:
        seconds = candidate.seconds.get("finetune", 0.0) / candidate.n_steps
        return self._clock.long_steps(evaluator.n_done, self._n_short or candidate.n_steps, seconds)

    def _is_better_than(self, candidate: Candidate) -> Callable[[Measurement], bool]:
        before = candidate.measurement
        return lambda after: before is None or after.accuracy_drop.value < before.accuracy_drop.value

    def _second_seed(self, evaluator: Evaluator) -> None:
        """Train the choice once more from the start; the better of the two stays, and both are told."""
        candidate = self._ledger.best().candidate
        before = candidate.measurement
        if before is None or candidate.rung != LONG or self._n_steps(evaluator, candidate) < candidate.n_steps:
            return
        rung, is_kept = Rung(LONG, candidate.n_steps), self._is_better_than(candidate)
        with self._folder.claim(candidate.digest) as is_ours:
            if not is_ours:
                return
            again = evaluator.run(candidate.recipe, candidate.label, rung, seed=candidate.seed + 1, is_kept=is_kept)
        if again.measurement:
            drops = [100 * m.accuracy_drop.value for m in (before, again.measurement)]
            self._ledger.findings.append(
                f"{candidate.name} was trained with two seeds: drops of {drops[0]:.2f} and {drops[1]:.2f} points; "
                "the better one was kept"
            )
