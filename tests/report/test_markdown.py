"""The report as a Markdown document."""

import pytest
from markdown_it import MarkdownIt

from autocompress.recipe import LayerRecipe, Recipe, Sparsification
from autocompress.record import Chosen
from autocompress.report import write_report_md
from autocompress.report.markdown import escape


@pytest.fixture(name="written")
def _written(tmp_path):
    def write(record):
        write_report_md(record, tmp_path / "report.md")
        return (tmp_path / "report.md").read_text()

    return write


@pytest.fixture(name="chosen_of")
def _chosen_of(record, make, recipe):
    def build(measurement, test=None, meets_wishes=True, **changes):
        run = make(changes.pop("recipe", recipe(8)), measurement)
        chosen = Chosen(digest=run.digest, meets_wishes=meets_wishes, reason="the reason", test=test)
        return record(run, chosen=chosen, **changes)

    return build


def row_of(text, start):
    rows = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    assert len(rows) == 1, rows
    return [cell.strip() for cell in rows[0].strip("|").split("|")]


def section(text, title):
    return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_the_headline_tells_the_numbers_of_the_test_split(chosen_of, measured, written):
    test = measured(speedup=(3.4, 3.3, 3.5), drop=(0.003, -0.001, 0.008), size_bytes=160_000, n_samples=5000)
    text = written(chosen_of(measured(speedup=9.0, drop=0.4), test=test))
    line = "3.40x [3.30, 3.50] faster than FP32, accuracy 0.30 points lower [-0.10, 0.80] on 5000 test samples, "
    assert (
        f"**{line}5.0x smaller**; measured on Intel(R) Xeon(R) Processor @ 2.60GHz, one thread, OpenVINO 2026.1.0"
        in text
    )


def test_the_headline_falls_back_to_the_validation_split_and_says_so(chosen_of, measured, written):
    text = written(chosen_of(measured(speedup=(3.4, 3.3, 3.5), n_samples=777)))
    assert "3.40x [3.30, 3.50] faster" in text
    assert "on 777 validation samples" in text
    assert "The test split was not measured." in text


def test_without_a_choice_the_headline_counts_what_was_tried(record, make, measured, recipe, written):
    text = written(record(make(recipe(8), measured(speedup=2.0)), make(recipe(4), None)))
    assert "**Nothing is chosen yet: 2 candidates measured, 1 failed**" in text
    assert "## Chosen recipe" not in text


@pytest.mark.parametrize(
    ("higher_is_better", "drop", "words"),
    [
        pytest.param(True, (0.003, -0.001, 0.008), "0.30 points lower [-0.10, 0.80]", id="worse accuracy"),
        pytest.param(True, (-0.003, -0.008, 0.001), "0.30 points higher [-0.10, 0.80]", id="better accuracy"),
        pytest.param(False, (0.003, -0.001, 0.008), "0.30 points higher [-0.10, 0.80]", id="worse error"),
        pytest.param(False, (-0.003, -0.008, 0.001), "0.30 points lower [-0.10, 0.80]", id="better error"),
    ],
)
def test_the_headline_says_which_way_the_score_went(chosen_of, measured, written, higher_is_better, drop, words):
    study = {"higher_is_better": higher_is_better, "score": "quality"}
    assert f"quality {words} on" in written(chosen_of(measured(drop=drop), study=study))


def test_a_slower_and_larger_choice_is_not_called_faster_or_smaller(chosen_of, measured, written):
    text = written(chosen_of(measured(speedup=0.5, size_bytes=1_600_000)))
    assert "0.50x [0.49, 0.51] the speed of FP32" in text
    assert "2.0x larger" in text


@pytest.mark.parametrize(
    ("meets_wishes", "words"), [(True, "holds: the reason."), (False, "does not hold: the reason.")]
)
def test_the_floor_is_stated_with_the_reason(chosen_of, measured, written, meets_wishes, words):
    text = written(chosen_of(measured(), meets_wishes=meets_wishes))
    assert f"The floor, a drop of at most 1.00 points, {words}" in text


@pytest.mark.parametrize(("high", "side"), [(0.008, "within"), (0.01, "within"), (0.012, "above")])
def test_the_bound_on_the_test_split_is_compared_with_the_floor(chosen_of, measured, written, high, side):
    text = written(chosen_of(measured(), test=measured(drop=(0.003, 0.0, high))))
    assert f"upper bound of the drop is {100 * high:.2f} points, {side} the floor" in text


def test_the_table_holds_the_numbers_of_a_candidate(record, make, measured, recipe, written):
    run = make(recipe(8), measured(speedup=(3.1, 3.04, 3.16), drop=(0.001, -0.002, 0.004), size_bytes=215_000))
    expected = ["yes", "short", "3.10x [3.04, 3.16]", "0.645", "0.10 [-0.20, 0.40]", "215.0", "12,345,678"]
    assert row_of(written(record(run)), run.digest)[1:] == expected


def test_the_table_lists_the_front_and_the_anchors_but_no_other_dominated_candidate(
    record, make, measured, recipe, written
):
    anchor = make(recipe(4), measured(speedup=2.0, drop=0.02, size_bytes=300_000), label="int4")
    hidden = make(recipe(3), measured(speedup=2.0, drop=0.02, size_bytes=300_000))
    best = make(recipe(8), measured(speedup=3.0, size_bytes=200_000))
    text = written(record(anchor, hidden, best))
    assert row_of(text, "int4")[1] == "no"
    assert row_of(text, best.digest)[1] == "yes"
    assert hidden.digest not in text


def test_a_failed_candidate_stands_under_failures_and_not_in_the_table(record, make, recipe, written):
    run = make(recipe(8), None)
    text = written(record(run))
    assert f"- {run.digest} (short): fine-tuning diverged: the loss is not finite" in section(text, "Failures")
    assert run.digest not in section(text, "Front")


def test_the_chosen_recipe_is_told_layer_by_layer_and_group_by_group(chosen_of, measured, written):
    layers = {"conv": LayerRecipe(weight_bits=4, activation_bits=8), "fc": LayerRecipe(weight_bits=8)}
    recipe = Recipe(layers=layers, pruning={"stem": 0.125})
    text = written(chosen_of(measured(float_layers=("fc",)), recipe=recipe))
    assert "2 of 7 layers quantized, 1 channel groups pruned." in text
    assert row_of(text, "conv") == ["conv", "4", "8", "as the recipe says"]
    assert row_of(text, "fc") == ["fc", "8", "float", "in floating point"]
    assert row_of(text, "stem") == ["stem", "12.5 %"]


def test_zipped_sizes_have_a_column_where_they_were_measured(record, make, measured, recipe, written):
    run = make(recipe(8), measured(speedup=3.0, size_bytes=215_000, zipped_bytes=180_400))
    text = written(record(run))
    assert "| size, kB | zipped size, kB | MACs |" in text
    assert row_of(text, run.digest)[6:] == ["215.0", "180.4", "12,345,678"]
    assert row_of(text, "fp32")[6:] == ["800.0", "", "12,345,678"]
    assert "zipped" not in written(record(make(recipe(8), measured(speedup=3.0))))


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        pytest.param((800_000, 720_000), (200_000, 90_000), ", 4.0x smaller (8.0x zipped)", id="smaller"),
        pytest.param((800_000, 720_000), (1_600_000, 1_440_000), ", 2.0x larger (2.0x zipped)", id="larger"),
        pytest.param((800_000, None), (200_000, 90_000), ", 4.0x smaller", id="a baseline of an older version"),
    ],
)
def test_the_headline_tells_how_much_smaller_the_zipped_files_are(
    record, make, measured, recipe, written, before, now, words
):
    run = make(recipe(8), measured(size_bytes=now[0], zipped_bytes=now[1]))
    baseline = make(Recipe(), measured(size_bytes=before[0], zipped_bytes=before[1]), label="fp32")
    chosen = Chosen(digest=run.digest, meets_wishes=True, reason="the reason")
    assert f"{words}**" in written(record(chosen=chosen, candidates=(baseline, run)))


def test_layers_that_are_only_sparse_or_of_low_rank_are_not_called_quantized(chosen_of, measured, written):
    layers = {
        "conv": LayerRecipe(sparsity=0.7),
        "fc": LayerRecipe(rank_ratio=0.25),
        "head": LayerRecipe(weight_bits=8, activation_bits=8, sparsity=0.5, rank_ratio=0.5),
    }
    text = written(chosen_of(measured(), recipe=Recipe(layers=layers)))
    assert "1 of 7 layers quantized, 2 sparse, 2 in low rank, 0 channel groups pruned." in text
    assert "| layer | weight bits | activation bits | zeros | rank | ran here |" in text
    assert row_of(text, "conv") == ["conv", "float", "float", "70 %", "", "as the recipe says"]
    assert row_of(text, "fc") == ["fc", "float", "float", "", "25 %", "as the recipe says"]
    assert row_of(text, "head") == ["head", "8", "8", "50 %", "50 %", "as the recipe says"]


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        pytest.param(
            Recipe(pruning={"stem": 0.5}, importance="geometric_median"),
            "The filters that stay were chosen by geometric median.",
            id="importance",
        ),
        pytest.param(
            Recipe(layers={"fc": LayerRecipe(sparsity=0.5)}, sparsification=Sparsification(pattern="2:4")),
            "chosen by magnitude in the pattern 2:4; schedule: polynomial, over the first 70 % of the training.",
            id="pattern",
        ),
        pytest.param(
            Recipe(
                layers={"fc": LayerRecipe(sparsity=0.5)},
                sparsification=Sparsification(
                    method="movement", structure="rows", schedule="exponential", initial_sparsity=0.1, end=1.0
                ),
            ),
            "Zeros were chosen by movement of whole rows; schedule: exponential, from 10 % over the whole training.",
            id="movement",
        ),
    ],
)
def test_the_chosen_recipe_tells_how_filters_and_zeros_were_chosen(chosen_of, measured, written, chosen, sentence):
    assert sentence in section(written(chosen_of(measured(), recipe=chosen)), "Chosen recipe")


def test_a_usual_recipe_has_no_words_about_methods_and_no_empty_columns(chosen_of, measured, written):
    text = section(written(chosen_of(measured())), "Chosen recipe")
    assert "chosen by" not in text and "zeros" not in text and "rank" not in text


def test_the_time_is_shared_out_longest_first_and_the_total_last(record, written):
    rows = section(written(record()), "Where the time went").split("\n| ")[3:]
    cells = [[cell.strip() for cell in row.strip(" |\n").split("|")] for row in rows]
    assert [cell[0] for cell in cells] == ["finetune", "latency", "evaluation", "prepare", "other", "total"]
    assert cells[0] == ["finetune", "300.0", "66.7 %"]
    assert cells[-1] == ["total", "450.0", "100.0 %"]


def test_an_unknown_phase_is_listed_and_a_missing_total_is_summed(record, written):
    text = written(record(seconds={"dreaming": 3.0, "latency": 1.0}))
    assert row_of(text, "dreaming") == ["dreaming", "3.0", "75.0 %"]
    assert row_of(text, "total")[1] == "4.0"


def test_each_interval_is_explained(record, written):
    text = written(record())
    assert "median of paired ratios, baseline latency / candidate latency, with its 95 % interval" in text
    assert "two-sided 90 % interval" in text


def test_findings_and_environment_are_listed(full, written):
    text = written(full)
    assert "- stem.conv is the most sensitive layer." in section(text, "Findings")
    assert "- Versions: openvino 2026.1.0, torch 2.9.0" in section(text, "Environment")


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "a | b",
        "[x](javascript:alert(1))",
        "![x](y)",
        "*bold* _soft_ __init__ layer_1 `code`",
        "# no heading",
        "[x]: http://example.org",
        "a & b &lt;",
        "back\\slash",
        "~~gone~~",
    ],
)
def test_escaped_text_shows_exactly_its_own_characters(text):
    inline = MarkdownIt("gfm-like", {"linkify": False}).parse("a " + escape(text))[1].children
    assert {token.type for token in inline} <= {"text", "text_special"}
    assert "".join(token.content for token in inline) == "a " + text


@pytest.mark.parametrize(
    "text", ["# heading", "[x]: http://example.org", "- list", "---", "> quote", "1. one", "    code"]
)
def test_a_line_of_the_user_makes_no_block_of_its_own_in_a_list(record, written, text):
    tokens = MarkdownIt().parse(section(written(record(findings=(text,))), "Findings"))
    assert [t.type for t in tokens].count("paragraph_open") == 1
    assert "heading_open" not in [t.type for t in tokens]
    assert [t.type for t in tokens].count("list_item_open") == 1


def test_a_pipe_in_a_name_adds_no_column(record, make, measured, recipe, written):
    run = make(recipe(8), measured(speedup=2.0), label="a|b")
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(written(record(run)))
    cells = [after.content for token, after in zip(tokens, tokens[1:], strict=False) if token.type == "td_open"]
    assert cells[:4] == [f"a|b ({run.digest})", "yes", "short", "2.00x [1.96, 2.04]"]


def test_the_picture_stands_beside_the_document(full, written):
    assert "![front](front.svg)" in written(full)


def test_two_records_that_are_equal_give_equal_documents(full, written):
    assert written(full) == written(full.model_copy(update={"seconds": dict(reversed(full.seconds.items()))}))


def test_a_row_tells_how_a_candidate_was_trained(record, make, measured, recipe, training, written):
    anchor = make(recipe(8), measured(speedup=3.0), label="int8", training=training(150, 2.0, 0.25))
    details = {"started_from": anchor.digest, "n_rollbacks": 1, "learning_rate": 2e-4}
    run = make(recipe(4), measured(speedup=4.0), training=training(300, 1.0, 0.125, **details))
    text = section(written(record(anchor, run)), "Training")
    assert "![course of the training](training.svg)" in text
    start = f"int8 ({anchor.digest[:6]})"
    assert row_of(text, run.digest) == [run.digest, "300", "2.0e-04", start, "1.00 → 0.131", "rolled back once"]
    assert row_of(text, "int8")[1:] == ["150", "5.0e-03", "FP32", "2.00 → 0.263", ""]


def test_the_chosen_training_is_marked(chosen_of, measured, training, written):
    study = chosen_of(measured(speedup=2.0))
    run = study.candidates[1].model_copy(update={"training": training()})
    text = section(written(study.model_copy(update={"candidates": (study.candidates[0], run)})), "Training")
    assert row_of(text, "**")[0] == f"**{run.digest}, chosen**"


def test_a_candidate_that_was_given_up_is_told_with_its_step(record, make, recipe, training, written):
    text = written(record(make(recipe(8), None, failure="it is hopeless", training=training(150, stopped_at=60))))
    assert "(short): given up at step 60 of 150: it is hopeless" in section(text, "Failures")
    assert "| given up at step 60 of 150 |" in section(text, "Training")
    assert "1 candidate was trained, 1 of them given up early." in section(text, "Training")


def test_trainings_that_are_neither_pictured_nor_on_the_front_are_counted_only(
    record, make, measured, recipe, training, written
):
    best = make(recipe(8), measured(speedup=9.0, size_bytes=1000), training=training())
    beaten = [make(recipe(8, stem=0.1 * i), measured(speedup=2.0, drop=0.1), training=training()) for i in range(1, 8)]
    text = section(written(record(best, *beaten)), "Training")
    listed = [run.digest for run in (best, *beaten) if f"| {run.digest} |" in text]
    assert listed == [best.digest, *(run.digest for run in beaten[:4])]
    assert "8 candidates were trained." in text


def test_trainings_without_a_course_have_a_table_but_no_picture(record, make, measured, recipe, training, written):
    run = make(recipe(8), measured(speedup=2.0), training=training(150, course=(), learning_rate=0.0))
    text = section(written(record(run)), "Training")
    assert "training.svg" not in text
    assert "| name | steps | started from |" in text


def test_a_dominated_training_without_a_course_is_counted(record, make, measured, recipe, training, written):
    run = make(recipe(8), measured(speedup=0.5, drop=0.1), training=training(150, course=()))
    text = section(written(record(run)), "Training")
    assert "|" not in text
    assert "1 candidate was trained." in text


def test_a_record_of_an_older_version_has_no_section_on_training(full, written):
    text = written(full)
    assert "## Training" not in text and "training.svg" not in text


def test_names_in_the_table_of_trainings_are_escaped(record, make, measured, recipe, training, written):
    start = make(recipe(8), measured(speedup=2.0), label="a|b <i>", training=training())
    run = make(recipe(4), measured(speedup=3.0), training=training(started_from=start.digest))
    text = section(written(record(start, run)), "Training")
    assert text.count(r"a\|b &lt;i&gt;") == 2
    assert "<i>" not in text
