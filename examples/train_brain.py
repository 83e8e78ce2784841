"""Train the U-Net of `brain_task.py`, print its Dice coefficients, write the checkpoint.

Run `python examples/train_brain.py`: about 4 minutes on 2 cores. `--smoke` takes two steps, and writes only where
`--out` says.
"""

import argparse
import time
from itertools import islice
from pathlib import Path

import torch
from brain_net import UNet
from brain_task import CHECKPOINT, TEST, TRAIN, VALIDATION, cropped, dice_of_slices, slices
from fetch import FetchError
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, RandomSampler

from autocompress.measure import predict_torch

BATCH_SIZE = 8


def dice(model: UNet, places: range, n_batches: int | None) -> float:
    """Dice coefficient of the torch model, on the first batches or on all."""
    batches = list(islice(DataLoader(slices(places), batch_size=10), n_batches))
    predictions = predict_torch(model, batches, "validation")
    return float(dice_of_slices(predictions.outputs, predictions.targets).mean())


def train(n_steps: int, learning_rate: float) -> UNet:
    """The U-Net after `n_steps` steps of AdamW with a one-cycle schedule."""
    model = UNet().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=n_steps)
    dataset, start = slices(TRAIN), time.perf_counter()
    order = RandomSampler(dataset, num_samples=n_steps * BATCH_SIZE)
    batches = DataLoader(dataset, BATCH_SIZE, sampler=order, collate_fn=cropped)
    for step, (pictures, classes) in enumerate(batches, 1):
        loss = cross_entropy(model(pictures), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == n_steps:
            print(f"step {step}/{n_steps}  loss {loss.item():.4f}  {time.perf_counter() - start:.0f} s", flush=True)
    return model


def main() -> None:
    """Train, judge, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--smoke", action="store_true", help="two steps")
    parser.add_argument("--out", type=Path, help="checkpoint to write")
    arguments = parser.parse_args()
    out = arguments.out or (None if arguments.smoke else CHECKPOINT)
    torch.manual_seed(0)
    try:
        model = train(2 if arguments.smoke else arguments.steps, arguments.learning_rate)
    except FetchError as error:
        raise SystemExit(f"train_brain.py: {error}") from None
    n_batches = 1 if arguments.smoke else None
    print(f"validation {dice(model, VALIDATION, n_batches):.4f}  test {dice(model, TEST, n_batches):.4f}")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, out)
        print(f"wrote {out}")


if __name__ == "__main__":
    main()
