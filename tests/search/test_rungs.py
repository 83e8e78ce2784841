"""The short rung: how many recipes it tries and when it stops; the turns that short and long trainings take."""

import math
from pathlib import Path

import pytest

from autocompress.explanation import Explanation
from autocompress.graph import inspect_model
from autocompress.measurement import Interval
from autocompress.pareto import DEFAULT_OBJECTIVES, Candidate, objective_values
from autocompress.processes import OutOfTimeError
from autocompress.recipe import Recipe
from autocompress.search.budget import Budget
from autocompress.search.clock import TRIALS_PER_LONG, SearchClock
from autocompress.search.context import Rung
from autocompress.search.controller import newest, take_turns
from autocompress.search.folder import StudyFolder
from autocompress.search.ledger import Ledger
from autocompress.search.short_rung import ShortRung, told_values
from autocompress.space import load_space
from tests.search.test_identity import configuration
from tests.search.test_long_rung import ledger_with
from tests.search.test_recovery import candidate
from tests.tiny import tiny

ALL = 11


class Counter:
    """Stands for the evaluator: every recipe comes out alike; the ledger is told as by the real one."""

    def __init__(self, ledger: Ledger, ends_after: float = math.inf) -> None:
        self._ledger, self._ends_after = ledger, ends_after
        self.n_done = self.n_total = 0

    def run(self, recipe: Recipe, label: str, rung: Rung) -> Candidate:
        if self.n_done == self._ends_after:
            raise OutOfTimeError("the budget ended")
        self.n_done += 1
        found = candidate("any", 2.0).model_copy(update={"digest": recipe.digest(), "recipe": recipe, "label": label})
        self._ledger.candidates[found.digest] = found
        return found


def rung(folder: StudyFolder, ledger: Ledger, member: object) -> ShortRung:
    """Of a random search of the whole space, whose budget is `ALL` trials."""
    task = tiny()
    space = load_space("full").bind(inspect_model(task.model, task.example_input))
    asked = configuration(sampler="random", finetune_steps=5)
    clock = SearchClock(Budget(n_trials=ALL))
    return ShortRung(folder, member, ledger, clock, asked, space, {}, None, lambda: None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "n"),
    [
        ({}, ALL - ALL // TRIALS_PER_LONG),
        ({"reserve": False}, ALL),
        ({"at_most": 1}, 1),
        ({"reserve": False, "at_most": 3}, 3),
    ],
)
def test_as_many_new_recipes_are_tried_as_budget_and_caller_allow(
    tmp_path: Path, options: dict[str, int], n: int
) -> None:
    folder, ledger = ledger_with(tmp_path)
    counter = Counter(ledger)
    with folder.joined() as member:
        assert rung(folder, ledger, member).run(counter, lambda _: 0.01, **options) == n  # type: ignore[arg-type]
    assert counter.n_done == n == len(ledger.candidates) - 1  # the baseline was there


def test_one_at_a_time_makes_the_same_as_all_at_once(tmp_path: Path) -> None:
    digests = []
    for name, turns in (("once", [ALL]), ("singly", [1] * ALL)):
        folder, ledger = ledger_with(tmp_path / name)
        with folder.joined() as member:
            short, counter = rung(folder, ledger, member), Counter(ledger)
            for n in turns:
                short.run(counter, lambda _: 0.01, reserve=False, at_most=n)  # type: ignore[arg-type]
            assert short.run(counter, lambda _: 0.01, reserve=False, at_most=1) == 0  # type: ignore[arg-type]
        digests.append(list(ledger.candidates))
    assert digests[0] == digests[1]


def test_what_the_end_of_the_budget_cuts_off_is_not_counted(tmp_path: Path) -> None:
    folder, ledger = ledger_with(tmp_path)
    with folder.joined() as member:
        short, counter = rung(folder, ledger, member), Counter(ledger, ends_after=2)
        assert short.run(counter, lambda _: 0.01, at_most=5) == 2  # type: ignore[arg-type]
        assert short.run(counter, lambda _: 0.01, at_most=5) == 0  # type: ignore[arg-type]


def test_what_samplers_are_told_does_not_depend_on_held_out_samples() -> None:
    told, shown = set(), []
    for held_out in (0.0, 0.03):
        made = candidate("any", 2.0, 0.002)
        assert made.measurement
        held = made.measurement.model_copy(update={"selection_drop": Interval(value=held_out, low=-1, high=1)})
        with_held_out = made.model_copy(update={"measurement": held})
        told.add(told_values(with_held_out, DEFAULT_OBJECTIVES))
        shown.append(objective_values(with_held_out, DEFAULT_OBJECTIVES)[0])
    assert len(told) == 1 and told.pop()[0] == 0.002
    assert shown == pytest.approx([0.3 * 0.002, 0.3 * 0.002 + 0.7 * 0.03])


@pytest.mark.parametrize("n_left", [0, 1, 3])
def test_short_and_longer_trainings_take_turns_while_there_is_budget(n_left: int) -> None:
    turns = []
    left = [7] + n_left * [1] + [0]

    def short(reserve: bool, at_most: float) -> int:
        turns.append("short" if not reserve and at_most == 1 else "shorts" if reserve and at_most == math.inf else "?")
        return left.pop(0)

    take_turns(short, lambda: turns.append("long"))
    assert turns == ["shorts", "long", *["short", "long"] * n_left, "short"]


def test_an_explanation_outlives_a_search_without_plans_if_it_is_of_the_choice() -> None:
    old, new = Explanation(digest="a"), Explanation(digest="b")
    assert newest(new, old, "b") == new and newest(None, old, "a") == old
    assert newest(None, old, "b") is None and newest(None, None, "a") is None
