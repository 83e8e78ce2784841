"""What choices do alone and what decisions gain: against sums and differences written out in plain Python."""

import math

import numpy as np
import pytest

from autocompress.graph import ChannelGroup, Layer, ModelGraph
from autocompress.planning.problem import Cost, Problem, Unit
from autocompress.search.decisions import decisions_of, net_layers, sensitivity_of

LARGEST = 0.8
BASELINE = (10.0, 1000.0)
DAMAGE = ([0.0, 0.01, 0.05], [0.0, 0.002])
LATENCY = ([0.5, 0.3, 0.2], [0.4, 0.2])
SIZE = ([0.4, 0.2, 0.1], [0.4, 0.1])
TOGETHER = [[0.0, 0.05], [0.0, 0.0], [0.02, 0.0]]
LEARNED = [np.array([0.0, 0.02, 0.03]), np.array([0.0, 0.004])]


@pytest.fixture(name="problem")
def _problem():
    names = (("stem", ("float", "8 bits", "4 bits")), ("head", ("float", "8 bits")))
    units = tuple(
        Unit(name, choices, np.array(damage)[:, None]) for (name, choices), damage in zip(names, DAMAGE, strict=True)
    )
    costs = [Cost((i,), np.array(LATENCY[i]), np.array(SIZE[i])) for i in range(2)]
    costs.append(Cost((0, 1), np.array(TOGETHER), np.zeros((3, 2))))
    return Problem(units, ("any",), np.array([0.5]), tuple(costs), 0.1, 0.2, 0.01, LARGEST)


def drop(damage):
    return LARGEST * (1 - math.exp(-damage / LARGEST))


def latency(i, j):
    return BASELINE[0] * (0.1 + LATENCY[0][i] + LATENCY[1][j] + TOGETHER[i][j])


def test_each_choice_alone_beside_the_gentlest_of_all_others(problem):
    stem, head = sensitivity_of(problem, LEARNED, BASELINE)
    assert (stem.unit, [c.choice for c in stem.choices]) == ("stem", ["float", "8 bits", "4 bits"])
    assert [c.table_drop for c in stem.choices] == pytest.approx([drop(0.5 * d) for d in DAMAGE[0]], rel=1e-3)
    assert [c.learned_drop for c in stem.choices] == pytest.approx([drop(d) for d in LEARNED[0]], rel=1e-3)
    assert [c.latency_ms for c in stem.choices] == pytest.approx([latency(i, 0) - latency(0, 0) for i in range(3)])
    assert [c.latency_ms for c in head.choices] == pytest.approx([0.0, latency(0, 1) - latency(0, 0)])
    assert [c.size_bytes for c in head.choices] == pytest.approx([0.0, -300.0])


def test_a_decision_is_told_against_the_gentlest_choice_of_its_unit_alone(problem):
    (found,) = decisions_of(problem, LEARNED, [("abc", (2, 1))], BASELINE)
    whole = drop(0.034)
    assert (found.digest, found.choices) == ("abc", (2, 1))
    assert found.accuracy_drops == pytest.approx((whole - drop(0.004), whole - drop(0.03)), rel=1e-3)
    assert found.latencies_ms == pytest.approx((latency(2, 1) - latency(0, 1), latency(2, 1) - latency(2, 0)))
    assert found.sizes_bytes == pytest.approx((-300.0, -300.0))


def test_the_gentlest_plan_decided_nothing(problem):
    (found,) = decisions_of(problem, LEARNED, [("abc", (0, 0))], BASELINE)
    assert (found.accuracy_drops, found.latencies_ms, found.sizes_bytes) == ((0.0, 0.0), (0.0, 0.0), (0.0, 0.0))


def test_layers_come_in_the_order_of_the_model_with_their_channel_group():
    def layer(name, kind, shape):
        return Layer(name, kind, shape, (1, 3), (1, 8), 1, 1, name)

    layers = (
        layer("b", "Conv2d", (8, 3, 3, 3)),
        layer("a", "ConvTranspose2d", (8, 4, 3, 3)),
        layer("c", "Linear", (2, 9)),
    )
    groups = (ChannelGroup("b", ("b", "a"), 8), ChannelGroup("c", ("c",), 2, "it is the output"))
    found = [(n.name, n.kind, n.n_filters, n.group) for n in net_layers(ModelGraph(layers, groups))]
    assert found == [("b", "Conv2d", 8, "b"), ("a", "ConvTranspose2d", 4, "b"), ("c", "Linear", 2, "")]
