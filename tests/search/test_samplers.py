"""One contract for all samplers, on one objective; and what is particular to some of them."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from autocompress.errors import StudyError
from autocompress.search.planwise import PLAN, plan_of
from autocompress.search.samplers import SAMPLERS, make_sampler
from tests.search.plans import ALL, MAX_DROP, Layers, World, journal

FAST = [name for name in SAMPLERS if name != "gp"]  # which takes a second a trial
DETERMINED = ("greedy",)  # makes no use of chance as long as its walk goes on
SMALL = Layers(2, bits=(32, 8))  # 9 plans
every = pytest.mark.parametrize("name", SAMPLERS)


@every
@pytest.mark.parametrize("objectives", [ALL, ALL[:2]], ids=["3 objectives", "2 objectives"])
def test_a_proposal_reaches_the_trial_as_it_was_meant(name: str, objectives: tuple[str, ...]) -> None:
    world = World(Layers(4), objectives)
    study = world.started(name)
    plans = world.go(study, 6)
    trials = study.get_trials(deepcopy=False)
    assert [tuple(t.system_attrs[PLAN]) for t in trials] == plans
    assert [t.params for t in trials] == [world.layers.asked(plan) for plan in plans]


@every
def test_no_plan_comes_twice_while_there_are_others(name: str) -> None:
    world = World(SMALL, ALL[:2])
    study = world.started(name)
    assert len(set(world.go(study, SMALL.n_plans))) == SMALL.n_plans
    assert len(world.go(study, 2)) == 2  # and then the trials go on


@every
def test_the_same_seed_proposes_the_same(name: str) -> None:
    n = {"gp": 6, "greedy": 8}.get(name, 12)
    world = World(Layers(4), ALL[:2])
    plans = [world.go(world.started(name, seed=seed), n) for seed in (3, 3, 4)]
    assert plans[0] == plans[1]
    assert (plans[0] == plans[2]) == (name in DETERMINED)


@every
def test_a_resumed_study_proposes_what_an_unbroken_one_would(name: str, tmp_path: Path) -> None:
    n_before, n_after = (5, 1) if name == "gp" else (7, 6)
    world = World(Layers(4), ALL[:2])
    unbroken = world.go(world.started(name), n_before + n_after)
    resumed = []
    for n in (n_before, n_after):
        study = world.study(journal(tmp_path / "journal.log"))
        study.sampler = world.sampler(name)
        resumed += world.go(study, n)
    assert resumed == unbroken


def test_a_new_process_proposes_what_an_unbroken_study_would(tmp_path: Path) -> None:
    script = (
        "import json, sys; from tests.search.plans import *\n"
        "for name in ('bayesdp', 'nsga2'):\n"
        "    world = World(Layers(4)); study = world.study(journal(Path(sys.argv[1]) / name))\n"
        "    study.sampler = world.sampler(name); print(json.dumps(world.go(study, 2)))"
    )
    unbroken = []
    for name in ("bayesdp", "nsga2"):
        world = World(Layers(4))
        study = world.study(journal(tmp_path / name))
        study.sampler = world.sampler(name)
        world.go(study, 11)
        unbroken.append(world.go(world.started(name), 13)[11:])
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert [[tuple(p) for p in json.loads(line)] for line in done.stdout.splitlines()] == unbroken


@every
@pytest.mark.filterwarnings("ignore")
def test_failed_pruned_and_infinite_trials_do_not_break_it(name: str) -> None:
    world = World(Layers(4))
    study = world.started(name)
    plans = []
    for i in range(10):
        trial = study.ask()
        plans.append(world.layers.suggest(trial))
        match i % 5:
            case 0:
                study.tell(trial, state=TrialState.FAIL)
            case 1:
                study.tell(trial, state=TrialState.PRUNED)
            case 2:
                study.tell(trial, [float("inf"), 0.5, 10.0])
            case 3:
                study.tell(trial, [float("nan"), 0.5, 10.0])
            case 4:
                world.tell(study, trial, plans[-1])
    assert len(set(plans + world.go(study, 3))) == 13


@every
def test_it_goes_on_where_all_is_infeasible(name: str) -> None:
    world = World(Layers(4))
    study = world.started(name)
    plans = world.go(study, 6, excess=10.0)
    assert len(set(plans)) == 6


@every
@pytest.mark.parametrize(
    ("layers", "n_trials"),
    [
        (Layers(1), 7),  # one unit, 5 plans
        (Layers(3, bits=(8,), input_bits=(8,)), 3),  # one plan, no parameter
        (Layers(1, bits=(32,)), 2),  # one plan, a parameter without effect
        (Layers(2, bits=(32, 8), input_bits=(8,)), 6),  # 4 plans
    ],
    ids=["one unit", "one choice", "one choice for sure", "four plans"],
)
def test_spaces_of_next_to_nothing_work(name: str, layers: Layers, n_trials: int) -> None:
    world = World(layers, ALL[:2])
    plans = world.go(world.started(name), n_trials)
    assert len(set(plans)) == min(n_trials, layers.n_plans)


@pytest.mark.parametrize("name", FAST)
def test_two_hundred_units_work(name: str) -> None:
    world = World(Layers(200))
    anchors = [(0,) * 200, (1,) * 200, (2,) * 200, (3,) * 200, (4,) * 200]
    plans = world.go(world.started(name, anchors=anchors), 7)
    assert len(set(plans)) == 7


@every
def test_two_samplers_on_one_storage_never_have_the_same_plan(name: str, tmp_path: Path) -> None:
    world = World(SMALL, ALL[:2])
    studies = [world.study(journal(tmp_path / "journal.log")) for _ in range(2)]
    for study in studies:
        study.sampler = world.sampler(name)
    plans = []
    for _ in range(4):
        asked = [(study, study.ask()) for study in studies]
        found = [world.layers.suggest(trial) for _, trial in asked]
        for (study, trial), plan in zip(asked, found, strict=True):
            world.tell(study, trial, plan)
        plans += found
    assert len(set(plans)) == 8


@every
def test_it_finds_something_faster_than_the_anchors(name: str) -> None:
    world = World(Layers(5), ALL[:2])
    anchors = [(0,) * 5, (4,) * 5]
    plans = world.go(world.started(name, anchors=anchors, start=(4,) * 5), 7 if name == "gp" else 25)
    assert plans[:2] == anchors
    feasible = [world.values(p)[1] for p in plans if world.drop(p) <= MAX_DROP]
    assert min(feasible) < world.values(anchors[0])[1]


@every
def test_an_enqueued_plan_is_tried_and_taken(name: str) -> None:
    world = World(SMALL, ALL[:2])
    study = world.started(name)
    world.go(study, 1)
    enqueued = next(p for p in itertools.product(range(3), repeat=2) if p != (0, 0) and p not in _plans(study, world))
    study.enqueue_trial(SMALL.asked(enqueued))
    assert world.go(study, 1) == [enqueued]
    assert len(set(_plans(study, world) + world.go(study, 7))) == 9


def _plans(study: optuna.Study, world: World) -> list[tuple[int, ...]]:
    read = (plan_of(world.layers, t.params) for t in study.get_trials(deepcopy=False))
    return [plan for plan in read if plan is not None]


@every
def test_a_plan_that_waits_in_the_queue_is_not_proposed(name: str) -> None:
    world = World(SMALL, ALL[:2])
    queued = (1, 2)
    study = world.started(name)
    asked = [study.ask() for _ in range(8)]
    study.enqueue_trial(SMALL.asked(queued))
    plans = [SMALL.suggest(trial) for trial in asked]
    assert queued not in plans
    assert len(set(plans)) == 8


@every
def test_what_an_enqueued_trial_leaves_open_is_filled(name: str) -> None:
    world = World(Layers(4))
    study = world.started(name)
    world.go(study, 6)
    study.enqueue_trial({"0/weight_bits": 4, "1/weight_bits": 32, "1/activation_bits": 7})
    study.enqueue_trial({"0/weight_bits": 4, "1/weight_bits": 32})
    plans = world.go(study, 2)
    assert [world.layers.choices[p[0]][0] for p in plans] == [4, 4]
    assert [p[1] for p in plans] == [0, 0]
    assert len({*plans}) == 2
    assert tuple(study.get_trials()[-1].system_attrs[PLAN]) == plans[-1]


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(StudyError, match=r"one of bayesdp, .*, but got 'cma'"):
        make_sampler("cma", SMALL, lambda: World(SMALL).problem, seed=0)


def test_enqueued_anchors_are_parents_of_the_next_generation() -> None:
    world = World(Layers(6))
    study = world.started("nsga2")
    for last in itertools.product((0, 1, 2), repeat=2):
        study.enqueue_trial(world.layers.asked((3, 3, 3, 3, *last)))
    study.enqueue_trial(world.layers.asked((3, 3, 3, 3, 4, 4)))
    world.go(study, 10)
    genes = np.array(world.go(study, 10))[:, :4]
    assert (genes == 3).mean() > 0.6  # a random sampler has 0.17 of them


def test_random_plans_stay_far_apart_however_many_there_are() -> None:
    plans = np.array(World(Layers(20)).go(World(Layers(20)).started("random"), 45))
    distances = (plans[:, None] != plans[None]).sum(axis=2) + 20 * np.eye(45)
    assert distances.min() > 5
