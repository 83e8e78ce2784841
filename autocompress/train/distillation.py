"""Distillation: the compressed model learns from the outputs of the FP32 model as well as from the targets."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from autocompress.task import flatten


def distillation_loss(outputs: Any, teacher_outputs: Any, targets: Any, temperature: float) -> Tensor:
    """How far `outputs` are from the teacher's.

    For logits of a classifier ``T^2 KL(softmax(teacher / T) || softmax(outputs / T))`` (Hinton et al. 2015,
    section 2.1), a mean over samples; for everything else the mean squared difference in units of the teacher's
    variance.

    Args:
        outputs: Output of the compressed model, any structure of tensors.
        teacher_outputs: Output of the FP32 model, same structure.
        targets: Targets; integer targets of shape (n,) beside outputs of shape (n, classes) tell a classifier.
        temperature: T > 0.

    Returns:
        Scalar >= 0.
    """
    pairs = [(o, t) for o, t in zip(flatten(outputs), flatten(teacher_outputs), strict=True) if o.is_floating_point()]
    if len(pairs) == 1 and _are_logits(pairs[0][0], targets):
        student, teacher = (log_softmax(logits.float() / temperature, dim=-1) for logits in pairs[0])
        return temperature**2 * kl_div(student, teacher, reduction="batchmean", log_target=True)
    terms = [(o - t).square().mean() / _spread(t).clamp(min=1e-6) for o, t in pairs]
    return torch.stack(terms).mean() if terms else torch.zeros(())


def _spread(values: Tensor) -> Tensor:
    return values.var() if values.numel() > 1 else values.square().sum()


def _are_logits(output: Tensor, targets: Any) -> bool:
    return (
        isinstance(targets, Tensor)
        and not targets.is_floating_point()
        and output.dim() == 2
        and output.shape[1] > 1
        and targets.shape == output.shape[:1]
    )
