"""A study in sentences: each says what its own numbers say, and nothing where there is nothing to say."""

import pytest

from autocompress.measurement import Speedup
from autocompress.record import Chosen, FinalistPair, Finalists
from autocompress.report.story import (
    failures_sentence,
    floor_cost_sentence,
    int8_sentence,
    reached_sentence,
    search_sentence,
    story,
    time_sentence,
    undecided_sentences,
)


def chosen_is(candidate, test=None):
    return Chosen(digest=candidate.digest, meets_wishes=True, reason="the reason", test=test)


@pytest.fixture(name="two")
def _two(make, measured, recipe):
    """Plain INT8, and a pruned candidate that is faster."""
    int8 = make(recipe(8), measured(speedup=(3.0, 2.9, 3.1), drop=(0.001, -0.001, 0.004)), label="int8", n_steps=60)
    return int8, make(recipe(8, stem=0.25), measured(speedup=(4.5, 4.4, 4.6), drop=(0.002, 0.001, 0.005)))


def test_the_first_sentence_says_what_was_reached_and_where(record, measured, two):
    test = measured(speedup=(3.4, 3.3, 3.5), drop=(0.003, -0.001, 0.008), size_bytes=160_000, n_samples=5000)
    assert reached_sentence(record(*two, chosen=chosen_is(two[1], test))) == (
        "3.40x [3.30, 3.50] faster than FP32, accuracy 0.30 points lower [-0.10, 0.80] on 5000 test samples, "
        "5.0x smaller; measured on Intel(R) Xeon(R) Processor @ 2.60GHz, one thread, OpenVINO 2026.1.0."
    )


def test_where_the_baseline_is_chosen_it_says_so(record, two):
    study = record(*two)
    sentence = reached_sentence(study.model_copy(update={"chosen": chosen_is(study.baseline)}))
    assert sentence.startswith("The FP32 model is chosen: no compressed model")


def test_plain_int8_is_told_with_its_numbers_beside_the_choice(record, two):
    assert int8_sentence(record(*two, chosen=chosen_is(two[1]))) == (
        "Plain INT8, trained for 60 steps, would have been 3.00x [2.90, 3.10] faster than FP32, accuracy 0.10 points "
        "lower [-0.10, 0.40] on 1000 validation samples, 1.0x smaller; the choice is about 1.50x as fast as that. "
        "INT8 would have kept the floor."
    )


def test_the_choice_and_plain_int8_are_compared_in_the_same_rounds_where_there_were_some(record, two):
    pair = FinalistPair(faster=two[1].digest, slower=two[0].digest, ratio=ratio(1.4, 0.05))
    finalists = Finalists(digests=(two[1].digest, two[0].digest), pairs=(pair,))
    sentence = int8_sentence(record(*two, chosen=chosen_is(two[1]), finalists=finalists))
    assert "the choice is 1.40x [1.35, 1.45] as fast as that" in sentence


def test_plain_int8_that_breaks_the_floor_is_told_with_its_bound(record, make, measured, recipe):
    broken = make(recipe(8), measured(speedup=3.0, drop=(0.02, 0.015, 0.025)), label="int8")
    sentence = int8_sentence(record(broken))
    assert (
        "INT8 would not have kept the floor: the bound on its accuracy drop is 0.0250, above max_drop 0.01." in sentence
    )
    assert "the choice" not in sentence


@pytest.mark.parametrize(
    ("candidates", "chosen", "said"),
    [
        pytest.param(lambda two, make, recipe: [two[1]], 0, "", id="not tried"),
        pytest.param(
            lambda two, make, recipe: [make(recipe(8), None, label="int8", failure="a <b> stop.")],
            None,
            "Plain INT8 could not be measured: a <b> stop.",
            id="failed",
        ),
        pytest.param(
            lambda two, make, recipe: two,
            0,
            "The choice is plain INT8: 8-bit weights and inputs in every layer, nothing else.",
            id="chosen",
        ),
    ],
)
def test_plain_int8_that_was(record, two, make, recipe, candidates, chosen, said):
    made = candidates(two, make, recipe)
    assert int8_sentence(record(*made, chosen=None if chosen is None else chosen_is(made[chosen]))) == said


def ratio(value, half_width):
    return Speedup(value=value, low=value - half_width, high=value + half_width, n_pairs=100)


def test_candidates_timed_together_are_told_apart_by_their_ratio(record, make, measured, recipe):
    made = [make(recipe(8, stem=0.1 * i), measured(speedup=speed, drop=(0.003, 0.001, 0.005)), label=label)
            for i, (speed, label) in enumerate([(4.0, "first"), (3.99, "second"), (3.0, "third")])]  # fmt: skip
    first, second, third = (c.digest for c in made)
    pairs = (
        FinalistPair(faster=first, slower=second, ratio=ratio(1.002, 0.01)),
        FinalistPair(faster=first, slower=third, ratio=ratio(1.33, 0.01)),
        FinalistPair(faster=second, slower=third, ratio=ratio(1.01, 0.02)),
    )
    finalists = Finalists(digests=(first, second, third), pairs=pairs)
    study = record(*made, chosen=chosen_is(made[1]), finalists=finalists)
    assert undecided_sentences(study) == (
        f"The latency of the choice can't be told apart from that of first ({first}) and third ({third}).",
    )


def test_without_finalists_intervals_that_meet_are_not_told_apart(record, make, measured, recipe):
    speeds = [("mine", (4.0, 3.9, 4.1)), ("meets", (4.15, 4.05, 4.2)), ("beside", (4.3, 4.2, 4.4))]
    made = [
        make(recipe(8, stem=0.1 * i), measured(speedup=speed, drop=(0.003, 0.001, 0.005)), label=label)
        for i, (label, speed) in enumerate(speeds)
    ]
    (sentence,) = undecided_sentences(record(*made, chosen=chosen_is(made[0])))
    assert sentence == f"The latency of the choice can't be told apart from that of meets ({made[1].digest})."


@pytest.mark.parametrize(
    ("low", "high", "is_told"),
    [(0.0, 0.004, False), (-0.001, 0.0, False), (0.0001, 0.004, True), (-0.004, -0.0001, True)],
    ids=["from none up", "up to none", "above", "below"],
)
def test_a_drop_whose_interval_holds_none_is_open(record, measured, two, low, high, is_told):
    test = measured(drop=((low + high) / 2, low, high), n_samples=5000)
    said = "Whether the choice lost any accuracy can't be told from 5000 test samples."
    assert undecided_sentences(record(*two, chosen=chosen_is(two[1], test))) == (() if is_told else (said,))


def test_nothing_is_open_about_no_choice_and_about_the_baseline(record, two):
    study = record(*two)
    assert undecided_sentences(study) == ()
    assert undecided_sentences(study.model_copy(update={"chosen": chosen_is(study.baseline)})) == ()


@pytest.mark.parametrize(
    ("drop", "verdict"),
    [((0.009, 0.004, 0.015), "is not sure to keep it"), ((0.03, 0.02, 0.04), "breaks it")],
    ids=["unsure", "sure"],
)
def test_the_price_of_the_floor_is_the_next_faster_candidate(record, make, measured, recipe, two, drop, verdict):
    next_one = make(recipe(8, stem=0.5), measured(speedup=(5.0, 4.9, 5.1), drop=drop))
    nearly = make(recipe(8, stem=0.3), measured(speedup=(4.61, 4.55, 4.7), drop=(0.0285, 0.02, 0.035)))
    dominated = make(recipe(8, stem=0.4), measured(speedup=(4.8, 4.7, 4.9), drop=(0.08, 0.07, 0.09)))
    fastest = make(recipe(8, stem=0.6), measured(speedup=(9.0, 8.9, 9.1), drop=(0.2, 0.19, 0.21)))
    study = record(*two, next_one, fastest, dominated, nearly, chosen=chosen_is(two[1]))
    ends = {0.009: "0.90 [0.40, 1.50]", 0.03: "3.00 [2.00, 4.00]"}[drop[0]]
    assert floor_cost_sentence(study) == (
        "What the floor cost: the choice is the fastest that is sure to keep it, 4.50x [4.40, 4.60] at a drop of "
        f"0.20 [0.10, 0.50] points; the next that is certainly faster, {next_one.digest}, 5.00x [4.90, 5.10] at a drop "
        f"of {ends} points, {verdict}."
    )


def test_a_choice_by_other_wishes_does_not_change_the_price_of_the_floor(record, two):
    sentence = floor_cost_sentence(record(*two, chosen=chosen_is(two[0])))
    assert sentence.startswith(
        f"The floor cost no speed: {two[1].digest} is the fastest that is sure to keep it, 4.50x"
    )


def test_a_floor_that_nothing_breaks_cost_nothing(record, two):
    assert "cost no speed: the choice is" in floor_cost_sentence(record(*two, chosen=chosen_is(two[1])))


def test_a_floor_has_no_price_where_only_the_baseline_was_measured(record, make, recipe):
    assert floor_cost_sentence(record(make(recipe(8), None))) == ""


def test_the_time_is_told_by_group_the_largest_first(record):
    seconds = {"finetune": 60.0, "latency": 90.0, "damage table": 30.0, "total": 200.0}
    sentence = time_sentence(record(seconds=seconds))
    assert sentence == "It took 3.3 min: measuring 45 %, training 30 %, damage table 15 %, other 10 %."
    assert time_sentence(record(seconds={})) == ""


def test_the_search_is_told_by_its_hypervolume(record, make, measured, recipe):
    speeds = [(1.25, 1.0), (2.0, 3.0), (2.0, 1.0), (2.2, 5.0)]  # 1 - 1 / speed-up: 0.2, 0.5, 0.5, 0.545; 10 s before
    made = [
        make(recipe(8, stem=0.1 * i), measured(speedup=speed, drop=0.0), seconds={"finetune": spent})
        for i, (speed, spent) in enumerate(speeds)
    ]
    study = record(*made, study={"objectives": ("accuracy_drop", "latency")}, seconds={})
    assert search_sentence(study) == (
        "Search: 90 % of the final hypervolume was there after 2 of 4 candidates; the last quarter of their time added "
        "8.3 %."
    )


def test_a_search_that_found_nothing_says_so(record, make, measured, recipe):
    assert search_sentence(record(make(recipe(8), None))) == "No candidate but the FP32 model was measured."
    slow = make(recipe(8), measured(speedup=0.5))
    assert search_sentence(record(slow)).startswith(
        "None of 1 candidate is faster and smaller than FP32 at a drop below 5 points"
    )


def test_failures_are_counted_with_their_most_frequent_reason(record, make, recipe):
    one = [make(recipe(bits), None, failure=f"out of memory at {bits} GB.") for bits in (2, 3)]
    assert failures_sentence(record(*one)) == "2 of 3 candidates failed: out of memory at 2 GB."
    other = make(recipe(4), None, failure="lost")
    sentence = failures_sentence(record(other, *one))
    assert sentence == "3 of 4 candidates failed, 2 of them for one reason: out of memory at 2 GB."
    assert failures_sentence(record()) == ""


def test_the_story_has_the_sentences_in_order_and_no_empty_one(full):
    sentences = story(full)
    starts = [
        "4.20x",
        "The floor, a drop",
        "Plain INT8",
        "Whether",
        "What the floor cost",
        "It took",
        "Search",
        "3 of 26",
    ]
    assert [s.startswith(start) for s, start in zip(sentences, starts, strict=True)] == [True] * len(starts)


def test_every_sentence_is_one_line_that_ends(record, make, measured, recipe):
    evil = make(recipe(8), measured(speedup=3.0), label="int8\n# <b>\x00")
    study = record(evil, make(recipe(4), None, failure="a\nb\x07"), chosen=chosen_is(evil))
    assert all(s.isprintable() and s.endswith(".") for s in story(study))
    assert all(s.isprintable() and s.endswith(".") for s in story(record()))
