"""The drop of a score on the same samples: value, bound, and how often the bound holds."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from autocompress import Score, Task, top1_accuracy
from autocompress.errors import MeasurementError
from autocompress.measure import Predictions, accuracy_drop, discordant_pairs, mcnemar_p
from autocompress.measure.paired_drop import drop_of_counts, drop_of_values
from tests.tiny import tiny

Z = stats.norm.ppf(0.95)


def predictions(n_wrong: int, n: int = 400, seed: int = 0, sharpness: float = 1.0) -> Predictions:
    targets = torch.arange(n) % 4
    outputs = sharpness * torch.nn.functional.one_hot(targets, 4).float()
    wrong = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:n_wrong]
    outputs[wrong] = outputs[wrong].roll(1, dims=1)
    return Predictions(outputs, targets)


def scored(score: Callable[[Any, Any], float], higher_is_better: bool = True, **others: Any) -> Task:
    return replace(tiny(), score=Score(score, higher_is_better=higher_is_better, **others))


def error_rate(outputs: Tensor, targets: Tensor) -> float:
    return float((outputs.argmax(1) != targets).double().mean())


def is_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.argmax(1) != targets


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    return 1 - error_rate(outputs, targets)


def squared_errors(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square()


def mean_squared_error(outputs: Tensor, targets: Tensor) -> float:
    return float(squared_errors(outputs, targets).double().mean())


def macro_f1(outputs: Tensor, targets: Tensor) -> float:
    found = outputs.argmax(1)
    scores = []
    for c in range(4):
        hits = ((found == c) & (targets == c)).sum()
        scores.append(2 * hits / ((found == c).sum() + (targets == c).sum()))
    return float(torch.stack(scores).mean())


def test_a_drop_is_positive_when_worse() -> None:
    drop = accuracy_drop(tiny(), predictions(20), predictions(60))
    assert drop.value == pytest.approx(0.1)
    assert 0 < drop.low < drop.value < drop.high


TASKS = [
    pytest.param(tiny(), scored(error_rate, False, per_sample=is_error), id="right and wrong"),
    pytest.param(scored(accuracy), scored(error_rate, False), id="whole score"),
]


@pytest.mark.parametrize(("higher", "lower"), TASKS)
def test_a_score_and_its_mirror_have_the_same_drop(higher: Task, lower: Task) -> None:
    pair = predictions(20), predictions(60, seed=1)
    a, b = (accuracy_drop(task, *pair, max_seconds=0.0) for task in (higher, lower))
    assert (b.value, b.low, b.high) == pytest.approx((a.value, a.low, a.high))


@pytest.mark.parametrize("by_sample", [True, False], ids=["by sample", "whole score"])
def test_models_exchanged_have_the_mirrored_drop(by_sample: bool) -> None:
    task = tiny() if by_sample else scored(accuracy)
    a, b = predictions(20), predictions(60, seed=1)
    there, back = accuracy_drop(task, a, b, max_seconds=0.0), accuracy_drop(task, b, a, max_seconds=0.0)
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low), abs=2e-4)


def test_one_model_has_no_drop_and_no_spread() -> None:
    drop = accuracy_drop(tiny(), predictions(20), predictions(20))
    assert (drop.value, drop.low, drop.high) == (0, 0, 0)


@pytest.mark.parametrize("task", [tiny(), scored(accuracy), scored(error_rate, False)], ids=["a", "b", "c"])
def test_models_that_decide_alike_still_have_a_bound(task: Task) -> None:
    drop = accuracy_drop(task, predictions(20), predictions(20, sharpness=2.0), max_seconds=0.0)
    assert drop.value == 0
    assert 1 / 400 < drop.high < 4 / 400  # 3 / n is the exact bound of an event that was not seen
    assert drop.low == pytest.approx(-drop.high)


@pytest.mark.parametrize("task", [tiny(), scored(accuracy), scored(macro_f1)], ids=["counts", "whole", "f1"])
def test_many_pairs_have_the_normal_interval_of_the_paired_difference(task: Task) -> None:
    a, b = predictions(40, seed=1), predictions(60, seed=2)
    right = [(p.outputs.argmax(1) == p.targets).double() for p in (a, b)]
    half = Z * float((right[0] - right[1]).std()) / math.sqrt(400)
    drop = accuracy_drop(task, a, b)
    assert drop.value == pytest.approx(0.05, abs=0.003)
    assert (drop.high - drop.low) / 2 == pytest.approx(half, rel=0.15)


def _end(n_worse: int, n_better: int, n: int) -> tuple[float, float]:
    drop = drop_of_counts(n_worse, n_better, n)
    return drop.low, drop.high


@pytest.mark.parametrize(("n", "worse", "better"), [
    (20, 4.0, 0.0), (50, 2.6, 0.0), (50, 20.0, 10.0), (192, 0.5, 5.0), (192, 2.8, 0.0), (500, 10.0, 10.0),
])  # fmt: skip
def test_each_end_holds_in_93_of_100_samples(n: int, worse: float, better: float) -> None:
    p, q, held = worse / n, better / n, np.zeros(2)
    most = (int(x + 8 * math.sqrt(x) + 8) for x in (worse, better))
    for i, j in itertools.product(*(range(min(n, m) + 1) for m in most)):
        if i + j <= n:
            low, high = _end(i, j, n)
            share = stats.multinomial.pmf([i, j, n - i - j], n, [p, q, 1 - p - q])
            held += share * np.array([low <= p - q + 1e-12, p - q - 1e-12 <= high])
    assert held.min() > 0.93


@pytest.mark.parametrize(("n_worse", "n_better"), [(0, 0), (1, 0), (3, 9), (40, 20)])
def test_the_test_of_discordant_pairs_is_the_exact_binomial_one(n_worse: int, n_better: int) -> None:
    n = n_worse + n_better
    tail = sum(math.comb(n, k) for k in range(min(n_worse, n_better) + 1)) / 2**n
    assert mcnemar_p(n_worse, n_better) == pytest.approx(min(1.0, 2 * tail))


def test_discordant_pairs_are_counted_in_the_direction_of_the_score() -> None:
    a, b = predictions(0), predictions(7)
    assert discordant_pairs(tiny(), a, b) == (7, 0)
    assert discordant_pairs(scored(error_rate, False, per_sample=is_error), a, b) == (7, 0)
    assert discordant_pairs(scored(accuracy), a, b) is None


def test_values_by_sample_have_nearly_the_interval_of_scipy() -> None:
    rng = np.random.default_rng(0)
    before = rng.lognormal(size=400)
    after = before * rng.lognormal(-0.1, 0.3, 400)
    found = drop_of_values(before, after)
    known = stats.bootstrap(
        (before - after,), np.mean, n_resamples=2000, confidence_level=0.9, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    width = known.high - known.low
    assert found.value == pytest.approx(float((before - after).mean()))
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=0.12 * width)


@pytest.mark.parametrize("sign", [1, -1], ids=["some much worse", "some much better"])
def test_the_longer_side_of_the_interval_is_that_of_the_long_tail(sign: int) -> None:
    losses = sign * np.random.default_rng(0).lognormal(size=150)
    found = drop_of_values(np.zeros(150), -losses)
    assert sign * ((found.high - found.value) - (found.value - found.low)) > 0.05 * (found.high - found.low)


def _skewed(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    error = rng.normal(size=n)
    return -(error**2), -((error + rng.normal(0, 0.3, n)) ** 2), 0.09


def _few(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    before = rng.uniform(0.4, 1.0, n)
    return before, before - (rng.random(n) < 4 / n) * rng.uniform(0, 0.4, n), 0.8 / n


def _heavy(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    return rng.normal(size=n), rng.normal(size=n) - 0.1 - 0.3 * rng.standard_t(4, n), 0.1


@pytest.mark.parametrize("data", [_skewed, _few, _heavy])
@pytest.mark.parametrize("n", [60, 250])
def test_the_bound_of_values_holds_in_93_of_100_samples(
    data: Callable[..., tuple[np.ndarray, np.ndarray, float]], n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autocompress.measure.paired_drop.N_RESAMPLES", 300)
    rng, held = np.random.default_rng(0), 0
    for repeat in range(200):
        before, after, truth = data(rng, n)
        held += truth <= drop_of_values(before, after, seed=repeat).high
    assert held >= 0.93 * 200


def test_the_bound_of_a_whole_score_holds_in_93_of_100_samples() -> None:
    task, held, rng = scored(macro_f1), 0, np.random.default_rng(0)
    for repeat in range(100):
        targets = torch.from_numpy(rng.integers(0, 4, 120))
        chances = torch.from_numpy(rng.random((2, 120)))
        pair = []
        for wrong in chances < torch.tensor([[0.10], [0.14]]):
            found = torch.where(wrong, (targets + 1 + torch.from_numpy(rng.integers(0, 3, 120))) % 4, targets)
            pair.append(Predictions(torch.nn.functional.one_hot(found, 4).float(), targets))
        held += accuracy_drop(task, *pair, seed=repeat, max_seconds=0.0).high + 1e-9 >= 0.04
    assert held >= 93


@pytest.mark.parametrize("by_sample", [True, False], ids=["by sample", "whole score"])
@pytest.mark.parametrize("higher_is_better", [True, False], ids=["higher", "lower"])
def test_a_regression_score_falls_or_rises(by_sample: bool, higher_is_better: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(300, generator=generator)
    pair = [Predictions(targets + s * torch.randn(300, generator=generator), targets) for s in (0.5, 0.7)]
    sign = -1 if higher_is_better else 1
    values = (lambda o, t: sign * squared_errors(o, t)) if by_sample else None
    task = scored(lambda o, t: sign * mean_squared_error(o, t), higher_is_better, per_sample=values)
    drop = accuracy_drop(task, *pair)
    differences = (squared_errors(pair[1].outputs, targets) - squared_errors(pair[0].outputs, targets)).double()
    assert drop.value == pytest.approx(float(differences.mean()), rel=1e-5)
    assert drop.high - drop.low == pytest.approx(2 * Z * float(differences.std()) / math.sqrt(300), rel=0.2)


def hits(outputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Rows of more than one tensor, in more than one container."""
    return outputs.argmax(1), {"class": targets}


@pytest.mark.parametrize("higher_is_better", [True, False], ids=["higher", "lower"])
def test_a_prepared_score_has_the_same_drop_and_is_prepared_once(higher_is_better: bool) -> None:
    calls = []

    def prepare(outputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        calls.append(len(outputs))
        return hits(outputs, targets)

    def function(rows: tuple[Tensor, dict[str, Tensor]]) -> float:
        share = float((rows[0] == rows[1]["class"]).double().mean())
        return share if higher_is_better else 1 - share

    prepared = scored(function, higher_is_better, prepare=prepare)
    whole = scored(accuracy if higher_is_better else error_rate, higher_is_better)
    pair = predictions(20), predictions(60, seed=1)
    drop, expected = (accuracy_drop(task, *pair, max_seconds=0.0) for task in (prepared, whole))
    assert (drop.value, drop.low, drop.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert calls == [400] * len(calls) and len(calls) < 10


@pytest.mark.parametrize("rows", [torch.ones(3), torch.tensor(1.0), []], ids=["too few", "one number", "none"])
def test_rows_that_are_not_by_sample_are_refused(rows: Any) -> None:
    task = scored(lambda rows: 0.5, prepare=lambda o, t: rows)
    with pytest.raises(MeasurementError, match="a row for each of 400 samples, but got shapes"):
        accuracy_drop(task, predictions(20), predictions(60))


WRONG = [
    pytest.param(lambda o, t: torch.ones(3), r"one value a sample, shape \(400,\), but got shape \(3,\)", id="n"),
    pytest.param(lambda o, t: torch.zeros(400), "must be the score, 0.95, but got 0", id="mean"),
    pytest.param(lambda o, t: 1 / 0, "per_sample of the task's score fails: ZeroDivisionError", id="raises"),
]


@pytest.mark.parametrize(("per_sample", "said"), WRONG)
def test_wrong_values_by_sample_are_refused(per_sample: Any, said: str) -> None:
    with pytest.raises(MeasurementError, match=said):
        accuracy_drop(scored(accuracy, per_sample=per_sample), predictions(20), predictions(60))


def test_the_values_of_top1_accuracy_are_its_mean() -> None:
    p, score = predictions(20), top1_accuracy()
    assert score.per_sample is not None
    assert float(score.per_sample(p.outputs, p.targets).mean()) == score(p.outputs, p.targets)


def test_resamples_without_a_score_are_drawn_again() -> None:
    targets = torch.tensor([1] + [0] * 19)  # a third of the resamples have one class only

    def needs_both(outputs: Tensor, targets: Tensor) -> float:
        return float(outputs[targets == 1].mean() - outputs[targets == 0].mean())

    pair = [Predictions(torch.linspace(0, scale, 20), targets) for scale in (1.0, 2.0)]
    drop = accuracy_drop(scored(needs_both), *pair, max_seconds=0.0)
    assert drop.low < drop.value < drop.high


def test_a_score_that_fails_on_nearly_all_resamples_is_refused() -> None:
    def needs_all(outputs: Tensor, targets: Tensor) -> float:
        return float(outputs.mean()) if len(targets.unique()) == 50 else float("nan")

    pair = [Predictions(torch.rand(50) + shift, torch.arange(50)) for shift in (0, 1)]
    with pytest.raises(MeasurementError, match="defined on most random draws of its 50 samples.*per_sample"):
        accuracy_drop(scored(needs_all), *pair)


def test_a_slow_score_is_resampled_a_hundred_times() -> None:
    calls = []

    def counted(outputs: Tensor, targets: Tensor) -> float:
        calls.append(0)
        return accuracy(outputs, targets)

    accuracy_drop(scored(counted), predictions(20), predictions(60), max_seconds=0.0)
    assert 200 <= len(calls) < 210


def test_models_of_other_numbers_of_samples_are_refused() -> None:
    with pytest.raises(MeasurementError, match="the same samples, but got 400 and 300"):
        accuracy_drop(tiny(), predictions(20), predictions(20, n=300))


def test_the_same_seed_gives_the_same_interval() -> None:
    pair = predictions(20), predictions(60, seed=3)
    found = [accuracy_drop(scored(accuracy), *pair, seed=seed, max_seconds=0.0) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]
