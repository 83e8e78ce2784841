"""Several processes in one study: nothing is done twice, and the death of one hurts no other."""

import json
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import pytest
from optuna.trial import TrialState

from autocompress.errors import StudyError
from autocompress.latency import JointLatency, PairedLatency
from autocompress.measurement import LatencyCheck, Speedup
from autocompress.pareto import Candidate
from autocompress.record import StudyRecord
from autocompress.search.chosen import Manifest
from autocompress.search.folder import StudyFolder
from autocompress.search.ledger import Ledger
from autocompress.search.storage import AGAIN, MEMBER, ask
from tests.examples import candidate
from tests.search.members_work import FILES, hold, ledger_of, opened, search, work_folder

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.search.members_work"])


def started(function: Callable[..., None], *arguments: Any) -> BaseProcess:
    process = PROCESSES.Process(target=function, args=arguments)
    process.start()
    return process


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def holder(path: Path, what: str = "ab") -> Iterator[tuple[BaseProcess, str]]:
    """A process that works on `what`, and the name it has as a member."""
    process = started(hold, path, what)
    try:
        wait_for(lambda: (path / "holds").is_file() and bool((path / "holds").read_text()))
        yield process, (path / "holds").read_text()
    finally:
        process.kill()
        process.join()


def kept(ledger: Ledger, found: Candidate) -> None:
    """As a search does it: the files in their place, then the record."""
    folder = StudyFolder(ledger.source("").parent)
    work_folder(folder, found.digest)
    folder.finish(found.digest)
    ledger.keep(found)


class Searched(NamedTuple):
    """A study in which several processes searched, one of which was killed."""

    path: Path
    record: StudyRecord
    trials: list[optuna.trial.FrozenTrial]
    evaluated: list[tuple[str, str]]  # digest, and the process that did it
    killed: str


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """Of four processes the first is killed in the middle; a fifth comes afterwards."""
    path = tmp_path_factory.mktemp("several")
    processes = [started(search, path, n_trials, 0.005) for n_trials in (1000, 30, 30, 30)]
    log = path / "evaluated.log"
    wait_for(lambda: log.is_file() and log.read_text().count(f" {processes[0].pid}\n") > 5)
    processes[0].kill()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [-9, 0, 0, 0]
    last = started(search, path, 5, 0.0)
    last.join()
    assert last.exitcode == 0
    evaluated = [(line.split()[0], line.split()[2]) for line in log.read_text().splitlines()]
    folder = StudyFolder(path)
    with folder.joined() as member:
        trials = opened(folder, member).get_trials(deepcopy=False)
    return Searched(path, StudyRecord.read(folder.record), trials, evaluated, str(processes[0].pid))


def test_no_candidate_is_evaluated_twice(searched: Searched) -> None:
    """Except what the killed process did not live to record."""
    of_killed = [digest for digest, process in searched.evaluated if process == searched.killed]
    of_others = [digest for digest, process in searched.evaluated if process != searched.killed]
    assert len(of_others) > 60 and len(of_killed) > 5
    assert len(of_others) == len(set(of_others)) and len(of_killed) == len(set(of_killed))
    assert set(of_killed) & set(of_others) <= {of_killed[-1]}


def test_all_that_was_evaluated_is_in_the_record(searched: Searched) -> None:
    evaluated = {digest for digest, _ in searched.evaluated}
    assert evaluated == {c.digest for c in searched.record.candidates}


def test_the_journal_tells_the_trials_of_all(searched: Searched) -> None:
    assert len({t.user_attrs[MEMBER] for t in searched.trials if MEMBER in t.user_attrs}) == 5
    assert len(searched.trials) > 3 * 30 + 5
    digests = [t.user_attrs["digest"] for t in searched.trials if t.state == TrialState.COMPLETE]
    assert len(digests) == len(set(digests)) and set(digests) <= {c.digest for c in searched.record.candidates}


def test_no_trial_of_a_dead_process_stays_running(searched: Searched) -> None:
    assert {t.state for t in searched.trials} == {TrialState.COMPLETE, TrialState.FAIL}


def test_the_chosen_folder_is_whole_and_the_best_of_all(searched: Searched) -> None:
    chosen = Manifest.read(searched.path / "chosen").candidate
    assert searched.record.chosen and chosen.digest == searched.record.chosen.digest
    fastest = max(c.measurement.speedup.value for c in searched.record.candidates if c.measurement)
    assert chosen.measurement and chosen.measurement.speedup.value == fastest


def test_seconds_of_all_processes_add_up_once(searched: Searched) -> None:
    n, seconds = len(searched.record.candidates), searched.record.seconds
    assert seconds == {"finetune": n, "total": 400.0, "other": 400.0 - n}  # the killed process did not conclude


def test_nothing_is_left_of_those_that_have_ended(searched: Searched) -> None:
    folder = StudyFolder(searched.path)
    assert folder.members.n_alive() == 0
    assert not list(folder.candidates.glob(".*"))


def test_what_a_living_process_works_on_is_left_alone(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    with holder(tmp_path, "ab") as (process, name), folder.joined() as member:
        folder.remove_unfinished()
        assert (folder.candidates / ".work-ab").is_dir()
        (running,) = opened(folder, member).get_trials(states=(TrialState.RUNNING,))
        assert running.user_attrs[MEMBER] == name
        with folder.claim("ab") as is_ours:
            assert not is_ours


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    with holder(tmp_path), pytest.raises(StudyError, match="in use by another process"), folder.locked():
        pass
    with folder.locked():
        assert folder.members.n_alive() == 0


def test_what_a_killed_process_worked_on_is_free_again(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    with folder.joined() as member:
        with holder(tmp_path, "ab") as (process, _):
            choice = opened(folder, member).get_trials()[0].params["a"]
        folder.remove_unfinished()
        assert not list(folder.candidates.iterdir())
        failed, waiting = opened(folder, member).get_trials()
        assert failed.state == TrialState.FAIL and waiting.state == TrialState.WAITING
        assert waiting.user_attrs[AGAIN] and waiting.system_attrs["fixed_params"] == {"a": choice}
        with folder.claim("ab") as is_ours:
            assert is_ours


def test_a_claim_can_be_waited_for(tmp_path: Path) -> None:
    folder, waits = StudyFolder(tmp_path), []
    with ExitStack() as first:
        assert first.enter_context(folder.claim("ab"))

        def wait() -> None:
            waits.append(1)
            if len(waits) == 2:
                first.close()

        with folder.claim("ab", on_wait=wait) as is_ours:
            assert is_ours and len(waits) == 2


def test_a_claim_ends_with_its_block(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    with pytest.raises(ZeroDivisionError), folder.claim("ab"):
        _ = 1 / 0
    with folder.claim("ab") as is_ours:
        assert is_ours
    assert not list(folder.candidates.iterdir())


def test_a_claim_is_never_held_twice_however_often_it_changes_hands(tmp_path: Path) -> None:
    held, most = [0], [0]

    def claim_often(folder: StudyFolder) -> None:
        for _ in range(200):
            with folder.claim("ab") as is_ours:
                if is_ours:
                    held[0] += 1
                    most[0] = max(most[0], held[0])
                    time.sleep(0)
                    held[0] -= 1

    threads = [threading.Thread(target=claim_often, args=(StudyFolder(tmp_path),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] and held == [0]


def test_members_have_the_smallest_free_index(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    with folder.joined() as first:
        with folder.joined() as second, folder.joined() as third:
            assert [m.index for m in (first, second, third)] == [0, 1, 2]
        with folder.joined() as next_one:
            assert next_one.index == 1 and next_one.name not in (second.name, third.name)


def test_the_first_trials_are_queued_once(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    first = [{"a": 3}, {"a": 5}]
    with folder.joined() as one, folder.joined() as two:
        studies = opened(folder, one, first=first), opened(folder, two, first=first)
        trials = [ask(study, folder, one) for study in (*studies, *studies)]
        assert [t.suggest_categorical("a", [0, 3, 5]) for t in trials[:2]] == [3, 5]
        assert [t.state for t in studies[0].get_trials()] == [TrialState.RUNNING] * 4


def two_ledgers(path: Path) -> tuple[Ledger, Ledger]:
    return ledger_of(StudyFolder(path)), ledger_of(StudyFolder(path))


def test_a_ledger_takes_over_what_the_other_found(tmp_path: Path) -> None:
    ours, theirs = two_ledgers(tmp_path)
    kept(theirs, candidate("b", 0.0, 3.0, 900))
    kept(ours, candidate("a", 0.0, 2.0, 900))
    assert list(ours.candidates) == ["b", "a"] and ours.chosen and ours.chosen.digest == "b"
    assert list(theirs.candidates) == ["b"]
    theirs.refresh()
    assert theirs.candidates == ours.candidates


def test_a_worse_candidate_leaves_the_choice_of_the_other_as_it_is(tmp_path: Path) -> None:
    ours, theirs = two_ledgers(tmp_path)
    kept(theirs, candidate("b", 0.0, 3.0, 900))
    assert theirs.chosen
    theirs.chosen = theirs.chosen.model_copy(update={"test": theirs.candidates["b"].measurement})
    theirs.save()
    kept(ours, candidate("a", 0.0, 2.0, 900))
    assert ours.chosen == theirs.chosen


def test_a_confirmed_choice_does_not_replace_a_better_one_found_meanwhile(tmp_path: Path) -> None:
    ours, theirs = two_ledgers(tmp_path)
    kept(ours, candidate("a", 0.0, 2.0, 900))

    def export(path: Path) -> str:
        kept(theirs, candidate("b", 0.0, 3.0, 900))
        path.write_text("a")
        return ""

    assert ours.chosen
    ours.chosen = ours.chosen.model_copy(update={"test": ours.candidates["a"].measurement})
    ours.write_chosen(export)
    assert ours.chosen.digest == "b"
    assert Manifest.read(tmp_path / "chosen").candidate.digest == "b"
    assert not (tmp_path / "chosen" / "model.onnx").exists() and not list(tmp_path.glob(".onnx-*"))


def test_an_export_is_published_with_the_choice(tmp_path: Path) -> None:
    ledger = ledger_of(StudyFolder(tmp_path))
    kept(ledger, candidate("a", 0.0, 2.0, 900))
    ledger.write_chosen(lambda path: str(path.write_text("exported"))[:0])
    assert (tmp_path / "chosen" / "model.onnx").read_text() == "exported"
    assert Manifest.read(tmp_path / "chosen").onnx == ""
    ledger.write_chosen(lambda path: "it has an operator that ONNX lacks")
    assert Manifest.read(tmp_path / "chosen").onnx == "it has an operator that ONNX lacks"
    assert sorted(p.name for p in (tmp_path / "chosen").iterdir()) == sorted([*FILES, "manifest.json"])


def timed(*speeds: float) -> JointLatency:
    ratios = [Speedup(value=s, low=s, high=s, n_pairs=9) for s in speeds]
    check = LatencyCheck(p90_ms=1.5, p99_ms=2.5, noise_floor=0.01, busy_share=0.0)
    return JointLatency(tuple(PairedLatency(r, 2.0 / r.value, 2.0, check) for r in ratios), (tuple(ratios),) * 2)


def test_what_was_trained_again_meanwhile_keeps_its_own_latency(tmp_path: Path) -> None:
    ours, theirs = two_ledgers(tmp_path)
    for found in (candidate("a", 0.0, 2.0, 900), candidate("b", 0.0, 3.0, 900)):
        kept(ours, found)
    finalists = list(ours.candidates.values())
    longer = candidate("a", 0.0, 2.5, 900, n_steps=99)
    kept(theirs, longer)
    ours.keep_finalists(finalists, timed(2.2, 3.3))
    assert ours.candidates["a"] == longer and ours.finalists is None
    other = ours.candidates["b"].measurement
    assert other and other.speedup.value == 3.3


def test_sentences_of_all_are_kept_except_those_about_numbers_that_grow_old(tmp_path: Path) -> None:
    ours, theirs = two_ledgers(tmp_path)
    theirs.findings = ["layer a stays float"]
    theirs.keep(candidate("b"))
    theirs.conclude(1.0)
    assert any(s.startswith("1 candidates failed") for s in theirs.findings)
    ours.findings = ["the sampler found nothing new"]
    ours.keep(candidate("a"))
    ours.conclude(1.0)
    failures = [s for s in ours.findings if "failed" in s]
    assert len(failures) == 1 and failures[0].startswith("2 candidates failed")
    assert set(ours.findings) - set(failures) == {"layer a stays float", "the sampler found nothing new"}


def test_a_sentence_that_one_process_takes_back_is_gone_for_all(tmp_path: Path) -> None:
    ours, theirs = two_ledgers(tmp_path)
    theirs.findings = ["old", "stays"]
    theirs.save()
    ours.refresh()
    theirs.findings = ["new", "stays"]
    theirs.save()
    ours.save()
    assert json.loads((tmp_path / "candidates.json").read_text())["findings"] == ["stays", "new"]
