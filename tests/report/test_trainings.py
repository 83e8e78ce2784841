"""Which trainings a report shows, and how they are worded."""

import pytest

from autocompress.measurement import TrainingSummary
from autocompress.record import Chosen
from autocompress.report.trainings import (
    MAX_OTHERS,
    failure_sentence,
    incidents,
    shown_trainings,
    spans_a_decade,
    start_words,
    training_counts,
    training_line,
)


@pytest.fixture(name="trained_as")
def _trained_as(make, measured, recipe):
    """A candidate with this training; each number gives another recipe."""

    def build(number, summary, **changes):
        run = make(recipe(8, stem=0.01 * number), measured(speedup=2.0), **changes)
        return run.model_copy(update={"training": summary})

    return build


def digests(record):
    return [shown.candidate.digest for shown in shown_trainings(record)]


def test_the_chosen_training_comes_first_then_the_longest_then_anchors(record, trained_as, training):
    short, long, anchor = (
        trained_as(1, training(60)),
        trained_as(2, training(90)),
        trained_as(3, training(60), label="a"),
    )
    chosen = trained_as(4, training(30))
    study = record(short, long, anchor, chosen, chosen=Chosen(digest=chosen.digest, meets_wishes=True, reason="it is"))
    assert digests(study) == [chosen.digest, long.digest, anchor.digest, short.digest]
    assert [shown.is_chosen for shown in shown_trainings(study)] == [True, False, False, False]


def test_at_most_five_others_are_shown_in_the_order_of_the_record(record, trained_as, training):
    runs = [trained_as(i, training(60)) for i in range(9)]
    assert digests(record(*runs)) == [run.digest for run in runs[:MAX_OTHERS]]


def test_the_last_makes_room_for_the_training_that_was_given_up_latest(record, trained_as, training):
    runs = [trained_as(i, training(60)) for i in range(6)]
    early, late = (trained_as(10 + step, training(60, stopped_at=step)) for step in (12, 30))
    assert digests(record(*runs, early, late)) == [*(run.digest for run in runs[:4]), late.digest]


def test_nobody_makes_room_where_one_that_was_given_up_is_shown_anyway(record, trained_as, training):
    runs = [trained_as(i, training(60)) for i in range(5)]
    late = trained_as(10, training(90, stopped_at=75))
    assert digests(record(*runs, late)) == [late.digest, *(run.digest for run in runs[:4])]


@pytest.mark.parametrize(
    "summary",
    [pytest.param(None, id="no training"), pytest.param(TrainingSummary(n_steps=9), id="a training without a course")],
)
def test_a_candidate_without_a_course_is_not_shown(record, trained_as, summary):
    assert shown_trainings(record(trained_as(1, summary))) == []


@pytest.mark.parametrize(
    ("label", "changes", "name"),
    [
        pytest.param("", {}, "{short}", id="the digest of one without a label"),
        pytest.param("int8", {}, "int8", id="its label"),
        pytest.param("a\nb", {}, "a b", id="on one line"),
        pytest.param("x" * 99, {}, "x" * 23 + "…", id="a long label is cut"),
        pytest.param("int8", {"stopped_at": 60}, "int8, given up at step 60 of 150", id="given up"),
        pytest.param("int8", {"n_rollbacks": 2}, "int8, rolled back twice", id="rolled back"),
    ],
)
def test_a_training_is_named_after_its_candidate_and_what_happened(record, trained_as, training, label, changes, name):
    run = trained_as(1, training(150, **changes), label=label)
    (shown,) = shown_trainings(record(run))
    assert shown.name == name.format(short=run.digest[:6])


@pytest.mark.parametrize(
    ("n_rollbacks", "words"),
    [(0, []), (1, ["rolled back once"]), (2, ["rolled back twice"]), (3, ["rolled back 3 times"])],
)
def test_rollbacks_are_counted_in_words(n_rollbacks, words):
    assert incidents(TrainingSummary(n_steps=9, n_rollbacks=n_rollbacks)) == words


@pytest.mark.parametrize(
    ("stopped_at", "failure", "words"),
    [
        pytest.param(None, "it crashed", "it crashed", id="a training that took all its steps"),
        pytest.param(60, "it is hopeless", "given up at step 60 of 150: it is hopeless", id="given up"),
        pytest.param(
            60, "it was given up at step 60 of 150", "it was given up at step 60 of 150", id="the reason says so itself"
        ),
        pytest.param(0, "it is hopeless", "given up at step 0 of 150: it is hopeless", id="before the first step"),
    ],
)
def test_a_failed_candidate_says_when_it_was_given_up(make, recipe, stopped_at, failure, words):
    run = make(recipe(8), None, failure=failure, training=TrainingSummary(n_steps=150, stopped_at=stopped_at))
    assert failure_sentence(run) == words


def test_a_candidate_that_failed_before_its_training_says_why(make, recipe):
    assert failure_sentence(make(recipe(8), None, failure="it crashed")) == "it crashed"


def test_the_start_of_a_training_is_fp32_or_the_short_name_of_a_candidate(record, trained_as, training):
    plain, anchor = trained_as(1, training()), trained_as(2, training(), label="int8")
    study = record(plain, anchor)
    assert start_words(study, "") == "FP32"
    assert start_words(study, plain.digest) == plain.digest[:6]
    assert start_words(study, anchor.digest) == f"int8 ({anchor.digest[:6]})"
    assert start_words(study, "not in the record") == "not in"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        pytest.param({"learning_rate": 2e-4}, "150 steps at a rate of 2.0e-04, started from FP32", id="as planned"),
        pytest.param({"learning_rate": 0.0}, "150 steps, started from FP32", id="the rate of the user's own loop"),
        pytest.param(
            {"n_rollbacks": 1, "stopped_at": 60, "started_from": "1a2b3c4d"},
            "150 steps at a rate of 5.0e-03, started from 1a2b3c, rolled back once, given up at step 60 of 150",
            id="with incidents",
        ),
    ],
)
def test_a_training_in_one_line(record, training, changes, line):
    assert training_line(record(), training(150, **changes)) == line


@pytest.mark.parametrize(
    ("trainings", "sentence"),
    [
        pytest.param([{}], "1 candidate was trained.", id="one"),
        pytest.param([{}, {}], "2 candidates were trained.", id="two"),
        pytest.param([{"stopped_at": 9}, {}], "2 candidates were trained, 1 of them given up early.", id="given up"),
        pytest.param(
            [{"n_rollbacks": 3}, {"n_rollbacks": 1}, {}],
            "3 candidates were trained. 2 candidates were rolled back after a loss that exploded, and went on at a "
            "smaller rate.",
            id="rolled back",
        ),
    ],
)
def test_trainings_are_counted(record, trained_as, training, trainings, sentence):
    runs = [trained_as(i, training(30, **changes)) for i, changes in enumerate(trainings)]
    assert training_counts(record(*runs)) == sentence


@pytest.mark.parametrize(
    ("losses", "is_wide"),
    [
        ([0.1, 1.0], True),
        ([0.11, 1.0], False),
        ([-0.1, 1.0], False),
        ([0.0, 1.0], False),
        ([0.5], False),
        ([], False),
    ],
)
def test_a_decade_is_ten_times_the_smallest_positive_loss(losses, is_wide):
    assert spans_a_decade(losses) == is_wide
