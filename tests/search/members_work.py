"""A process that searches in a shared study, with work that takes no time."""

import os
import time
from pathlib import Path

import optuna
import torch

from autocompress.search.folder import StudyFolder
from autocompress.search.ledger import Ledger
from autocompress.search.members import Member
from autocompress.search.storage import ask, open_study
from tests.examples import candidate, record
from tests.search.test_identity import configuration

torch.set_num_threads(1)  # a process that forks must not have started others for torch
OBJECTIVES = ("accuracy_drop", "latency")
N_CHOICES = 16
FILES = ("model.xml", "model.bin", "weights.safetensors", "recipe.yaml")


def ledger_of(folder: StudyFolder) -> Ledger:
    return Ledger(folder, configuration(max_drop=0.5), record().study)


def opened(folder: StudyFolder, member: Member, **options: object) -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(seed=member.index)
    arguments = {"objectives": OBJECTIVES, "sampler": sampler, **options}
    return open_study(folder, member, **arguments)  # type: ignore[arg-type]


def work_folder(folder: StudyFolder, digest: str) -> Path:
    work = folder.candidates / f".work-{digest}"
    work.mkdir()
    for name in FILES:
        (work / name).write_text(digest)
    return work


def search(path: Path, n_trials: int, seconds: float) -> None:
    """Ask, claim, evaluate, keep, tell, until this process has asked for `n_trials`."""
    folder = StudyFolder(path)
    with folder.joined() as member:
        folder.remove_unfinished()
        ledger, study = ledger_of(folder), opened(folder, member)
        for _ in range(n_trials):
            trial = ask(study, folder, member)
            a, b = (trial.suggest_categorical(name, range(N_CHOICES)) for name in "ab")
            digest = f"{a:02d}{b:02d}"
            with folder.claim(digest) as is_ours:
                ledger.refresh()
                if not is_ours or digest in ledger.candidates:
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
                    continue
                evaluate(folder, digest, seconds, member.name)
                found = candidate(digest, a / 100, 1 + b, 900, seconds={"finetune": 1.0})
                ledger.keep(found)
            trial.set_user_attr("digest", digest)
            study.tell(trial, [a / 100, 1 / (1 + b)])
        ledger.conclude(100.0)


def evaluate(folder: StudyFolder, digest: str, seconds: float, name: str) -> None:
    work_folder(folder, digest)
    time.sleep(seconds)
    folder.finish(digest)
    with (folder.path / "evaluated.log").open("a") as file:
        file.write(f"{digest} {name} {os.getpid()}\n")


def hold(path: Path, what: str) -> None:
    """Join, mark the study by a file, and wait to be killed."""
    folder = StudyFolder(path)
    with folder.joined() as member:
        study = opened(folder, member)
        trial = ask(study, folder, member)
        trial.suggest_categorical("a", range(N_CHOICES))
        with folder.claim(what) as is_ours:
            assert is_ours
            work_folder(folder, what)
            (path / "holds").write_text(member.name)
            time.sleep(600)
