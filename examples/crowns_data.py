"""Tree crowns of the NEON site Yellowstone, as the package deepforest has them: two aerial pictures with boxes.

A tile shows more than what counts: crowns with their centres in its margin belong to a neighbouring tile, where they
are seen whole. So every crown counts once, and none is cut.
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
JITTER = 0.25  # of contrast and brightness of each colour, since another picture has another light
TRAIN, TEST = "528000", "541000"  # eastings of the pictures
TRAINING_ROWS = 1256  # of the first picture; those below are for validation

_MEAN, _SPREAD = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]  # ImageNet


def read_picture(name: str) -> tuple[Tensor, Tensor]:
    """Normalized pixels, shape (3, height, width), and boxes (left, top, right, bottom) in pixels, shape (n, 4)."""
    (path,) = fetch("deepforest").glob(f"2019_YELL_2_{name}_*.png")
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1) / 255
    found = ElementTree.parse(path.with_suffix(".xml")).iter("bndbox")
    boxes = [[float(box.findtext(side, "")) for side in ("xmin", "ymin", "xmax", "ymax")] for box in found]
    return (pixels - _MEAN) / _SPREAD, torch.tensor(boxes)


def tile(pixels: Tensor, boxes: Tensor, x: int, y: int, margin: int = 0) -> tuple[Tensor, Tensor]:
    """The tile whose first pixel is at `x` and `y`.

    Returns:
        Pixels, shape (3, TILE, TILE); boxes with their centres in the tile less `margin`, shape (MOST, 4), in pixels of
        the tile, NaN where there are no more.
    """
    shifted = boxes - torch.tensor([x, y, x, y])
    centres = (shifted[:, :2] + shifted[:, 2:]) / 2
    inside = shifted[((centres >= margin) & (centres < TILE - margin)).all(dim=1)][:MOST]
    rest = torch.full((MOST - len(inside), 4), torch.nan)
    return pixels[:, y : y + TILE, x : x + TILE], torch.cat([inside, rest])


def tiles(pixels: Tensor, boxes: Tensor, top: int = 0) -> TensorDataset:
    """All tiles below row `top`, side by side but for their margins; what is left at right and bottom is not used."""
    (height, width), step = pixels.shape[1:], TILE - 2 * MARGIN
    places = [(x, y) for y in range(top, height - TILE + 1, step) for x in range(0, width - TILE + 1, step)]
    images, found = zip(*(tile(pixels, boxes, x, y, MARGIN) for x, y in places), strict=True)
    return TensorDataset(torch.stack(images), torch.stack(found))


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Tiles at random places of the rows for training, turned, mirrored and coloured by chance.

    Args:
        pixels: Of the picture.
        boxes: Of the picture.
        n: Tiles an epoch.
    """

    def __init__(self, pixels: Tensor, boxes: Tensor, n: int = 256) -> None:
        self._pixels, self._boxes, self._n = pixels[:, :TRAINING_ROWS], boxes, n

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, _: int) -> tuple[Tensor, Tensor]:
        height, width = self._pixels.shape[1:]
        x, y, n_turns, is_mirrored = (int(torch.randint(n, ())) for n in (width - TILE + 1, height - TILE + 1, 4, 2))
        pixels, boxes = tile(self._pixels, self._boxes, x, y, margin=1)
        left, top, right, bottom = boxes.unbind(1)
        if is_mirrored:
            pixels, left, right = pixels.flip(2), TILE - right, TILE - left
        for _ in range(n_turns):
            pixels = pixels.rot90(1, (1, 2))
            left, top, right, bottom = top, TILE - right, bottom, TILE - left
        contrast, brightness = JITTER * torch.randn(2, 3, 1, 1)
        return pixels * (1 + contrast) + brightness, torch.stack([left, top, right, bottom], dim=1)
