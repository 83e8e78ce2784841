"""Optuna's journal in the study folder: it survives a kill at any byte."""

from pathlib import Path

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from autocompress.errors import StudyError
from autocompress.search.storage import SAMPLERS, open_journal, repair_journal

OBJECTIVES = ("accuracy_drop", "latency")


def opened(path: Path, sampler: str = "random", seed: int = 0) -> optuna.Study:
    return open_journal(path, objectives=OBJECTIVES, sampler=sampler, seed=seed)


def add_trials(study: optuna.Study, n: int) -> list[str]:
    """Values that `n` new trials were given."""
    values = []
    for _ in range(n):
        trial = study.ask()
        values.append(trial.suggest_categorical("bits", ["4", "7", "8", "32"]))
        study.tell(trial, [0.1, float(trial.number)])
    return values


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("journal") / "journal.log"
    add_trials(opened(path), 3)
    return path.read_bytes()


def test_a_journal_keeps_its_trials(tmp_path: Path) -> None:
    add_trials(opened(tmp_path / "journal.log"), 3)
    trials = opened(tmp_path / "journal.log").get_trials()
    assert [t.values for t in trials] == [[0.1, 0.0], [0.1, 1.0], [0.1, 2.0]]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_journal_cut_at_any_byte_goes_on(journal: bytes, tmp_path: Path, data: st.DataObject) -> None:
    n_bytes = data.draw(st.integers(0, len(journal)))
    path = tmp_path / f"{n_bytes}.log"
    path.write_bytes(journal[:n_bytes])
    known = opened(path).get_trials()
    add_trials(opened(path), 2)
    trials = opened(path).get_trials()
    n_again = sum(t.state == TrialState.WAITING for t in known)
    assert len(trials) == len(known) + 2 - n_again
    assert all(t.state in (TrialState.COMPLETE, TrialState.FAIL) for t in trials)


def test_only_a_half_written_line_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    path.write_bytes(b'{"a": 1}\n{"b": 2}\n{"c": ')
    assert repair_journal(path) and path.read_bytes() == b'{"a": 1}\n{"b": 2}\n'
    assert not repair_journal(path)
    assert not repair_journal(tmp_path / "missing.log")


def test_trials_that_a_kill_left_running_have_failed(tmp_path: Path) -> None:
    opened(tmp_path / "journal.log").ask()
    (trial,) = opened(tmp_path / "journal.log").get_trials()
    assert trial.state == TrialState.FAIL


def test_what_was_cut_off_is_asked_for_again_once(tmp_path: Path) -> None:
    choices = list(range(100))
    trial = opened(tmp_path / "journal.log").ask()
    number = trial.suggest_categorical("a", choices)
    again = opened(tmp_path / "journal.log").ask()
    assert again.suggest_categorical("a", choices) == number
    states = [t.state for t in opened(tmp_path / "journal.log").get_trials()]
    assert states == [TrialState.FAIL, TrialState.FAIL]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"not json\n", id="text"),
        pytest.param(b"\xff\xfe\x00\n", id="binary"),
        pytest.param(b'{"op_code": 99}\n', id="other records"),
        pytest.param(b"[1, 2]\n", id="other json"),
    ],
)
def test_a_damaged_journal_is_said_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal.log"
    path.write_bytes(content)
    with pytest.raises(StudyError, match="journal.log is damaged: .*; remove it to go on"):
        opened(path)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_samples_the_same(tmp_path: Path, sampler: str) -> None:
    a, b, c = (add_trials(opened(tmp_path / f"{i}.log", sampler, seed), 8) for i, seed in enumerate((1, 1, 2)))
    assert a == b != c


def test_a_resumed_sampler_does_not_repeat_itself(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    first = add_trials(opened(path), 10)
    assert add_trials(opened(path), 10) != first
