"""Optuna's journal in the study folder: it survives a kill at any byte."""

import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from autocompress.errors import StudyError
from autocompress.search.folder import StudyFolder
from autocompress.search.storage import MEMBER, ask, end_stale, open_journal, open_study, repair_journal

OBJECTIVES = ("accuracy_drop", "latency")


def opened(path: Path) -> optuna.Study:
    """For a process that has the study for itself: all running trials come again."""
    study = open_journal(path, OBJECTIVES)
    end_stale(study, lambda _: False)
    study.sampler = optuna.samplers.RandomSampler(seed=len(study.get_trials(deepcopy=False)))
    return study


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
    for _ in range(2):
        repair_journal(path)
        assert path.read_bytes() == b'{"a": 1}\n{"b": 2}\n'
    repair_journal(tmp_path / "missing.log")
    assert not (tmp_path / "missing.log").exists()


@pytest.mark.parametrize(
    ("content", "whole"),
    [
        pytest.param(b"", 0, id="empty"),
        pytest.param(b"x" * 200_000, 0, id="one long half line"),
        pytest.param(b"a\n" + b"x" * 200_000, 2, id="a half line over several blocks"),
        pytest.param(b"x" * 65_535 + b"\n" + b"y" * 65_536, 65_536, id="a line that ends where a block does"),
        pytest.param(b"x" * 200_000 + b"\n", 200_001, id="nothing half"),
    ],
)
def test_long_lines_are_cut_where_the_last_whole_line_ends(tmp_path: Path, content: bytes, whole: int) -> None:
    path = tmp_path / "journal.log"
    path.write_bytes(content)
    repair_journal(path)
    assert path.read_bytes() == content[:whole]


def test_what_another_process_left_half_written_does_not_spoil_the_next_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    study = opened(path)
    add_trials(study, 1)
    with path.open("ab") as file:  # a process is killed while this one has the study open
        file.write(b'{"op_code": 5, "work')
    add_trials(study, 1)
    assert [t.state for t in opened(path).get_trials()] == [TrialState.COMPLETE] * 2


def test_the_lock_of_a_killed_process_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("study/journal.log")  # relative, as users name their folders
    path.parent.mkdir()
    add_trials(opened(path), 1)
    Path("study/journal.log.lock").symlink_to(path.absolute())
    add_trials(opened(path), 1)
    assert len(opened(path).get_trials()) == 2


def test_nothing_is_lost_where_several_append_while_one_repairs(tmp_path: Path) -> None:
    path, n = tmp_path / "journal.log", 25
    opened(path)
    studies = [opened(path) for _ in range(3)]
    threads = [threading.Thread(target=add_trials, args=(study, n)) for study in studies]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        repair_journal(path)
    trials = opened(path).get_trials()
    assert len(trials) == 3 * n and all(t.state == TrialState.COMPLETE for t in trials)


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


class Silent(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def dashboard(journal: Path) -> Iterator[str]:
    """Address of an optuna-dashboard that shows `journal`."""
    optuna_dashboard = pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    with make_server("127.0.0.1", 0, optuna_dashboard.wsgi(storage), handler_class=Silent) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def answer(address: str) -> Any:
    with urllib.request.urlopen(address) as response:
        return json.load(response)


def tried(path: Path) -> optuna.Study:
    """A study with one candidate that was measured, one that failed and one under way."""
    folder = StudyFolder(path)
    with folder.joined() as member:
        study = open_study(folder, member, objectives=OBJECTIVES, sampler=optuna.samplers.RandomSampler(seed=0))
        trials = [ask(study, folder, member) for _ in range(3)]
        for trial in trials:
            trial.suggest_categorical("bits.conv1", ["7", "8", "32"])
            trial.suggest_int("unit", 0, 4)
        for trial in trials[:2]:
            trial.set_user_attr("digest", f"abc{trial.number}")
        trials[0].set_constraint("accuracy_drop", 0.02)
        study.tell(trials[0], [0.03, 0.5])
        trials[1].set_user_attr("failure", "it crashed")
        study.tell(trials[1], state=TrialState.FAIL)
    return study


def test_a_study_holds_only_what_json_can(tmp_path: Path) -> None:
    for trial in tried(tmp_path).get_trials():
        for content in (trial.params, trial.user_attrs):
            assert json.loads(json.dumps(content)) == content


def test_optuna_dashboard_shows_a_study(tmp_path: Path) -> None:
    study = tried(tmp_path)
    with dashboard(tmp_path / "journal.log") as address:
        (summary,) = answer(f"{address}/api/studies")["study_summaries"]
        shown = answer(f"{address}/api/studies/{summary['study_id']}")
    assert summary["study_name"] == "autocompress" and shown["objective_names"] == list(OBJECTIVES)
    assert [t["state"] for t in shown["trials"]] == ["Complete", "Fail", "Running"]
    for trial, known in zip(shown["trials"], study.get_trials(), strict=True):
        params = {p["name"]: p["param_external_value"] for p in trial["params"]}
        assert params == {name: str(value) for name, value in known.params.items()}
        assert {a["key"] for a in trial["user_attrs"]} == set(known.user_attrs) >= {MEMBER}
    assert shown["trials"][0]["values"] == [0.03, 0.5]
