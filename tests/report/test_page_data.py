"""What the page's script reads: numbers with intervals, what each layer gets, sensitivity, decisions, history."""

import json

import pytest

from autocompress.explanation import Explanation, NetLayer
from autocompress.measurement import Interval
from autocompress.pareto import bound_of_drop
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.report.page_data import page_data
from tests.report.conftest import LAYERS
from tests.report.pages import large_record


def test_numbers_have_their_intervals_and_words(record, make, measured):
    numbers = measured(speedup=(3.1, 3.04, 3.16), drop=(0.001, -0.002, 0.004), size_bytes=215_000, accuracy=0.899)
    run = page_data(record(make(Recipe(pruning={"stem": 0.125}), numbers)))["candidates"][1]
    assert (run["speedup"], run["drop"], run["held"]) == ([3.1, 3.04, 3.16], [0.001, -0.002, 0.004], None)
    assert run["latency"] == pytest.approx([2 / 3.1, 2 / 3.16, 2 / 3.04])
    cells = {name: run["cells"][name] for name in ("speedup", "drop", "size", "score", "zipped", "held")}
    assert cells == {
        "speedup": "3.10x [3.04, 3.16]",
        "drop": "0.10 [-0.20, 0.40]",
        "size": "215.0",
        "score": "0.8990",
        "zipped": "",
        "held": "",
    }


def test_failed_candidates_are_left_out(full):
    digests = [c["digest"] for c in page_data(full)["candidates"]]
    assert digests == [c.digest for c in full.candidates if c.measurement]


def test_layers_name_their_treatment_kernel_and_removed_filters(record, make, measured):
    layers = {"b": LayerRecipe(weight_bits=4, activation_bits=8, sparsity=0.5), "c": LayerRecipe(weight_bits=8)}
    numbers = measured(speedup=2.0, ran_in={"a": "f32", "b": "f32"}, float_layers=("b",))
    run = make(Recipe(layers=layers, pruning={"a": 0.25}), numbers)
    net = [NetLayer(name=name, kind="Conv2d", n_filters=64, group="a" if name in "ab" else "") for name in "cab"]
    data = page_data(record(run, explanation=Explanation(layers=tuple(net))))
    own = data["candidates"][1]
    assert [layer["name"] for layer in data["layers"]] == ["c", "a", "b"]
    assert [data["treatments"][i]["text"] for i in own["layers"]] == ["W8A32", "float", "W4A8 sparse 50 %"]
    assert [data["kernels"][i] for i in own["ran"]] == ["", "f32", "f32, asked for integers"]
    assert own["removed"] == {"1": 0.25, "2": 0.25}


def test_layers_of_older_records_come_from_the_recipes_by_name(record, make, measured):
    recipe = Recipe(layers={f"layer{i}": LayerRecipe(weight_bits=8) for i in (10, 9, 1)}, pruning={"layer9": 0.5})
    data = page_data(record(make(recipe, measured())))
    assert [layer["name"] for layer in data["layers"]] == ["layer1", "layer9", "layer10"]
    assert data["candidates"][1]["removed"] == {"1": 0.5}
    assert (data["units"]["explained"], data["units"]["rows"], data["units"]["sensitivity"]) == ("", [], [])
    assert (data["candidates"][1]["decisions"], data["forecasts"]) == (None, None)


def test_sensitivity_and_decisions_follow_the_units(explained):
    data = page_data(explained)
    units = data["units"]["sensitivity"]
    assert [unit["unit"] for unit in units] == list(LAYERS)
    assert units[1]["choices"] == ["float", "8 bits", "4 bits"]
    assert units[1]["learned"] == pytest.approx([0, 0.0002, 0.002])
    choices, drops, times, sizes = data["candidates"][0]["decisions"]
    assert (choices[:3], drops[:3], sizes[:3]) == ((0, 1, 2), (0.0, 0.0005, 0.001), (0, -10_000.0, -20_000.0))
    assert times[2] == -0.1


def test_the_history_of_the_search_ends_at_its_whole_hypervolume(full):
    history = page_data(full)["history"]
    assert history[-1][2] == 1
    assert [point[2] for point in history] == sorted(point[2] for point in history)


def test_bounds_of_the_page_are_those_of_the_choice(full):
    rule = page_data(full)["rule"]
    n = sum(c.measurement is not None for c in full.candidates) - 1
    drop = Interval(value=0.004, low=-0.001, high=0.009)
    assert drop.value + (drop.high - drop.value) * rule["compared"] / rule["half"] == bound_of_drop(drop, n)


def test_all_of_it_is_json(explained, trained):
    for study in (explained, trained, large_record(20, 10)):
        json.dumps(page_data(study), allow_nan=False)
