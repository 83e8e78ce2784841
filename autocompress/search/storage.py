"""Optuna's storage in the study folder: a journal that survives a kill, and samplers by name."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from autocompress.errors import StudyError

STUDY_NAME = "autocompress"
N_STARTUP_TRIALS = 5  # the anchors, which come first, are the start-up

SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=N_STARTUP_TRIALS),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}

AGAIN = "asked again"  # attribute of a trial that takes the place of one that was cut off


def repair_journal(path: Path) -> bool:
    """Cut a last line that a kill left half-written; the next append would otherwise damage the file for good.

    Returns:
        Whether something was cut.
    """
    if not path.is_file():
        return False
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole == content:
        return False
    partial = path.with_name(f".{path.name}.repaired")
    partial.write_bytes(whole)
    partial.replace(path)
    return True


def open_journal(path: Path, *, objectives: tuple[str, ...], sampler: str, seed: int) -> optuna.Study:
    """The Optuna study in the journal at `path`, made if there is none; trials that a kill left running come again.

    The sampler's seed depends on how many trials there are, since a resumed sampler would otherwise repeat itself.

    Raises:
        StudyError: The journal is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    repair_journal(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            storage = JournalStorage(JournalFileBackend(str(path)))
            study = optuna.create_study(
                storage=storage,
                study_name=STUDY_NAME,
                directions=["minimize"] * len(objectives),
                load_if_exists=True,
            )
            study.set_metric_names(list(objectives))
    except Exception as error:  # replaying a damaged journal may raise anything
        raise StudyError(
            f"{path} is damaged: {type(error).__name__}: {error}; remove it to go on with the candidates found so far"
        ) from None
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        ask_again(study, trial.number, trial.params, trial.user_attrs)
    study.sampler = SAMPLERS[sampler](seed + 1_000_003 * len(study.get_trials(deepcopy=False)))
    return study


def ask_again(study: optuna.Study, number: int, params: dict[str, Any], user_attrs: dict[str, Any]) -> None:
    """End a trial that was cut off, and let its recipe be asked for again; once, since it may be what kills us.

    Args:
        study: Its study.
        number: Of the trial.
        params: Its parameters; none where it was cut off before it had any.
        user_attrs: Its attributes.
    """
    study.tell(number, state=TrialState.FAIL)
    if params and AGAIN not in user_attrs:
        study.enqueue_trial(params, user_attrs={AGAIN: True})
