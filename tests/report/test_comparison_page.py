"""The comparison as files: the same bytes, nothing from the network, nothing of a name taken as markup."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from autocompress.errors import StudyError
from autocompress.measurement import Speedup
from autocompress.record import Chosen
from autocompress.report import compare

CHROMIUM = "chromium"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
EVIL = "</style></svg><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">|`*"
needs_chromium = pytest.mark.skipif(shutil.which(CHROMIUM) is None, reason="Debian's chromium is not installed")
FILES = ("comparison.html", "comparison.md", "comparison.svg")


class Page(HTMLParser):
    """Elements of a page with their attributes, cells of its tables by id, and all of its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.cells, self.text, self._table, self._is_cell = [], {}, "", None, False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._is_cell = tag in {"td", "th"}
        if tag == "table":
            self._table = self.cells.setdefault(dict(attributes)["id"], [])
        elif tag == "tr":
            self._table.append([])
        elif self._is_cell:
            self._table[-1].append("")

    def handle_endtag(self, tag):
        self._is_cell = False

    def handle_data(self, data):
        self.text += data
        if self._is_cell:
            self._table[-1][-1] += data


@pytest.fixture(name="folders")
def _folders(tmp_path, full, record, make, measured, recipe):
    """Two studies on disk: the full one, and a small one of another sampler and CPU that chose nothing yet."""
    small = record(
        make(recipe(8), measured(speedup=2.0), label="int8"), study={"sampler": "greedy"}, seconds={"x": 9.0}
    )
    where = small.environment.model_copy(update={"cpu": "Other CPU"})
    return [
        _written(tmp_path / "full", full),
        _written(tmp_path / "small", small.model_copy(update={"environment": where})),
    ]


def _written(folder, study):
    folder.mkdir()
    study.write(folder / "candidates.json")
    return folder


@pytest.fixture(name="evil")
def _evil(tmp_path, record, make, measured, recipe):
    """Two studies whose names are all markup, their folders among them."""
    run = make(recipe(8), measured(speedup=3.0), label=EVIL, rung=EVIL)
    study = record(
        run,
        make(recipe(4), None, failure=EVIL),
        study={"task": EVIL, "score": EVIL, "space": EVIL, "sampler": EVIL},
        chosen=Chosen(digest=run.digest, meets_wishes=True, reason=EVIL),
    )
    other = study.model_copy(update={"study": study.study.model_copy(update={"task": EVIL[::-1]})})
    name = EVIL.replace("/", "_")
    return [_written(tmp_path / f"a{name}", study), _written(tmp_path / f"b{name}", other)]


def test_the_files_are_named_and_written_into_a_new_folder(folders, tmp_path):
    out = tmp_path / "deep" / "out"
    assert sorted(compare(folders, out)) == [out / file for file in FILES]
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)


def test_equal_records_give_equal_bytes(folders, tmp_path):
    written = [
        {file.name: file.read_bytes() for file in compare(folders, tmp_path / out)}
        for out in ("first", "first", "second")
    ]
    assert written[0] == written[1] == written[2]


def test_the_page_holds_numbers_settings_fronts_and_warnings(folders, tmp_path, full):
    compare(folders, tmp_path)
    page = Page((tmp_path / "comparison.html").read_text())
    assert [row[0] for row in page.cells["studies"]] == ["study", "A: full", "B: small"]
    assert page.cells["studies"][2][2:6] == ["Other CPU", "1", "2026.1.0", "greedy"]
    assert page.cells["choices"][1][1:5] == ["unnamed", "4.20x [4.15, 4.26]", "0.476", "0.30 [-0.10, 0.80]"]
    assert page.cells["choices"][2][1] == "nothing yet of 2 candidates"
    assert {row[0] for row in page.cells["fronts"][1:]} == {"A", "B"}
    for said in (
        "What does not compare",
        "The CPU differs (A: Intel",
        "have one run only",
        "4.20x [4.15, 4.26] faster",
    ):
        assert said in page.text
    assert {"svg", "figure"} <= {tag for tag, _ in page.elements}


def test_the_document_says_the_same(folders, tmp_path):
    compare(folders, tmp_path)
    text = (tmp_path / "comparison.md").read_text()
    for said in (
        "# 2 studies of fashion\n",
        "![fronts and hypervolumes](comparison.svg)",
        "## What does not compare\n",
    ):
        assert said in text
    row = next(line for line in text.splitlines() if line.startswith("| A: full | unnamed"))
    assert row.split(" | ")[2:5] == ["4.20x [4.15, 4.26]", "0.476", "0.30 [-0.10, 0.80]"]
    html = MarkdownIt("commonmark").enable("table").render(text)
    assert html.count("<table>") == 2


def test_studies_that_compare_have_the_fastest_choice_and_no_warnings(tmp_path, full):
    test = full.chosen.test.model_copy(update={"speedup": Speedup(value=9.0, low=8.9, high=9.1, n_pairs=40)})
    faster = full.model_copy(update={"chosen": full.chosen.model_copy(update={"test": test})})
    compare([_written(tmp_path / "one", full), _written(tmp_path / "two", faster)], tmp_path)
    for name in ("comparison.html", "comparison.md"):
        text = (tmp_path / name).read_text()
        assert "The fastest choice within its floor is that of B, 9.00x" in text and "What does not compare" not in text


def test_the_page_asks_nothing_of_the_network_and_runs_nothing(folders, tmp_path):
    compare(folders, tmp_path)
    elements = Page((tmp_path / "comparison.html").read_text()).elements
    assert not {"script", "link", "iframe", "img", "object", "base"} & {tag for tag, _ in elements}
    links = [v for _, attributes in elements for k, v in attributes.items() if k in {"src", "href", "xlink:href"}]
    assert links and all(link.startswith("#") for link in links)
    policy = next(a["content"] for tag, a in elements if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'") and "script" not in policy


def test_names_add_nothing_to_the_page(evil, folders, tmp_path):
    compare(folders, tmp_path / "plain")
    compare(evil, tmp_path / "evil")
    tags = [
        {tag for tag, _ in Page((tmp_path / out / "comparison.html").read_text()).elements} for out in ("plain", "evil")
    ]
    assert tags[1] <= tags[0]
    html = MarkdownIt("commonmark").enable("table").render((tmp_path / "evil" / "comparison.md").read_text())
    assert not re.search(r"<(script|style|/svg|img src=x)", html)


@needs_chromium
def test_the_browser_runs_nothing_that_stands_in_a_name(evil, tmp_path):
    compare(evil, tmp_path / "out")
    page = (tmp_path / "out" / "comparison.html").as_uri()
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "<title>2 studies of" in dom and "<title>owned" not in dom and not re.search(r"<img\b|<script\b", dom)
    assert dom.count("<svg") == 1 and "3.00x [2.94, 3.06]" in dom


def test_a_bad_folder_leaves_the_files_that_are_there(folders, tmp_path):
    compare(folders, tmp_path)
    before = {file: (tmp_path / file).read_bytes() for file in FILES}
    (folders[1] / "candidates.json").write_text("{}")
    with pytest.raises(StudyError, match="small/candidates.json is not a record"):
        compare(folders, tmp_path)
    assert {file: (tmp_path / file).read_bytes() for file in FILES} == before


def test_an_output_that_is_a_file_is_refused(folders, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(StudyError, match=r"output folder .*out cannot be written: File exists; give another one"):
        compare(folders, tmp_path / "out")
