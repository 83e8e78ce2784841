"""Tree crowns in aerial pictures: a detector of your own with two losses, judged by its average precision.

python examples/train_crowns.py    # once, some minutes
autocompress search examples/crowns_task.py:crowns --budget 20m --max-drop 0.05 --out crowns
"""

import torch
from crowns_data import MARGIN, Crops, tiles
from crowns_net import STRIDE, CrownNet, decode, heat_loss, shape_loss
from fetch import cache_folder
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from autocompress import Score, Task

CHECKPOINT = cache_folder() / "examples" / "crowns.safetensors"
LEAST_OVERLAPS = torch.tensor([0.3, 0.4, 0.5, 0.6, 0.7])  # of a box with the crown that it is right for


def training_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Loss of a batch of images and their boxes."""
    images, boxes = batch
    heat, shape = model(images)
    return heat_loss(heat, boxes) + shape_loss(shape, boxes)


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (n, k, 4) and (n, m, 4), shape (n, k, m); 0 where a box is NaN."""
    a, b = a[:, :, None], b[:, None]
    sides = (torch.minimum(a, b)[..., 2:] - torch.maximum(a, b)[..., :2]).clamp(min=0)
    common = sides.prod(dim=-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(dim=-1) for boxes in (a, b)]
    return (common / (areas[0] + areas[1] - common)).nan_to_num()


def matched(outputs: tuple[Tensor, Tensor], boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of boxes found (n, k), whether they are right by each of the least overlaps (n, k, 5), crowns there (n,).

    A box is right if it overlaps the crown that it overlaps most by enough, and no better box has found that one.
    """
    scores, found = decode(*outputs, margin=MARGIN // STRIDE)
    overlap, crown = overlaps(found, boxes).max(dim=2)
    is_on = overlap[..., None] >= LEAST_OVERLAPS
    is_same = (crown[:, :, None] == crown[:, None]).tril(-1)[..., None] & is_on[:, None]
    return scores, is_on & ~is_same.any(dim=2), boxes[..., 0].isfinite().sum(dim=1)


def average_precision(tiles: tuple[Tensor, Tensor, Tensor]) -> float:
    """Mean over all crowns of the precision down to the rank where each is found, 0 for those that are not.

    All tiles are one ranking; boxes of equal scores share a rank. As for COCO it is a mean over several least overlaps.
    NaN where there are no crowns.
    """
    scores, is_right, n_crowns = tiles
    ranked, order = scores.flatten().sort(descending=True)
    n_right = is_right.flatten(0, 1)[order].cumsum(0)
    is_last = (ranked > 0) & (ranked != torch.cat([ranked[1:], ranked.new_zeros(1)]))  # of its rank
    precision, before = n_right[is_last] / (is_last.nonzero() + 1), torch.zeros(1, n_right.shape[1])
    return float((precision * n_right[is_last].diff(dim=0, prepend=before)).sum(0).mean() / n_crowns.sum())


def crowns() -> Task:
    """The trained detector and tiles of two pictures."""
    if not CHECKPOINT.is_file():
        raise FileNotFoundError(f"{CHECKPOINT} is missing; python examples/train_crowns.py makes it")
    model = CrownNet()
    model.load_state_dict(load_file(CHECKPOINT))
    validation = tiles("validation")
    return Task(
        model=model.eval(),
        example_input=validation[0][0][None],
        train=DataLoader(Crops(), batch_size=8),
        validation=DataLoader(validation, batch_size=32),
        test=DataLoader(tiles("test"), batch_size=32),
        training_step=training_step,
        score=Score(average_precision, name="average precision", prepare=matched),
        name="crowns",
    )
