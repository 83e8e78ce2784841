"""The scores of the example tasks against references written apart; nothing is fetched or trained."""

import importlib
import math
import random
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from torch import Tensor

EXAMPLES = Path(__file__).parents[1] / "examples"
SIDE, CELL, UNIT = 40, 4, 32  # cells of a heat map; pixels of a cell; pixels in which sizes are said
NOTHING = -200.0  # logit of a cell whose score is 0

Box = tuple[float, float, float, float]
Found = list[tuple[float, Box]]  # with scores


@pytest.fixture(scope="module", autouse=True)
def beside_the_examples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield


@pytest.fixture(scope="module")
def crowns(beside_the_examples: None) -> ModuleType:
    return importlib.import_module("crowns_task")


@pytest.fixture(scope="module")
def brain(beside_the_examples: None) -> ModuleType:
    return importlib.import_module("brain_task")


def maps(tiles: list[Found]) -> tuple[Tensor, Tensor]:
    """What the net would have to say, for boxes whose centres lie in cells that don't touch each other."""
    heat, shape = torch.full((len(tiles), 1, SIDE, SIDE), NOTHING), torch.zeros(len(tiles), 4, SIDE, SIDE)
    for number, tile in enumerate(tiles):
        for score, (left, top, right, bottom) in tile:
            x, y = (left + right) / 2 / CELL, (top + bottom) / 2 / CELL
            heat[number, 0, int(y), int(x)] = math.log(score / (1 - score))
            said = (x - int(x), y - int(y), (right - left) / UNIT, (bottom - top) / UNIT)
            shape[number, :, int(y), int(x)] = torch.tensor(said)
    return heat, shape


def padded(tiles: list[list[Box]]) -> Tensor:
    """Crowns as the loader gives them, with room for one more at least."""
    most = max(map(len, tiles)) + 1
    return torch.tensor([[*tile, *[(math.nan,) * 4] * (most - len(tile))] for tile in tiles])


def overlap(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(0.0, width) * max(0.0, height)
    return common / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - common)


def reference(tiles: list[Found], crowns: list[list[Box]], least_overlap: float = 0.4) -> float:
    """The definition box by box, the ranking by scikit-learn."""
    flags, scores = [], []
    for found, there in zip(tiles, crowns, strict=True):
        taken = set()
        for score, box in sorted(found, reverse=True):
            best = max(range(len(there)), key=lambda i: overlap(box, there[i]), default=None)
            is_right = best is not None and overlap(box, there[best]) >= least_overlap and best not in taken
            if is_right:
                taken.add(best)
            flags.append(is_right)
            scores.append(score)
    if not any(flags):
        return 0.0
    return float(average_precision_score(flags, scores)) * sum(flags) / sum(map(len, crowns))


def average_precision(crowns: ModuleType, tiles: list[Found], there: list[list[Box]]) -> float:
    return float(crowns.average_precision(crowns.matched(maps(tiles), padded(there))))


A, B, C = (40.0, 40.0, 64.0, 64.0), (90.0, 44.0, 118.0, 68.0), (44.0, 92.0, 74.0, 116.0)
NEAR_A, BESIDE_A = (44.0, 52.0, 64.0, 74.0), (52.0, 52.0, 76.0, 76.0)  # overlaps with A of 0.31 and 0.14
ON_A = (40.0, 48.0, 64.0, 72.0)  # with an overlap of a half
IN_MARGIN = (10.0, 40.0, 34.0, 64.0)

CASES = [
    pytest.param([[(0.9, A)]], [[A]], 1.0, id="found"),
    pytest.param([[(0.9, A)]], [[A, B]], 0.5, id="one of two found"),
    pytest.param([[(0.9, C), (0.8, A)]], [[A]], 0.5, id="a wrong box first"),
    pytest.param([[(0.9, A), (0.8, C)]], [[A]], 1.0, id="a wrong box last"),
    pytest.param([[(0.8, C), (0.8, A)]], [[A]], 0.5, id="a wrong box with the same score"),
    pytest.param([[(0.8, A), (0.8, C)]], [[A]], 0.5, id="the same in the other order"),
    pytest.param([[(0.9, A)], [(0.9, C)]], [[A], [B]], 0.25, id="equal scores in two tiles"),
    pytest.param([[(0.9, A), (0.8, ON_A), (0.7, B)]], [[A, B]], (1 + 2 / 3) / 2, id="a crown found twice"),
    pytest.param([[(0.9, ON_A)]], [[A]], 1.0, id="overlap of a half"),
    pytest.param([[(0.9, NEAR_A)]], [[A]], 0.0, id="overlap of a third"),
    pytest.param([[(0.9, BESIDE_A), (0.8, A)]], [[A]], 0.5, id="a wrong box takes no crown"),
    pytest.param([[], [(0.9, A)]], [[A], []], 0.0, id="found in another tile"),
    pytest.param([[(0.6, A)], [(0.9, B), (0.7, C)]], [[A], [B]], (1 + 2 / 3) / 2, id="one ranking for all tiles"),
    pytest.param([[(0.9, IN_MARGIN), (0.8, A)]], [[A]], 1.0, id="a box in the margin does not count"),
    pytest.param([[], []], [[A], [B]], 0.0, id="nothing found"),
]


@pytest.mark.parametrize(("tiles", "there", "expected"), CASES)
def test_average_precision_of_hand_made_cases(
    crowns: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tiles: list[Found],
    there: list[list[Box]],
    expected: float,
) -> None:
    monkeypatch.setattr(crowns, "LEAST_OVERLAPS", torch.tensor([0.4]))
    assert average_precision(crowns, tiles, there) == pytest.approx(expected, abs=1e-6)
    counted = [[(score, box) for score, box in tile if box != IN_MARGIN] for tile in tiles]
    assert reference(counted, there) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("tiles", [[[]], [[(0.9, A)]]], ids=["nothing found", "something found"])
def test_average_precision_without_crowns_is_no_number(crowns: ModuleType, tiles: list[Found]) -> None:
    assert math.isnan(average_precision(crowns, tiles, [[]]))


def random_scene(seed: int) -> tuple[list[Found], list[list[Box]]]:
    """Six tiles: crowns at some places of a grid, and boxes that are shifted and scaled; many scores are equal."""
    rng = random.Random(seed)
    tiles: list[Found] = []
    there: list[list[Box]] = []
    for _ in range(6):
        tiles.append([])
        there.append([])
        for x in (42.0, 66.0, 90.0, 114.0):
            for y in (42.0, 70.0, 98.0):
                size = rng.choice([16.0, 24.0, 36.0])
                if rng.random() < 0.6:
                    there[-1].append((x - size / 2, y - size / 2, x + size / 2, y + size / 2))
                if rng.random() < 0.7:
                    a, b = x + rng.choice([-2, 1, 5]), y + rng.choice([-3, 0, 4])
                    half, score = size * rng.choice([0.4, 0.5, 1.0]), rng.choice([0.1, 0.25, 0.5, 0.75, 0.9])
                    tiles[-1].append((score, (a - half, b - half, a + half, b + half)))
    return tiles, there


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_of_random_scenes_is_that_of_scikit_learn(crowns: ModuleType, seed: int) -> None:
    tiles, there = random_scene(seed)
    found = average_precision(crowns, tiles, there)
    expected = [reference(tiles, there, least_overlap) for least_overlap in (0.3, 0.4, 0.5, 0.6, 0.7)]
    assert 0.05 < found < 0.95 and found == pytest.approx(sum(expected) / 5, abs=1e-6)


def test_the_losses_are_least_where_the_net_says_what_is_there(crowns: ModuleType) -> None:
    there = [[A, B], [C]]
    boxes, right = padded(there), maps([[(0.999, box) for box in tile] for tile in there])
    elsewhere = maps([[(0.999, C)], [(0.999, A), (0.999, B)]])
    shifted = (right[0], right[1] + 0.25)
    losses = [
        [float(loss(outputs[i], boxes)) for i, loss in enumerate((crowns.heat_loss, crowns.shape_loss))]
        for outputs in (right, elsewhere, shifted)
    ]
    assert losses[0] == pytest.approx([0.0, 0.0], abs=1e-5)
    assert losses[1][0] > 10 and losses[2][1] == pytest.approx(4 * 0.25)


def logits(classes: Tensor) -> Tensor:
    """Shape (n, 3, ...), largest at `classes`."""
    return torch.nn.functional.one_hot(classes, 3).movedim(-1, 1).float()


SLICES = [
    pytest.param([0, 1, 1, 2], [0, 1, 1, 2], 1.0, id="all right"),
    pytest.param([0, 1, 0, 2], [0, 1, 1, 2], (2 / 3 + 1) / 2, id="half of the grey matter"),
    pytest.param([1, 1, 1, 1], [0, 1, 1, 2], (4 / 6 + 0) / 2, id="all grey"),
    pytest.param([0, 0, 1, 1], [0, 0, 1, 1], 1.0, id="no white matter, rightly"),
    pytest.param([0, 2, 1, 1], [0, 0, 1, 1], 0.5, id="white matter where there is none"),
    pytest.param([0, 0, 0, 0], [0, 0, 0, 0], 1.0, id="nothing but background"),
    pytest.param([0, 0, 0, 0], [1, 1, 2, 2], 0.0, id="nothing found"),
]


@pytest.mark.parametrize(("found", "true", "expected"), SLICES)
def test_dice_of_hand_made_slices(brain: ModuleType, found: list[int], true: list[int], expected: float) -> None:
    classes, said = torch.tensor(true).reshape(1, 2, 2), torch.tensor(found).reshape(1, 2, 2)
    assert brain.dice_of_slices(logits(said), classes).tolist() == pytest.approx([expected])
    f1 = f1_score(true, found, labels=[1, 2], average="macro", zero_division=1.0)
    assert f1 == pytest.approx(expected)


def test_dice_is_by_slice(brain: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    said, classes = (torch.randint(3, (5, 8, 6), generator=generator) for _ in range(2))
    dice = brain.dice_of_slices(logits(said), classes)
    for value, a, b in zip(dice.tolist(), said, classes, strict=True):
        assert value == pytest.approx(f1_score(b.flatten(), a.flatten(), labels=[1, 2], average="macro"))
