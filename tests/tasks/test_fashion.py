"""The embedded task: what the data and the checkpoint promise."""

import numpy as np
import pytest
import torch

from autocompress.deploy import to_openvino
from autocompress.latency import compile_model
from autocompress.tasks.fashion import DATA, WEIGHTS, fashion, flip_and_shift, load_split

SIZES = {"train": 10_000, "validation": 6_000, "test": 5_000}


@pytest.mark.parametrize(("split", "n"), SIZES.items())
def test_a_split_is_balanced_and_scaled(split: str, n: int) -> None:
    images, labels = load_split(split)
    assert images.shape == (n, 1, 28, 28) and images.min() == -1 and images.max() == 1
    assert torch.bincount(labels, minlength=10).tolist() == [n // 10] * 10


def test_no_image_is_in_two_splits() -> None:
    with np.load(DATA) as data:
        seen = {split: {image.tobytes() for image in data[f"{split}_images"]} for split in SIZES}
    assert not seen["train"] & seen["validation"] and not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]


def test_the_files_are_small() -> None:
    assert DATA.stat().st_size + WEIGHTS.stat().st_size < 11_000_000 and DATA.stat().st_size < 9_500_000


def test_the_checkpoint_is_trained() -> None:
    task = fashion()
    with torch.no_grad():
        pairs = [(task.model(x), y) for x, y in list(task.test)[:6]]
    outputs, targets = (torch.cat(column) for column in zip(*pairs, strict=True))
    assert task.score(outputs, targets) > 0.89


def test_the_deployed_model_agrees_with_torch() -> None:
    task = fashion()
    x = next(iter(task.test))[0][:20]
    compiled = compile_model(to_openvino(task.model, task.example_input), 1)
    deployed = np.concatenate([compiled([image[None].numpy()])[0] for image in x])
    with torch.no_grad():
        np.testing.assert_allclose(deployed, task.model(x).numpy(), rtol=1e-3, atol=1e-3)


def test_augmentation_is_repeatable_and_keeps_the_shape() -> None:
    images = load_split("train")[0][:64]
    a, b, c = (flip_and_shift(images, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c) and a.shape == images.shape
    assert not torch.equal(a, images)
