"""What the README shows runs as written, with a small budget."""

import re
import shlex
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import typer

from autocompress import TensorBatches
from autocompress.cli import app
from autocompress.recipe import LayerRecipe, Recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(bash|python|yaml)\n(.*?)```", README, flags=re.DOTALL)
LINES = [line for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()]
COMMANDS = [part for line in LINES for part in line.split("&&") if part.strip().startswith("autocompress ")]


def test_the_readme_has_both_commands_on_one_line_each() -> None:
    main_job, tests = (next(line for line in LINES if line.endswith(end)) for end in ("--out study", "&& pytest"))
    assert main_job.startswith("pip install torch==2.13.0 . && autocompress search")
    assert tests.startswith("pip install torch==2.13.0")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_parses(command: str) -> None:
    _, name, *arguments = shlex.split(command, comments=True)
    subcommand = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    assert subcommand.make_context(name, list(arguments)).params


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = next(block for kind, block in BLOCKS if kind == "python")
    images = torch.rand(96, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batches = TensorBatches(images, (images.mean(dim=(1, 2, 3)) > 0.5).long(), batch_size=32)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(16 * 36, 2)
    )
    names = {"model": model, "images": images, "__name__": "readme"}
    names |= dict.fromkeys(("train_batches", "validation_batches", "test_batches"), batches)
    exec(code.replace('"30m"', '"2trials"').replace("max_drop=0.01", "max_drop=0.01, finetune_steps=2"), names)
    assert (tmp_path / "runs" / "mine" / "chosen" / "model.onnx").is_file()


def test_the_example_of_quantization_runs(tmp_path: Path) -> None:
    code = [block for kind, block in BLOCKS if kind == "python"][1]
    layers = {"conv": torch.nn.Conv2d(1, 16, 3), "downsample": torch.nn.Conv2d(16, 16, 2, stride=2)}
    model = torch.nn.Sequential(OrderedDict(layers | {"flat": torch.nn.Flatten(), "head": torch.nn.Linear(144, 2)}))
    images = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    names = {"model": model, "images": images, "train_batches": [(images, None)], "folder": tmp_path}
    exec(code, names)
    assert (tmp_path / "model.bin").is_file()
    assert set(names["quantized"].recipe.layers) == {"conv"}  # type: ignore[attr-defined]


def test_the_training_loop_of_ones_own_runs() -> None:
    fit, script = [block for kind, block in BLOCKS if kind == "python"][2:4]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2)
        )
        images = torch.rand(32, 1, 8, 8)
        names = {
            "model": model,
            "images": images,
            "torch": torch,
            "recipe": Recipe(layers={"1": LayerRecipe(weight_bits=8, activation_bits=8, sparsity=0.75)}),
            "train_batches": [(images, (images.mean(dim=(1, 2, 3)) > 0.5).long())] * 4,
            "criterion": torch.nn.functional.cross_entropy,
        }
        exec(fit, names)
        exec(script, names)
    plain = names["plain"]
    assert isinstance(plain, torch.nn.Sequential)
    weight = plain[1].weight
    assert float((weight == 0).float().mean()) >= 0.75  # type: ignore[union-attr]


def test_the_recipe_is_valid() -> None:
    (text,) = (block for kind, block in BLOCKS if kind == "yaml")
    recipe = Recipe.from_yaml(text)
    assert recipe.layer("body.2").weight_bits == 1
    assert recipe.layer("head").group_size == 64
    assert (recipe.layer("body.3").sparsity, recipe.layer("body.4").rank_ratio) == (0.7, 0.4)
    assert recipe.sparsification.scope == "global" and recipe.pruning == {"body.0": 0.5}


def test_every_link_of_the_readme_exists() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets and [t for t in targets if not t.startswith("http") and not (ROOT / t).exists()] == []


def test_the_figures_are_those_of_the_committed_report() -> None:
    report = (ROOT / "reports" / "fashion" / "report.md").read_text(encoding="utf-8")
    headline = next(line for line in report.splitlines() if line.startswith("**")).split("**")[1]
    assert headline in " ".join(README.split())
    acceptance = (ROOT / "reports" / "fashion" / "acceptance.md").read_text(encoding="utf-8")
    first = re.search(r"first deployable .*? \| (\d+)\.\d s", acceptance)
    assert not first or f"a deployable model was there after {first[1]} s" in " ".join(README.split())
