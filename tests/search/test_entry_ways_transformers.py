"""A model of transformers as it is: a ModelOutput, batches of a tokenizer, each padded to its own longest text."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autocompress import Task, top1_accuracy
from autocompress.search.training import learning_rates
from tests.search.test_entry_ways import whole
from tests.search.test_training import context_of, uniform
from tests.studies import study_of

PADDING, LENGTHS = 39, (12, 9)  # of the texts of a split's two batches, the longest


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=16, num_labels=3, pad_token_id=PADDING,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def sentences(n: int, seed: int) -> list[tuple[Any, Tensor]]:
    """Two batches of padded sentences whose class is the word that occurs most, of three."""
    return [_batch(n // 2, length, torch.Generator().manual_seed(10 * seed + length)) for length in LENGTHS]


def _batch(n: int, longest: int, generator: torch.Generator) -> tuple[Any, Tensor]:
    from transformers import BatchEncoding

    words, classes = torch.randint(3, PADDING, (n, longest), generator=generator), torch.arange(n) % 3
    is_telling = torch.rand(n, longest, generator=generator) < 0.4
    words = torch.where(is_telling, classes[:, None], words)
    lengths = torch.randint(longest // 2, longest + 1, (n, 1), generator=generator)
    lengths[0] = longest
    is_text = torch.arange(longest) < lengths
    tokens = {"input_ids": torch.where(is_text, words, PADDING), "attention_mask": is_text.long()}
    return BatchEncoding(tokens), classes


def loss_of_logits(outputs: Any, targets: Tensor) -> Tensor:
    return cross_entropy(outputs.logits, targets)


def step_with_labels(model: nn.Module, batch: Any) -> Tensor:
    inputs, labels = batch
    return model(**inputs, labels=labels).loss


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


def task_of(model: nn.Module, **way: Any) -> Task:
    return Task(
        model=model,
        example_input=sentences(2, 0)[0][0],
        train=sentences(96, 1),
        validation=sentences(96, 2),
        test=sentences(96, 3),
        score=top1_accuracy(),
        name="bert",
        **way,
    )


@pytest.mark.parametrize(
    "way",
    [
        pytest.param({"loss": loss_of_logits}, id="loss of logits"),
        pytest.param({"training_step": step_with_labels}, id="step with labels"),
    ],
)
def test_a_model_of_transformers_trains(way: dict[str, Any], trained_bert: nn.Module, tmp_path: Path) -> None:
    task = task_of(trained_bert, **way)
    context = context_of(task, tmp_path)
    rates = learning_rates(context)
    assert 0 < rates.quantized <= rates.reshaped
    trained, measured = whole(context, uniform(context, {"weight_bits": 4, "activation_bits": 8}), 10)
    assert measured.accuracy > 0.5 and measured.agreement > 0.9
    assert trained.summary is not None and len(trained.summary.course) == 10


@pytest.mark.slow
def test_a_model_of_transformers_is_searched_without_a_wrapper(trained_bert: nn.Module, tmp_path: Path) -> None:
    study = study_of(task_of(trained_bert, loss=loss_of_logits), tmp_path / "study", space="pruning", max_drop=0.5)
    record = study.optimize("2trials")
    fp32, *pruned = (candidate.measurement for candidate in record.candidates)
    assert fp32 and fp32.n_samples == 96 and fp32.agreement == 1 and fp32.largest_difference < 1e-4
    assert len(pruned) == 2 and all(m and m.macs < fp32.macs and m.agreement > 0.95 for m in pruned)
    heads = {f"bert.encoder.layer.{i}.attention.self" for i in range(2)}
    assert heads <= {group.rpartition(".")[0] for c in record.candidates for group in c.recipe.pruning}
