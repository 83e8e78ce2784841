"""Tree crowns of the NEON site Yellowstone, as the package deepforest has them: two aerial pictures with boxes.

The pictures have different light, so each is cut into three strips: for training, validation and test. A tile shows
more than what counts: crowns with their centres in its margin belong to a neighbouring tile, where they are seen whole.
So every crown counts once, and none is cut.
"""

from xml.etree import ElementTree

import numpy as np
import torch
from fetch import fetch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

TILE, MARGIN = 160, 32  # pixels
MOST = 20  # boxes a tile; 19 is the most that one has
JITTER = 0.25  # of contrast and brightness of each colour
STRIPS = {  # rows by name of a picture, which is an easting
    "528000": {"train": (0, 1120), "validation": (1120, 1952), "test": (1952, 2472)},
    "541000": {"train": (0, 427), "validation": (427, 779), "test": (779, 1035)},
}

_MEAN, _SPREAD = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]  # ImageNet


def read_strips(split: str) -> list[tuple[Tensor, Tensor]]:
    """The strips of a split: pixels, normalized, shape (3, height, width); boxes as of `tile`, shape (n, 4)."""
    strips = []
    for name, rows in STRIPS.items():
        first, last = rows[split]
        (path,) = fetch("deepforest").glob(f"2019_YELL_2_{name}_*.png")
        pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))[first:last]).permute(2, 0, 1) / 255
        found = ElementTree.parse(path.with_suffix(".xml")).iter("bndbox")
        boxes = [[float(box.findtext(side, "")) for side in ("xmin", "ymin", "xmax", "ymax")] for box in found]
        strips.append(((pixels - _MEAN) / _SPREAD, torch.tensor(boxes) - torch.tensor([0, first, 0, first])))
    return strips


def tile(pixels: Tensor, boxes: Tensor, x: int, y: int, margin: int = 0) -> tuple[Tensor, Tensor]:
    """The tile whose first pixel is at `x` and `y`.

    Returns:
        Pixels, shape (3, TILE, TILE); boxes (left, top, right, bottom) with their centres in the tile less `margin`,
        shape (MOST, 4), in pixels of the tile, NaN where there are no more.
    """
    shifted = boxes - torch.tensor([x, y, x, y])
    centres = (shifted[:, :2] + shifted[:, 2:]) / 2
    inside = shifted[((centres >= margin) & (centres < TILE - margin)).all(dim=1)][:MOST]
    rest = torch.full((MOST - len(inside), 4), torch.nan)
    return pixels[:, y : y + TILE, x : x + TILE], torch.cat([inside, rest])


def tiles(split: str) -> TensorDataset:
    """All tiles of a split, side by side but for their margins; what is left at right and bottom is not used."""
    step, found = TILE - 2 * MARGIN, []
    for pixels, boxes in read_strips(split):
        height, width = pixels.shape[1:]
        places = [(x, y) for y in range(0, height - TILE + 1, step) for x in range(0, width - TILE + 1, step)]
        found += [tile(pixels, boxes, x, y, MARGIN) for x, y in places]
    images, of_tiles = zip(*found, strict=True)
    return TensorDataset(torch.stack(images), torch.stack(of_tiles))


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Tiles at random places of the strips for training, turned, mirrored and coloured by chance.

    Args:
        n: Tiles an epoch.
    """

    def __init__(self, n: int = 256) -> None:
        self._strips, self._n = read_strips("train"), n

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, _: int) -> tuple[Tensor, Tensor]:
        pixels, boxes = self._strips[int(torch.randint(len(self._strips), ()))]
        height, width = pixels.shape[1:]
        x, y, n_turns, is_mirrored = (int(torch.randint(n, ())) for n in (width - TILE + 1, height - TILE + 1, 4, 2))
        pixels, boxes = tile(pixels, boxes, x, y, margin=1)
        left, top, right, bottom = boxes.unbind(1)
        if is_mirrored:
            pixels, left, right = pixels.flip(2), TILE - right, TILE - left
        for _ in range(n_turns):
            pixels = pixels.rot90(1, (1, 2))
            left, top, right, bottom = top, TILE - right, bottom, TILE - left
        contrast, brightness = JITTER * torch.randn(2, 3, 1, 1)
        return pixels * (1 + contrast) + brightness, torch.stack([left, top, right, bottom], dim=1)
