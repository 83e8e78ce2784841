"""The page as a file: it loads nothing, names cannot inject anything, equal records give equal bytes."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from autocompress.errors import StudyError
from autocompress.report import render, write_front_html, write_report
from autocompress.report.front_html import SCRIPTS, STYLES, script_json
from tests.report.pages import EVIL, evil_record, large_record

END = "</script><img src=x>"


class Page(HTMLParser):
    """Elements of a page with their attributes, texts of list items, and table rows as lists of texts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.items, self.tables, self._inside, self._table = [], [], {}, None, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._inside = tag if tag in {"td", "li"} else self._inside
        if tag == "table":
            self._table = self.tables.setdefault(dict(attributes).get("id"), [])
        elif tag == "tr":
            self._table.append([])
        elif tag == "td":
            self._table[-1].append("")
        elif tag == "li":
            self.items.append("")

    def handle_endtag(self, tag):
        if tag in {"td", "li"}:
            self._inside = None

    def handle_data(self, data):
        if self._inside == "li":
            self.items[-1] += data
        elif self._inside == "td":
            self._table[-1][-1] += data


@pytest.fixture(name="text_of")
def _text_of(tmp_path):
    def write(record):
        write_front_html(record, tmp_path / "front.html")
        return (tmp_path / "front.html").read_text()

    return write


def test_rendering_again_from_the_record_gives_the_same_bytes(trained, tmp_path):
    names = ("front.html", "front.svg", "report.md", "training.svg")
    trained.write(tmp_path / "candidates.json")
    write_report(trained, tmp_path)
    first = {name: (tmp_path / name).read_bytes() for name in names}
    for name in names:
        (tmp_path / name).unlink()
    render(tmp_path)
    assert [name for name in names if (tmp_path / name).read_bytes() != first[name]] == []


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
        assert not {"src", "href", "data", "srcset", "action"} & set(attributes), (tag, attributes)


def test_the_browser_may_run_the_one_script_of_the_page_and_load_nothing(full, text_of):
    text = text_of(full)
    (policy,) = [a["content"] for tag, a in Page(text).elements if tag == "meta" and "http-equiv" in a]
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}';" in policy
    assert "http" not in policy


def test_every_file_of_the_page_is_used():
    names = {file.name for file in (files("autocompress.report") / "templates").iterdir()}
    assert names == {*SCRIPTS, *STYLES, "front.html.j2", "comparison.html.j2"}


def test_the_scripts_put_no_text_into_the_page_as_html():
    for name in SCRIPTS:
        text = (files("autocompress.report") / "templates" / name).read_text()
        assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text), name


def test_json_in_a_script_cannot_end_it_and_reads_back():
    text = script_json({"name": END + "&\u2028"})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"name": END + "&\u2028"}


def test_names_cannot_add_elements_to_the_page(text_of):
    text = text_of(evil_record())
    elements = [tag for tag, _ in Page(text).elements]
    assert elements.count("script") == 2  # the data, and what draws it
    assert "<script>alert" not in text
    assert EVIL in json.dumps(data_of(text))


def test_findings_failures_and_time_are_listed(full, text_of):
    page = Page(text_of(full))
    assert sum("the loss is not finite 3: " in item for item in page.items) == 1
    assert "stem.conv is the most sensitive layer." in page.items
    assert page.tables["seconds"][1] == ["finetune", "300.0", "66.7 %"]
    assert page.tables["seconds"][-1] == ["total", "450.0", "100.0 %"]


def test_a_page_of_300_candidates_of_100_layers_stays_under_seven_megabytes(text_of):
    assert len(text_of(large_record(300, 100)).encode()) < 7e6


def data_of(text):
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    return json.loads(found)
