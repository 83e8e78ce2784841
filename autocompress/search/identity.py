"""What a study is about, so that the same command resumes it and another one is refused with a diff."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from autocompress.errors import StudyError
from autocompress.measurement import Environment
from autocompress.pareto import Wishes
from autocompress.recipe import first_problem
from autocompress.task import Task, flatten, split_batch


class Configuration(BaseModel):
    """The resolved configuration of a study, as `study.json` holds it.

    Attributes:
        task: Identity of the task: names, shapes, digests of weights and validation data.
        task_reference: How the command line names the task, or None for one that Python code made.
        space: Name of the search space.
        space_text: Choices of the bound space by parameter.
        max_drop: Largest accuracy drop, in units of the score.
        max_latency_ms: Largest latency of the choice, milliseconds; None for no such wish.
        max_size_bytes: Largest size of the choice, bytes; None for no such wish.
        target_speedup: Least speed-up of the choice; None for no such wish.
        objectives: What the front minimizes.
        sampler: Name of the sampler.
        seed: Seed of search and training.
        finetune_steps: Training steps of the short rung; set by the first search where the user says nothing.
        environment: Where the study was begun.
        dropped: Choices by parameter that are left out because the probe found them useless here when the study began.
        rewards: What that probe says about the space, as sentences.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: dict[str, Any]
    task_reference: str | None = None
    space: str
    space_text: dict[str, Any]
    max_drop: float
    max_latency_ms: float | None = None
    max_size_bytes: int | None = None
    target_speedup: float | None = None
    objectives: tuple[str, ...]
    sampler: str
    seed: int
    finetune_steps: int | None = None
    environment: Environment
    dropped: dict[str, tuple[int | float, ...]] = {}
    rewards: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> "Configuration":
        """The configuration in the file at `path`.

        Raises:
            StudyError: The file is missing or damaged.
        """
        try:
            return cls.model_validate_json(path.read_text())
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            problem = first_problem(error) if isinstance(error, ValidationError) else str(error)
            raise StudyError(f"{path} is damaged: {problem}; give another output folder") from None

    @property
    def wishes(self) -> Wishes:
        """What the choice must keep."""
        return Wishes(self.max_drop, self.max_latency_ms, self.max_size_bytes, self.target_speedup)

    def refuse_changes(self, wanted: "Configuration", where: str) -> None:
        """Check that `wanted` asks for this same study on the same CPU, since speed-ups on two CPUs don't compare.

        Raises:
            StudyError: It does not; the message lists what differs.
        """
        mine, theirs = (
            c.model_dump(exclude={"environment", "task_reference", "finetune_steps", "dropped", "rewards"})
            | {"CPU": c.environment.cpu, "threads": c.environment.inference_threads}
            for c in (self, wanted)
        )
        differences = _differences(mine, theirs)
        if self.finetune_steps and wanted.finetune_steps and self.finetune_steps != wanted.finetune_steps:
            differences.append(f"finetune_steps was {self.finetune_steps}, is now {wanted.finetune_steps}")
        if differences:
            raise StudyError(
                f"{where} belongs to another study: {'; '.join(differences[:4])}; "
                "give another output folder, or the same settings to resume"
            )


def _differences(mine: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted(mine.keys() | theirs.keys()):
        a, b = mine.get(key), theirs.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b and (not isinstance(a, list | tuple) or list(a) != list(b or ())):
            found.append(f"{prefix}{key} was {a!r}, is now {b!r}")
    return found


def task_identity(task: Task) -> dict[str, Any]:
    """Names, shapes and digests that tell one task from another.

    Validation data counts only if it reads the same twice; a shuffling loader would otherwise never resume.
    """
    validation = [_digest_of_first_batch(task) for _ in range(2)]
    return {
        "name": task.name,
        "score": task.score_name,
        "higher_is_better": task.higher_is_better,
        "seed": task.seed,
        "model": type(task.model).__name__,
        "weights": _digest([t for _, t in sorted(task.model.state_dict().items())]),
        "example_input": [list(t.shape) for t in flatten(task.example_input)],
        "validation": validation[0] if validation[0] == validation[1] else "shuffled",
    }


def _digest_of_first_batch(task: Task) -> str:
    for batch in task.validation:
        inputs, targets = split_batch(batch, "validation")
        return _digest(flatten(inputs) + flatten(targets))
    return "empty"


def _digest(tensors: list[torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        )
    return digest.hexdigest()[:12]
