"""The four stages: a table step by step, what it switches, and a small network trained through them."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autocompress.compress.binarization import ActivationBinarizer, WeightBinarizer
from autocompress.errors import TrainingError
from autocompress.train.binarization_stages import BinarizationStages, StagedBinarization, StageState, split_stages

FLOAT = StageState(False, False)
INPUTS = StageState(True, False)
BOTH = StageState(True, True)


def falling(rate_factor: float) -> StageState:
    return StageState(True, True, rate_factor, weight_decay=False)


TABLES = [
    pytest.param(
        (2, 1, 2, 4),
        2.0,
        [FLOAT, FLOAT, INPUTS, BOTH, BOTH, falling(1.0), falling(0.5625), falling(0.25), falling(0.0625), falling(0.0)],
        id="all four",
    ),
    pytest.param((0, 1, 1, 1), 1.0, [INPUTS, BOTH, falling(1.0), falling(0.0), falling(0.0)], id="no float stage"),
    pytest.param((1, 0, 1, 1), 1.0, [FLOAT, BOTH, falling(1.0), falling(0.0)], id="no stage of inputs"),
    pytest.param((1, 1, 0, 2), 1.0, [FLOAT, INPUTS, falling(1.0), falling(0.5), falling(0.0)], id="no third stage"),
    pytest.param((1, 1, 2, 0), 1.0, [FLOAT, INPUTS, BOTH, BOTH, falling(0.0)], id="no fall"),
    pytest.param((0, 0, 0, 2), 1.0, [falling(1.0), falling(0.5), falling(0.0)], id="only the fall"),
    pytest.param((0, 0, 0, 0), 1.0, [falling(0.0)], id="no steps"),
]


@pytest.mark.parametrize(("lengths", "power", "expected"), TABLES)
def test_each_step_is_in_its_stage(
    lengths: tuple[int, int, int, int], power: float, expected: list[StageState]
) -> None:
    stages = BinarizationStages(*lengths, power=power)
    assert [stages.at(step) for step in range(len(expected))] == expected
    assert stages.n_steps == sum(lengths)


def test_the_rate_falls_by_the_power_of_nncf_by_default() -> None:
    assert BinarizationStages(0, 0, 0, 30).at(10).rate_factor == pytest.approx((20 / 30) ** 2.1)


@pytest.mark.parametrize(
    ("n_steps", "shares", "lengths"),
    [
        pytest.param(90, (1, 2, 3, 3), (10, 20, 30, 30), id="exact"),
        pytest.param(10, (1, 2, 3, 3), (1, 2, 4, 3), id="rounded"),
        pytest.param(1, (1, 2, 3, 3), (0, 0, 1, 0), id="one step"),
        pytest.param(0, (1, 2, 3, 3), (0, 0, 0, 0), id="no step"),
        pytest.param(7, (0, 0, 0.5, 0), (0, 0, 7, 0), id="one stage"),
    ],
)
def test_shares_split_all_the_steps(
    n_steps: int, shares: tuple[float, float, float, float], lengths: tuple[int, int, int, int]
) -> None:
    assert split_stages(n_steps, shares).lengths == lengths


@pytest.mark.parametrize("n_steps", range(0, 200, 7))
def test_default_shares_lose_no_step(n_steps: int) -> None:
    stages = split_stages(n_steps)
    assert stages.n_steps == n_steps
    assert min(stages.lengths) >= 0


@pytest.mark.parametrize("shares", [(0, 0, 0, 0), (1, -1, 1, 1), (1, math.nan, 1, 1), (1, math.inf, 1, 1)])
def test_shares_that_split_nothing_are_refused(shares: tuple[float, float, float, float]) -> None:
    with pytest.raises(TrainingError, match="shares of the four stages must be"):
        split_stages(10, shares)


def test_a_negative_length_names_its_stage() -> None:
    with pytest.raises(TrainingError, match="stage 3: -1"):
        BinarizationStages(1, 1, -1, 1)


@pytest.mark.parametrize("power", [0.0, -1.0, math.nan, math.inf])
def test_a_power_that_does_not_fall_is_refused(power: float) -> None:
    with pytest.raises(TrainingError, match="must be above 0"):
        BinarizationStages(1, 1, 1, 1, power=power)


class Net(nn.Module):
    """A binary layer between two float ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.binarizer = ActivationBinarizer(8)
        self.binarizer.set_range(0.0, 1.0)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Linear(8, 2)
        parametrize.register_parametrization(self.middle, "weight", WeightBinarizer("xnor"))

    def forward(self, x: Tensor) -> Tensor:
        x = self.binarizer(self.first(x).relu())
        result: Tensor = self.last(self.norm(self.middle(x)).relu().mean(dim=(2, 3)))
        return result

    @property
    def weight_binarizer(self) -> WeightBinarizer:
        return self.middle.parametrizations["weight"][0]  # type: ignore[index,return-value]


def test_apply_switches_binarizers_rates_and_weight_decay() -> None:
    net = Net()
    groups = [
        {"params": [net.last.weight], "lr": 0.1, "weight_decay": 0.2},
        {"params": [net.last.bias], "lr": 0.01, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    staged = StagedBinarization(net, optimizer, BinarizationStages(1, 1, 1, 2, power=1.0))
    found = []
    for step in (0, 1, 2, 3, 4, 0):
        assert staged.apply(step) == staged.stages.at(step)
        rates = [group["lr"] for group in optimizer.param_groups]
        decays = [group["weight_decay"] for group in optimizer.param_groups]
        found.append((net.binarizer.enabled, net.weight_binarizer.enabled, rates, decays))
    assert found == [
        (False, False, [0.1, 0.01], [0.2, 0.0]),
        (True, False, [0.1, 0.01], [0.2, 0.0]),
        (True, True, [0.1, 0.01], [0.2, 0.0]),
        (True, True, [0.1, 0.01], [0.0, 0.0]),
        (True, True, [0.05, 0.005], [0.0, 0.0]),
        (False, False, [0.1, 0.01], [0.2, 0.0]),
    ]


def stripes(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noisy pictures with horizontal (0) or vertical (1) stripes."""
    targets = torch.randint(0, 2, (n,), generator=generator)
    rows = (torch.arange(8) % 2).float().reshape(1, 8, 1).expand(n, 8, 8)
    pictures = torch.where(targets.reshape(n, 1, 1) == 0, rows, rows.transpose(1, 2))
    return (pictures + 0.3 * torch.randn(n, 8, 8, generator=generator)).unsqueeze(1), targets


def test_a_network_trained_through_the_stages_becomes_binary_and_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Net()
    parameters = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.02)
    staged = StagedBinarization(net, optimizer, split_stages(90))
    losses = []
    for step in range(90):
        staged.apply(step)
        pictures, targets = stripes(32, generator)
        loss = nn.functional.cross_entropy(net(pictures), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    at_first_binary_step, at_the_end = losses[30], sum(losses[-5:]) / 5
    assert at_the_end < 0.5 * min(losses[0], at_first_binary_step)
    assert all(not torch.equal(p, parameters[name]) for name, p in net.named_parameters())
    assert all(len(row.unique()) == 2 for row in net.middle.weight.detach())
    assert len(net.binarizer(net.first(stripes(4, generator)[0]).relu()).unique()) == 2
