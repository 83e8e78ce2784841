"""What the trials of a study tell of plans, and how Optuna's own samplers see them."""

import itertools
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import IntDistribution
from optuna.samplers import NSGAIISampler
from optuna.trial import TrialState

from autocompress.search.planwise import PLAN, PlanReader, PlanwiseSampler, neighbours, plan_of
from autocompress.search.samplers import observations_of
from autocompress.search.trial_view import view_of
from tests.search.plans import ALL, BASELINE_SIZE, Layers, World

SMALL = Layers(2, bits=(32, 8))  # 9 plans


@given(plan=st.lists(st.integers(0, 4), min_size=3, max_size=3).map(tuple), data=st.data())
def test_parameters_that_were_not_asked_do_not_matter_and_asked_ones_do(
    plan: tuple[int, ...], data: st.DataObject
) -> None:
    layers = Layers(3)
    asked = layers.asked(plan)
    assert plan_of(layers, asked) == plan
    lost = data.draw(st.sampled_from(sorted(asked)))
    assert plan_of(layers, {name: value for name, value in asked.items() if name != lost}) is None


def test_a_value_from_elsewhere_means_no_plan() -> None:
    assert plan_of(SMALL, {**SMALL.decode((0, 0)), "0/weight_bits": 3}) is None


@settings(max_examples=30)
@given(sizes=st.lists(st.integers(1, 4), max_size=4), seed=st.integers(0, 5))
def test_neighbours_are_all_others_the_nearest_first(sizes: list[int], seed: int) -> None:
    distributions = {str(i): IntDistribution(0, n - 1) for i, n in enumerate(sizes)}
    start = dict.fromkeys(distributions, 0)
    found = [tuple(p.values()) for p in neighbours(start, distributions, np.random.default_rng(seed))]
    distances = [sum(v != 0 for v in plan) for plan in found]
    everything = set(itertools.product(*(range(n) for n in sizes)))
    assert distances == sorted(distances)
    assert len(found) == len(set(found))
    assert {*found, tuple(start.values())} == everything


def test_a_plan_that_another_process_took_meanwhile_is_given_up() -> None:
    world = World(SMALL, ALL[:2])
    study = world.study()
    rival = study.ask()

    class Slow(PlanwiseSampler):
        n = 0

        def propose(self, study: optuna.Study, trial: Any, history: Any) -> tuple[int, ...]:
            self.n += 1
            if self.n == 1:  # while we think, the rival notes the plan that we are about to take
                study._storage.set_trial_system_attr(rival._trial_id, PLAN, [1, 1])
            return (1, 1)

    study.sampler = Slow(SMALL, seed=0)
    assert SMALL.suggest(study.ask()) != (1, 1)
    assert study.sampler.n == 2


@pytest.fixture
def tried() -> optuna.Study:
    """Trials of all sorts: 0 and 1 complete, 2 infinite, 3 pruned, 4 failed, 5 pruned with a constraint, 6 running."""
    world = World(Layers(4))
    study = world.started("random")
    for i in range(7):
        trial = study.ask()
        plan = world.layers.suggest(trial)
        if i in (0, 1, 5):
            for name in ("b", "a") if i == 0 else ("a",):
                trial.set_constraint(name, float(i))
        if i < 2:
            trial.set_user_attr("drop_error", [0.01, float("nan")][i])
            study.tell(trial, world.values(plan))
        elif i == 2:
            study.tell(trial, [0.1, float("inf"), 1.0])
        elif i < 6:
            study.tell(trial, state=TrialState.FAIL if i == 4 else TrialState.PRUNED)
    return study


def history_of(study: optuna.Study, world: World) -> Any:
    return PlanReader(world.layers).history(study, study.ask()._cached_frozen_trial)


def test_optuna_sees_only_sound_trials_with_all_parameters_and_constraints(tried: optuna.Study) -> None:
    world = World(Layers(4))
    seen = view_of(tried, history_of(tried, world), population_size=2).get_trials(deepcopy=False)
    assert [t.number for t in seen] == [0, 1, 5, 6]
    assert all(list(t.params) == list(world.layers.distributions) for t in seen)
    assert [list(t.constraints.items()) for t in seen] == [
        [("a", 0), ("b", 0)],
        [("a", 1), ("b", 0)],
        [("a", 5), ("b", 0)],
        [],
    ]
    assert [t.system_attrs.get(NSGAIISampler._get_generation_key()) for t in seen] == [0, 0, None, None]


def test_observations_are_shares_and_finite(tried: optuna.Study) -> None:
    world = World(Layers(4))
    scales = dict(zip(ALL, (1.0, 1.0, BASELINE_SIZE), strict=True))
    found = observations_of(history_of(tried, world), world.problem, scales)
    trials = tried.get_trials()[:2]
    assert [o.drop_error for o in found] == [0.01, 0.0]
    assert [(o.drop, o.latency) for o in found] == [tuple(t.values[:2]) for t in trials]
    np.testing.assert_allclose([o.size for o in found], world.problem.sizes(np.array([o.plan for o in found])))


def test_a_drop_that_is_no_objective_comes_from_its_constraint() -> None:
    world = World(Layers(4), ("latency",))
    study = world.started("random")
    plans = world.go(study, 3)
    found = observations_of(history_of(study, world), world.problem, dict.fromkeys(ALL, 1.0))
    np.testing.assert_allclose([o.drop for o in found], [world.drop(plan) for plan in plans])
    assert {o.size for o in found} == {None}
