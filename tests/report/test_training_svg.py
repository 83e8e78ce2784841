"""The course of trainings as a picture: its words, its marks, and that equal records give equal bytes."""

import re
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from autocompress.measurement import CoursePoint, TrainingSummary
from autocompress.record import Chosen
from autocompress.report import training_svg, write_training_svg
from autocompress.report.svg import STYLE
from autocompress.report.training_svg import CHOSEN_COLOUR
from autocompress.report.trainings import shown_trainings


@pytest.fixture(name="drawn")
def _drawn(tmp_path):
    def draw(record):
        write_training_svg(record, tmp_path / "training.svg")
        return (tmp_path / "training.svg").read_text()

    return draw


@pytest.fixture(name="one")
def _one(record, make, measured, recipe):
    """A record of one candidate with this training."""

    def build(summary, is_chosen=False, study=None, **changes):
        run = make(recipe(8), measured(speedup=2.0), training=summary, **changes)
        chosen = Chosen(digest=run.digest, meets_wishes=True, reason="it is") if is_chosen else None
        return record(run, chosen=chosen, study=study or {})

    return build


def texts_of(svg):
    return re.findall(r"<!-- (.*?) -->", svg)


def axes_of(record):
    with mpl.rc_context(STYLE):
        return training_svg._figure(record, shown_trainings(record)).axes[0]


def course(*losses):
    return tuple(CoursePoint(step=i, loss=loss, learning_rate=0.1) for i, loss in enumerate(losses, start=1))


def test_equal_records_give_equal_bytes(trained, drawn):
    assert drawn(trained) == drawn(trained.model_copy(deep=True))


def test_the_picture_names_each_training_and_what_happened(trained, drawn):
    texts = texts_of(drawn(trained))
    names = [shown.name for shown in shown_trainings(trained)]
    assert len(names) == 6 and set(names) <= set(texts)
    assert names[0].startswith("chosen: ")
    assert "int4, rolled back once" in names
    assert any(name.endswith(", given up at step 60 of 150") for name in names)


def test_a_line_has_the_points_of_the_course(one, training):
    summary = training(30)
    line = axes_of(one(summary)).lines[0]
    assert list(line.get_xdata()) == [point.step for point in summary.course]
    assert list(line.get_ydata()) == [point.loss for point in summary.course]


@pytest.mark.parametrize(("stopped_at", "marker"), [(None, "o"), (15, "X")])
def test_the_end_of_a_training_that_was_given_up_has_a_cross(one, training, stopped_at, marker):
    summary = training(30, stopped_at=stopped_at)
    end = axes_of(one(summary)).lines[1]
    assert end.get_marker() == marker
    assert list(end.get_xdata()) == [stopped_at or 30]


def test_the_chosen_training_has_its_own_colour_and_a_wider_line(one, training):
    plain, chosen = axes_of(one(training())).lines[0], axes_of(one(training(), is_chosen=True)).lines[0]
    assert chosen.get_color() == CHOSEN_COLOUR != plain.get_color()
    assert chosen.get_linewidth() > plain.get_linewidth()


@pytest.mark.parametrize(
    ("losses", "scale"),
    [
        pytest.param((3.0, 0.3), "log", id="a decade"),
        pytest.param((3.0, 0.4), "linear", id="less than a decade"),
        pytest.param((3.0, -0.1), "linear", id="a negative loss"),
        pytest.param((3.0, 0.0), "linear", id="a loss of zero"),
        pytest.param((0.5,), "linear", id="one point"),
    ],
)
def test_the_axis_is_logarithmic_where_losses_span_a_decade(one, drawn, losses, scale):
    study = one(TrainingSummary(n_steps=9, course=course(*losses)))
    assert axes_of(study).get_yscale() == scale
    assert "training step" in texts_of(drawn(study))


def test_marks_of_a_logarithmic_axis_are_plain_numbers(one, drawn):
    texts = texts_of(drawn(one(TrainingSummary(n_steps=9, course=course(3.0, 0.15)))))
    assert {"0.2", "0.5", "1", "2"} <= set(texts)
    assert not any("$" in text or "{" in text for text in texts)


@pytest.mark.parametrize("losses", [(3e38, 1e-38), (2e6, 1e-6), (-3e38, 3e38), (0.0, 0.0)])
def test_losses_of_any_size_are_drawn(one, drawn, losses):
    ElementTree.fromstring(drawn(one(TrainingSummary(n_steps=9, course=course(*losses)))))


def test_names_are_text_and_nothing_else(one, training, drawn):
    svg = drawn(one(training(), label="<script> $x^2$ \x00--", study={"task": "<script>--&"}))
    assert ElementTree.fromstring(svg).find(".//{http://www.w3.org/2000/svg}script") is None
    assert "<script" not in re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    assert any("$x^2$" in text for text in texts_of(svg))


@pytest.mark.parametrize("summary", [None, TrainingSummary(n_steps=9)], ids=["no training", "no course"])
def test_there_is_no_picture_without_a_course(one, tmp_path, summary):
    write_training_svg(one(summary), tmp_path / "training.svg")
    assert not list(tmp_path.iterdir())
