"""The latency model: which channels are left, and what is learned from recipes whose true latency is known."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from autocompress.errors import MeasurementError
from autocompress.measure.latency_features import CLASSES, Architecture, Group, Unit, precision_class
from autocompress.measure.latency_model import LatencyModel, LatencySample, latency_key, quality
from autocompress.measure.latency_prior import prior_from_macs, prior_from_profiles
from autocompress.measure.latency_regression import Spread, condition, cross_validate
from autocompress.measurement import Speedup
from autocompress.recipe import LayerRecipe, Recipe

INTEGER = LayerRecipe(weight_bits=8, activation_bits=8)
KEY = {"architecture": "a", "cpu": "b", "openvino": "c", "threads": "1"}
N_UNITS = 12
WIDTH = 64


def chain() -> Architecture:
    """A chain of 3x3 convolutions at falling sizes; each but the last is a group that the next one reads."""
    units = []
    for i in range(N_UNITS):
        n_values = WIDTH * (16 >> i // 3) ** 2
        own, read = ({f"u{i}": 1.0} if i < N_UNITS - 1 else {}), ({f"u{i - 1}": 1.0} if i else {})
        macs = 9 * WIDTH * n_values
        units.append(Unit(f"u{i}", f"k{i % 2}", WIDTH, WIDTH, 9, macs, n_values, 1.0, own, read))
    return Architecture(tuple(units), tuple(Group(f"u{i}", WIDTH) for i in range(N_UNITS - 1)))


def truth(recipe: Recipe) -> float:
    """Latency of a recipe of `chain`, with an efficiency of its own for each unit, precision and part."""
    rng = np.random.default_rng(3)
    macs = [unit.macs for unit in chain().units]
    total = 0.08 + 0.002 * switches(recipe)
    for i in range(N_UNITS):
        share = 0.92 * macs[i] / sum(macs)
        efficiency = {32: rng.uniform(0.8, 1.2), 8: rng.uniform(0.3, 0.8)}
        kept = [
            8 * math.ceil((WIDTH - WIDTH * recipe.pruning.get(f"u{j}", 0.0)) / 8 - 1e-9) / WIDTH
            if j in range(11)
            else 1
            for j in (i, i - 1)
        ]
        work, write = 0.8 * kept[0] * kept[1], 0.2 * kept[0]
        total += share * efficiency[recipe.layer(f"u{i}").weight_bits] * (work + write)
    return total


def switches(recipe: Recipe) -> int:
    bits = [recipe.layer(f"u{i}").weight_bits for i in range(N_UNITS)]
    return sum(a != b for a, b in zip(bits, bits[1:], strict=False))


def recipes(n: int, seed: int) -> list[Recipe]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        share, mean = rng.random(), rng.uniform(0, 0.7)
        layers = {f"u{i}": INTEGER for i in range(N_UNITS) if rng.random() < share}
        ratios = {
            f"u{i}": float(np.clip(np.round(8 * (mean + rng.uniform(-0.3, 0.3))) / 8, 0, 0.875)) for i in range(11)
        }
        made.append(Recipe(layers=layers, pruning=ratios))
    return made


def measured(recipe: Recipe, noise: float = 0.0, seed: int = 0) -> LatencySample:
    value = float(np.exp(noise * np.random.default_rng([seed, int(recipe.digest(), 16) % 2**31]).normal())) / truth(
        recipe
    )
    width = math.exp(1.96 * noise)
    return LatencySample(recipe, Speedup(value=value, low=value / width, high=value * width, n_pairs=16))


def fitted(n: int = 80, noise: float = 0.01) -> LatencyModel:
    model = LatencyModel(chain(), key=KEY)
    model.fit([measured(recipe, noise) for recipe in recipes(n, 0)])
    return model


def errors(model: LatencyModel, tried: list[Recipe]) -> np.ndarray:
    return np.array([abs(model.predict(recipe) / truth(recipe) - 1) for recipe in tried])


def test_the_truth_is_learned_from_fewer_recipes_than_there_are_unknowns() -> None:
    assert np.median(errors(fitted(80), recipes(200, 1))) < 0.02


def test_more_recipes_give_smaller_errors_than_few() -> None:
    tried = recipes(200, 1)
    medians = [np.median(errors(fitted(n), tried)) for n in (10, 40, 160)]
    assert medians[0] > medians[1] > medians[2]


def test_cross_validation_says_how_large_the_error_on_new_recipes_is() -> None:
    model = fitted(80)
    quality_ = model.cv_error()
    fresh = np.median(errors(model, recipes(200, 1)))
    assert quality_.n_samples == 80
    assert 0.4 * fresh < quality_.median_error < 3 * fresh
    assert quality_.median_error < quality_.p90_error


def test_in_cross_validation_no_sample_has_a_say_in_its_own_prediction() -> None:
    rng = np.random.default_rng(0)
    columns = {"unit": rng.normal(size=(20, 3)), "kind": rng.normal(size=(20, 2))}
    mean, values, noise = np.ones(20), rng.uniform(0.5, 2, 20), np.full(20, 0.01)
    before = cross_validate(columns, mean, values, noise, 5, 0)
    values[7] *= 3
    after = cross_validate(columns, mean, values, noise, 5, 0)
    assert after[7] == before[7]
    assert (after != before).sum() >= 12


def test_predictions_rank_as_the_truth_does() -> None:
    model, tried = fitted(80), recipes(200, 1)
    assert spearmanr([model.predict(r) for r in tried], [truth(r) for r in tried])[0] > 0.99
    assert model.rank_correlation() > 0.97


def test_a_noisy_sample_counts_less_than_a_sharp_one() -> None:
    recipe = recipes(1, 5)[0]
    value = 0.95 / truth(recipe)
    predicted = []
    for width in (1.01, 1.5):
        model = fitted(40)
        model.update(recipe, Speedup(value=value, low=value / width, high=value * width, n_pairs=16))
        predicted.append(model.predict(recipe))
    assert predicted[0] > 1.005 * predicted[1]


def test_a_few_disturbed_samples_change_little() -> None:
    clean = [measured(recipe, 0.01) for recipe in recipes(80, 0)]
    disturbed = [
        LatencySample(
            s.recipe, Speedup(**{k: v / 2 for k, v in s.speedup.model_dump().items() if k != "n_pairs"}, n_pairs=9)
        )
        if i % 10 == 0
        else s
        for i, s in enumerate(clean)
    ]
    medians = []
    for samples in (clean, disturbed):
        model = LatencyModel(chain())
        model.fit(samples)
        medians.append(np.median(errors(model, recipes(200, 1))))
    assert medians[1] < 2 * medians[0] + 0.005


def test_the_standard_error_covers_the_error() -> None:
    model = fitted(80)
    pairs = [(model.predict_with_error(r), truth(r)) for r in recipes(300, 1)]
    z = np.array([(value - true) / error for (value, error), true in pairs])
    assert 0.6 < np.mean(np.abs(z) < 2) <= 1
    assert np.mean(np.abs(z) < 3) > 0.9


def test_an_unknown_precision_is_less_certain_than_a_known_one() -> None:
    model = fitted(80)
    names = [unit.name for unit in chain().units]
    known, unknown = (
        model.predict_with_error(Recipe(layers=dict.fromkeys(names, layer)))[1]
        for layer in (INTEGER, LayerRecipe(weight_bits=1, activation_bits=1))
    )
    assert unknown > 3 * known


def test_contributions_add_up_to_the_prediction() -> None:
    model = fitted()
    for recipe in recipes(20, 2):
        assert sum(model.contributions(recipe).values()) == pytest.approx(model.predict(recipe))


def test_tables_of_layers_add_up_to_the_prediction() -> None:
    model = fitted()
    for recipe in recipes(20, 2):
        total = model.contributions(recipe)[""]
        for i in range(N_UNITS):
            own, read = (recipe.pruning.get(f"u{j}", 0.0) for j in (i, i - 1))
            table = model.cost_table(f"u{i}", [own], [read])
            assert table.shape == (len(CLASSES), 1, 1)
            total += table[precision_class(recipe.layer(f"u{i}")), 0, 0]
        assert total == pytest.approx(model.predict(recipe))


def test_an_update_moves_the_prediction_to_what_was_measured() -> None:
    model, recipe = fitted(20), recipes(1, 9)[0]
    before = abs(model.predict(recipe) - truth(recipe))
    model.update(recipe, measured(recipe).speedup)
    assert len(model.samples) == 21
    assert abs(model.predict(recipe) - truth(recipe)) < before


def test_what_was_saved_predicts_the_same(tmp_path: Path) -> None:
    model = fitted(30)
    model.save(tmp_path / "latency.json")
    loaded = LatencyModel.load(tmp_path / "latency.json", KEY)
    for recipe in recipes(5, 3):
        assert loaded.predict_with_error(recipe) == pytest.approx(model.predict_with_error(recipe))
    assert loaded.samples == model.samples and loaded.architecture == model.architecture


DAMAGE: list[tuple[str, Callable[[str], str], dict[str, str] | None, str]] = [
    ("cut", lambda text: text[: len(text) // 2], KEY, "cannot be read"),
    ("without samples", lambda text: json.dumps({"key": KEY}), KEY, "cannot be read"),
    ("another processor", lambda text: text, {**KEY, "cpu": "x"}, "must be of cpu x, but is of b"),
    ("more threads", lambda text: text, {**KEY, "threads": "2"}, "must be of threads 2, but is of 1"),
]


@pytest.mark.parametrize(("damage", "key", "said"), [pytest.param(*row[1:], id=row[0]) for row in DAMAGE])
def test_a_file_that_does_not_fit_is_refused(
    tmp_path: Path, damage: Callable[[str], str], key: dict[str, str], said: str
) -> None:
    path = tmp_path / "latency.json"
    fitted(10).save(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(MeasurementError, match=said):
        LatencyModel.load(path, key)


def test_without_samples_the_baseline_takes_its_own_time() -> None:
    assert LatencyModel(chain()).predict(Recipe()) == pytest.approx(1.0)


def test_nothing_is_predicted_to_take_no_time() -> None:
    model = LatencyModel(chain())
    recipe = Recipe(pruning={f"u{i}": 0.9 for i in range(11)})
    model.fit([LatencySample(recipe, Speedup(value=1e6, low=1e6, high=1e6, n_pairs=9))])
    assert model.predict(recipe) > 0


def test_profiles_say_how_long_each_precision_takes() -> None:
    float_ms = {f"u{i}": 1.0 + i for i in range(N_UNITS)} | {"": 10.0}
    integer_ms = {f"u{i}": 0.25 * (1 + i) for i in range(N_UNITS)} | {"": 10.0}
    model = LatencyModel(chain(), prior_from_profiles(chain(), float_ms, integer_ms))
    total = sum(float_ms.values())
    assert model.predict(Recipe()) == pytest.approx(1.0)
    all_integer = Recipe(layers={f"u{i}": INTEGER for i in range(N_UNITS)})
    assert model.predict(all_integer) == pytest.approx(sum(integer_ms.values()) / total)
    assert model.contributions(Recipe(layers={"u3": INTEGER}))["u3"] < 0.5 * model.contributions(Recipe())["u3"]


def test_a_profile_without_times_is_refused() -> None:
    with pytest.raises(MeasurementError, match="above 0 ms in sum, but got 0"):
        prior_from_profiles(chain(), {"u0": 0.0}, {})


def test_a_layer_that_the_profile_lacks_is_priced_by_its_work() -> None:
    float_ms = {f"u{i}": 1.0 for i in range(1, N_UNITS)}
    prior = prior_from_profiles(chain(), float_ms, {})
    assert prior.units[0, 0] == pytest.approx(prior_from_macs(chain()).units[0, 0])


def test_cross_validation_needs_as_many_samples_as_folds() -> None:
    with pytest.raises(MeasurementError, match="5 folds needs as many samples, but got 3"):
        fitted(3).cv_error()


def test_a_table_of_an_unknown_layer_is_refused() -> None:
    with pytest.raises(MeasurementError, match="but got 'nowhere'"):
        fitted(8).cost_table("nowhere", [0.0], [0.0])


def test_channels_cost_in_steps_of_eight() -> None:
    unit = chain().units[3]
    costs = [unit.terms({"u3": removed})[2] for removed in (0, 7, 8, 9, 16)]
    assert costs == [1.0, 1.0, 0.875, 0.875, 0.75]


def test_the_key_says_what_latencies_hold_for() -> None:
    key = latency_key(chain(), "cpu", "1", 2)
    assert key == {"architecture": chain().digest(), "cpu": "cpu", "openvino": "1", "threads": "2"}


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=3, max_size=20))
def test_rank_correlation_is_that_of_scipy(pairs: list[tuple[int, int]]) -> None:
    predicted, true = (np.array(column, np.float64) for column in zip(*pairs, strict=True))
    found = quality(predicted, true).rank_correlation
    constant = len(set(predicted)) == 1 or len(set(true)) == 1
    assert found == pytest.approx(0.0 if constant else spearmanr(predicted, true)[0])


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_the_posterior_is_that_of_ridge_regression(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b, values = rng.normal(size=(9, 3)), rng.normal(size=(9, 2)), rng.uniform(0.5, 2, 9)
    noise, mean = rng.uniform(0.01, 0.1, 9), rng.uniform(0.5, 2, 9)
    spread = Spread(kind=0.3, unit=0.7, misfit=0.02)
    posterior = condition({"kind": a, "unit": b}, mean, values, noise, spread, n_passes=0)
    design = np.hstack([a, b])
    weights = np.diag(1 / ((noise**2 + 0.02**2) * values**2))
    penalty = np.diag([1 / 0.3**2] * 3 + [1 / 0.7**2] * 2)
    expected = np.linalg.solve(design.T @ weights @ design + penalty, design.T @ weights @ (values - mean))
    found = np.concatenate([posterior.coefficients(level) for level in ("kind", "unit")])
    assert found == pytest.approx(expected, abs=1e-6)
    left_out = posterior.weights[0] / np.diag(posterior.inverse)[0]
    rest = condition({"kind": a[1:], "unit": b[1:]}, mean[1:], values[1:], noise[1:], spread, n_passes=0)
    assert left_out == pytest.approx(values[0] - rest.predict({"kind": a[:1], "unit": b[:1]}, mean[:1])[0][0])
