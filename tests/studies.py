"""Making studies of small tasks, and comparing what they hold."""

from pathlib import Path
from typing import Any

from autocompress import Study, Task, create_study
from autocompress.record import StudyRecord


def study_of(task: Task, out: Path, **changes: Any) -> Study:
    return create_study(task, out=out, **{"finetune_steps": 3, **changes})


def fingerprints(record: StudyRecord) -> dict[str, Any]:
    """Something of each candidate that a second evaluation would change; finalists are timed again in any case."""
    return {c.digest: (c.rung, c.seconds, c.measurement and c.measurement.accuracy) for c in record.candidates}
