"""What layers cost: times from counters, scaled to what was measured in pairs."""

import pytest
import torch
from torch import nn

from autocompress.errors import DeployError
from autocompress.graph import inspect_model
from autocompress.graph.model_graph import Layer, ModelGraph
from autocompress.latency import PairedLatency
from autocompress.measurement import LatencyCheck, Speedup
from autocompress.search.layer_costs import LayerCost, costs_of, layer_costs
from tests.tiny import tiny


def layer(name: str) -> Layer:
    return Layer(name, "Conv2d", (4, 4, 3, 3), (1, 4, 8, 8), (1, 4, 8, 8), 1, 1, name)


GRAPH = ModelGraph((layer("a"), layer("b"), layer("gone")), ())


def paired(value: float, baseline_ms: float, is_noisy: bool = False) -> PairedLatency:
    check = LatencyCheck(p90_ms=1, p99_ms=1, noise_floor=0, busy_share=0, is_noisy=is_noisy)
    speedup = Speedup(value=value, low=0.99 * value, high=1.01 * value, n_pairs=30)
    return PairedLatency(speedup, baseline_ms / value, baseline_ms, check)


TIMES = {
    "fp32": {"": 1.0, "a": 6.0, "b": 3.0},
    "int8": {"": 2.0, "a": 2.0, "b": 4.0, "a.unknown": 2.0},
    "half": {"": 0.5, "a": 1.5, "b": 0.5},
}


def test_times_are_scaled_to_the_paired_ones() -> None:
    costs = costs_of(TIMES, {"int8": paired(2.0, 20.0), "half": paired(4.0, 20.0)}, GRAPH)
    assert costs.baseline_ms == 20.0
    assert costs.layers == {
        "a": LayerCost(latency_ms=12.0, int8_saves_ms=10.0, half_saves_ms=9.0),
        "b": LayerCost(latency_ms=6.0, int8_saves_ms=2.0, half_saves_ms=5.0),
    }
    assert costs.rest == LayerCost(latency_ms=2.0, int8_saves_ms=-2.0, half_saves_ms=1.0)


def test_savings_sum_to_what_the_whole_model_saves() -> None:
    costs = costs_of(TIMES, {"int8": paired(1.7, 21.0), "half": paired(3.1, 19.0)}, GRAPH)
    rows = [*costs.layers.values(), costs.rest]
    assert sum(row.latency_ms for row in rows) == pytest.approx(20.0)
    assert sum(row.int8_saves_ms or 0.0 for row in rows) == pytest.approx(20.0 - 20.0 / 1.7)
    assert sum(row.half_saves_ms or 0.0 for row in rows) == pytest.approx(20.0 - 20.0 / 3.1)


def test_without_comparisons_there_are_only_times() -> None:
    costs = costs_of({"fp32": TIMES["fp32"]}, {}, GRAPH)
    assert (costs.baseline_ms, costs.int8, costs.half) == (10.0, None, None)
    assert costs.layers["a"] == LayerCost(latency_ms=6.0)


@pytest.mark.parametrize("which", ["int8", "half"])
def test_one_noisy_comparison_is_enough_for_a_warning(which: str) -> None:
    times = {"fp32": TIMES["fp32"], "int8": TIMES["int8"], "half": TIMES["half"]}
    compared = {name: paired(2.0, 20.0, is_noisy=name == which) for name in ("int8", "half")}
    assert costs_of(times, compared, GRAPH).is_noisy


def test_a_task_is_timed_from_end_to_end() -> None:
    task, told = tiny(), []
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    costs = layer_costs(task, inspect_model(task.model, task.example_input), on_progress=told.append)
    assert list(costs.layers) == ["0", "3", "7"]
    assert costs.int8 and costs.half and told[0] == "exporting fp32"
    assert all(row.latency_ms > 0 and row.int8_saves_ms is not None for row in costs.layers.values())
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())


class Unconvertible(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvalsh(self.layer(x) @ x.transpose(-1, -2))


def test_a_model_that_cannot_be_converted_is_an_error_in_words() -> None:
    task = tiny()
    task = type(task)(**{**task.__dict__, "model": Unconvertible().eval(), "example_input": torch.ones(1, 4, 4)})
    with pytest.raises(DeployError, match="OpenVINO cannot convert the model"):
        layer_costs(task, inspect_model(task.model, task.example_input, with_groups=False))
