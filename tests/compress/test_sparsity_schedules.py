"""Sparsity schedules against their closed forms and NNCF's schedulers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nncf.torch.function_hook.pruning.scheduler_fns import exponential_ratio_scheduler, multi_step_ratio_scheduler

from autocompress.compress.sparsity_schedules import AdaptiveProgress, exponential, level, multistep, polynomial
from autocompress.recipe import Sparsification

SCHEDULES = ("polynomial", "exponential", "adaptive", "multistep")
progresses = st.floats(0.0, 1.0)
sparsities = st.floats(0.0, 0.99)


@pytest.mark.parametrize(
    ("progress", "power", "wanted"),
    [
        pytest.param(0.0, 3.0, 0.1, id="the start"),
        pytest.param(0.5, 3.0, 0.8 - 0.7 / 8, id="the middle, cubic"),
        pytest.param(0.5, 1.0, 0.45, id="the middle, linear"),
        pytest.param(0.25, 2.0, 0.8 - 0.7 * 9 / 16, id="a quarter, square"),
        pytest.param(1.0, 3.0, 0.8, id="the end"),
    ],
)
def test_the_polynomial_schedule_is_equation_1_of_zhu_and_gupta(progress: float, power: float, wanted: float) -> None:
    assert polynomial(progress, 0.1, 0.8, power) == pytest.approx(wanted)


@pytest.mark.parametrize("epoch", range(7))
@pytest.mark.parametrize(("initial", "target"), [(0.0, 0.7), (0.2, 0.95), (0.05, 0.06)])
def test_the_exponential_schedule_is_that_of_nncf(epoch: int, initial: float, target: float) -> None:
    theirs = exponential_ratio_scheduler(epoch, initial_ratio=initial, target_ratio=target, target_epoch=6)
    assert exponential(epoch / 6, initial, target) == pytest.approx(theirs)


@pytest.mark.parametrize("epoch", range(9))
def test_the_multistep_schedule_is_that_of_nncf_with_equal_rises(epoch: int) -> None:
    steps = {0: 0.1, 2: 0.3, 4: 0.5, 6: 0.7, 8: 0.9}
    assert multistep(epoch / 8, 0.1, 0.9) == pytest.approx(multi_step_ratio_scheduler(epoch, steps=steps))


def test_milestones_can_be_given() -> None:
    assert [multistep(t, 0.0, 0.6, (0.5, 0.9)) for t in (0.4, 0.5, 0.9)] == pytest.approx([0.0, 0.3, 0.6])


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(initial=sparsities, target=sparsities, first=progresses, second=progresses)
def test_every_schedule_rises_from_its_start_to_its_target(
    schedule: str, initial: float, target: float, first: float, second: float
) -> None:
    settings = Sparsification(schedule=schedule, initial_sparsity=initial)
    low, high = sorted((first, second))
    levels = [level(t, target, settings) for t in (0.0, low, high, 1.0)]
    assert levels[0] == pytest.approx(min(initial, target))
    assert all(a <= b + 1e-12 for a, b in zip(levels, levels[1:], strict=False))
    assert levels[-1] == target


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_start_above_the_target_means_the_target_all_the_time(schedule: str) -> None:
    settings = Sparsification(schedule=schedule, initial_sparsity=0.6)
    assert [level(t, 0.5, settings) for t in (0.0, 0.3, 1.0)] == [0.5, 0.5, 0.5]


def test_the_power_of_the_recipe_is_that_of_the_polynomial() -> None:
    assert level(0.5, 0.8, Sparsification(power=1.0)) == pytest.approx(0.4)


def progress_of(losses: list[float]) -> list[float]:
    adaptive = AdaptiveProgress(len(losses))
    return [adaptive.step(loss) for loss in losses]


def test_the_adaptive_schedule_rises_a_tenth_at_each_decision_while_the_loss_falls() -> None:
    got = progress_of([1.0 / (k + 1) for k in range(40)])
    assert got == pytest.approx([min(10, (k + 1) // 2) / 10 for k in range(40)])


def test_the_adaptive_schedule_waits_while_the_loss_is_high_and_then_must_rise() -> None:
    got = progress_of([1.0] + [2.0] * 19)
    assert got[:11] == pytest.approx([0.1] * 11)
    assert got[11:] == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])


@pytest.mark.parametrize(
    ("losses", "rises"),
    [
        pytest.param([1.0, 1.1], True, id="a tenth above the lowest"),
        pytest.param([1.0, 1.11], False, id="more than a tenth above the lowest"),
        pytest.param([1.0, 0.5, 0.6], False, id="the lowest is not the first"),
        pytest.param([-1.0, -0.95], True, id="negative losses, a twentieth above"),
        pytest.param([-1.0, -0.85], False, id="negative losses, more than a tenth above"),
    ],
)
def test_the_adaptive_schedule_rises_up_to_a_tenth_above_the_lowest_loss(losses: list[float], rises: bool) -> None:
    adaptive = AdaptiveProgress(20)
    got = [adaptive.step(loss) for loss in losses]
    assert (got[-1] > got[-2]) == rises


def test_the_adaptive_schedule_compares_means_between_decisions() -> None:
    adaptive = AdaptiveProgress(40)
    got = [adaptive.step(loss) for loss in (1.0, 1.0, 0.2, 1.9, 0.2, 2.3)]
    assert got == pytest.approx([0.0, 0.1, 0.1, 0.2, 0.2, 0.2])


@given(losses=st.lists(st.floats(-10, 10), min_size=1, max_size=70))
def test_the_adaptive_schedule_reaches_its_target_at_the_last_call_whatever_the_losses(losses: list[float]) -> None:
    got = progress_of(losses)
    assert got[-1] == 1.0
    assert got == sorted(got)
