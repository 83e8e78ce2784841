"""What candidates and fronts show in a notebook: a picture and a table, nothing that runs or loads."""

import re
from xml.etree import ElementTree

from autocompress.notebook import MAX_ROWS, Shown, front_html, front_svg
from autocompress.pareto import DEFAULT_OBJECTIVES, Candidate, ParetoFront
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.record import Chosen, StudyRecord
from autocompress.report.notebook import record_html
from tests.examples import candidate, measurement, record

EVIL = "<script>alert(1)</script>\"'&"
SVG = "{http://www.w3.org/2000/svg}"


def parsed(html: str) -> ElementTree.Element:
    """Well-formed as XML, and without anything that runs, loads or styles what is around it."""
    assert not re.search(r"<script|<style|<link|<img|<iframe|\bon\w+=|url\(|href", html)
    assert "http" not in html.replace('xmlns="http://www.w3.org/2000/svg"', "")
    return ElementTree.fromstring(f"<div>{html}</div>")


def rows(html: str) -> list[list[str]]:
    return [["".join(cell.itertext()) for cell in row] for row in parsed(html).iter("tr")]


def marks(html: str) -> list[str]:
    return ["".join(path.itertext()) for path in parsed(html).iter(f"{SVG}path")]


def front(*candidates: Candidate) -> ParetoFront:
    return record(*candidates).front()


INT8, SMALL = candidate("a1", 0.004, 2.5, 500, label="int8"), candidate("b2", 0.02, 3.0, 300)


def test_a_front_shows_each_member_as_a_mark_and_as_a_row_fastest_first() -> None:
    html = front(INT8, SMALL)._repr_html_()
    table = rows(html)
    assert [row[0] for row in table] == ["candidate", "b2", "int8 (a1)", "000000000000"]
    assert table[1][1:] == ["3.00x [3.00, 3.00]", "2.00 [1.00, 3.00]", "0.667", "0.3", "short"]
    assert sorted(mark.split(":")[0] for mark in marks(html)) == ["000000000000", "b2", "int8 (a1)"]
    assert any("int8 (a1): 2.50x [2.50, 2.50] faster, drop 0.40 [-0.60, 1.40] points" in mark for mark in marks(html))


def test_an_empty_front_and_one_of_a_single_point_show_themselves() -> None:
    only = ParetoFront((), INT8, DEFAULT_OBJECTIVES, (0.05, 1.0, 1.0))
    assert marks(only._repr_html_()) == [] and len(rows(front()._repr_html_())) == 2


def test_marks_lie_where_their_numbers_are() -> None:
    names = ["slow", "fast", "worse"]
    numbers = [measurement(0.0, 1.0), measurement(0.0, 4.0), measurement(0.05, 4.0)]
    svg = front_svg([Shown(n, m, "candidate", "short") for n, m in zip(names, numbers, strict=True)])
    place = {}
    for path in parsed(svg).iter(f"{SVG}path"):
        x, y = map(float, re.match(r"M([\d.]+) ([\d.]+)", path.attrib["d"]).groups())  # type: ignore[union-attr]
        place["".join(path.itertext()).split(":")[0]] = (x, y)
    assert place["slow"][0] < place["fast"][0] == place["worse"][0]
    assert place["slow"][1] == place["fast"][1] < place["worse"][1]


def test_a_drop_far_beyond_the_floor_is_drawn_at_the_edge() -> None:
    shown = [
        Shown("near", measurement(0.01, 2.0), "candidate", "short"),
        Shown("far", measurement(0.6, 3.0), "anchor", ""),
    ]
    paths = {
        "".join(p.itertext()).split(":")[0]: p.attrib["d"] for p in parsed(front_svg(shown, 0.01)).iter(f"{SVG}path")
    }
    assert paths["far"].endswith("l-5 9z") and not paths["near"].endswith("l-5 9z")
    free = {"".join(p.itertext()).split(":")[0]: p.attrib["d"] for p in parsed(front_svg(shown)).iter(f"{SVG}path")}
    assert not free["far"].endswith("l-5 9z")


def test_names_from_a_user_are_escaped() -> None:
    evil = candidate("e", 0.0, 2.0, 500, label=EVIL)
    named = Candidate(digest="f", recipe=Recipe(pruning={EVIL: 0.5}), rung="short", failure=EVIL)
    for html in (front(evil)._repr_html_(), evil._repr_html_(), named._repr_html_()):
        assert EVIL in "".join(parsed(html).itertext())
    study = record(evil).model_copy(update={"study": record().study.model_copy(update={"task": EVIL})})
    assert EVIL in "".join(parsed(record_html(study)).itertext())


def test_a_candidate_shows_its_numbers_and_its_recipe() -> None:
    one = candidate("a1", 0.004, 2.5, 500, label="int8", recipe=Recipe(layers={"stem": LayerRecipe(weight_bits=4)}))
    text = "".join(parsed(one._repr_html_()).itertext())
    assert rows(one._repr_html_())[1] == ["speed-up over FP32", "2.50x [2.50, 2.50], 95 % interval"]
    assert text.startswith("int8 (a1)") and "weight_bits: 4" in text


def test_a_candidate_that_failed_shows_why() -> None:
    text = "".join(parsed(candidate("c3")._repr_html_()).itertext())
    assert text.startswith("c3failed: it crashed") and rows(candidate("c3")._repr_html_()) == []


def test_a_study_shows_all_candidates_and_marks_the_choice() -> None:
    beaten = candidate("d4", 0.03, 1.5, 900)
    known = record(
        INT8, SMALL, beaten, candidate("e5"), chosen=Chosen(digest="a1", meets_wishes=True, reason="fastest")
    )
    html = record_html(known)
    assert len(marks(html)) == 4 and [row[0] for row in rows(html)[1:]] == ["b2", "int8 (a1) (chosen)", "000000000000"]
    assert "floor 1" in html and html.count('r="10"') == 1
    assert "2.50x [2.50, 2.50] faster than FP32" in "".join(parsed(html).itertext())


def test_a_large_front_stays_small() -> None:
    many = [Shown(f"c{i}", measurement(0.001 * i, 1 + i), "candidate", "short") for i in range(300)]
    html = front_html(many, 0.01)
    assert len(rows(html)) == 1 + MAX_ROWS and f"and {300 - MAX_ROWS} more" in html and len(html) < 250_000


def test_the_same_record_shows_itself_the_same() -> None:
    known: StudyRecord = record(INT8, SMALL)
    assert record_html(known) == record_html(StudyRecord.model_validate_json(known.model_dump_json()))
