"""What tests of importance share."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autocompress.compress.importance import importance_scores
from autocompress.task import flatten
from tests.nets import Net


def to_mean_1(values: list[float]) -> list[float]:
    mean = sum(values) / len(values)
    return [value / mean for value in values]


def total_square(outputs: Any, _targets: Any) -> Tensor:
    return sum(o.square().sum() for o in flatten(outputs))


def scores_of(net: Net, kind: str, **options: Any) -> dict[str, Tensor]:
    given = {"batches": net.batches(), "loss": cross_entropy, **options}
    return importance_scores(net.build(), net.inputs(), kind, **given)


def everything_of(model: nn.Module) -> list[Any]:
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parts = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    gradients = [None if p.grad is None else p.grad.tolist() for p in model.parameters()]
    wanted = [p.requires_grad for p in model.parameters()]
    return [{name: t.tolist() for name, t in tensors.items()}, parts, gradients, wanted, torch.get_rng_state().tolist()]
