"""Train the checkpoint of the `fashion` task from the embedded data and print its accuracy.

Run `python examples/train_fashion.py`: about 8 minutes on 2 cores, rewrites the checkpoint; `--smoke` takes a few steps
and writes nothing.
"""

import argparse
import time

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy

from autocompress.task import TensorBatches
from autocompress.tasks.fashion import WEIGHTS, flip_and_shift, load_split
from autocompress.tasks.fashion.network import FashionNet


def accuracy(model: nn.Module, split: str) -> float:
    """Top-1 accuracy of `model` on a split of the embedded data."""
    images, labels = load_split(split)
    model.eval()
    with torch.no_grad():
        hits = [(model(x).argmax(1) == y).sum() for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return float(sum(hits)) / len(labels)


def main() -> None:
    """Train with AdamW and a one-cycle schedule, then print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="three steps, nothing written")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    model = FashionNet().to(memory_format=torch.channels_last)
    batches = TensorBatches(*load_split("train"), batch_size=128, shuffle=True, augment=flip_and_shift)
    n_steps = 3 if arguments.smoke else arguments.epochs * len(batches)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=2e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=n_steps, pct_start=0.2)
    start, step = time.perf_counter(), 0
    while step < n_steps:
        model.train()
        batches.set_epoch(step // len(batches))
        for images, labels in batches:
            loss = cross_entropy(model(images), labels, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            if step == n_steps:
                break
        print(f"step {step:5d}/{n_steps}  loss {loss.item():.3f}  {time.perf_counter() - start:5.0f} s", flush=True)
    print(f"validation {accuracy(model, 'validation'):.4f}  test {accuracy(model, 'test'):.4f}")
    if not arguments.smoke:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, WEIGHTS)
        print(f"wrote {WEIGHTS}")


if __name__ == "__main__":
    main()
