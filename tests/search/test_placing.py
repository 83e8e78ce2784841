"""Choosing from what is on disk: at once, without torch, whole whenever it is killed."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from autocompress.errors import StudyError
from autocompress.measurement import Interval
from autocompress.pareto import Choice
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.record import StudyRecord
from autocompress.search.chosen import MANIFEST, ONNX, Manifest, sha256
from autocompress.search.folder import StudyFolder
from autocompress.search.placing import open_folder, place, wishes_for
from tests.examples import candidate, measurement
from tests.search.placed import ALL, study_at

ROOT = Path(__file__).parents[2]


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    return study_at(tmp_path / "study")


def chosen_again(study: StudyFolder, **wishes: Any) -> Choice:
    folder, configuration = open_folder(study.path)
    return place(folder, configuration, wishes_for(folder, configuration, **wishes))


@pytest.mark.parametrize(
    ("wishes", "digest", "meets"),
    [
        pytest.param({}, "a", True, id="the study's floor"),
        pytest.param({"max_drop": 0.05}, "ca", True, id="another floor"),
        pytest.param({"max_latency_ms": 0.6, "max_drop": 0.05}, "ca", True, id="latency"),
        pytest.param({"max_size_bytes": 600}, "b", True, id="size"),
        pytest.param({"target_speedup": 2.5}, "a", True, id="speed-up"),
        pytest.param({"target_speedup": 9.0}, "a", False, id="what none keeps"),
        pytest.param({"digest": "b"}, "b", True, id="a digest"),
        pytest.param({"digest": "ca"}, "ca", False, id="a digest beyond the floor"),
        pytest.param({"digest": "00"}, "000000000000", True, id="the start of a digest"),
    ],
)
def test_the_choice_is_put_into_chosen(study: StudyFolder, wishes: dict[str, Any], digest: str, meets: bool) -> None:
    choice = chosen_again(study, **wishes)
    assert (choice.candidate.digest, choice.meets_wishes) == (digest, meets)
    manifest, record = Manifest.read(study.chosen), StudyRecord.read(study.record)
    assert manifest.candidate == choice.candidate and (study.chosen / "model.xml").read_text() == f"{digest} model.xml"
    assert record.chosen == manifest.chosen and record.chosen and record.chosen.reason == choice.reason
    assert manifest.max_drop == wishes.get("max_drop", 0.02)


def test_what_a_named_candidate_breaks_is_said(study: StudyFolder) -> None:
    reason = chosen_again(study, digest="ca").reason
    assert (
        reason.startswith("named by its digest; the bound on its accuracy drop is 0.0") and "above max_drop" in reason
    )


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        pytest.param({"digest": "zz"}, "no candidate has a digest that starts with 'zz'; give one that", id="none"),
        pytest.param(
            {"digest": "c"}, "2 candidates have a digest that starts with 'c': ca, cb; give more", id="several"
        ),
        pytest.param({"digest": ""}, "5 candidates have a digest that starts with ''.*, …; give more", id="all"),
        pytest.param({"digest": "cb"}, "candidate cb was not measured: it crashed; choose another one", id="failed"),
        pytest.param({"digest": "a", "max_drop": 0.1}, "give either a digest or bounds", id="a digest and a bound"),
        pytest.param({"max_drop": -1.0}, "max_drop must be at least 0, but got -1.0", id="a drop below 0"),
        pytest.param({"max_size_bytes": 0}, "max_size_bytes must be above 0, but got 0", id="no size"),
        pytest.param(
            {"target_speedup": float("nan")}, "target_speedup must be above 0, but got nan", id="not a number"
        ),
    ],
)
def test_a_wish_that_makes_no_sense_changes_nothing(study: StudyFolder, wishes: dict[str, Any], said: str) -> None:
    before = (study.chosen / MANIFEST).read_bytes(), study.record.read_bytes()
    with pytest.raises(StudyError, match=said):
        chosen_again(study, **wishes)
    assert ((study.chosen / MANIFEST).read_bytes(), study.record.read_bytes()) == before


def test_a_candidate_whose_files_are_gone_is_refused(study: StudyFolder) -> None:
    (study.candidates / "b" / "weights.safetensors").unlink()
    with pytest.raises(
        StudyError, match=r"b cannot be chosen: .*weights.safetensors is missing; choose another one, or"
    ):
        chosen_again(study, digest="b")
    assert Manifest.read(study.chosen).candidate.digest == "a"


def test_a_folder_without_a_study_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="holds no study: study.json is missing"):
        open_folder(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_study_without_results_is_refused(study: StudyFolder) -> None:
    study.record.unlink()
    with pytest.raises(StudyError, match="has no results yet; run autocompress search"):
        chosen_again(study)


def confirmed(study: StudyFolder) -> None:
    """As if the choice had been confirmed on the test split and exported."""
    (study.chosen / ONNX).write_text("onnx")
    content = json.loads((study.chosen / MANIFEST).read_text())
    content["sha256"][ONNX], content["onnx"] = sha256(study.chosen / ONNX), ""
    content["chosen"]["test"] = measurement(0.004, 2.9).model_dump(mode="json")
    (study.chosen / MANIFEST).write_text(json.dumps(content))


def test_what_is_known_of_the_same_choice_stays(study: StudyFolder) -> None:
    confirmed(study)
    chosen_again(study, max_drop=0.03)
    manifest = Manifest.read(study.chosen)
    assert manifest.chosen.test == measurement(0.004, 2.9) and (study.chosen / ONNX).read_text() == "onnx"
    assert manifest.max_drop == 0.03 and manifest.onnx == ""


def test_what_is_known_of_another_choice_goes(study: StudyFolder) -> None:
    confirmed(study)
    chosen_again(study, digest="b")
    manifest = Manifest.read(study.chosen)
    assert manifest.chosen.test is None and not (study.chosen / ONNX).exists() and "not exported yet" in manifest.onnx


def test_findings_about_numbers_are_those_of_the_new_choice(tmp_path: Path) -> None:
    unsure = candidate("d", 0.015, 3.5, 900)
    drop = Interval(value=0.015, low=0.005, high=0.03)
    measured = measurement(0.015, 3.5, selection_drop=drop)
    study = study_at(tmp_path / "study", (*ALL, unsure.model_copy(update={"measurement": measured})))
    known = StudyRecord.read(study.record)
    known.model_copy(update={"findings": ("about the model", *known.findings)}).write(study.record)

    def said() -> tuple[bool, ...]:
        sentences = StudyRecord.read(study.record).findings
        return tuple(sum(start in s for s in sentences) == 1 for start in ("about the model", "d is faster", "1 cand"))

    assert said() == (True, True, True)
    chosen_again(study, digest="ca")
    assert said() == (True, False, True)
    chosen_again(study)
    assert said() == (True, True, True)


def test_choosing_keeps_what_the_record_says_of_the_study(study: StudyFolder) -> None:
    before = StudyRecord.read(study.record)
    chosen_again(study, digest="b")
    after = StudyRecord.read(study.record)
    assert after.study == before.study and after.study.n_layers == 3 and after.candidates == before.candidates
    seconds = dict(after.seconds)
    assert seconds.pop("total") == pytest.approx(sum(seconds.values()))


def in_a_process(*arguments: str | Path) -> str:
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_choosing_loads_neither_torch_nor_what_draws() -> None:
    code = "import sys, autocompress.cli, autocompress.search.placing; print(*sys.modules)"
    loaded = set(in_a_process("-c", code).split())
    assert "autocompress.search.placing" in loaded
    assert not loaded & {"torch", "optuna", "matplotlib", "plotly", "pandas", "scipy"}


CHOOSE = """
import sys
from pathlib import Path
import autocompress.cli
from autocompress.search.placing import open_folder, place, wishes_for
folder, configuration = open_folder(Path(sys.argv[1]))
with folder.locked():
    place(folder, configuration, wishes_for(folder, configuration, digest="b"))
"""


def test_a_choice_among_many_candidates_is_in_place_within_five_seconds(tmp_path: Path) -> None:
    layers = {f"stage.{i}.conv": LayerRecipe(weight_bits=4, activation_bits=8) for i in range(14)}
    many = [
        candidate(f"c{i}", 0.001 * i, 1 + i / 100, 900, recipe=Recipe(layers=layers, pruning={f"g{i}": 0.5}))
        for i in range(60)
    ]
    study = study_at(tmp_path / "study", (*ALL, *many))
    for digest in "ab":
        (study.candidates / digest / "model.bin").write_bytes(bytes(2_000_000))
    start = time.monotonic()
    in_a_process("-c", CHOOSE, study.path)
    assert time.monotonic() - start < 5  # the number; about one here
    assert Manifest.read(study.chosen).candidate.digest == "b"


@pytest.mark.parametrize("way", ["exchange", "two renames"])
def test_a_choice_that_is_killed_at_any_step_leaves_the_old_or_the_new_one(tmp_path: Path, way: str) -> None:
    n_kills, n_old, n_new = map(int, in_a_process("-m", "tests.search.killed_choice", tmp_path, way).split())
    assert n_kills > 50 and n_old > 20 and n_new > 5 and n_old + n_new == n_kills
