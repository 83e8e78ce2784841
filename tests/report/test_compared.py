"""Reading the studies of a comparison: letters, names, and folders that are not a study."""

import pytest

from autocompress.errors import StudyError
from autocompress.report.compared import by_value, letters, read_studies


@pytest.fixture(name="folder_of")
def _folder_of(tmp_path):
    def write(name, study):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        study.write(folder / "candidates.json")
        return folder

    return write


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        pytest.param(["runs/tpe", "runs/greedy"], ["tpe", "greedy"], id="told apart by the folder"),
        pytest.param(["a/x/run", "b/x/run", "b/y/run"], ["a/x/run", "b/x/run", "b/y/run"], id="by folders above"),
        pytest.param(["run", "b/run"], None, id="one above the other"),
    ],
)
def test_a_study_is_named_after_the_end_of_its_path(folder_of, record, tmp_path, folders, names):
    studies = read_studies([folder_of(name, record()) for name in folders])
    assert [s.name for s in studies] == (names or [f"{tmp_path.name}/run", "b/run"])
    assert letters(studies) == {2: "A and B", 3: "A, B and C"}[len(studies)]


def test_studies_keep_their_order(folder_of, record):
    folders = [folder_of(name, record(study={"sampler": name})) for name in ("z", "a", "m")]
    studies = read_studies(folders)
    assert [(s.letter, s.record.study.sampler) for s in studies] == [("A", "z"), ("B", "a"), ("C", "m")]
    groups = by_value(studies, lambda s: "last" if s.letter == "C" else "first")
    assert {value: letters(members) for value, members in groups.items()} == {"first": "A and B", "last": "C"}


def test_the_numbers_of_a_choice_are_those_of_the_test_split_where_there_are_some(folder_of, full, record):
    without = full.chosen.model_copy(update={"test": None})
    studies = read_studies(
        [
            folder_of("tested", full),
            folder_of("untested", full.model_copy(update={"chosen": without})),
            folder_of("none", record()),
        ]
    )
    own = full.candidate(full.chosen.digest).measurement
    assert [(s.chosen, s.split) for s in studies] == [
        (full.chosen.test, "test"),
        (own, "validation"),
        (None, "validation"),
    ]


def _no_record(folder, study):
    (folder / "candidates.json").unlink()


def _damaged(folder, study):
    (folder / "candidates.json").write_text("{")


def _no_baseline(folder, study):
    study.model_copy(update={"candidates": study.candidates[1:]}).write(folder / "candidates.json")


def _lost_choice(folder, study):
    kept = [c for c in study.candidates if c.digest != study.chosen.digest]
    study.model_copy(update={"candidates": tuple(kept)}).write(folder / "candidates.json")


def _odd_objective(folder, study):
    asked = study.study.model_copy(update={"objectives": ("speed",)})
    study.model_copy(update={"study": asked}).write(folder / "candidates.json")


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        pytest.param(_no_record, "bad/candidates.json cannot be read; give the folder of a study", id="no record"),
        pytest.param(_damaged, "bad/candidates.json is not a record of a study", id="damaged"),
        pytest.param(
            _no_baseline, "bad/candidates.json cannot be compared: the study has no measured", id="no baseline"
        ),
        pytest.param(
            _lost_choice, "bad/candidates.json cannot be compared: no candidate has a digest", id="lost choice"
        ),
        pytest.param(_odd_objective, "cannot be compared: an objective must be one of", id="unknown objective"),
    ],
)
def test_a_folder_that_is_no_complete_study_is_named(folder_of, full, breaks, says):
    good, bad = folder_of("good", full), folder_of("bad", full)
    breaks(bad, full)
    with pytest.raises(StudyError) as caught:
        read_studies([good, bad])
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_one_study_is_no_comparison(folder_of, record):
    with pytest.raises(StudyError, match="needs at least two studies, but got 1"):
        read_studies([folder_of("one", record())])


def test_the_same_folder_by_two_ways_is_refused(folder_of, record):
    folder = folder_of("one", record())
    with pytest.raises(StudyError, match="is given twice; give each study once"):
        read_studies([folder, folder / ".." / "one"])
