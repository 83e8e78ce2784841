"""Batch-norm adaptation against statistics worked out by hand."""

import pytest
import torch
from torch import nn

from autocompress.train import adapt_batch_norm
from tests.nets import NETS


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3, momentum=0.3), nn.Dropout(0.5), nn.Linear(3, 2))


def test_statistics_of_one_batch_are_its_mean_and_unbiased_variance() -> None:
    model = net()
    x = torch.randn(7, 6)
    rows = [[float(v) for v in row] for row in model[0](x).detach()]
    adapt_batch_norm(model, [(x, None)])
    for channel in range(3):
        values = [row[channel] for row in rows]
        mean = sum(values) / 7
        variance = sum((v - mean) ** 2 for v in values) / 6
        assert float(model[1].running_mean[channel]) == pytest.approx(mean, abs=1e-5)
        assert float(model[1].running_var[channel]) == pytest.approx(variance, rel=1e-4)


def test_statistics_of_several_batches_are_plain_averages() -> None:
    model = net()
    batches = [(torch.randn(5, 6), None) for _ in range(4)]
    ys = [model[0](x).detach() for x, _ in batches]
    adapt_batch_norm(model, batches, n_batches=3)
    assert torch.allclose(model[1].running_mean, sum(y.mean(dim=0) for y in ys[:3]) / 3, atol=1e-6)
    assert torch.allclose(model[1].running_var, sum(y.var(dim=0) for y in ys[:3]) / 3, rtol=1e-5)


@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
def test_nothing_else_changes(mode: bool) -> None:
    model = net().train(mode)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    adapt_batch_norm(model, [(torch.randn(5, 6), None)])
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert model[1].momentum == 0.3
    assert {m.training for m in model.modules()} == {mode}


def test_a_norm_that_sees_no_data_keeps_its_statistics() -> None:
    model = net()
    model[1].running_mean.fill_(3.0)
    model[1].running_var.fill_(2.0)
    adapt_batch_norm(model, [])
    assert model[1].running_mean.tolist() == [3.0] * 3
    assert model[1].running_var.tolist() == [2.0] * 3
    adapt_batch_norm(model, [(torch.randn(5, 6), None)], n_batches=0)
    assert model[1].running_mean.tolist() == [3.0] * 3


def test_momentum_is_restored_after_a_failure() -> None:
    model = net().eval()
    with pytest.raises(RuntimeError):
        adapt_batch_norm(model, [(torch.randn(5, 7), None)])
    assert model[1].momentum == 0.3
    assert not model[1].training


def test_a_model_without_batch_norm_is_left_alone() -> None:
    model = NETS["mlp"].build()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    adapt_batch_norm(model, NETS["mlp"].batches())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_norm_without_running_statistics_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3, track_running_stats=False))
    adapt_batch_norm(model, [(torch.randn(5, 6), None)])
    assert model[1].running_mean is None
