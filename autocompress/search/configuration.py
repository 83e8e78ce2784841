"""What was asked of a study, so that the same command resumes it and another one is refused with a diff."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from autocompress.errors import StudyError
from autocompress.measurement import Environment
from autocompress.pareto import Wishes
from autocompress.recipe import first_problem


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
        latency_seconds: For timing one candidate, at most; None for what `LatencySettings` says.
        environment: Where the study was begun.
        dropped: Choices by parameter that were left out when the study began, by what was known of this CPU.
        rewards: What this CPU makes of the space, as sentences.
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
    latency_seconds: float | None = None
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
