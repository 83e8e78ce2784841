"""The long rung: who is trained longer, with which seed, and what is kept."""

from collections.abc import Callable
from pathlib import Path

import pytest

from autocompress.measurement import Interval, Measurement
from autocompress.pareto import Candidate
from autocompress.processes import OutOfTimeError
from autocompress.recipe import Recipe
from autocompress.search.budget import Budget
from autocompress.search.clock import SearchClock
from autocompress.search.context import Rung
from autocompress.search.folder import StudyFolder
from autocompress.search.ledger import Ledger
from autocompress.search.long_rung import LONG, LongRung
from autocompress.search.recovery import PRIOR_SHARE
from tests.examples import record
from tests.search.test_identity import configuration
from tests.search.test_recovery import candidate, drop

LEFT = 0.4  # of a short drop, after a longer training


class Trainer:
    """Stands for the evaluator: a longer training leaves a share of the drop; the ledger is told as by the real one."""

    def __init__(self, ledger: Ledger, fails: frozenset[str] = frozenset(), ends_after: int = 99) -> None:
        self._ledger, self._fails, self._left = ledger, fails, ends_after
        self.n_done = 0
        self.asked: list[tuple[str, int | None]] = []

    def run(
        self,
        recipe: Recipe,
        label: str,
        rung: Rung,
        *,
        seed: int | None = None,
        is_kept: Callable[[Measurement], bool] = lambda _: True,
    ) -> Candidate:
        digest = next(iter(recipe.pruning))
        if self._left == 0:
            raise OutOfTimeError("the budget ended")
        self._left -= 1
        self.asked.append((digest, seed))
        self.n_done += 1
        before = self._ledger.candidates[digest]
        if digest in self._fails:
            return before.model_copy(update={"measurement": None, "failure": "it crashed"})
        share = LEFT if before.rung == "short" else 1.5  # the second seed is worse
        assert before.measurement
        after = drop(share * before.measurement.accuracy_drop.value)
        measured = before.measurement.model_copy(update={"accuracy_drop": after, "selection_drop": after})
        longer = before.model_copy(update={"rung": rung.name, "n_steps": rung.n_steps, "measurement": measured})
        if is_kept(measured):
            self._ledger.candidates[digest] = longer
        return longer


def ledger_with(tmp_path: Path, *found: Candidate) -> tuple[StudyFolder, Ledger]:
    folder = StudyFolder(tmp_path)
    ledger = Ledger(folder, configuration(max_drop=0.01), record().study)
    baseline = candidate("base", 1.0, 0.0).model_copy(update={"recipe": Recipe(), "rung": "baseline", "n_steps": 0})
    ledger.candidates = {c.digest: c for c in (baseline, *found)}
    return folder, ledger


def short(name: str, speed: float, seen: float) -> Candidate:
    return candidate(name, speed, seen).model_copy(update={"seconds": {"finetune": 5.0}})


def run(folder: StudyFolder, ledger: Ledger, trainer: Trainer, budget: Budget) -> dict[str, Interval]:
    drops = {c.digest: c.measurement.accuracy_drop for c in ledger.candidates.values() if c.measurement and c.n_steps}
    LongRung(folder, ledger, SearchClock(budget), 0.01, 0.9).run(trainer, drops)  # type: ignore[arg-type]
    return drops


def test_the_promising_are_trained_longer_until_nothing_is_gained(tmp_path: Path) -> None:
    folder, ledger = ledger_with(tmp_path, short("a", 2.0, 0.01), short("b", 4.0, 0.018), short("c", 8.0, 0.4))
    trainer = Trainer(ledger)
    run(folder, ledger, trainer, Budget(n_trials=50))
    assert {name for name, seed in trainer.asked if seed is None} == {"b"} | {n for n, s in trainer.asked if n == "a"}
    assert ledger.best().candidate.digest == "b" and ledger.candidates["b"].rung == LONG
    assert ledger.candidates["c"].rung == "short"


def test_the_choice_is_trained_with_a_second_seed_and_the_better_stays(tmp_path: Path) -> None:
    folder, ledger = ledger_with(tmp_path, short("b", 4.0, 0.018))
    trainer = Trainer(ledger)
    run(folder, ledger, trainer, Budget(n_trials=50))
    assert trainer.asked == [("b", None), ("b", 1)]
    kept = ledger.candidates["b"].measurement
    assert kept and kept.accuracy_drop.value == pytest.approx(LEFT * 0.018)
    assert any("two seeds" in finding for finding in ledger.findings)


def test_what_fails_is_not_tried_again(tmp_path: Path) -> None:
    folder, ledger = ledger_with(tmp_path, short("a", 2.0, 0.01), short("b", 4.0, 0.012))
    trainer = Trainer(ledger, fails=frozenset("b"))
    run(folder, ledger, trainer, Budget(n_trials=50))
    assert [name for name, _ in trainer.asked].count("b") == 1 and "a" in [name for name, _ in trainer.asked]


def test_the_end_of_the_budget_ends_it(tmp_path: Path) -> None:
    folder, ledger = ledger_with(tmp_path, short("a", 2.0, 0.01), short("b", 4.0, 0.012))
    trainer = Trainer(ledger, ends_after=1)
    run(folder, ledger, trainer, Budget(n_trials=50))
    assert len(trainer.asked) == 1


def test_the_longest_drop_worth_a_short_training_follows_from_floor_error_and_recovery(tmp_path: Path) -> None:
    folder, ledger = ledger_with(tmp_path, short("a", 2.0, 0.01))
    rung = LongRung(folder, ledger, SearchClock(Budget(n_trials=5)), 0.01, 0.9)
    assert 0.25 * 0.01 / PRIOR_SHARE < rung.largest_short_drop({}) < 0.01 / PRIOR_SHARE
    hoped = rung.largest_short_drop({})
    for left, is_more in ((0.4 * PRIOR_SHARE, True), (2 * PRIOR_SHARE, False)):
        ledger.candidates["b"] = short("b", 4.0, 0.1 * left).model_copy(update={"rung": LONG})
        assert (rung.largest_short_drop({"b": drop(0.1)}) > hoped) == is_more
