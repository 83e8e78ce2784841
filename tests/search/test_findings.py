"""Sentences that a user should read, drawn from numbers."""

import re
from typing import Any

import pytest

from autocompress.measurement import Environment, Interval
from autocompress.pareto import Candidate
from autocompress.recipe import LayerRecipe, Recipe, Sparsification
from autocompress.search import findings
from tests.examples import candidate, measurement, record

INT8 = Recipe(layers={"conv": LayerRecipe(weight_bits=8, activation_bits=8)})
INT7 = Recipe(layers={"conv": LayerRecipe(weight_bits=7, activation_bits=8)})
INT4 = Recipe(layers={"conv": LayerRecipe(weight_bits=4, activation_bits=8)})


def measured(recipe: Recipe, label: str = "", speed: float = 2.0, **changes: Any) -> Candidate:
    return candidate("a", 0.0, speed, recipe=recipe, label=label).model_copy(
        update={"measurement": measurement(0.0, speed, **changes)}
    )


def said(*candidates: Candidate, saturates: bool = False) -> str:
    environment: Environment = record().environment.model_copy(update={"int8_saturates": saturates})
    return "\n".join(findings.about_candidates(candidates, environment))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param(said(measured(INT8)), "", id="nothing to say"),
        pytest.param(said(measured(INT8), saturates=True), "7-bit weights are exact", id="saturating CPU"),
        pytest.param(said(measured(INT8, agreement=0.9), saturates=True), "90.0% of the samples", id="saturated model"),
        pytest.param(said(measured(INT8, float_layers=("conv",))), "ran in floating point: conv", id="float kernels"),
        pytest.param(said(measured(INT8, "int8", 0.8)), "slower than FP32 on this CPU: 0.80x", id="slow INT8"),
        pytest.param(said(measured(INT4)), "weights below 7 bits make the files smaller", id="4-bit weights"),
        pytest.param(said(candidate("b")), "1 candidates failed; the last because it crashed", id="failures"),
    ],
)
def test_what_was_measured_is_said(text: str, sentence: str) -> None:
    assert sentence in text and bool(sentence) == bool(text)


SPARSE = Recipe(layers={"conv": LayerRecipe(weight_bits=8, activation_bits=8, sparsity=0.7)})
ONLY_SPARSE = Recipe(layers={"conv": LayerRecipe(sparsity=0.5)})
SIZES = {"size_bytes": 200_000, "zipped_bytes": 90_000}
FULL = {"size_bytes": 210_000, "zipped_bytes": 180_000}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param(
            said(measured(SPARSE, speed=2.02, **SIZES), measured(INT8, **FULL)),
            "sparse weights make the zipped files smaller, not the model faster on this CPU: against the same recipe "
            "without zeros the speed-up of a with up to 70% zeros went from 2.00x to 2.02x, its files went from "
            "210.0 kB to 200.0 kB, zipped from 180.0 kB to 90.0 kB",
            id="beside the same recipe without zeros",
        ),
        pytest.param(
            said(measured(SPARSE, speed=3.0, **SIZES), measured(INT8, **FULL)),
            "sparse weights make the zipped files smaller: against the same recipe without zeros the speed-up",
            id="where zeros are faster after all",
        ),
        pytest.param(
            said(measured(ONLY_SPARSE, **SIZES), measured(INT8, **FULL)),
            "sparse weights make the zipped files smaller; zeros are multiplied like all other weights: the files of a "
            "with up to 50% zeros take 200.0 kB, zipped 90.0 kB",
            id="with nothing to compare",
        ),
        pytest.param(
            said(measured(ONLY_SPARSE, size_bytes=200_000)),
            "take 200.0 kB",
            id="of an older version without zipped size",
        ),
    ],
)
def test_zeros_are_said_to_be_for_size(text: str, sentence: str) -> None:
    assert text.startswith(sentence) or text.endswith(sentence)


def test_nothing_is_said_of_zeros_that_come_in_whole_rows() -> None:
    rows = Sparsification(method="movement", structure="rows")
    assert said(measured(ONLY_SPARSE.model_copy(update={"sparsification": rows}), **SIZES)) == ""


def test_layers_that_are_only_sparse_do_not_saturate() -> None:
    assert "agrees with torch" not in said(measured(ONLY_SPARSE, agreement=0.9, **SIZES), saturates=True)


def test_exact_weights_are_not_called_saturated() -> None:
    assert "agrees with torch" not in said(measured(INT7, agreement=0.9), saturates=True)


def test_a_drop_on_test_above_the_floor_is_said() -> None:
    assert "above the floor of 0.01" in findings.about_test(measurement(0.02), 0.01)[0]
    assert findings.about_test(measurement(0.01), 0.01) == []


def test_many_layers_left_alone_are_shortened() -> None:
    layers = [f"layer {i} stays float: it is shared" for i in range(7)]
    shortened = findings._shortened(layers)
    assert shortened[:4] == layers[:4] and "and 3 more" in shortened[4]


def unsure(speed: float, value: float, high: float) -> Candidate:
    drop = Interval(value=value, low=value - (high - value), high=high)
    return measured(INT8, speed=speed, selection_drop=drop, n_samples=3000)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        pytest.param(
            unsure(4.0, 0.0056, 0.0112), "4.00x.*with 3000 .* bound is 0.0112; about 4,900", id="too few samples"
        ),
        pytest.param(unsure(4.0, 0.012, 0.02), "", id="too much is lost"),
        pytest.param(unsure(4.0, 0.002, 0.008), "", id="it keeps the floor"),
        pytest.param(unsure(2.05, 0.0056, 0.0112), "", id="hardly faster"),
        pytest.param(measured(INT8, speed=4.0), "", id="no data of its own"),
    ],
)
def test_a_faster_candidate_that_only_the_error_kept_out_is_named(other: Candidate, sentence: str) -> None:
    found = findings.about_floor([other, candidate("failed")], unsure(2.0, 0.0, 0.005), 0.01)
    assert re.search(sentence, " ".join(found)) and bool(found) == bool(sentence)
