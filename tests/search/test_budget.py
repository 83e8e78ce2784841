"""How a person writes a budget, and what is too small to measure anything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import BudgetError
from autocompress.search.budget import Budget


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        pytest.param("90s", Budget(seconds=90.0), id="seconds"),
        pytest.param("10m", Budget(seconds=600.0), id="minutes"),
        pytest.param("2h", Budget(seconds=7200.0), id="hours"),
        pytest.param("1.5m", Budget(seconds=90.0), id="a fraction"),
        pytest.param(" 10 M ", Budget(seconds=600.0), id="blanks and capitals"),
        pytest.param("40trials", Budget(n_trials=40), id="trials"),
        pytest.param("1trial", Budget(n_trials=1), id="one trial"),
        pytest.param(Budget(n_trials=3), Budget(n_trials=3), id="read already"),
    ],
)
def test_a_budget_is_read_as_people_write_it(text: str, budget: Budget) -> None:
    assert Budget.parse(text) == budget


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("", "cannot be read", id="nothing"),
        pytest.param("10", "cannot be read", id="no unit"),
        pytest.param("10d", "cannot be read", id="unknown unit"),
        pytest.param("-5m", "cannot be read", id="negative"),
        pytest.param("nans", "cannot be read", id="not a number"),
        pytest.param("ten minutes", "cannot be read", id="words"),
        pytest.param("0s", "at least 10s, but got 0s", id="zero"),
        pytest.param("1s", "at least 10s, but got 1s", id="one second"),
        pytest.param("0.1m", "at least 10s, but got 6s", id="six seconds"),
        pytest.param("0trials", "at least 1 trial, but got 0", id="no trials"),
    ],
)
def test_a_bad_budget_is_refused_with_the_forms_that_work(text: str, problem: str) -> None:
    with pytest.raises(BudgetError, match=problem) as caught:
        Budget.parse(text)
    assert "40trials" in str(caught.value)


@given(st.integers(10, 10**6))
def test_what_is_written_is_read_back(seconds: int) -> None:
    budget = Budget(seconds=float(seconds))
    again = Budget.parse(str(budget)).seconds
    assert again == pytest.approx(seconds, rel=1e-4)
    assert Budget.parse(str(Budget(n_trials=seconds))) == Budget(n_trials=seconds)
