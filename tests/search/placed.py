"""A small study on disk, made without a search and without torch."""

from pathlib import Path
from typing import Any

from autocompress.pareto import Candidate
from autocompress.record import StudyRecord
from autocompress.search.chosen import FILES
from autocompress.search.configuration import Configuration
from autocompress.search.folder import StudyFolder
from autocompress.search.placing import place, wishes_for
from tests.examples import candidate, record

ALL = (
    candidate("a", 0.001, 3.0, 900, label="int8"),
    candidate("b", 0.002, 2.0, 500),
    candidate("ca", 0.03, 4.0, 400),
    candidate("cb"),
)


def configuration_of(known: StudyRecord, **changes: Any) -> Configuration:
    fields: dict[str, Any] = {
        "task": {"name": "toy", "score": "accuracy", "higher_is_better": True},
        "space": "small",
        "space_text": {},
        "max_drop": 0.02,
        "objectives": known.study.objectives,
        "sampler": "random",
        "seed": 0,
        "finetune_steps": 3,
        "environment": known.environment,
    }
    return Configuration(**{**fields, **changes})


def study_at(path: Path, candidates: tuple[Candidate, ...] = ALL, **changes: Any) -> StudyFolder:
    """A study in which `a`, the fastest that keeps the floor, is chosen."""
    folder, known = StudyFolder(path), record(*candidates)
    known.write(folder.record)
    configuration = configuration_of(known, **changes)
    folder.configuration.write_text(configuration.model_dump_json())
    for c in known.candidates:
        if c.measurement:
            (folder.candidates / c.digest).mkdir()
            for name in FILES:
                (folder.candidates / c.digest / name).write_text(f"{c.digest} {name}")
    place(folder, configuration, wishes_for(folder, configuration))
    return folder
