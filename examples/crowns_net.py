"""A small detector: MobileNetV2 up to stride 16, its maps joined at stride 4, and a head as in CenterNet.

The head says for every cell of 4 x 4 pixels how likely a crown has its centre there, where in the cell, and how large
it is (Zhou et al. 2019, Objects as Points).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, l1_loss, logsigmoid, max_pool2d

STRIDE = 4  # pixels of a cell
UNIT = 32.0  # pixels, in which sizes are said
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))  # as in `CrownNet.__init__`
TAPS = {3: 24, 6: 32, 13: 96}  # channels behind the last block of strides 4, 8 and 16, by number of the block
PRIOR = -3.0  # logit of a centre before training, so that the many empty cells don't rule the first steps


class Block(nn.Module):
    """Inverted residual of MobileNetV2, its layers named as torchvision names them."""

    def __init__(self, n_in: int, n_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        n = n_in * expansion
        wide = [convolution(n_in, n, 1)] if expansion > 1 else []
        thin = (nn.Conv2d(n, n_out, 1, bias=False), nn.BatchNorm2d(n_out))
        self.conv = nn.Sequential(*wide, convolution(n, n, 3, stride, groups=n), *thin)
        self.is_residual = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        """Same height and width, or half of both."""
        y: Tensor = self.conv(x)
        return x + y if self.is_residual else y


class CrownNet(nn.Module):
    """The detector.

    Args:
        width: Channels of the joined map.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        blocks: list[nn.Module] = [convolution(3, 32, 3, stride=2)]
        n = 32
        for expansion, channels, n_blocks, stride in STAGES:
            for i in range(n_blocks):
                blocks.append(Block(n, channels, stride if i == 0 else 1, expansion))
                n = channels
        self.features = nn.Sequential(*blocks)
        self.laterals = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in TAPS.values())
        self.joined = convolution(width, width, 3)
        self.heat = nn.Sequential(convolution(width, width, 3), nn.Conv2d(width, 1, 1))
        self.shape = nn.Sequential(convolution(width, width, 3), nn.Conv2d(width, 4, 1))
        nn.init.constant_(self.heat[1].bias, PRIOR)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What each cell says.

        Args:
            images: Normalized as for ImageNet, shape (n, 3, height, width), both multiples of 16.

        Returns:
            Logits of centres, shape (n, 1, height / 4, width / 4); place of the centre in the cell (x, y, in cells) and
            size of the crown (width, height, in units of 32 pixels), shape (n, 4, height / 4, width / 4).
        """
        maps = []
        for number, block in enumerate(self.features):
            images = block(images)
            if number in TAPS:
                maps.append(images)
        laterals = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        x = laterals.pop()
        while laterals:
            x = laterals.pop() + interpolate(x, scale_factor=2.0)
        x = self.joined(x)
        return self.heat(x), self.shape(x)

    def load_backbone(self, weights: dict[str, Tensor]) -> None:
        """Take over what torchvision's MobileNetV2 has of the same layers."""
        prefix = "features."
        own = self.features.state_dict()
        self.features.load_state_dict({key: weights[prefix + key] for key in own})


def convolution(n_in: int, n_out: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU6."""
    layer = nn.Conv2d(n_in, n_out, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(n_out), nn.ReLU6())


def heat_loss(heat: Tensor, boxes: Tensor) -> Tensor:
    """Focal loss of the centres, with less weight near a centre (Zhou et al. 2019, equation 1), for each crown.

    Args:
        heat: Logits, shape (n, 1, rows, columns).
        boxes: Left, top, right, bottom in pixels, shape (n, m, 4); NaN where there is none.
    """
    sizes = (boxes[..., 2:] - boxes[..., :2]).mean(-1) / STRIDE
    spread = (sizes / 8).clamp(min=0.7)[..., None]
    across, down = (
        torch.exp(-(((torch.arange(n) + 0.5 - centre[..., None]) / spread) ** 2) / 2).nan_to_num()
        for n, centre in zip((heat.shape[3], heat.shape[2]), _centres(boxes).unbind(-1), strict=True)
    )
    near = (down[..., :, None] * across[..., None, :]).amax(1)
    image, row, column, _ = _cells(boxes)
    is_centre = torch.zeros_like(near).index_put((image, row, column), torch.tensor(1.0))
    logits = heat[:, 0]
    hit = is_centre * torch.sigmoid(-logits) ** 2 * logsigmoid(logits)
    miss = (1 - is_centre) * (1 - near) ** 4 * torch.sigmoid(logits) ** 2 * logsigmoid(-logits)
    return -(hit + miss).sum() / max(1, len(image))


def shape_loss(shape: Tensor, boxes: Tensor) -> Tensor:
    """L1 of place and size in the cells of the centres, for each crown.

    Args:
        shape: Shape (n, 4, rows, columns).
        boxes: As for `heat_loss`.
    """
    image, row, column, number = _cells(boxes)
    box = boxes[image, number]
    place = _centres(box) - torch.stack([column, row], dim=1)
    wanted = torch.cat([place, (box[:, 2:] - box[:, :2]) / UNIT], dim=1)
    return l1_loss(shape[image, :, row, column], wanted, reduction="sum") / max(1, len(image))


def _centres(boxes: Tensor) -> Tensor:
    """Centres (x, y) in cells, shape (..., 2)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2 / STRIDE


def _cells(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image, row, column and number of each box that there is."""
    image, number = boxes[..., 0].isfinite().nonzero(as_tuple=True)
    column, row = _centres(boxes[image, number]).long().unbind(1)
    return image, row, column, number


def decode(heat: Tensor, shape: Tensor, margin: int, n_most: int = 24) -> tuple[Tensor, Tensor]:
    """Boxes at the peaks of the heat maps, best first.

    Args:
        heat: Logits, shape (n, 1, rows, columns).
        shape: Shape (n, 4, rows, columns).
        margin: Cells at each side whose peaks don't count; a neighbouring tile has them inside.
        n_most: Boxes an image.

    Returns:
        Scores in [0, 1], 0 where there is no peak, shape (n, n_most); left, top, right, bottom in pixels, shape
        (n, n_most, 4).
    """
    is_peak = heat == max_pool2d(heat, 3, stride=1, padding=1)
    inner = (slice(None), 0, slice(margin, heat.shape[2] - margin), slice(margin, heat.shape[3] - margin))
    scores, places = (heat.sigmoid() * is_peak)[inner].flatten(1).topk(n_most)
    n_columns = heat.shape[3] - 2 * margin
    row, column = places // n_columns + margin, places % n_columns + margin
    said = shape[torch.arange(len(heat))[:, None], :, row, column]
    centres = (torch.stack([column, row], dim=2) + said[..., :2]) * STRIDE
    half = said[..., 2:] * UNIT / 2
    return scores, torch.cat([centres - half, centres + half], dim=2)
