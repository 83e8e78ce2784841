"""Grey and white matter in slices of a brain: a U-Net, judged by the Dice coefficient of each slice.

python examples/train_brain.py    # once, some minutes
autocompress search examples/brain_task.py:brain --budget 15m --max-drop 0.01 --out brain
"""

import gzip

import numpy as np
import torch
from brain_net import UNet
from fetch import cache_folder, fetch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from torch.utils.data import DataLoader, TensorDataset

from autocompress import Score, Task

CHECKPOINT = cache_folder() / "examples" / "brain.safetensors"
SHAPE = (197, 233, 189)  # voxels of the volume
FIRST, LAST = 30, 206  # slices that show enough of both kinds of matter
BLOCK, TRAIN, VALIDATION, TEST = 44, range(20), range(23, 33), range(35, 42)  # places in each block, with gaps between
CROP = 96  # pixels, for training


def read_volume(name: str) -> Tensor:
    """Coronal slices of a NIfTI file, one byte a voxel behind a header of 352, in [0, 1], shape (233, 160, 160)."""
    (path,) = fetch("nilearn").glob(f"mni_icbm152_{name}_*.nii.gz")
    volume = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=352).reshape(SHAPE, order="F")
    return torch.from_numpy(volume[18:178, :, :160].transpose(1, 2, 0) / np.float32(255))


def slices(places: range) -> TensorDataset:
    """Pictures (n, 1, 160, 160) and classes (n, 160, 160) at some places of each block of slices."""
    chosen = [i for i in range(FIRST, LAST) if (i - FIRST) % BLOCK in places]
    picture, grey, white = (read_volume(name)[chosen] for name in ("t1", "gm", "wm"))
    return TensorDataset(picture[:, None], torch.stack([1 - grey - white, grey, white]).argmax(0))


def cropped(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """A batch of some slices, of which it has the same part at a random place."""
    x, y = torch.randint(160 - CROP + 1, (2,)).tolist()
    pictures, classes = (torch.stack(column)[..., y : y + CROP, x : x + CROP] for column in zip(*rows, strict=True))
    return pictures, classes


def dice_of_slices(logits: Tensor, classes: Tensor) -> Tensor:
    """Mean Dice coefficient of grey and white matter in each slice, shape (n,); 1 for one that is rightly not found."""
    found, true = (one_hot(x, 3)[..., 1:].flatten(1, 2).double() for x in (logits.argmax(dim=1), classes))
    common, total = 2 * (found * true).sum(dim=1), (found + true).sum(dim=1)
    return torch.where(total > 0, common / total, 1.0).mean(dim=1)


def brain() -> Task:
    """The trained U-Net, blocks of slices of one brain."""
    if not CHECKPOINT.is_file():
        raise FileNotFoundError(f"{CHECKPOINT} is missing; python examples/train_brain.py makes it")
    model = UNet()
    model.load_state_dict(load_file(CHECKPOINT))
    validation = slices(VALIDATION)
    return Task(
        model=model.eval(),
        example_input=validation[0][0][None],
        train=DataLoader(slices(TRAIN), batch_size=8, shuffle=True, collate_fn=cropped),
        validation=DataLoader(validation, batch_size=10),
        test=DataLoader(slices(TEST), batch_size=10),
        loss=cross_entropy,
        score=Score(lambda *pair: float(dice_of_slices(*pair).mean()), name="Dice", per_sample=dice_of_slices),
        name="brain",
    )
