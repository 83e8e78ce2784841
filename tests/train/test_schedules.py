"""How the learning rate goes."""

import math
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autocompress.train.schedules import rate_factor
from autocompress.train.settings import FinetuneSettings

SCHEDULES = ("cosine", "one_cycle")
settings_of_any_kind = st.builds(
    FinetuneSettings,
    n_steps=st.integers(1, 300),
    schedule=st.sampled_from(SCHEDULES),
    warm_up=st.floats(0, 1),
    rewind_at=st.lists(st.floats(0.01, 0.99), max_size=3, unique=True).map(sorted).map(tuple),
)


def factors(settings: FinetuneSettings) -> list[float]:
    return [rate_factor(step, settings) for step in range(settings.n_steps)]


def of_torch(n_steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=n_steps)
    rates = []
    for _ in range(n_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the last step, and steps of an optimizer that never took one
            if len(rates) < n_steps:
                scheduler.step()
    return rates


@pytest.mark.parametrize("n_steps", [2, 3, 4, 7, 10, 33, 100])
def test_one_cycle_is_that_of_torch(n_steps: int) -> None:
    assert factors(FinetuneSettings(n_steps, schedule="one_cycle")) == pytest.approx(of_torch(n_steps), abs=1e-12)


@pytest.mark.parametrize("n_steps", [2, 5, 40])
def test_a_cosine_without_warm_up_is_that_of_torch(n_steps: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=n_steps - 1)
    expected = [1.0]  # the first step warms up: it is at the peak in any case
    for _ in range(n_steps - 1):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert factors(FinetuneSettings(n_steps, warm_up=0)) == pytest.approx(expected)


def test_the_rate_warms_up_in_equal_parts() -> None:
    assert factors(FinetuneSettings(20, warm_up=0.2))[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


@given(settings_of_any_kind)
def test_every_factor_is_a_share(settings: FinetuneSettings) -> None:
    assert all(0 <= factor <= 1 for factor in factors(settings))


@given(st.integers(1, 400), st.floats(0, 1))
def test_a_cosine_reaches_its_peak(n_steps: int, warm_up: float) -> None:
    assert max(factors(FinetuneSettings(n_steps, warm_up=warm_up))) == 1


@given(st.integers(1, 400))
def test_a_cycle_comes_near_its_peak(n_steps: int) -> None:
    assert max(factors(FinetuneSettings(n_steps, schedule="one_cycle"))) > 0.8


@given(st.integers(40, 400), st.sampled_from(SCHEDULES), st.floats(0, 0.5))
def test_the_last_step_is_near_zero(n_steps: int, schedule: str, warm_up: float) -> None:
    settings = FinetuneSettings(n_steps, schedule=schedule, warm_up=warm_up)  # type: ignore[arg-type]
    assert rate_factor(n_steps - 1, settings) < 0.01


@given(settings_of_any_kind, st.integers(0, 5))
def test_nothing_is_left_after_the_last_step(settings: FinetuneSettings, more: int) -> None:
    assert rate_factor(settings.n_steps + more, settings) == 0


@given(settings_of_any_kind)
def test_the_rate_rises_once_and_falls_once_in_each_cycle(settings: FinetuneSettings) -> None:
    once = factors(replace(settings, rewind_at=()))
    top = once.index(max(once))
    assert once[: top + 1] == sorted(once[: top + 1])
    assert once[top:] == sorted(once[top:], reverse=True)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rewinding_starts_the_schedule_over_for_the_steps_up_to_the_next(schedule: str) -> None:
    rewound = FinetuneSettings(100, schedule=schedule, rewind_at=(0.4, 0.7))  # type: ignore[arg-type]
    plain = replace(rewound, rewind_at=())
    expected = [factor for n_steps in (40, 30, 30) for factor in factors(replace(plain, n_steps=n_steps))]
    assert factors(rewound) == expected


@pytest.mark.parametrize("share", [pytest.param(0.01, id="first step"), pytest.param(0.99, id="behind the last")])
def test_a_rewind_without_steps_changes_nothing(share: float) -> None:
    settings = FinetuneSettings(10, rewind_at=(share,))
    assert factors(settings) == factors(replace(settings, rewind_at=()))


def test_two_rewinds_at_one_step_are_one() -> None:
    assert factors(FinetuneSettings(10, rewind_at=(0.5, 0.51))) == factors(FinetuneSettings(10, rewind_at=(0.5,)))


def test_a_training_of_one_step_takes_it_at_the_peak() -> None:
    assert [factors(FinetuneSettings(1, schedule=schedule)) for schedule in SCHEDULES] == [[1.0], [1.0]]  # type: ignore[arg-type]


def test_the_middle_of_the_fall_is_half_the_peak() -> None:
    assert rate_factor(55, FinetuneSettings(100, warm_up=0.1)) == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))
