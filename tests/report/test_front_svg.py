"""The picture of the front for documents."""

import re
import xml.etree.ElementTree as ElementTree

import matplotlib as mpl
import pytest
from matplotlib.text import Text

from autocompress.record import Chosen
from autocompress.report import front_svg, write_front_svg
from autocompress.report.labels import Box
from autocompress.report.plot_points import lowest_drop_shown, plot_points, staircase

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(name="drawn")
def _drawn(tmp_path):
    def draw(record):
        write_front_svg(record, tmp_path / "front.svg")
        return (tmp_path / "front.svg").read_text()

    return draw


def texts_of(svg):
    """What the picture says: matplotlib draws glyphs as paths and keeps each text in a comment before them."""
    return {text.strip() for text in re.findall(r"<!--(.*?)-->", svg, flags=re.DOTALL)}


def test_the_picture_is_well_formed_and_holds_no_date(full, drawn):
    svg = drawn(full)
    assert ElementTree.fromstring(svg).tag == f"{SVG}svg"
    assert "dc:date" not in svg


def test_drawing_twice_gives_the_same_bytes(full, drawn):
    assert drawn(full) == drawn(full)


def test_the_settings_of_the_caller_neither_matter_nor_change(full, drawn):
    expected = drawn(full)
    with mpl.rc_context({"svg.hashsalt": "mine", "font.size": 30, "lines.linewidth": 9}):
        assert drawn(full) == expected
        assert mpl.rcParams["font.size"] == 30


def test_the_title_says_task_processor_threads_and_samples(full, drawn):
    texts = texts_of(drawn(full))
    assert "fashion: speed and accuracy after compression" in texts
    assert "Intel(R) Xeon(R) Processor @ 2.60GHz, one thread, 1000 validation samples" in texts


def test_baseline_anchors_chosen_and_floor_are_named(full, drawn):
    texts = texts_of(drawn(full))
    chosen = f"chosen ({full.chosen.digest})"
    assert {"FP32 baseline", "int8", "int4", chosen, "floor: a drop of at most 1.00 points"} <= texts


def test_a_chosen_anchor_keeps_its_name(record, make, measured, recipe, drawn):
    run = make(recipe(8), measured(speedup=3.0), label="int8")
    chosen = Chosen(digest=run.digest, meets_wishes=True, reason="the fastest")
    assert "chosen: int8" in texts_of(drawn(record(run, chosen=chosen)))


def test_a_task_with_markup_and_formulas_is_drawn_as_it_is(record, drawn):
    svg = drawn(record(study={"task": "<script>alert(1)</script> $x^"}))
    assert ElementTree.fromstring(svg).find(f".//{SVG}script") is None
    assert "<script" not in re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    assert any("$x^" in text for text in texts_of(svg))


def test_a_name_with_a_control_character_leaves_the_picture_well_formed(record, drawn):
    ElementTree.fromstring(drawn(record(study={"task": "a\x00b\x1b--c"})))


def test_a_record_with_only_the_baseline_is_drawn(record, drawn):
    assert "FP32 baseline" in texts_of(drawn(record()))


def test_a_score_where_lower_is_better_is_drawn(record, make, measured, recipe, drawn):
    run = make(recipe(8), measured(speedup=2.0, drop=(-0.01, -0.02, 0.0)))
    study = {"score": "error", "higher_is_better": False}
    assert "drop of error, points (higher up is better)" in texts_of(drawn(record(run, study=study)))


def test_failed_candidates_are_no_points(full):
    assert {p.candidate.digest for p in plot_points(full)} == {c.digest for c in full.candidates if c.measurement}


def test_kinds_front_and_choice_are_told_apart(record, make, measured, recipe):
    anchor = make(recipe(8), measured(speedup=2.0), label="int8")
    slow = make(recipe(4), measured(speedup=1.5, drop=0.2))
    chosen = Chosen(digest=slow.digest, meets_wishes=False, reason="the nearest")
    points = plot_points(record(anchor, slow, chosen=chosen))
    assert [p.kind for p in points] == ["baseline", "anchor", "candidate"]
    assert [p.on_front for p in points] == [False, True, False]
    assert [p.is_chosen for p in points] == [False, False, True]


def test_the_staircase_only_goes_up_in_both(full):
    stairs = staircase(full)
    assert len(stairs) > 3
    for (slow, low_drop), (fast, high_drop) in zip(stairs, stairs[1:], strict=False):
        assert slow < fast
        assert low_drop < high_drop


def test_a_member_kept_for_its_size_is_off_the_staircase(record, make, measured, recipe):
    fast = make(recipe(8), measured(speedup=3.0, size_bytes=200_000))
    small = make(recipe(4), measured(speedup=2.0, drop=0.01, size_bytes=100_000))
    study = record(fast, small)
    assert [p.on_front for p in plot_points(study)] == [False, True, True]
    assert staircase(study) == [(3.0, 0.0)]


def test_a_broken_candidate_is_pinned_to_the_edge_and_counted(full, drawn):
    edge = lowest_drop_shown(plot_points(full), full.study.max_drop)
    assert edge is not None
    assert 1.0 < edge < 10.0
    assert "drop beyond the edge (1)" in texts_of(drawn(full))


def test_nothing_is_pinned_where_all_drops_are_near_the_floor(record, make, measured, recipe):
    study = record(make(recipe(8), measured(speedup=2.0, drop=0.03)))
    assert lowest_drop_shown(plot_points(study), study.study.max_drop) is None


def test_the_chosen_point_is_never_pinned(record, make, measured, recipe):
    bad = make(recipe(8), measured(speedup=2.0, drop=0.4))
    worse = make(recipe(4), measured(speedup=3.0, drop=0.8))
    study = record(bad, worse, chosen=Chosen(digest=bad.digest, meets_wishes=False, reason="the nearest"))
    edge = lowest_drop_shown(plot_points(study), study.study.max_drop)
    assert edge is not None
    assert 40 < edge < 80


@pytest.mark.parametrize(
    ("other", "area"),
    [
        pytest.param(Box(5, 5, 15, 15), 25, id="corner"),
        pytest.param(Box(2, 2, 4, 4), 4, id="inside"),
        pytest.param(Box(10, 0, 20, 10), 0, id="touching"),
        pytest.param(Box(20, 20, 30, 30), 0, id="apart in both directions"),
    ],
)
def test_overlap_is_the_common_area(other, area):
    assert Box(0, 0, 10, 10).overlap(other) == area


def test_names_of_points_at_one_place_do_not_overlap(record, make, measured, recipe, monkeypatch):
    figures = []
    original = front_svg.place_names
    monkeypatch.setattr(
        front_svg, "place_names", lambda figure, *rest: (figures.append(figure), original(figure, *rest))
    )
    anchors = [make(recipe(b), measured(speedup=3.0, drop=0.001), label=f"anchor of {b} bits") for b in (4, 5, 6, 7, 8)]
    front_svg._figure(record(*anchors))
    boxes = [Box(*Text.get_window_extent(t).extents) for t in figures[0].axes[0].texts if "anchor" in t.get_text()]
    assert len(boxes) == 5
    assert not any(a.overlap(b) for i, a in enumerate(boxes) for b in boxes[:i])
