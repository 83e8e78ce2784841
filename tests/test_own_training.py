"""A training script of one's own, without a search."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import autocompress
from autocompress import LayerRecipe, Recipe, own_loop
from autocompress.compress import CompressedModel, calibrate, compress
from autocompress.deploy import to_openvino
from autocompress.errors import TrainingError
from autocompress.graph import inspect_model
from autocompress.latency import compile_model
from autocompress.recipe import Distillation
from tests import tiny

N_STEPS = 12
TASK = tiny.tiny()


def compressed_of(**whole: Any) -> CompressedModel:
    """8 bits, 40 % zeros and a quarter of the filters away."""
    model, x = TASK.model, TASK.example_input
    graph = inspect_model(model, x)
    layer = LayerRecipe(weight_bits=8, activation_bits=8, sparsity=0.4)
    layers = {known.name: layer for known in graph.compressible}
    pruning = {group.name: 0.25 for group in graph.prunable}
    compressed = compress(model, graph, Recipe(layers=layers, pruning=pruning, **whole), x)
    calibrate(compressed.module, TASK.train)
    return compressed


def train(compressed: CompressedModel, teacher: nn.Module | None = None) -> list[float]:
    """Distillation terms of a plain loop."""
    terms = []
    with own_loop(compressed, N_STEPS, teacher=teacher) as budget:
        optimizer = torch.optim.AdamW(budget.parameter_groups(1e-3))
        while not budget.is_over:
            for x, y in TASK.train:
                loss, term = cross_entropy(compressed.module(x), y), budget.compression_loss(y)
                optimizer.zero_grad()
                (loss + term).backward()
                optimizer.step()
                budget.scheduler.step(loss)
                terms.append(term.item())
    return terms


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return float((outputs.argmax(dim=1) == targets).double().mean())


@pytest.mark.parametrize("taught", [True, False], ids=["with a teacher", "alone"])
def test_a_script_of_ones_own_trains_and_deploys(taught: bool) -> None:
    compressed = compressed_of()
    terms = train(compressed, TASK.model if taught else None)
    assert len(terms) == N_STEPS and all((term > 0) == taught for term in terms)
    x, y = tiny.images(300, 3)
    with torch.no_grad():
        mine, before = compressed.module(x), TASK.model(x)
    with compressed.export_form() as module:
        model = to_openvino(module, x)
    deployed = torch.from_numpy(compile_model(model, 1)(x.numpy())[0])
    assert accuracy(deployed, y) == pytest.approx(accuracy(mine, y), abs=0.02)
    assert accuracy(deployed, y) > accuracy(before, y) - 0.1
    zeros = [(w == 0).double().mean().item() for w in compressed.freeze_weights().parameters() if w.dim() > 1]
    assert all(share >= 0.38 for share in zeros)


def test_the_teacher_is_a_copy_and_the_model_is_never_changed() -> None:
    model = tiny.tiny().model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    compressed = compressed_of()
    with own_loop(compressed, 1, teacher=model) as budget:
        compressed.module(TASK.example_input)
        first = budget.compression_loss().item()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        compressed.module(TASK.example_input)
        assert budget.compression_loss().item() == first
    model.load_state_dict(before)
    train(compressed_of(), model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not model.training


def test_epochs_are_counted_where_they_are_known() -> None:
    compressed = compressed_of()
    with own_loop(compressed, N_STEPS, steps_per_epoch=4) as budget:
        budget.scheduler.epoch_step()
        assert budget.n_done == 4
    with own_loop(compressed_of(), N_STEPS) as budget, pytest.raises(TrainingError, match="steps_per_epoch"):
        budget.scheduler.epoch_step()


def test_features_are_refused_with_a_teacher_only() -> None:
    compressed = compressed_of(distillation=Distillation(features=("3",)))
    own_loop(compressed, N_STEPS)
    with pytest.raises(TrainingError, match="take them out"):
        own_loop(compressed, N_STEPS, teacher=TASK.model)


def test_a_script_of_ones_own_leaves_global_chance_to_the_script() -> None:
    torch.manual_seed(7)
    with own_loop(compressed_of(), N_STEPS) as budget:
        budget.scheduler.step()
    drawn = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(1))


def test_own_loop_is_a_public_function() -> None:
    from autocompress import own_loop as public

    assert "own_loop" in autocompress.__all__ and callable(public)
