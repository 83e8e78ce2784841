"""What makes two tasks and two studies the same."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from autocompress import Score
from autocompress.errors import StudyError
from autocompress.measurement import Environment
from autocompress.search.configuration import Configuration
from autocompress.search.identity import task_identity
from tests.tiny import tiny


def configuration(**changes: Any) -> Configuration:
    fields: dict[str, Any] = {
        "task": task_identity(tiny()),
        "space": "int8",
        "space_text": {"bits.0": ["8", "32"]},
        "max_drop": 0.01,
        "objectives": ("accuracy_drop", "latency"),
        "sampler": "tpe",
        "seed": 0,
        "environment": Environment(
            cpu="a CPU", capabilities=(), n_cores=2, inference_threads=1, int8_saturates=False, versions={}
        ),
    }
    return Configuration(**{**fields, **changes})


class Shuffled:
    """Batches that are read in another order each time."""

    def __init__(self, batches: Any) -> None:
        self.batches, self.n = list(batches), 0

    def __iter__(self) -> Iterator[Any]:
        self.n += 1
        return iter(self.batches[self.n % 2 :] + self.batches[: self.n % 2])


def test_the_same_task_made_twice_is_the_same() -> None:
    assert task_identity(tiny()) == task_identity(tiny())


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        pytest.param(lambda: tiny(seed=1), "weights", id="other weights"),
        pytest.param(lambda: replace(tiny(), name="other"), "name", id="other name"),
        pytest.param(lambda: replace(tiny(), validation=tiny().test), "validation", id="other data"),
        pytest.param(lambda: replace(tiny(), seed=1), "seed", id="other seed"),
        pytest.param(
            lambda: replace(tiny(), score=Score(lambda o, t: 0.0, higher_is_better=False, name="top-1 accuracy")),
            "higher_is_better",
            id="other direction",
        ),
        pytest.param(lambda: replace(tiny(), example_input=torch.zeros(2, 1, 8, 8)), "example_input", id="other shape"),
    ],
)
def test_a_changed_task_is_told_apart(changed: Any, key: str) -> None:
    before, after = task_identity(tiny()), task_identity(changed())
    assert {k for k in before if before[k] != after[k]} == {key}


def test_a_shuffling_loader_does_not_make_a_task_another_one() -> None:
    task = replace(tiny(), validation=Shuffled(tiny().validation))
    assert task_identity(task)["validation"] == "shuffled"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"max_drop": 0.02}, "max_drop was 0.01, is now 0.02", id="floor"),
        pytest.param({"space": "full"}, "space was 'int8', is now 'full'", id="space"),
        pytest.param({"space_text": {"bits.0": ["8"]}}, r"space_text.bits.0 was \['8', '32'\]", id="choices"),
        pytest.param({"seed": 3}, "seed was 0, is now 3", id="seed"),
        pytest.param({"sampler": "random"}, "sampler was 'tpe', is now 'random'", id="sampler"),
        pytest.param({"objectives": ("accuracy_drop",)}, "objectives was", id="objectives"),
        pytest.param({"task": task_identity(tiny(seed=1))}, "task.weights was '[0-9a-f]{12}'", id="task"),
        pytest.param({"finetune_steps": 9}, "finetune_steps was 5, is now 9", id="steps"),
    ],
)
def test_another_study_is_refused_with_the_difference(change: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError, match=f"out belongs to another study: {said}.*give another output folder"):
        configuration(finetune_steps=5).refuse_changes(configuration(**change), "out")


def test_the_same_study_is_taken_up_again() -> None:
    known = configuration(finetune_steps=5)
    updated = known.environment.model_copy(update={"versions": {"openvino": "2030.1"}})
    known.refuse_changes(configuration(environment=updated, task_reference="tiny.py:tiny"), "out")
    known.refuse_changes(Configuration.model_validate_json(known.model_dump_json()), "out")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"cpu": "another CPU"}, "CPU was 'a CPU', is now 'another CPU'", id="CPU"),
        pytest.param({"inference_threads": 2}, "threads was 1, is now 2", id="threads"),
    ],
)
def test_speed_ups_that_do_not_compare_are_refused(change: dict[str, Any], said: str) -> None:
    elsewhere = configuration().environment.model_copy(update=change)
    with pytest.raises(StudyError, match=said):
        configuration().refuse_changes(configuration(environment=elsewhere), "out")
