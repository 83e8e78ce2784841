"""The explanation of a study: its words, its pictures, and that older records have none of it."""

import re
from io import StringIO
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from rich.console import Console

from autocompress.explanation import Agreement, Change, Explanation, Forecast, Trust, UnitExplanation
from autocompress.measurement import Interval
from autocompress.record import Chosen, StudyRecord
from autocompress.report import explanation_svg as svg
from autocompress.report import render, write_front_html, write_report, write_report_md
from autocompress.report.explanation import (
    GROUP_COLOURS,
    UNIT_HEAD,
    drop_limits,
    grouped_seconds,
    is_for_the_chosen,
    rung_sentence,
    shown_forecasts,
    trust_sentences,
    unit_rows,
)
from autocompress.report.page_data import page_data
from autocompress.report.svg import STYLE
from autocompress.terminal.explanation import print_explanation

EVIL = "</script><img src=x onerror=alert(1)>|`a`\n# *b* [c](d)"


def change(choice, drop, latency_ms, size_bytes):
    value, low, high = drop
    return Change(
        choice=choice,
        accuracy_drop=Interval(value=value, low=low, high=high),
        latency_ms=latency_ms,
        size_bytes=size_bytes,
    )


STEM = UnitExplanation(
    unit="stem",
    chosen=change("8 bits", (0.002, 0.001, 0.004), -0.5, -12_000.0),
    cheaper=change("4 bits", (0.03, 0.02, 0.05), 0.0, -6_000.0),
    gentler=change("float", (-0.002, -0.004, -0.001), 0.5, 12_000.0),
)
HEAD = UnitExplanation(unit="head", chosen=change("float", (0.0, 0.0, 0.0), 0.0, 0.0))
FAIR, UNRANKED = Agreement(rank_correlation=-0.001, mean_error=0.012), Agreement(rank_correlation=None, mean_error=0.5)


def text_of(record, path, write):
    write(record, path)
    return path.read_text()


def terminal_of(record, width=120):
    file = StringIO()
    print_explanation(Console(file=file, width=width), record)
    return file.getvalue()


def changed(record, **changes):
    return record.model_copy(update={"explanation": record.explanation.model_copy(update=changes)})


def test_a_unit_is_a_row_of_what_is_and_what_could_have_been():
    row = dict(zip(UNIT_HEAD, unit_rows(Explanation(units=(STEM,)))[0], strict=True))
    assert row == {
        "unit": "stem",
        "chosen": "8 bits",
        "it costs, points": "0.20 [0.10, 0.40]",
        "it saves": "0.500 ms, 12.0 kB",
        "next cheaper choice": "4 bits",
        "would cost, points": "3.00 [2.00, 5.00]",
        "would save": "6.0 kB",
        "next gentler choice": "float",
        "would regain, points": "0.20 [0.10, 0.40]",
        "would take": "0.500 ms, 12.0 kB",
    }


def test_the_gentlest_choice_costs_and_saves_nothing():
    assert unit_rows(Explanation(units=(HEAD,)))[0] == ["head", "float", *[""] * 8]


def test_rows_are_in_the_order_of_the_model(explained):
    assert [row[0] for row in unit_rows(explained.explanation)] == [u.unit for u in explained.explanation.units]


def test_without_a_rank_correlation_only_the_error_is_told():
    sentences = trust_sentences(Trust(table_drop=FAIR, learned_drop=UNRANKED, latency=UNRANKED, size=FAIR), 1)
    assert sentences == [
        "Accuracy drop of 1 candidate, predicted by the damage table alone: rank correlation 0.00, mean error 1.20 "
        "points; with what the other candidates taught: mean error 50.00 points.",
        "Latency: mean error 50 % of the baseline's.",
        "Size: rank correlation 0.00, mean error 1.2 % of the baseline's.",
    ]


def test_an_error_of_rounding_is_no_error():
    exact = Agreement(rank_correlation=1.0, mean_error=2e-16)
    sentences = trust_sentences(Trust(table_drop=FAIR, learned_drop=FAIR, latency=FAIR, size=exact), 5)
    assert sentences[2] == "Size: rank correlation 1.00, mean error 0 % of the baseline's."


def test_rungs_are_those_that_were_counted_or_else_where_candidates_ended(explained):
    assert rung_sentence(explained) == "Candidates that reached each rung: predicted 3,200, short 24."
    ended = "Candidates by the last rung that they reached: baseline 1, short 25."
    assert rung_sentence(changed(explained, rungs=())) == ended


PHASES = [
    ("finetune", "training"),
    ("training", "training"),
    ("calibrate", "training"),
    ("compress", "training"),
    ("evaluation", "measuring"),
    ("latency", "measuring"),
    ("export", "measuring"),
    ("save", "measuring"),
    ("damage table", "damage table"),
    ("sensitivity", "damage table"),
    ("latency model", "latency model"),
    ("finalists", "ending"),
    ("cut off by the budget", "other"),
    ("other", "other"),
    ("something new", "other"),
]


@pytest.mark.parametrize(("phase", "group"), PHASES, ids=[p for p, _ in PHASES])
def test_each_phase_is_in_one_group(phase, group):
    assert [(g.name, g.seconds, g.share) for g in grouped_seconds({phase: 3.0})] == [(group, 3.0, 1.0)]


def test_groups_share_all_of_the_time_in_their_order():
    groups = grouped_seconds({"latency": 1.0, "finetune": 4.0, "latency model": 2.0, "total": 10.0})
    assert [(g.name, g.seconds) for g in groups] == [
        ("latency model", 2.0),
        ("training", 4.0),
        ("measuring", 1.0),
        ("other", 3.0),
    ]
    assert sum(g.share for g in groups) == pytest.approx(1.0)


@pytest.mark.parametrize("seconds", [{}, {"total": 0.0}, {"finetune": 0.0}], ids=str)
def test_no_time_is_no_bar(seconds):
    assert grouped_seconds(seconds) == []


def test_an_explanation_survives_the_file(explained, tmp_path):
    explained.write(tmp_path / "candidates.json")
    assert StudyRecord.read(tmp_path / "candidates.json") == explained


def test_a_record_without_an_explanation_tells_nothing_of_it(full, tmp_path):
    write_report(full, tmp_path)
    assert not {"explanation.svg", "seconds.svg"} & {p.name for p in tmp_path.iterdir()}
    for name in ("report.md", "front.html"):
        text = (tmp_path / name).read_text()
        for said in ("Why each unit", "Predicted and measured", "reached each rung", 'class="bar"'):
            assert said not in text
    assert terminal_of(full) == ""


def test_rendering_again_gives_the_same_bytes(explained, tmp_path):
    files = ("explanation.svg", "seconds.svg", "report.md", "front.html")
    explained.write(tmp_path / "candidates.json")
    render(tmp_path)
    first = {file: (tmp_path / file).read_bytes() for file in files}
    render(tmp_path)
    assert [file for file in files if (tmp_path / file).read_bytes() != first[file]] == []


def test_the_document_shows_table_pictures_and_agreement(explained, tmp_path):
    text = text_of(explained, tmp_path / "report.md", write_report_md)
    units = text.split("## Why each unit is what it is\n")[1].split("\n## ")[0]
    cells = next(line for line in units.splitlines() if line.startswith("| layer2.0.down |")).strip("| ").split(" | ")
    assert cells[:4] == ["layer2.0.down", "8 bits", "0.20 [0.10, 0.30]", "0.200 ms, 20.0 kB"]
    assert cells[4:7] == ["8 bits, a quarter fewer filters", "0.90 [0.80, 1.00]", "0.030 ms, 9.0 kB"]
    for shown in ("](explanation.svg)", "](seconds.svg)", "- Latency: rank correlation 0.97", "predicted 3,200"):
        assert shown in text


def test_the_page_shows_table_picture_and_bar(explained, tmp_path):
    text = text_of(explained, tmp_path / "front.html", write_front_html)
    assert '["layer2.0.down","8 bits","0.20 [0.10, 0.30]","0.200 ms, 20.0 kB"' in text
    bar = re.search(r'<div class="share" aria-hidden="true">(.*?)</div>', text).group(1)
    assert re.findall(r"width: ([\d.]+)%; background: (#\w+)", bar) == [
        ("66.667", GROUP_COLOURS["training"]),
        ("29.000", GROUP_COLOURS["measuring"]),
        ("4.333", GROUP_COLOURS["other"]),
    ]
    assert 'id="forecast-drop"' in text and 'id="forecast-latency"' in text


def test_units_of_a_model_that_is_no_longer_chosen_are_not_shown(explained, tmp_path):
    other = next(c for c in explained.candidates if c.label == "int8")
    again = explained.model_copy(update={"chosen": Chosen(digest=other.digest, meets_wishes=True, reason="it is")})
    assert is_for_the_chosen(explained) and not is_for_the_chosen(again)
    assert "Why each unit" not in text_of(again, tmp_path / "report.md", write_report_md)
    assert "why each unit" not in terminal_of(again)
    assert "Predicted and measured" in text_of(again, tmp_path / "front.html", write_front_html)


def test_names_of_the_user_cannot_break_out(explained, tmp_path):
    unit = STEM.model_copy(update={"unit": EVIL, "chosen": STEM.chosen.model_copy(update={"choice": EVIL})})
    candidates = tuple(
        c.model_copy(update={"label": EVIL if c.label == "int8" else c.label}) for c in explained.candidates
    )
    evil = changed(explained, units=(unit,)).model_copy(update={"candidates": candidates})
    page = text_of(evil, tmp_path / "front.html", write_front_html)
    assert "<img src=x" not in page and "\\u003c/script\\u003e\\u003cimg" in page
    document = text_of(evil, tmp_path / "report.md", write_report_md)
    rows = document.split("## Why each unit is what it is\n")[1].strip().split("\n\n")[0].splitlines()
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [11, 11, 11] and "<img" not in document
    assert "</script>" in terminal_of(evil, width=300)


def figure_of(record):
    with mpl.rc_context(STYLE):
        return svg._forecast_figure(record)


def offsets(axes):
    return [tuple(map(tuple, group.get_offsets().tolist())) for group in axes.collections]


def one_forecast(explained, **values):
    """The full record with two forecasts: of the chosen candidate, and of another with these values."""
    chosen, other = explained.chosen.digest, next(c.digest for c in explained.candidates if c.label == "int8")
    plain = {"table_drop": 0.004, "learned_drop": 0.002, "drop": 0.003, "predicted_latency": 0.4, "latency": 0.5}
    rest = {"predicted_size": 0.2, "size": 0.2}
    forecasts = (Forecast(digest=chosen, **plain, **rest), Forecast(digest=other, **(plain | values), **rest))
    return changed(explained, forecasts=forecasts)


def test_points_are_measured_across_and_predicted_up(explained):
    drops, latencies = figure_of(one_forecast(explained, drop=0.01, latency=0.25)).axes
    table, learned, chosen = offsets(drops)
    assert table == (pytest.approx((0.3, 0.4)), pytest.approx((1.0, 0.4)))
    assert learned == (pytest.approx((0.3, 0.2)), pytest.approx((1.0, 0.2)))
    assert chosen == (pytest.approx((0.3, 0.2)),)
    assert offsets(latencies)[0] == (pytest.approx((50.0, 40.0)), pytest.approx((25.0, 40.0)))


def test_both_axes_of_a_panel_are_alike_with_the_line_across(explained):
    for axes in figure_of(explained).axes:
        assert axes.get_xlim() == axes.get_ylim()
        assert list(axes.lines[0].get_xdata()) == list(axes.lines[0].get_ydata()) == list(axes.get_xlim())


def test_what_is_far_off_is_pinned_to_the_edge_and_counted(explained):
    far = one_forecast(explained, table_drop=0.7)
    edge = drop_limits(far)[1]
    figure = figure_of(far)
    assert offsets(figure.axes[0])[1] == (pytest.approx((0.3, edge)),)
    assert "beyond the edge (1)" in [t.get_text() for t in figure.axes[0].get_legend().get_texts()]


def test_the_baseline_is_not_among_the_points(explained):
    digests = [f.digest for f in explained.explanation.forecasts]
    assert explained.baseline.digest in digests
    assert len(shown_forecasts(explained)) == len(digests) - 1


def test_only_the_baseline_measured_is_no_picture_and_no_failure(explained, tmp_path):
    only = changed(explained, forecasts=explained.explanation.forecasts[:1])
    svg.write_explanation_svg(only, tmp_path / "explanation.svg")
    assert not (tmp_path / "explanation.svg").exists()
    assert "explanation.svg" not in text_of(only, tmp_path / "report.md", write_report_md)
    assert page_data(only)["forecasts"] is None


def test_one_candidate_is_a_picture(explained):
    alone = changed(explained, forecasts=one_forecast(explained).explanation.forecasts[:1])
    low, high = figure_of(alone).axes[1].get_xlim()
    assert low < 40 and high > 50


def test_pictures_are_valid_svg_even_of_odd_names(explained, tmp_path):
    odd = explained.model_copy(update={"study": explained.study.model_copy(update={"task": EVIL + "$x$"})})
    for write in (svg.write_explanation_svg, svg.write_seconds_svg):
        assert ElementTree.fromstring(text_of(odd, tmp_path / "picture.svg", write)).tag.endswith("svg")


def test_parts_of_the_bar_are_the_shares_of_the_groups():
    groups = grouped_seconds({"finetune": 6.0, "latency": 3.5, "finalists": 0.5})
    with mpl.rc_context(STYLE):
        axes = svg._seconds_figure(groups).axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.6, 0.35, 0.05])
    assert [bar.get_x() for bar in axes.patches] == pytest.approx([0.0, 0.6, 0.95])
    assert [text.get_text() for text in axes.texts] == ["60 %", "35 %"]


@pytest.mark.parametrize("name", GROUP_COLOURS)
def test_shares_are_legible_on_their_colour(name):
    values = [int(GROUP_COLOURS[name][i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05
    ink = svg.ink(next(iter(grouped_seconds({name: 1.0}))))
    assert (light / 0.05 if ink == "black" else 1.05 / light) >= 4.5


def test_the_terminal_shows_choices_and_what_the_next_would_cost(explained):
    text = terminal_of(explained)
    row = next(line for line in text.splitlines() if "layer2.0.down" in line).split("  ")
    cells = [cell.strip() for cell in row if cell.strip()]
    assert cells[:4] == ["layer2.0.down", "8 bits", "0.20 ±0.10", "0.200 ms"]
    assert cells[4:] == ["8 bits, a quarter fewer filters", "0.90 ±0.10", "0.030 ms"]
    assert "time: training 67 %, measuring 29 %, other 4 %" in text


def test_the_terminal_shows_the_twelve_units_that_cost_the_most_in_their_order(explained):
    many = [
        STEM.model_copy(update={"unit": f"u{i}", "chosen": change("8 bits", (0.001 * (i % 20),) * 3, -1.0, 0.0)})
        for i in range(20)
    ]
    text = terminal_of(changed(explained, units=tuple(many)))
    assert re.findall(r"^ (u\d+)", text, flags=re.MULTILINE) == [f"u{i}" for i in range(8, 20)]
    assert "the 12 that cost the most; 8 more are in the report" in " ".join(text.split())


def test_a_size_knob_shows_bytes_on_the_terminal(explained):
    text = terminal_of(changed(explained, units=(STEM,)))
    assert next(line for line in text.splitlines() if line.startswith(" stem")).rstrip().endswith("6.0 kB")


def test_a_narrow_terminal_loses_no_name(explained):
    text = terminal_of(explained, width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert all(layer.unit in text for layer in explained.explanation.units)
