"""Write the embedded Fashion-MNIST subset from the official files.

The files come with Debian's package `dataset-fashion-mnist` (MIT, Zalando SE). Kept are 10,000 training and
6,000 validation images, drawn evenly over the classes from the official training set, and 5,000 test images
from the official test set. Run `python examples/make_fashion_data.py`.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np

N_TRAIN, N_FIRST, N_SECOND = 1000, 300, 300  # of each class: training, and two draws of validation images
TARGET = Path(__file__).parents[1] / "autocompress" / "tasks" / "fashion" / "data.npz"


def read_idx(path: Path) -> np.ndarray:
    """Array in an idx file: a header of big-endian 32-bit sizes, then bytes."""
    raw = gzip.decompress(path.read_bytes())
    n_dims = raw[3]
    shape = np.frombuffer(raw, dtype=">u4", count=n_dims, offset=4)
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * n_dims).reshape(shape)


def draw(labels: np.ndarray, n_per_class: int, seed: int) -> np.ndarray:
    """Indices of `n_per_class` samples of each class, in random order."""
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(labels == c))[:n_per_class] for c in range(10)]
    return rng.permutation(np.concatenate(chosen))


def main() -> None:
    """Read, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    source = parser.parse_args().source
    images, labels = (read_idx(source / f"train-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    test_images, test_labels = (read_idx(source / f"t10k-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    kept = draw(labels, N_TRAIN + N_FIRST, seed=0)
    by_class = {c: kept[labels[kept] == c] for c in range(10)}
    train = np.concatenate([indices[:N_TRAIN] for indices in by_class.values()])
    first = np.concatenate([indices[N_TRAIN:] for indices in by_class.values()])
    left = np.setdiff1d(np.arange(len(labels)), kept)
    validation = np.concatenate([first, left[draw(labels[left], N_SECOND, seed=2)]])
    test = draw(test_labels, 500, seed=1)
    np.savez_compressed(
        TARGET,
        train_images=images[train],
        train_labels=labels[train],
        validation_images=images[validation],
        validation_labels=labels[validation],
        test_images=test_images[test],
        test_labels=test_labels[test],
    )
    sizes = f"{len(train)} train, {len(validation)} validation, {len(test)} test"
    print(f"{TARGET}: {sizes}, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
