"""Recipes in words: bits, zeros, rank, filters, and how they are chosen."""

import pytest

from autocompress.recipe import LayerRecipe, Recipe, Sparsification
from autocompress.report.wording import recipe_brief, recipe_lines

SPARSE, LOW_RANK = LayerRecipe(sparsity=0.7), LayerRecipe(rank_ratio=0.25)
BOTH = LayerRecipe(weight_bits=8, activation_bits=8, sparsity=0.5, rank_ratio=0.5)
FORCED = Sparsification(method="movement", structure="rows")


@pytest.mark.parametrize(
    ("recipe", "lines", "brief"),
    [
        pytest.param(Recipe(), ["float: 4 layers"], "as it is", id="nothing"),
        pytest.param(
            Recipe(layers={"a": SPARSE, "b": LOW_RANK, "c": BOTH}),
            ["W8A8 sparse 50 % rank 50 %: c", "float rank 25 %: b", "float sparse 70 %: a", "float: 1 layer"],
            "W8A8 sparse 50 % rank 50 % ×1, float rank 25 % ×1, float sparse 70 % ×1",
            id="zeros and rank",
        ),
        pytest.param(
            Recipe(layers={"a": SPARSE}, sparsification=Sparsification(scope="global")),
            ["float sparse 70 %: a", "float: 3 layers", "zeros chosen by magnitude over all sparse layers together"],
            "float sparse 70 % ×1",
            id="global zeros",
        ),
        pytest.param(
            Recipe(layers={"a": SPARSE}, pruning={"b": 0.5}, importance="l2", sparsification=FORCED),
            [
                *("float sparse 70 %: a", "float: 3 layers", "50 % of filters removed: b"),
                *("filters chosen by L2 norm", "zeros chosen by movement of whole rows"),
            ],
            "float sparse 70 % ×1, pruned 50 %",
            id="methods",
        ),
    ],
)
def test_a_recipe_in_words(recipe: Recipe, lines: list[str], brief: str) -> None:
    assert recipe_lines(recipe, n_layers=4) == lines
    assert recipe_brief(recipe) == brief
