"""Sentences that a user should read, drawn from numbers."""

from typing import Any

import pytest

from autocompress.measurement import Environment
from autocompress.pareto import Candidate
from autocompress.recipe import LayerRecipe, Recipe
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


def test_exact_weights_are_not_called_saturated() -> None:
    assert "agrees with torch" not in said(measured(INT7, agreement=0.9), saturates=True)


def test_a_drop_on_test_above_the_floor_is_said() -> None:
    assert "above the floor of 0.01" in findings.about_test(measurement(0.02), 0.01)[0]
    assert findings.about_test(measurement(0.01), 0.01) == []


def test_many_layers_left_alone_are_shortened() -> None:
    layers = [f"layer {i} stays float: it is shared" for i in range(7)]
    shortened = findings._shortened(layers)
    assert shortened[:4] == layers[:4] and "and 3 more" in shortened[4]
