"""The picture of several studies: no two lines alike, marks where the numbers are, titles with the numbers."""

import itertools
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from matplotlib.colors import to_hex

from autocompress.record import Chosen
from autocompress.report.compared import NamedStudy
from autocompress.report.comparison_svg import COLOURS, MARKERS, _drawn, _figure, comparison_svg
from autocompress.report.health import hypervolume_history
from autocompress.report.plot_points import plot_points, staircase_points
from autocompress.report.svg import STYLE

SVG = "{http://www.w3.org/2000/svg}"


def named(*records):
    return [NamedStudy("ABCDEFG"[i], f"run{i}", record) for i, record in enumerate(records)]


def line_of(study):
    return staircase_points(plot_points(study))


def panels_of(*records):
    with mpl.rc_context(STYLE):
        return _figure([_drawn(study, place) for place, study in enumerate(named(*records))]).axes


def places(line):
    return [tuple(map(float, place)) for place in line.get_xydata()]


@pytest.fixture(name="other")
def _other(record, make, measured, recipe):
    """A small study that chose its second candidate, whose drop is 1.5 points."""
    made = [
        make(recipe(8, stem=0.1 * i), measured(speedup=2.0 + i, drop=0.005 * (i + 1)), label=f"l{i}") for i in range(3)
    ]
    chosen = Chosen(digest=made[2].digest, meets_wishes=True, reason="it")
    return record(*made, chosen=chosen, study={"max_drop": 0.02})


def test_no_two_of_many_studies_look_alike_and_neighbours_differ_without_colour(record):
    (study,) = named(record())
    shapes = [(d.marker, str(d.dashes)) for d in (_drawn(study, place) for place in range(35))]
    assert len(set(shapes)) == 35
    assert all(a[0] != b[0] and a[1] != b[1] for a, b in itertools.pairwise(shapes))


def test_fronts_are_drawn_over_each_other(full, other):
    fronts = panels_of(full, other)[0]
    for i, study in enumerate((full, other)):
        wanted = [(p.speedup, p.drop) for p in line_of(study)]
        lines = [line for line in fronts.get_lines() if line.get_drawstyle() == "steps-pre"]
        assert places(lines[i]) == wanted
        marks = [line for line in fronts.get_lines() if str(line.get_gid() or "").startswith(f"point-{i}-")]
        assert [places(mark)[0] for mark in marks] == wanted
        assert {mark.get_marker() for mark in marks} == {MARKERS[i]}


def test_the_choice_has_a_ring_and_its_intervals(other, record):
    fronts = panels_of(other, record())[0]
    (ring,) = [line for line in fronts.get_lines() if line.get_markersize() == 15]
    assert places(ring) == [pytest.approx((4.0, 1.5))] and to_hex(ring.get_markeredgecolor()) == COLOURS[0].lower()
    drawn = [places(line) for line in fronts.get_lines()]
    assert any(line == [pytest.approx((3.92, 1.5)), pytest.approx((4.08, 1.5))] for line in drawn)
    assert any(line == [pytest.approx((4.0, 1.2)), pytest.approx((4.0, 1.8))] for line in drawn)


def test_each_floor_is_a_line_and_in_the_legend(full, other):
    fronts = panels_of(full, other, other)[0]
    assert [text.get_text() for text in fronts.get_legend().get_texts()] == [
        "A: run0",
        "B: run1",
        "C: run2",
        "floor: 1.00, 2.00 points",
        "1 beyond the lower edge",
    ]


def test_letters_stand_at_choices_and_at_the_ends_of_the_searches(full, other):
    for axes in panels_of(full, other):
        assert [text.get_text() for text in axes.texts] == ["A", "B"]


def test_the_search_starts_with_its_preparation(other, record):
    prepared = other.model_copy(update={"seconds": {"damage table": 30.0, "latency model": 6.0, "finetune": 30.0}})
    volumes = panels_of(prepared, record())[1]
    history = hypervolume_history(prepared)
    assert places(volumes.get_lines()[0]) == [(36.0 + p.seconds, p.volume) for p in history]
    assert volumes.get_xlabel() == "seconds of search"


def test_each_point_says_its_numbers_in_a_title(full, other):
    tree = ElementTree.fromstring(comparison_svg(named(full, other)))
    titles = {g.get("id"): g.findtext(f"{SVG}title") for g in tree.iter(f"{SVG}g") if g.find(f"{SVG}title") is not None}
    assert set(titles) == {
        f"point-{i}-{j}" for i, study in enumerate((full, other)) for j, _ in enumerate(line_of(study))
    }
    last = line_of(other)[-1].candidate
    assert titles["point-1-3"] == f"B, l2 ({last.digest}): 4.00x [3.92, 4.08], a drop of 1.50 [1.20, 1.80] points"


@pytest.mark.parametrize("task", ["fashion", "<b> $x$ & -- \x07"], ids=["plain", "odd"])
def test_equal_studies_give_equal_well_formed_text(full, other, task):
    odd = other.model_copy(update={"study": other.study.model_copy(update={"task": task})})
    odd = odd.model_copy(update={"candidates": tuple(c.model_copy(update={"label": task}) for c in odd.candidates)})
    text = comparison_svg(named(full, odd))
    assert text == comparison_svg(named(full.model_copy(deep=True), odd.model_copy(deep=True)))
    ElementTree.fromstring(text)


def test_studies_of_the_baseline_alone_are_drawn(record):
    ElementTree.fromstring(comparison_svg(named(record(), record(seconds={}))))


def test_more_studies_than_letters_fit_are_drawn(other):
    studies = [NamedStudy(f"L{i}", f"run{i}", other) for i in range(40)]
    ElementTree.fromstring(comparison_svg(studies))
