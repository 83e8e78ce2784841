"""The picture of how the search went: its steps, its marks, and that equal records give equal bytes."""

import re

import matplotlib as mpl
import pytest

from autocompress.report import write_health_svg
from autocompress.report.health import hypervolume_history
from autocompress.report.health_svg import _figure
from autocompress.report.svg import STYLE


def panels_of(record):
    with mpl.rc_context(STYLE):
        return _figure(record, hypervolume_history(record)).axes


def line_of(axes, label):
    (line,) = [line for line in axes.get_lines() if line.get_label() == label]
    return [tuple(map(float, place)) for place in line.get_xydata()]


def test_steps_are_the_shares_over_candidates_and_minutes(full):
    history, (left, right) = hypervolume_history(full), panels_of(full)
    assert line_of(left, "front so far") == [(i, 100 * p.share) for i, p in enumerate(history)]
    assert line_of(right, "front so far") == [(p.seconds / 60, 100 * p.share) for p in history]
    assert right.get_xlabel() == "minutes spent on candidates"


def test_a_short_search_is_told_in_seconds(record, make, measured, recipe):
    right = panels_of(record(make(recipe(8), measured(speedup=2.0))))[1]
    assert right.get_xlabel() == "seconds spent on candidates"
    assert [x for x, _ in line_of(right, "front so far")] == [10.0, 20.0]


def test_failed_candidates_and_the_choice_are_marked(full):
    left = panels_of(full)[0]
    failed = [i for i, c in enumerate(full.candidates) if c.measurement is None]
    assert [x for x, _ in line_of(left, "failed")] == failed
    chosen = [c.digest for c in full.candidates].index(full.chosen.digest)
    assert [x for x, _ in line_of(left, "the chosen one")] == [chosen]


def test_without_failures_and_choice_there_are_no_marks(record, make, measured, recipe):
    left = panels_of(record(make(recipe(8), measured(speedup=2.0))))[0]
    assert [line.get_label() for line in left.get_lines()] == ["front so far"]


def test_a_record_with_only_the_baseline_has_no_picture(record, tmp_path):
    write_health_svg(record(), tmp_path / "health.svg")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("task", ["fashion", "<b> $x$ & -- \x07"], ids=["plain", "odd"])
def test_equal_records_give_equal_bytes(full, tmp_path, task):
    study = full.model_copy(update={"study": full.study.model_copy(update={"task": task})})
    for name in ("a.svg", "b.svg"):
        write_health_svg(study.model_copy(deep=True), tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert "<b>" not in re.sub(r"<!--.*?-->", "", text)
