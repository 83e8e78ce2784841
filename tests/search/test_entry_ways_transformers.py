"""A model of transformers, trained by a loss of its logits and by the loss that it computes itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autocompress import Score, Task
from autocompress.search.training import learning_rates
from tests.search.test_entry_ways import whole
from tests.search.test_training import context_of, uniform


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=16, num_labels=3, attn_implementation="eager",
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def sentences(n: int, seed: int) -> list[tuple[dict[str, Tensor], Tensor]]:
    """Two batches of sentences whose class is the word that occurs most, of three."""
    generator = torch.Generator().manual_seed(seed)
    words, classes = torch.randint(3, 40, (n, 12), generator=generator), torch.arange(n) % 3
    words[torch.rand(n, 12, generator=generator) < 0.4] = -1
    words = torch.where(words < 0, classes[:, None], words)
    inputs = {"input_ids": words, "attention_mask": torch.ones_like(words)}
    split = [dict(zip(inputs, parts, strict=True)) for parts in zip(*(t.split(n // 2) for t in inputs.values()), strict=True)]  # fmt: skip  # noqa: E501
    return list(zip(split, classes.split(n // 2), strict=True))


def loss_of_logits(outputs: Any, targets: Tensor) -> Tensor:
    return cross_entropy(outputs.logits, targets)


def step_with_labels(model: nn.Module, batch: Any) -> Tensor:
    inputs, labels = batch
    return model(**inputs, labels=labels).loss


def accuracy_of_logits(outputs: Any, targets: Tensor) -> float:
    return float((outputs["logits"].argmax(dim=1) == targets).double().mean())


@pytest.fixture(scope="module")
def trained_bert() -> nn.Module:
    model = bert().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    with torch.random.fork_rng(devices=[]):
        for _ in range(30):
            for batch in sentences(96, 1):
                optimizer.zero_grad()
                step_with_labels(model, batch).backward()
                optimizer.step()
    return model.eval()


@pytest.mark.parametrize(
    "way",
    [
        pytest.param({"loss": loss_of_logits}, id="loss of logits"),
        pytest.param({"training_step": step_with_labels}, id="step with labels"),
    ],
)
def test_a_model_of_transformers_trains(way: dict[str, Any], trained_bert: nn.Module, tmp_path: Path) -> None:
    task = Task(
        model=trained_bert,
        example_input=sentences(2, 0)[0][0],
        train=sentences(96, 1),
        validation=sentences(96, 2),
        test=sentences(96, 3),
        score=Score(accuracy_of_logits, name="accuracy"),
        name="bert",
        **way,
    )
    context = context_of(task, tmp_path)
    rates = learning_rates(context)
    assert 0 < rates.quantized <= rates.reshaped
    trained, measured = whole(context, uniform(context, {"weight_bits": 4, "activation_bits": 8}), 10)
    assert measured.accuracy > 0.5 and measured.agreement > 0.9
    assert trained.summary is not None and len(trained.summary.course) == 10
