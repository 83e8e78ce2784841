"""The story in numbers: each sentence against a study in which its answer is known."""

import pytest

from autocompress.recipe import Recipe
from autocompress.record import Chosen
from autocompress.report.story import story


@pytest.fixture(name="study")
def _study(record, make, measured, recipe):
    """INT8 at 3x, the chosen one at 4x with the floor kept, a faster one at twice the floor, the fastest far below."""

    def make_study(**changes):
        int8 = make(recipe(8), measured(speedup=3.0, drop=0.001, size_bytes=200_000), label="int8")
        best = make(recipe(8, stem=0.5), measured(speedup=4.0, drop=0.002, size_bytes=100_000))
        looser = make(recipe(8, stem=0.6), measured(speedup=5.0, drop=0.012), label="looser")
        fastest = make(recipe(8, stem=0.9), measured(speedup=9.0, drop=0.2))
        chosen = Chosen(digest=best.digest, meets_wishes=True, reason="the fastest")
        return record(int8, best, looser, fastest, *changes.pop("more", ()), **({"chosen": chosen} | changes))

    return make_study


def test_plain_int8_is_compared_with_the_chosen_model(study):
    assert dict(story(study()))["Plain INT8"] == (
        "INT8 everywhere gives 3.00x [2.94, 3.06], drop 0.10 [-0.20, 0.40] points, 4.0x smaller. "
        "The chosen model is 1.33x as fast as that."
    )


def test_plain_int8_may_be_the_chosen_model(study):
    int8 = study().candidates[1]
    chosen = Chosen(digest=int8.digest, meets_wishes=True, reason="the fastest")
    assert dict(story(study(chosen=chosen)))["Plain INT8"].endswith("4.0x smaller. It is the chosen model.")


def test_the_floor_costs_what_looser_floors_would_give(study):
    said = "With a drop of at most 1.00 points: 4.00x. With 2.00 points: 5.00x."
    assert dict(story(study()))["What the floor cost"] == f"{said} Without a floor: 9.00x, 20.00 points lower."


def test_a_floor_that_keeps_the_fastest_costs_nothing(record, make, measured, recipe):
    run = make(recipe(8), measured(speedup=3.0, drop=0.001))
    assert dict(story(record(run)))["What the floor cost"].startswith("Nothing: ")


def test_nothing_is_said_of_a_floor_that_none_keeps(record, make, measured):
    study = record(make(Recipe(pruning={"a": 0.5}), measured(speedup=3.0, drop=0.3)), study={"max_drop": 0.0})
    baseline = study.baseline.model_copy(update={"recipe": Recipe()})
    assert baseline.measurement and "What the floor cost" not in dict(story(study))


def test_candidates_within_the_error_of_the_chosen_one_are_named(study, make, measured, recipe):
    twin = make(recipe(7, stem=0.5), measured(speedup=4.05, drop=0.003), label="twin")
    alike = dict(story(study(more=[twin])))["What can't be told apart"]
    assert alike == "Within the error of the chosen one's speed-up and drop: twin."
    assert "No other candidate" in dict(story(study()))["What can't be told apart"]


def test_time_is_told_by_its_largest_parts(study):
    assert dict(story(study()))["Where the time went"].startswith(
        "450 s for 5 candidates: training 67 %, measuring 29 %"
    )


def test_a_study_without_a_choice_tells_what_it_knows(study):
    titles = [title for title, _ in story(study(chosen=None, seconds={}))]
    assert titles == ["Plain INT8", "What the floor cost"]
