"""The hypervolume over candidates and time, against cells counted one by one; failures by reason."""

import itertools
import random

import pytest

from autocompress.report.health import failure_groups, hypervolume_history

CELLS = 10  # along each axis of the box below the reference point: steps of 0.005, a tenth of the latency, 80,000 bytes


def on_grid(make, measured, recipe, i, drop, latency, size):
    """A candidate at whole steps of the grid: latency 5 is half of the baseline's."""
    numbers = measured(speedup=10 / latency, drop=0.005 * drop, size_bytes=80_000 * size)
    return make(recipe(8, 8, stem=round(0.01 + 0.001 * i, 3)), numbers, seconds={"finetune": 2.0 + i, "latency": 1.0})


def share_of_cells(places):
    """Share of the cells of the box whose lower corner at least one place reaches, by the definition."""
    cells = itertools.product(range(CELLS), repeat=3)
    held = sum(any(all(p <= x for p, x in zip(place, cell, strict=True)) for place in places) for cell in cells)
    return held / CELLS**3


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_volume_is_that_of_the_cells_below_the_front(record, make, measured, recipe, seed):
    chance = random.Random(seed)
    places = [(chance.randint(0, 12), chance.randint(1, 12), chance.randint(1, 12)) for _ in range(12)]
    made = [on_grid(make, measured, recipe, i, *place) for i, place in enumerate(places)]
    history = hypervolume_history(record(*made))
    counted = [share_of_cells(places[:n]) for n in range(len(places) + 1)]
    assert [p.volume for p in history] == pytest.approx(counted)
    assert [p.share for p in history] == pytest.approx([volume / counted[-1] for volume in counted])


def test_points_count_measured_candidates_and_the_seconds_of_all(record, make, measured, recipe):
    made = [on_grid(make, measured, recipe, i, 2, 5, 5) for i in range(2)]
    failed = make(recipe(4), None, seconds={"finetune": 40.0, "total": 50.0})
    history = hypervolume_history(record(made[0], failed, made[1]))
    assert [(p.n_candidates, p.seconds) for p in history] == [(0, 10.0), (1, 13.0), (1, 63.0), (2, 67.0)]
    assert [p.volume for p in history] == pytest.approx([0.0, 0.2, 0.2, 0.2])


def test_the_last_volume_is_that_of_the_front(full):
    history = hypervolume_history(full)
    assert history[-1].volume == pytest.approx(full.front().hypervolume())
    assert history[-1].share == 1.0 and history[0].share == 0.0
    assert all(a.share <= b.share and a.seconds <= b.seconds for a, b in itertools.pairwise(history))


def test_the_objectives_are_those_of_the_study(record, make, measured, recipe):
    made = on_grid(make, measured, recipe, 0, 2, 5, 12)
    assert hypervolume_history(record(made))[-1].volume == 0.0
    two = record(made, study={"objectives": ("accuracy_drop", "latency")})
    assert hypervolume_history(two)[-1].volume == pytest.approx(0.8 * 0.5)


def test_a_drop_below_zero_counts_beyond_the_box(record, make, measured, recipe):
    assert hypervolume_history(record(on_grid(make, measured, recipe, 0, -1, 5, 5)))[-1].volume == pytest.approx(0.275)


@pytest.mark.parametrize("place", [(10, 5, 5), (2, 10, 5), (2, 5, 10)], ids=["drop", "latency", "size"])
def test_who_only_reaches_the_reference_adds_nothing(record, make, measured, recipe, place):
    history = hypervolume_history(record(on_grid(make, measured, recipe, 0, *place)))
    assert [(p.share, p.volume) for p in history] == [(0.0, 0.0), (0.0, 0.0)]


def test_a_study_in_which_all_failed_has_time_and_no_volume(record, make, recipe):
    history = hypervolume_history(record(make(recipe(8), None), make(recipe(4), None)))
    assert [(p.n_candidates, p.seconds, p.share) for p in history] == [(0, 10.0, 0.0), (0, 20.0, 0.0), (0, 30.0, 0.0)]


def test_failures_are_grouped_by_reason_the_most_frequent_first(record, make, recipe, training):
    lost = make(recipe(2), None, failure="the worker was killed; it ran out of memory")
    diverged = [make(recipe(bits), None, failure=f"the loss is not finite at step {bits}0") for bits in (3, 4)]
    given_up = make(recipe(5), None, failure="hopeless", training=training(100, stopped_at=50))
    groups = failure_groups(record(lost, diverged[0], given_up, diverged[1]))
    assert [(group.reason, group.candidates) for group in groups] == [
        ("the loss is not finite at step 30", tuple(diverged)),
        ("the worker was killed; it ran out of memory", (lost,)),
        ("given up at step 50 of 100: hopeless", (given_up,)),
    ]


def test_without_failures_there_are_no_groups(record, make, measured, recipe):
    assert failure_groups(record(make(recipe(), measured(speedup=2.0)))) == ()
