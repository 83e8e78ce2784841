"""What `candidates.json` holds: everything that a report shows, and nothing that needs torch or Optuna to read."""

import json
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from autocompress.errors import StudyError
from autocompress.explanation import Explanation
from autocompress.measurement import Environment, Measurement, Speedup
from autocompress.pareto import Candidate, ParetoFront
from autocompress.recipe import first_problem

FORMAT: Literal[1] = 1
RECORD_FILE = "candidates.json"  # in the folder of a study


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StudyInfo(_Frozen):
    """What was asked for.

    Attributes:
        task: Name of the task.
        score: Name of the score.
        higher_is_better: Direction of the score.
        space: Name of the search space.
        max_drop: Largest accuracy drop, in units of the score.
        objectives: What the front minimizes.
        sampler: Name of the sampler.
        seed: Seed of search and training.
        n_layers: Compressible layers.
        n_parameters: Sampled dimensions of the bound space.
    """

    task: str
    score: str
    higher_is_better: bool
    space: str
    max_drop: float
    objectives: tuple[str, ...]
    sampler: str
    seed: int
    n_layers: int
    n_parameters: int


class Chosen(_Frozen):
    """The chosen candidate and what it does on the untouched test split.

    Attributes:
        digest: Which candidate.
        meets_wishes: Whether it keeps the accuracy floor.
        reason: One sentence.
        test: Numbers on the test split with the latency of the final, longer run; None until confirmed.
    """

    digest: str
    meets_wishes: bool
    reason: str
    test: Measurement | None = None


class FinalistPair(_Frozen):
    """Two finalists.

    Attributes:
        faster: Digest of the one whose median is smaller.
        slower: Digest of the other.
        ratio: Latency of the slower / latency of the faster, from the same rounds.
    """

    faster: str
    slower: str
    ratio: Speedup

    @property
    def is_told_apart(self) -> bool:
        """Whether the interval of their ratio leaves 1 out."""
        return self.ratio.low > 1


class Finalists(_Frozen):
    """Candidates that were timed together in one session, after the search; their speed-ups are from there.

    Attributes:
        digests: Fastest first.
        pairs: Every two of them.
    """

    digests: tuple[str, ...]
    pairs: tuple[FinalistPair, ...]


class StudyRecord(_Frozen):
    """A whole study as data; every picture and table is made from it.

    Attributes:
        format: Version of this layout.
        study: What was asked for.
        environment: Where it was measured.
        candidates: All that were tried, in order; the first is the FP32 baseline.
        chosen: The choice, once there is one.
        finalists: Those that were timed together at the end of the last search, once they were.
        findings: Plain sentences that a user should read.
        seconds: Wall-clock seconds of the whole study by phase, `total` among them.
        explanation: Why the chosen model is what it is; None before the end, and in records of older versions.
    """

    format: Literal[1] = FORMAT
    study: StudyInfo
    environment: Environment
    candidates: tuple[Candidate, ...]
    chosen: Chosen | None = None
    finalists: Finalists | None = None
    findings: tuple[str, ...] = ()
    seconds: dict[str, float] = {}
    explanation: Explanation | None = None

    @property
    def baseline(self) -> Candidate:
        """The FP32 candidate.

        Raises:
            StudyError: It was not measured.
        """
        for candidate in self.candidates:
            if candidate.recipe.is_identity and candidate.measurement:
                return candidate
        raise StudyError("the study has no measured FP32 baseline; run autocompress search again")

    def candidate(self, digest: str) -> Candidate:
        """The candidate whose digest starts with `digest`.

        Raises:
            StudyError: None or several do.
        """
        found = [c for c in self.candidates if c.digest.startswith(digest)]
        if len(found) != 1:
            raise StudyError(
                f"{len(found)} candidates have a digest that starts with {digest!r}; give one of the report"
            )
        return found[0]

    def front(self) -> ParetoFront:
        """The Pareto front among the candidates."""
        return ParetoFront.of(self.candidates, self.baseline, self.study.objectives)

    def write(self, path: Path) -> None:
        """Write as JSON; the file is replaced in one step."""
        write_atomically(path, json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n")

    @classmethod
    def read(cls, path: Path) -> "StudyRecord":
        """The record in the file at `path`.

        Raises:
            StudyError: The file is missing, damaged or of another format.
        """
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            raise StudyError(
                f"{path} cannot be read; give the folder of a study, made by autocompress search"
            ) from None
        except ValidationError as error:
            raise StudyError(f"{path} is not a record of a study: {first_problem(error)}") from None


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to a new file beside `path`, then rename it over `path`; nothing is left beside it on failure."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
