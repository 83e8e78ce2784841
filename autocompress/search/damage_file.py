"""Where damages are kept between studies: a file for each model with its data, named by their content."""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

import autocompress.compress
from autocompress.measure.probe_cache import cache_folder
from autocompress.task import Batch, Task, flatten
from autocompress.train.tensor_cache import content_digest

_DIGITS = 16
_OWN_SOURCES = ("damage.py", "damage_data.py", "suffix.py", "call_order.py")
_AtLeast0 = Annotated[FiniteFloat, Field(ge=0)]


@dataclass(frozen=True)
class Damage:
    """What one choice in one unit does to the FP32 model, without training.

    Attributes:
        divergence: From the FP32 outputs on validation samples, >= 0: Kullback-Leibler divergence in nats for logits of
            a classifier, else the squared difference in units of the outputs' variance; `distillation_loss` at
            temperature 1.
        drop: Accuracy drop on the same samples, in units of the score, positive when worse.
        drop_error: Its standard error, from pairs of samples, >= 0.
        calibration_divergence: The same as `divergence` on training samples, >= 0. None where it was not measured.
    """

    divergence: _AtLeast0
    drop: FiniteFloat
    drop_error: _AtLeast0
    calibration_divergence: _AtLeast0 | None = None


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    damages: dict[str, Damage] = {}
    failures: dict[str, str] = {}


@dataclass(frozen=True)
class DamageFile:
    """Damages and reasons of failure by digest of the recipe, as JSON.

    Attributes:
        path: The file; it need not exist. One that cannot be read, or is damaged, counts as empty.
    """

    path: Path

    def read(self) -> tuple[dict[str, Damage], dict[str, str]]:
        """Damages and failures."""
        try:
            stored = _Stored.model_validate_json(self.path.read_bytes())
        except (OSError, ValidationError):
            return {}, {}
        return stored.damages, stored.failures

    def add(self, damages: Mapping[str, Damage], failures: Mapping[str, str]) -> None:
        """Add entries to those in the file, which is replaced in one step; one that cannot be written is left out."""
        known, failed = self.read()
        stored = _Stored(damages=known | dict(damages), failures=failed | dict(failures))
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(stored.model_dump_json(indent=1) + "\n", encoding="utf-8")
            partial.replace(self.path)


def damage_file(task: Task, train: Batch, validation: Batch, n_samples: int) -> DamageFile:
    """The file for a model and its data.

    Its name is a digest of all that damages depend on: weights, the first training and validation samples, the
    score's name, the number of samples, the seed, the version of torch, and the sources of compression and of this
    table.

    Args:
        task: Model and score.
        train: A first batch of training data, the same one for every number of samples.
        validation: The same of validation data.
        n_samples: Samples that damages are measured on, about.
    """
    parts = [
        content_digest(dict(task.model.state_dict())),
        content_digest([flatten(part) for part in (*train, *validation)]),
        f"{task.score_name} {task.higher_is_better} {n_samples} {task.seed} {torch.__version__}",
        _digest_of_sources(),
    ]
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:_DIGITS]
    return DamageFile(cache_folder() / f"damage-{digest}.json")


def _digest_of_sources() -> str:
    digest = hashlib.sha256()
    here = Path(__file__).parent
    compression = Path(str(autocompress.compress.__file__)).parent
    for file in [*sorted(compression.glob("*.py")), *(here / name for name in _OWN_SOURCES)]:
        digest.update(file.name.encode() + b"\n" + file.read_bytes())
    return digest.hexdigest()
