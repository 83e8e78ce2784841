"""Costs corrected by measured latencies: nearer to the truth, still sums over few units, unchanged without them."""

import numpy as np
import pytest

from autocompress.planning.correction import Observation
from autocompress.planning.latency_correction import correct_latency, own_latencies
from autocompress.planning.problem import Cost, Floats, Plans, Problem, Unit

N_UNITS, N_CHOICES = 5, 3


def problem(costs: list[Floats], pair: Floats) -> Problem:
    """A chain of units with latencies of their own and one that the first two have together."""
    zeros = np.zeros((N_CHOICES, 1))
    units = tuple(Unit(f"u{i}", tuple("abc"), zeros) for i in range(N_UNITS))
    own = tuple(Cost((i,), table, np.zeros(N_CHOICES)) for i, table in enumerate(costs))
    together = Cost((0, 1), pair, np.zeros_like(pair))
    return Problem(units, ("pruning",), np.ones(1), (*own, together), 0.05, 0.0, 0.01, 1.0)


def believed_and_true(seed: int) -> tuple[Problem, Problem]:
    rng = np.random.default_rng(seed)
    costs = [np.sort(rng.uniform(0.05, 0.2, N_CHOICES))[::-1].copy() for _ in range(N_UNITS)]
    pair = rng.uniform(0, 0.05, (N_CHOICES, N_CHOICES))
    wrong = [table * rng.normal(1.0, 0.07, N_CHOICES) for table in costs]
    return problem(wrong, pair), problem(costs, pair * 1.3)


def plans(n: int, seed: int) -> Plans:
    return np.random.default_rng(seed).integers(N_CHOICES, size=(n, N_UNITS))


def observed(truth: Problem, tried: Plans) -> list[Observation]:
    latencies = truth.latencies(tried)
    return [
        Observation(tuple(map(int, plan)), 0.0, 0.0, latency=float(latency))
        for plan, latency in zip(tried, latencies, strict=True)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_more_observations_bring_predictions_nearer_to_the_truth(seed: int) -> None:
    believed, truth = believed_and_true(seed)
    others = plans(200, seed + 100)
    errors = []
    for n in (0, 8, 60):
        corrected, _ = correct_latency(believed, observed(truth, plans(n, seed)))
        errors.append(float(np.abs(corrected.latencies(others) / truth.latencies(others) - 1).mean()))
    assert errors[2] < 0.5 * errors[0] and errors[1] < 1.05 * errors[0]


def test_without_latencies_nothing_changes() -> None:
    believed, _ = believed_and_true(0)
    tried = [Observation((0,) * N_UNITS, 0.1, 0.01)]
    corrected, latencies = correct_latency(believed, tried)
    assert corrected is believed and latencies == believed.latencies(np.zeros((1, N_UNITS), np.int64))


def test_exact_predictions_stay_as_they_are() -> None:
    believed, _ = believed_and_true(1)
    corrected, latencies = correct_latency(believed, observed(believed, plans(20, 1)))
    others = plans(50, 2)
    assert np.allclose(corrected.latencies(others), believed.latencies(others))
    assert np.allclose(latencies, believed.latencies(plans(20, 1)))


def test_an_observed_latency_lies_between_measurement_and_model() -> None:
    believed, truth = believed_and_true(2)
    tried = plans(6, 3)
    corrected, latencies = correct_latency(believed, observed(truth, tried))
    ends = np.sort(np.stack([truth.latencies(tried), corrected.latencies(tried)]), axis=0)
    assert (ends[0] - 1e-9 <= latencies).all() and (latencies <= ends[1] + 1e-9).all()


def test_own_latencies_share_what_units_cost_together() -> None:
    believed, _ = believed_and_true(3)
    own, pair = own_latencies(believed), believed.costs[-1].latency
    assert np.allclose(own[0], believed.costs[0].latency + pair.mean(axis=1) / 2)
    assert np.allclose(own[1], believed.costs[1].latency + pair.mean(axis=0) / 2)
    assert np.allclose(own[4], believed.costs[4].latency)
