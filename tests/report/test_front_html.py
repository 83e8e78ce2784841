"""The front as a page: what it shows, that it needs no network, and that names cannot inject anything."""

import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from autocompress.errors import StudyError
from autocompress.measurement import CoursePoint, TrainingSummary
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.record import Chosen, StudyRecord
from autocompress.report import render, write_front_html, write_report
from autocompress.report.front_html import script_json
from autocompress.report.front_plotly import figure
from autocompress.report.training_plotly import training_figure
from autocompress.report.trainings import shown_trainings

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=5000",
]
EVIL = "</script><script>document.body.id='owned'</script><img src=x onerror=\"document.body.id='owned'\">"
needs_chromium = pytest.mark.skipif(shutil.which(CHROMIUM) is None, reason="Debian's chromium is not installed")


class Page(HTMLParser):
    """Elements of a page with their attributes, table rows as lists of texts, and texts of list items."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.tables, self.items, self._inside, self._table = [], {}, [], None, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._inside = tag if tag in {"td", "li", "summary"} else self._inside
        if tag == "table":
            self._table = self.tables.setdefault(dict(attributes).get("id"), [])
        elif tag == "tr":
            self._table.append([])
        elif tag == "td":
            self._table[-1].append("")
        elif tag == "li":
            self.items.append("")

    def handle_endtag(self, tag):
        if tag in {"td", "li", "summary"}:
            self._inside = None

    def handle_data(self, data):
        if self._inside == "li":
            self.items[-1] += data
        elif self._inside:
            self._table[-1][-1] += data


@pytest.fixture(name="text_of")
def _text_of(tmp_path):
    def write(record):
        write_front_html(record, tmp_path / "front.html")
        return (tmp_path / "front.html").read_text()

    return write


@pytest.fixture(name="evil")
def _evil(record, make, measured, training):
    recipe = Recipe(layers={EVIL: LayerRecipe(weight_bits=8, activation_bits=8)}, pruning={EVIL: 0.5})
    run = make(recipe, measured(speedup=3.0), label=EVIL, rung=EVIL, training=training(started_from=EVIL))
    failed = make(Recipe(pruning={"a": 0.5}), None, failure=EVIL, training=training(started_from=run.digest))
    return record(
        run,
        failed,
        study={"task": EVIL, "score": EVIL},
        chosen=Chosen(digest=run.digest, meets_wishes=True, reason=EVIL),
        findings=(EVIL,),
        seconds={EVIL: 2.0},
    )


def figure_in(text):
    found = re.search(r'<script type="application/json" id="figure">(.*?)</script>', text, flags=re.DOTALL)
    return json.loads(found.group(1))


def dom_of(path, folder):
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}", "--dump-dom", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def without_scripts(dom):
    return re.sub(r"<script\b.*?</script>", "", dom, flags=re.DOTALL)


def test_rendering_again_from_the_record_gives_the_same_bytes(trained, tmp_path):
    files = ("front.html", "front.svg", "report.md", "training.svg")
    trained.write(tmp_path / "candidates.json")
    write_report(trained, tmp_path)
    first = {file: (tmp_path / file).read_bytes() for file in files}
    for file in files:
        (tmp_path / file).unlink()
    render(tmp_path)
    assert [file for file in files if (tmp_path / file).read_bytes() != first[file]] == []


def test_rendering_leaves_only_the_report_and_the_record(full, tmp_path):
    full.write(tmp_path / "candidates.json")
    render(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "candidates.json",
        "front.html",
        "front.svg",
        "health.svg",
        "report.md",
    ]


def test_rendering_a_folder_without_a_record_says_what_is_missing(tmp_path):
    with pytest.raises(StudyError, match=r"candidates\.json cannot be read"):
        render(tmp_path)


def test_the_page_loads_nothing(full, text_of):
    for tag, attributes in Page(text_of(full)).elements:
        assert tag not in {"link", "iframe", "img", "object", "embed", "base"}
        assert not {"src", "href", "data", "srcset"} & set(attributes), (tag, attributes)


def test_the_page_forbids_the_browser_to_load_anything(full, text_of):
    policies = [a["content"] for tag, a in Page(text_of(full)).elements if tag == "meta" and "http-equiv" in a]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none';")
    assert "http" not in policies[0]


def test_the_library_is_inlined_once(full, text_of):
    assert text_of(full).count("plotly.js v") == 1


def test_plotly_knows_every_setting_of_the_figure(full):
    content = figure(full)
    go.Figure(data=content["data"], layout={k: v for k, v in content["layout"].items() if v is not None})


def test_plotly_knows_every_setting_of_the_figure_of_trainings(trained):
    content = training_figure(trained)
    go.Figure(data=content["data"], layout={k: v for k, v in content["layout"].items() if v is not None})


def test_json_in_a_script_cannot_end_it_and_reads_back():
    text = script_json({"name": EVIL + "&\u2028"})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"name": EVIL + "&\u2028"}


def test_the_hover_tells_numbers_and_recipe(record, make, measured, text_of):
    layers = {"conv": LayerRecipe(weight_bits=4, activation_bits=8), "fc": LayerRecipe(weight_bits=8)}
    numbers = measured(speedup=(3.1, 3.04, 3.16), drop=(0.001, -0.002, 0.004), size_bytes=215_000, accuracy=0.899)
    run = make(Recipe(layers=layers, pruning={"stem": 0.125}), numbers)
    hovers = [h for t in figure_in(text_of(record(run)))["data"] for h in t.get("hovertext", []) if run.digest in h]
    assert [h.split("<br>") for h in hovers] == [
        [
            f"<b>{run.digest}</b>",
            "speed-up 3.10x [3.04, 3.16] (40 pairs)",
            "latency 0.645 ms",
            "drop 0.10 [-0.20, 0.40] points",
            "score 0.8990 (torch 0.8990)",
            "size 215.0 kB",
            "W4A8: conv",
            "W8A32: fc",
            "float: 5 layers",
            "12.5 % of filters removed: stem",
        ]
    ]


def test_the_hover_tells_of_a_training_that_did_not_go_as_planned(record, make, measured, recipe, training):
    odd = make(recipe(4), measured(speedup=3.0), training=training(150, stopped_at=60, n_rollbacks=1))
    plain = make(recipe(8), measured(speedup=2.0), training=training())
    hovers = [h.split("<br>") for t in figure(record(odd, plain))["data"] for h in t.get("hovertext", [])]
    ends = {lines[0]: lines[-2:] for lines in hovers}
    assert ends[f"<b>{odd.digest}</b>"] == ["rolled back once", "given up at step 60 of 150"]
    assert not any("given up" in line for line in ends[f"<b>{plain.digest}</b>"])


def test_the_hover_and_the_table_tell_the_zipped_size_where_it_was_measured(record, make, measured, recipe, text_of):
    run = make(recipe(8), measured(speedup=3.0, size_bytes=215_000, zipped_bytes=180_400))
    text = text_of(record(run))
    first, last = Page(text).tables["candidates"][1:]
    assert "<th>size, kB</th><th>zipped size, kB</th><th>MACs</th>" in text
    assert (first[7:9], last[7:9]) == (["215.0", "180.4"], ["800.0", ""])
    assert "<br>size 215.0 kB, zipped 180.4 kB<br>" in json.dumps(figure_in(text))
    old = text_of(record(make(recipe(8), measured(speedup=3.0))))
    assert "zipped size" not in old and "zipped" not in json.dumps(figure_in(old))


def test_error_bars_reach_to_the_ends_of_the_intervals(record, make, measured, recipe):
    run = make(recipe(8), measured(speedup=(3.0, 2.5, 3.75), drop=(0.02, 0.01, 0.04)))
    trace = next(t for t in figure(record(run))["data"] if t["name"] == "candidate, on the front")
    assert (trace["x"], trace["y"]) == ([3.0], [2.0])
    assert (trace["error_x"]["arrayminus"], trace["error_x"]["array"]) == ([0.5], [0.75])
    assert trace["error_y"]["arrayminus"] == pytest.approx([1.0])
    assert trace["error_y"]["array"] == pytest.approx([2.0])


def test_a_value_outside_its_own_interval_has_no_negative_bar(record, make, measured, recipe):
    study = record(make(recipe(8), measured(speedup=2.0, drop=(0.02, 0.03, 0.04))))
    trace = next(t for t in figure(study)["data"] if t["name"] == "candidate, on the front")
    assert trace["error_y"]["arrayminus"] == [0.0]


def test_the_table_holds_the_numbers_with_the_front_first(full, text_of):
    rows = Page(text_of(full)).tables["candidates"][1:]
    flags = [row[1] for row in rows]
    assert flags == sorted(flags, reverse=True)
    assert len(rows) == sum(c.measurement is not None for c in full.candidates)
    int8 = next(row for row in rows if row[0].startswith("int8"))
    expected = ["no", "short", "3.10x [3.04, 3.16]", "0.645", "0.10 [-0.20, 0.40]", "0.8990", "215.0", "12,345,678"]
    assert int8[1:9] == expected
    assert int8[9].startswith("W8A8 ×7")


def test_failures_findings_and_time_are_listed(full, text_of):
    page = Page(text_of(full))
    assert sum("the loss is not finite" in item for item in page.items) == 3
    assert "stem.conv is the most sensitive layer." in page.items
    assert page.tables["seconds"][1] == ["finetune", "300.0", "66.7 %"]
    assert page.tables["seconds"][-1] == ["total", "450.0", "100.0 %"]


def test_failed_candidates_are_neither_in_the_table_nor_in_the_picture(record, make, recipe, text_of):
    run = make(recipe(8), None)
    text = text_of(record(run))
    assert not any(run.digest in cell for row in Page(text).tables["candidates"] for cell in row)
    assert run.digest not in json.dumps(figure_in(text))


def test_the_page_shows_the_course_of_each_training_in_the_picture(trained, text_of):
    content = json.loads(re.search(r'id="training-figure">(.*?)</script>', text_of(trained), flags=re.DOTALL).group(1))
    shown = shown_trainings(trained)
    assert [trace["name"] for trace in content["data"]] == [s.name for s in shown]
    for trace, own in zip(content["data"], shown, strict=True):
        assert trace["y"] == [point.loss for point in own.training.course]
        assert trace["marker"]["symbol"][-1] == ("circle" if own.training.stopped_at is None else "x")
    assert content["layout"]["yaxis"]["type"] == "log"
    assert content["data"][0]["hovertext"][0].split("<br>")[1:] == ["step 3", "loss 2.36", "rate 5.0e-03"]


@pytest.mark.parametrize(
    ("losses", "marks"),
    [
        pytest.param((3.0, 0.2), ["0.1", "0.2", "0.5", "1", "2", "5", "10", "20", "50"], id="two decades"),
        pytest.param((2e6, 0.1), ["0.1", "10", "1000", "100000", "1e+07"], id="eight decades"),
        pytest.param((1e308, 5e-324), None, id="the largest and the smallest number"),
    ],
)
def test_marks_of_a_logarithmic_axis_are_few_whole_numbers(record, make, measured, recipe, losses, marks):
    course = tuple(CoursePoint(step=i, loss=loss, learning_rate=0) for i, loss in enumerate(losses, start=1))
    run = make(recipe(8), measured(speedup=2.0), training=TrainingSummary(n_steps=9, course=course))
    axis = training_figure(record(run))["layout"]["yaxis"]
    assert axis["ticktext"] == marks or (marks is None and 2 <= len(axis["tickvals"]) <= 12)
    assert all(0 < mark < math.inf for mark in axis["tickvals"])


def test_a_page_without_trainings_has_no_figure_of_them(full, text_of):
    assert "training" not in text_of(full).replace(get_plotlyjs(), "")


def test_the_recipe_in_the_table_tells_how_it_was_trained(trained, text_of):
    line = "trained 150 steps at a rate of 5.0e-03, started from FP32, rolled back once"
    assert text_of(trained).count(f"{line}<br></details>") == 1


def test_a_candidate_that_was_given_up_is_a_failure_with_its_step(trained, text_of):
    words = "(short): given up at step 60 of 150: its loss stays far above that of the others"
    assert sum(item.endswith(words) for item in Page(text_of(trained)).items) == 1


def test_names_cannot_add_elements_to_the_page(evil, record, text_of):
    elements = [tag for tag, _ in Page(text_of(evil)).elements]
    assert elements.count("script") == 4  # two figures, the library, and what draws
    assert "img" not in elements


def test_names_reach_plotly_escaped(evil):
    for content in (json.dumps(figure(evil)), json.dumps(training_figure(evil))):
        assert "<script" not in content
        assert "<img" not in content
        assert "&lt;/script&gt;" in content


@needs_chromium
def test_the_browser_draws_every_trace(trained: StudyRecord, tmp_path):
    write_front_html(trained, tmp_path / "front.html")
    dom = without_scripts(dom_of(tmp_path / "front.html", tmp_path / "profile"))
    assert 'class="main-svg"' in dom
    n_traces = len(figure(trained)["data"]) + len(training_figure(trained)["data"])
    assert len(re.findall(r'<g class="trace scatter', dom)) == n_traces
    n_markers = len(re.findall(r'<path class="point"', dom))
    inside = sum(c.measurement is not None and c.measurement.accuracy_drop.value < 0.1 for c in trained.candidates)
    assert n_markers >= inside
    assert "floor: a drop of at most 1.00 points" in dom


@needs_chromium
def test_the_browser_runs_nothing_that_stands_in_a_name_even_when_hovering(evil, tmp_path):
    write_front_html(evil, tmp_path / "front.html")
    page = (tmp_path / "front.html").read_text()
    hover = (
        "<script>figure.data.forEach((t, i) => Plotly.Fx.hover('front', [{curveNumber: i, pointNumber: 0}]))</script>"
    )
    last = "<script>Plotly.Fx.hover('front', [{curveNumber: figure.data.findIndex(t => t.hovertext && t.hovertext[0]"
    last += ".includes('script')), pointNumber: 0}])</script>"
    (tmp_path / "hover.html").write_text(page.replace("</body>", f"{hover}{last}</body>"))
    dom = without_scripts(dom_of(tmp_path / "hover.html", tmp_path / "profile"))
    assert 'class="hovertext"' in dom
    assert "speed-up 3.00x" in dom.split('class="hovertext"', 1)[1]
    assert not re.search(r"<body[^>]*owned", dom)
    assert not re.search(r"<img\b", dom)
