"""To which category an emoji belongs: EfficientNet-Lite0 at 64x64, on the pictures of Google and of Twitter.

python examples/train_emoji.py    # once: fine-tunes the ImageNet weights
autocompress search examples/emoji_task.py:emoji --budget 20m --max-drop 0.025 --out emoji
"""

import json
import sys

import numpy as np
import torch
from fetch import cache_folder, fetch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from autocompress import Task, TensorBatches, top1_accuracy

CHECKPOINT = cache_folder() / "examples" / "emoji.safetensors"
CATEGORIES = (
    *("Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink", "Travel & Places"),
    *("Activities", "Objects", "Symbols", "Flags"),
)
SPLITS = {"train": (0.0, 0.5), "validation": (0.5, 0.75), "test": (0.75, 1.0)}  # shares of the code points


def pictures(split: str) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, 64, 64) in [-1, 1] on white and categories (n,); both drawings of an emoji are in one split."""
    known = json.loads((fetch("emoji-datasource-google") / "emoji.json").read_text())
    known = [one for one in known if one["category"] in CATEGORIES]
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(0)).tolist()
    first, last = (round(share * len(known)) for share in SPLITS[split])
    chosen = [known[i] for i in order[first:last]]
    images = []
    for vendor in ("google", "twitter"):
        folder = fetch(f"emoji-datasource-{vendor}") / "img" / vendor / "64"
        for one in chosen:
            picture = Image.open(folder / one["image"]).convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            images.append(np.asarray(picture.convert("RGB"), np.float32))
    labels = 2 * [CATEGORIES.index(one["category"]) for one in chosen]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1, torch.tensor(labels)


def distorted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, stretch, shear and move each picture a little, and mirror every other one."""
    transforms = torch.eye(2, 3) + 0.1 * torch.randn(len(images), 2, 3, generator=generator)
    transforms[::2, 0] *= -1
    grid = affine_grid(transforms, list(images.shape), align_corners=False)
    return grid_sample(images - 1, grid, align_corners=False) + 1  # white beyond the edges


def network() -> nn.Module:
    """EfficientNet-Lite0 with random weights."""
    sys.path.append(str(fetch("efficientnet-lite-pytorch")))
    from efficientnet_lite_pytorch import EfficientNet

    options = {"num_classes": len(CATEGORIES), "image_size": 64, "drop_connect_rate": 0.0}
    return EfficientNet.from_name("efficientnet-lite0", **options)


def emoji() -> Task:
    """The fine-tuned network with its data."""
    if not CHECKPOINT.is_file():
        raise FileNotFoundError(f"{CHECKPOINT} is missing; make it with python examples/train_emoji.py")
    model = network()
    model.load_state_dict(load_file(CHECKPOINT))
    return Task(
        model=model.eval(),
        example_input=torch.zeros(1, 3, 64, 64),
        train=TensorBatches(*pictures("train"), batch_size=64, shuffle=True, augment=distorted),
        validation=TensorBatches(*pictures("validation"), batch_size=250),
        test=TensorBatches(*pictures("test"), batch_size=250),
        loss=cross_entropy,
        score=top1_accuracy(),
        name="emoji",
    )
