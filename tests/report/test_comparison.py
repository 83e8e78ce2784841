"""The rows of a comparison, and which choice is fastest."""

import pytest

from autocompress.record import Chosen
from autocompress.report.compared import NamedStudy
from autocompress.report.comparison import (
    CHOICE_HEAD,
    FRONT_HEAD,
    STUDY_HEAD,
    choice_rows,
    fastest_sentence,
    front_rows,
    study_rows,
)


def named(*records):
    return [NamedStudy("ABCDEFG"[i], f"run{i}", record) for i, record in enumerate(records)]


@pytest.fixture(name="chose")
def _chose(record, make, measured, recipe):
    """A record that chose a candidate of this speed-up."""

    def build(speedup, meets_wishes=True, **changes):
        run = make(recipe(8), measured(speedup=speedup, drop=(0.004, 0.001, 0.007)), label=changes.pop("label", ""))
        return record(run, chosen=Chosen(digest=run.digest, meets_wishes=meets_wishes, reason="it"), **changes)

    return build


def test_a_study_is_a_row_of_what_was_asked_where_and_for_how_long(record, make, measured, recipe):
    study = record(make(recipe(8), measured(speedup=2.0)), make(recipe(4), None), study={"seed": 3})
    (row,) = study_rows(named(study))
    assert dict(zip(STUDY_HEAD, row, strict=True)) == {
        "study": "A: run0",
        "task": "fashion",
        "CPU": "Intel(R) Xeon(R) Processor @ 2.60GHz",
        "threads": "1",
        "OpenVINO": "2026.1.0",
        "sampler": "TPE",
        "seed": "3",
        "space": "default",
        "floor, points": "1.00",
        "candidates": "3, 1 failed",
        "time": "7.5 min",
    }


def test_a_choice_is_a_row_with_its_intervals_size_and_digest(full):
    (row,) = choice_rows(named(full))
    assert dict(zip(CHOICE_HEAD, row, strict=True)) == {
        "study": "A: run0",
        "chosen": "unnamed",
        "speed-up": "4.20x [4.15, 4.26]",
        "latency, ms": "0.476",
        "drop, points": "0.30 [-0.10, 0.80]",
        "measured on": "5000 test samples",
        "size, kB": "160.0",
        "hypervolume": f"{full.front().hypervolume():.3f}",
        "digest": full.chosen.digest,
    }


def test_a_choice_that_breaks_a_bound_says_so_and_its_split_is_named(chose):
    (row,) = choice_rows(named(chose(2.0, meets_wishes=False, label="int8")))
    assert row[1] == "int8, breaks a bound" and row[5] == "1000 validation samples"


def test_without_a_choice_the_row_says_how_far_the_study_is(record):
    (row,) = choice_rows(named(record()))
    assert row == ("A: run0", "nothing yet of 1 candidate", "", "", "", "", "", "0.000", "")


def test_the_front_is_told_without_the_candidates_that_are_off_it(record, make, measured, recipe):
    best, worse = make(recipe(8), measured(speedup=3.0, drop=0.0)), make(recipe(4), measured(speedup=2.0, drop=0.01))
    rows = front_rows(named(record(best, worse), record()))
    assert [dict(zip(FRONT_HEAD, row, strict=True))["candidate"].split()[0] for row in rows] == [best.digest, "fp32"]
    assert rows[0] == ("A", best.digest, "3.00x [2.94, 3.06]", "0.667", "0.00 [-0.30, 0.30]", "800.0")


@pytest.mark.parametrize(
    ("speeds", "said"),
    [
        pytest.param([(2.0, 1.9, 2.1), (4.0, 3.9, 4.1)], "is that of B, 4.00x [3.90, 4.10] at", id="clear"),
        pytest.param(
            [(4.0, 3.9, 4.1), (4.05, 4.0, 4.1)], "can't be told apart from that of A, 4.00x", id="intervals meet"
        ),
        pytest.param([(4.15, 4.14, 4.16), (4.0, 3.99, 4.01)], "can't be told apart from that of B", id="near"),
    ],
)
def test_the_fastest_choice_is_named_with_those_that_may_be_as_fast(chose, speeds, said):
    sentence = fastest_sentence(named(*(chose(speed) for speed in speeds)))
    assert said in sentence and ("told apart" in said) == ("told apart" in sentence)


@pytest.mark.parametrize(
    "changes",
    [{"study": {"task": "other"}}, {"study": {"max_drop": 0.02}}, {"meets_wishes": False}],
    ids=["another task", "another floor", "one breaks its bound"],
)
def test_choices_that_do_not_compare_have_no_order(chose, changes):
    assert fastest_sentence(named(chose(2.0), chose(4.0, **changes))) == ""


def test_a_study_without_a_choice_takes_no_part(chose, record):
    assert fastest_sentence(named(chose(2.0), record())) == ""
    assert "that of C" in fastest_sentence(named(chose(2.0), record(), chose(3.0)))
