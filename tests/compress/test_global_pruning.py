"""Pruning ratios from one ranking over all groups."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autocompress.compress.filter_pruning import global_pruning_ratios, n_kept, prune_filters
from autocompress.compress.importance import importance_scores
from autocompress.errors import CompressionError
from autocompress.graph import inspect_model
from autocompress.recipe import Recipe
from tests.nets import NETS


@st.composite
def ranked_groups(draw: st.DrawFn) -> tuple[dict[str, Tensor], dict[str, int]]:
    scores, units = {}, {}
    for index in range(draw(st.integers(1, 5))):
        unit = draw(st.sampled_from([1, 1, 1, 4, 12]))
        n_channels = unit * draw(st.integers(1, 40 if unit == 1 else 5))
        values = draw(st.lists(st.integers(0, 20), min_size=n_channels, max_size=n_channels))
        scores[f"g{index}"], units[f"g{index}"] = torch.tensor(values, dtype=torch.float), unit
    return scores, units


def kept_by(ratios: dict[str, float], scores: dict[str, Tensor], units: dict[str, int]) -> dict[str, int]:
    return {name: n_kept(len(scores[name]), ratios.get(name, 0.0), units[name]) for name in scores}


def next_steps(values: list[float], unit: int) -> list[tuple[float, int]]:
    """Mean score and number of the channels of each step that a group may lose, by the definition."""
    step = 8 if unit == 1 else unit
    units = sorted(sum(values[i : i + unit]) for i in range(0, len(values), unit))
    mean = sum(units) / len(units) or 1.0
    ranked = [u / mean for u in units for _ in range(unit)]
    counts = [n for n in range(len(values), 0, -1) if n % step == 0 or n == len(values)]
    ends = [len(values) - n for n in counts]
    return [(sum(ranked[a:b]) / (b - a), b - a) for a, b in zip(ends, ends[1:], strict=False)]


@given(ranked_groups(), st.integers(0, 99))
def test_global_ranking_removes_what_was_asked_and_keeps_every_floor(groups: Any, percent: int) -> None:
    scores, units = groups
    ratios = global_pruning_ratios(scores, units, None, percent / 100)
    kept = kept_by(ratios, scores, units)
    total = sum(map(len, scores.values()))
    floors = {name: min(len(s), 8 if units[name] == 1 else units[name]) for name, s in scores.items()}
    assert all(floors[name] <= kept[name] <= len(scores[name]) for name in scores)
    assert all(0 < ratio < 1 for ratio in ratios.values())
    assert all(kept[name] == pytest.approx(len(scores[name]) * (1 - ratio)) for name, ratio in ratios.items())
    missing = percent / 100 * total - (total - sum(kept.values()))
    assert abs(missing) <= 6 + 1e-9 or kept == floors
    assert missing >= -6


@given(ranked_groups(), st.integers(0, 99))
def test_global_ranking_is_one_threshold_over_all_groups(groups: Any, percent: int) -> None:
    scores, units = groups
    kept = kept_by(global_pruning_ratios(scores, units, None, percent / 100), scores, units)
    gone, left = [], []
    for name, values in scores.items():
        at = len(values)
        for score, n_channels in next_steps(values.tolist(), units[name]):
            (gone if at > kept[name] else left).append(score)
            at -= n_channels
    assert max(gone, default=0.0) <= min(left, default=math.inf) + 1e-9


@given(ranked_groups(), st.integers(0, 98))
def test_a_higher_global_ratio_keeps_no_more_of_any_group(groups: Any, percent: int) -> None:
    scores, units = groups
    less, more = (
        kept_by(global_pruning_ratios(scores, units, None, p / 100), scores, units) for p in (percent, percent + 1)
    )
    assert all(more[name] <= less[name] for name in scores)


GLOBAL = {"low": torch.tensor([0.1] * 8 + [1.9] * 24), "even": torch.ones(32)}


@pytest.mark.parametrize(
    ("scores", "units", "macs", "ratio", "expected"),
    [
        pytest.param(GLOBAL, {}, None, 0.0, {}, id="nothing asked"),
        pytest.param(GLOBAL, {}, None, 0.125, {"low": 0.25}, id="the eight lowest"),
        pytest.param(GLOBAL, {}, None, 0.05, {}, id="nearer to nothing"),
        pytest.param(GLOBAL, {}, None, 0.0625, {}, id="a tie, which keeps more"),
        pytest.param(GLOBAL, {}, None, 0.25, {"low": 0.25, "even": 0.25}, id="then those of mean importance"),
        pytest.param(GLOBAL, {}, None, 0.5, {"low": 0.25, "even": 0.75}, id="down to the floor of one"),
        pytest.param(GLOBAL, {}, None, 0.99, {"low": 0.75, "even": 0.75}, id="down to every floor"),
        pytest.param({"a": torch.ones(8), "b": torch.ones(3)}, {}, None, 0.9, {}, id="all at their floor"),
        pytest.param({"a": torch.zeros(16)}, {}, None, 0.5, {"a": 0.5}, id="zeros only"),
        pytest.param(
            {"a": torch.ones(16), "b": torch.ones(16) * 100}, {}, None, 0.25, {"a": 0.5}, id="scales are no matter"
        ),
        pytest.param({"a": torch.ones(20)}, {}, None, 0.2, {"a": 0.2}, id="to a multiple of eight"),
        pytest.param({"a": torch.arange(48.0)}, {"a": 12}, None, 0.5, {"a": 0.5}, id="units"),
        pytest.param(GLOBAL, {}, {"low": 300, "even": 100}, 0.1875, {"low": 0.25}, id="of MACs"),
        pytest.param(GLOBAL, {}, {"low": 100, "even": 300}, 0.25, {"low": 0.25, "even": 0.25}, id="of other MACs"),
    ],
)
def test_global_ratios(scores: Any, units: Any, macs: Any, ratio: float, expected: dict[str, float]) -> None:
    assert global_pruning_ratios(scores, units, macs, ratio) == pytest.approx(expected)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, math.nan])
def test_a_global_ratio_outside_its_range_is_refused(ratio: float) -> None:
    with pytest.raises(CompressionError, match=r"pruning_ratio must be in \[0, 1\), but got"):
        global_pruning_ratios(GLOBAL, {}, None, ratio)


def test_global_ratios_prune_a_model_as_they_say() -> None:
    net = NETS["residual"]
    model, x = net.build(), net.inputs()
    groups = [group.name for group in inspect_model(model, x).prunable]
    ratios = global_pruning_ratios(importance_scores(model, x, "l2", groups), {}, None, 0.5)
    removed = prune_filters(model, x, Recipe(pruning=ratios).pruning, "l2")
    assert sum(map(len, removed.values())) == 24
