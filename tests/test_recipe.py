"""Recipes: laws, equality, digest and YAML."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from autocompress.errors import RecipeError
from autocompress.recipe import INTEGER_BITS, Calibration, LayerRecipe, Recipe

bits = st.sampled_from((32, *INTEGER_BITS))
names = st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1, max_size=12)
recipes = st.builds(
    Recipe,
    layers=st.dictionaries(names, st.builds(LayerRecipe, weight_bits=bits, activation_bits=bits), max_size=4),
    pruning=st.dictionaries(names, st.floats(0, 1, exclude_max=True), max_size=4),
)


@given(recipes)
def test_a_recipe_survives_yaml_and_json(recipe: Recipe) -> None:
    for again in (Recipe.from_yaml(recipe.to_yaml()), Recipe.model_validate_json(recipe.model_dump_json())):
        assert again == recipe
        assert again.digest() == recipe.digest()
        assert hash(again) == hash(recipe)


@given(recipes, recipes)
def test_digests_are_equal_exactly_for_equal_recipes(a: Recipe, b: Recipe) -> None:
    assert (a.digest() == b.digest()) == (a == b)


def test_the_order_and_what_does_nothing_make_no_difference() -> None:
    w8 = LayerRecipe(weight_bits=8)
    a = Recipe(layers={"x": w8, "y": w8, "z": LayerRecipe()}, pruning={"g": 0.5, "h": 0.0})
    b = Recipe(layers={"y": w8, "x": w8}, pruning={"g": 0.5})
    assert a == b
    assert a.digest() == b.digest()
    assert list(a.layers) == ["x", "y"]


def test_the_digest_is_stable_across_versions() -> None:
    """Folders of old studies are found by it."""
    assert Recipe().digest() == hashlib.sha256(b'{"layers": {}, "pruning": {}}').hexdigest()[:12] == "28c3defeeda5"


@pytest.mark.parametrize(
    ("content", "where"),
    [
        pytest.param(
            {"layers": {"a": {"weight_bits": 9}}},
            "layers.a.weight_bits: must be one of 2..8, 32 (float) or 1 (binary), but got 9",
        ),
        pytest.param(
            {"layers": {"a": {"weight_bits": 0}}},
            "layers.a.weight_bits: must be one of 2..8, 32 (float) or 1 (binary), but got 0",
        ),
        pytest.param(
            {"layers": {"a": {"activation_bits": 16}}}, "must be one of 2..8, 32 (float) or 1 (binary), but got 16"
        ),
        pytest.param(
            {"layers": {"a": {"weight_bits": True}}},
            "layers.a.weight_bits: Input should be a valid integer, but got True",
        ),
        pytest.param(
            {"layers": {"a": {"weight_bits": 8, "activation_bits": 1}}},
            "layers.a: activation_bits of 1 needs weight_bits of 1, but got 8",
        ),
        pytest.param(
            {"layers": {"a": {"weight_bits": 4, "activation_bits": 8, "group_size": 32}}},
            "layers.a: group_size needs activation_bits of 32, but got 8",
        ),
        pytest.param(
            {"layers": {"a": {"weight_bits": 4, "weight_granularity": "per_tensor", "group_size": 32}}},
            "layers.a: group_size needs weight_bits in 2..8 and weight_granularity per_channel",
        ),
        pytest.param({"layers": {"a": {"weight_bits": 4, "group_size": -1}}}, "layers.a.group_size"),
        pytest.param({"calibration": {"rounding": "up"}}, "calibration.rounding: Input should be 'nearest' or 'gptq'"),
        pytest.param({"calibration": {"smoothing": 1.5}}, "calibration.smoothing"),
        pytest.param({"layers": {"a": {"bits": 8}}}, "layers.a.bits: Extra inputs are not permitted, but got 8"),
        pytest.param({"pruning": {"g": 1.0}}, "pruning.g: Input should be less than 1, but got 1.0"),
        pytest.param({"pruning": {"g": -0.1}}, "pruning.g: Input should be greater than or equal to 0"),
        pytest.param({"pruning": {"g": float("nan")}}, "pruning.g"),
        pytest.param({"sparsity": 0.5}, "sparsity: Extra inputs are not permitted"),
        pytest.param({"layers": [1]}, "layers: Input should be a valid"),
        pytest.param([1, 2], "document: Input should be a valid dictionary"),
    ],
)
def test_a_broken_law_is_named_with_its_place(content: Any, where: str) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate(content)
    yaml_text = str(content).replace("True", "true").replace("nan", ".nan")
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(yaml_text, "my.yaml")
    assert str(caught.value).startswith("my.yaml: ")
    assert where in str(caught.value)


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "layers: {}\nlayers: {}", "\t- x: ["])
def test_text_that_is_no_yaml_is_an_error(text: str) -> None:
    with pytest.raises(RecipeError, match="^here is not a YAML document"):
        Recipe.from_yaml(text, "here")


def test_an_empty_document_is_the_identity() -> None:
    assert Recipe.from_yaml("") == Recipe()
    assert Recipe().is_identity
    assert not Recipe(pruning={"g": 0.1}).is_identity
    assert not Recipe(layers={"a": LayerRecipe(activation_bits=8)}).is_identity


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Recipe().layers = {}  # type: ignore[misc]
    with pytest.raises(ValidationError):
        LayerRecipe().weight_bits = 8  # type: ignore[misc]


def test_two_recipes_share_no_default() -> None:
    assert Recipe().layers is not Recipe().layers


def test_a_layer_that_is_not_named_stays_float() -> None:
    recipe = Recipe(layers={"a": LayerRecipe(weight_bits=4)})
    assert recipe.layer("a").weight_bits == 4
    assert recipe.layer("b").is_float


def test_a_recipe_is_read_from_a_file(tmp_path: Path) -> None:
    recipe = Recipe(layers={"größe": LayerRecipe(weight_bits=4, activation_bits=8)}, pruning={"g": 0.25})
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.read(path) == recipe


@pytest.mark.parametrize("kind", ["missing", "a folder", "binary"])
def test_a_file_that_cannot_be_read_is_an_error(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    if kind == "a folder":
        path.mkdir()
    elif kind == "binary":
        path.write_bytes(b"\xff\xfe\x00\x9d")
    with pytest.raises(RecipeError, match=r"recipe\.yaml cannot be read: .*give the path of a recipe\.yaml"):
        Recipe.read(path)


def test_what_has_its_default_is_not_written() -> None:
    recipe = Recipe(layers={"a": LayerRecipe(weight_bits=8, activation_bits=8)})
    assert recipe.model_dump() == {"layers": {"a": {"weight_bits": 8, "activation_bits": 8}}, "pruning": {}}


def test_options_are_written_and_read_back() -> None:
    layer = LayerRecipe(weight_bits=4, weight_scheme="asymmetric", group_size=32)
    recipe = Recipe(layers={"a": layer}, calibration=Calibration(rounding="gptq", smoothing=0.5))
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert recipe.digest() != Recipe(layers={"a": layer}).digest()


@pytest.mark.parametrize(
    ("layer", "same"),
    [
        pytest.param(LayerRecipe(weight_bits=8, activation_scheme="symmetric"), LayerRecipe(weight_bits=8), id="input"),
        pytest.param(LayerRecipe(weight_bits=8, binarization="dorefa"), LayerRecipe(weight_bits=8), id="binarization"),
        pytest.param(LayerRecipe(weight_bits=1, weight_scheme="asymmetric"), LayerRecipe(weight_bits=1), id="scheme"),
    ],
)
def test_options_without_effect_don_t_make_another_recipe(layer: LayerRecipe, same: LayerRecipe) -> None:
    assert Recipe(layers={"a": layer}).digest() == Recipe(layers={"a": same}).digest()


def test_a_calibration_of_nothing_does_not_make_another_recipe() -> None:
    assert Recipe(calibration=Calibration(rounding="gptq")) == Recipe()
