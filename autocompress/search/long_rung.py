"""The long rung: what is faster than the present choice and may keep the floor is trained again, for longer."""

from collections.abc import Mapping

from autocompress.measurement import Interval, Measurement
from autocompress.pareto import Candidate
from autocompress.processes import OutOfTimeError
from autocompress.search.clock import SearchClock
from autocompress.search.context import Rung
from autocompress.search.evaluator import Evaluator
from autocompress.search.folder import StudyFolder
from autocompress.search.ledger import Ledger
from autocompress.search.recovery import Recovery, margin, most_promising

LONG = "long"
LEAST_ALLOWED = 0.25  # of the floor: a drop that is sought even where the error of measuring leaves less


class LongRung:
    """Trains the most promising candidates for longer, then the choice once more with another seed.

    Args:
        folder: Of the study.
        ledger: What was found so far.
        clock: Of the search.
        max_drop: Largest accuracy drop, in units of the score.
        score: Of the baseline.
    """

    def __init__(self, folder: StudyFolder, ledger: Ledger, clock: SearchClock, max_drop: float, score: float) -> None:
        self._folder, self._ledger, self._clock = folder, ledger, clock
        self._max_drop, self._score = max_drop, score
        self._given_up: set[str] = set()
        self._had_second_seed = False

    def recovery(self, short_drops: Mapping[str, Interval]) -> Recovery:
        """What longer trainings have left of drops so far.

        Args:
            short_drops: Drops after the short training, by digest.
        """
        pairs = [
            (short_drops[c.digest].value, c.measurement.accuracy_drop.value)
            for c in self._ledger.candidates.values()
            if c.measurement and c.rung == LONG and c.digest in short_drops
        ]
        return Recovery.learned(pairs, self._score)

    def largest_short_drop(self, short_drops: Mapping[str, Interval]) -> float:
        """Drop after the short training up to which a candidate may keep the floor after a longer one.

        The bound that decides is above the drop, by about as much as for the candidates so far.

        Args:
            short_drops: Drops after the short training, by digest.
        """
        measured = [c.measurement for c in self._ledger.candidates.values() if c.measurement and c.n_steps]
        margins = [margin(m.selection_drop or m.accuracy_drop) for m in measured]
        allowed = self._max_drop - min(margins, default=0.0)
        return max(allowed, LEAST_ALLOWED * self._max_drop) / self.recovery(short_drops).share

    def run(self, evaluator: Evaluator, short_drops: Mapping[str, Interval]) -> None:
        """Train what is worth it while there is time; the choice gets its second seed once.

        Args:
            evaluator: Does the work.
            short_drops: Drops after the short training, by digest.
        """
        try:
            while candidate := self._next(short_drops):
                n_steps = self._n_steps(evaluator, candidate)
                if n_steps == 0:
                    return
                with self._folder.claim(candidate.digest) as is_ours:
                    longer = evaluator.run(candidate.recipe, candidate.label, Rung(LONG, n_steps)) if is_ours else None
                if longer is None or longer.failure:
                    self._given_up.add(candidate.digest)
            if not self._had_second_seed:
                self._second_seed(evaluator)
        except OutOfTimeError:
            return

    def _next(self, short_drops: Mapping[str, Interval]) -> Candidate | None:
        self._ledger.refresh()
        chosen = self._ledger.best().candidate.measurement
        untrained = [
            c
            for c in self._ledger.candidates.values()
            if c.rung != LONG and c.n_steps and c.digest not in self._given_up
        ]
        speedup = chosen.speedup.value if chosen else 1.0
        return most_promising(untrained, short_drops, self.recovery(short_drops), self._max_drop, speedup)

    def _n_steps(self, evaluator: Evaluator, candidate: Candidate) -> int:
        seconds = candidate.seconds.get("finetune", 0.0) / candidate.n_steps
        return self._clock.long_steps(evaluator.n_done, candidate.n_steps, seconds)

    def _second_seed(self, evaluator: Evaluator) -> None:
        """Train the choice once more from the start; the better of the two stays, and both are told."""
        candidate = self._ledger.best().candidate
        before = candidate.measurement
        if before is None or candidate.rung != LONG or self._n_steps(evaluator, candidate) < candidate.n_steps:
            return

        def is_better(after: Measurement) -> bool:
            return after.accuracy_drop.value < before.accuracy_drop.value

        rung = Rung(LONG, candidate.n_steps)
        with self._folder.claim(candidate.digest) as is_ours:
            if not is_ours:
                return
            again = evaluator.run(candidate.recipe, candidate.label, rung, seed=candidate.seed + 1, is_kept=is_better)
        if again.measurement:
            drops = [100 * m.accuracy_drop.value for m in (before, again.measurement)]
            self._ledger.findings.append(
                f"{candidate.name} was trained with two seeds: drops of {drops[0]:.2f} and {drops[1]:.2f} points; "
                "the better one was kept"
            )
