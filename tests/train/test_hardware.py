"""Devices, precision, and several processes that train as one."""

import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autocompress.compress import CompressedModel, calibrate, compress, parameter_groups
from autocompress.errors import TrainingError
from autocompress.graph import inspect_model
from autocompress.recipe import Distillation, LayerRecipe, Recipe
from autocompress.search.context import EvaluationContext, Rung
from autocompress.search.training import train_candidate
from autocompress.search.worker import Worker
from autocompress.space import uniform_recipe
from autocompress.train import FinetuneSettings, Hardware, Objective, Outcome, Teacher, Watch, finetune, launch
from tests import tiny
from tests.nets import NETS

SETTINGS = FinetuneSettings(4, learning_rate=0.01, range_learning_rate=0.01)
TWO = Hardware("cpu", 2)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"device": "tpu"}, "device must be one of auto, cpu, cuda, but got 'tpu'", id="device"),
        pytest.param({"precision": "8"}, "precision must be one of 32, bf16, 16, but got '8'", id="precision"),
        pytest.param({"device": "cuda"}, "device cuda needs a GPU .* there is none here; use cpu or auto", id="no GPU"),
        pytest.param({"n_devices": 0}, "n_devices must be a whole number of at least 1, but got 0", id="no device"),
        pytest.param({"n_devices": 1.5}, "n_devices must be a whole .* got 1.5", id="half a device"),
        pytest.param(
            {"precision": "16"}, "precision 16 needs a GPU, but .* CPU; use 32 or bf16", id="16 bits on a CPU"
        ),
    ],
)
def test_hardware_that_cannot_be_is_an_error(values: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=f"^{message}$"):
        Hardware(**values)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_more_gpus_than_there_are_are_an_error(device: Any) -> None:
    assert Hardware(device, 2, "16").is_gpu
    with pytest.raises(TrainingError, match="^n_devices must be at most 2, the GPUs here, but got 3$"):
        Hardware(device, 3)


@pytest.mark.usefixtures("two_gpus")
def test_the_cpu_is_taken_where_it_is_asked_for_beside_gpus() -> None:
    assert not Hardware("cpu", 3).is_gpu
    assert Hardware("cpu", 3).fabric().device == torch.device("cpu")


@pytest.mark.parametrize("name", ["SLURM_NTASKS", "TORCHELASTIC_RUN_ID"])
def test_a_job_around_us_is_not_joined(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {name: "4", "WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "0", "SLURM_JOB_NAME": "x"}.items():
        monkeypatch.setenv(key, value)
    fabric = Hardware("cpu").fabric()
    assert (fabric.world_size, fabric.global_rank) == (1, 0)


# mixed precision


def quantized(name: str = "mlp", dtype: torch.dtype = torch.float32) -> CompressedModel:
    net = NETS[name]
    model, x = net.build(), net.inputs()
    graph = inspect_model(model, x)
    layers = uniform_recipe(graph, LayerRecipe(weight_bits=4, activation_bits=8)).layers
    result = compress(model, graph, Recipe(layers=layers), x)
    calibrate(result.module, net.batches())
    result.module.to(dtype)
    return result


def outputs(module: nn.Module, name: str) -> Tensor:
    with torch.no_grad():
        return module(NETS[name].inputs(8, seed=9))


@pytest.mark.parametrize("features", [(), ("first.0",)], ids=["outputs", "features"])
def test_mixed_precision_trains_a_quantized_net_nearly_as_32_bits_do(features: tuple[str, ...]) -> None:
    how = replace(SETTINGS, clip_norm=1.0, distillation=Distillation(weight=0.5, features=features))
    results = {}
    for precision in ("32", "bf16"):
        model, teacher = quantized("residual"), Teacher(NETS["residual"].build(), features)
        before = outputs(model.module, "residual")
        finetune(
            model.module,
            NETS["residual"].batches(),
            Objective(cross_entropy, teacher=teacher),
            how,
            ranges=parameter_groups(model.module)[1],
            fabric=Hardware("cpu", precision=precision).fabric(),
        )
        assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in model.module.parameters())
        results[precision] = outputs(model.module, "residual")
    moved = float((results["32"] - before).norm())
    assert 0 < float((results["bf16"] - results["32"]).norm()) < 0.5 * moved


@pytest.mark.parametrize(("precision", "expected"), [("32", torch.float32), ("bf16", torch.bfloat16)])
def test_layers_compute_in_the_precision_but_inputs_and_loss_are_in_32_bits(precision: Any, expected: Any) -> None:
    model, seen = NETS["mlp"].build(), []
    model[0].register_forward_hook(lambda _, args, output: seen.extend([args[0].dtype, output.dtype]))

    def loss(values: Tensor, targets: Tensor) -> Tensor:
        seen.append(values.dtype)
        return cross_entropy(values, targets)

    fabric = Hardware("cpu", precision=precision).fabric()
    finetune(model, NETS["mlp"].batches(), Objective(loss), replace(SETTINGS, n_steps=1), fabric=fabric)
    assert seen == [torch.float32, expected, torch.float32]


# several processes


def four_batches() -> list[tuple[Tensor, Tensor]]:
    return [(x.double(), y) for x, y in NETS["mlp"].batches(4)]


def pairs() -> list[tuple[Tensor, Tensor]]:
    a, b, c, d = four_batches()
    return [(torch.cat([x[0], y[0]]), torch.cat([x[1], y[1]])) for x, y in ((a, b), (c, d))]


class Narrowed(nn.Sequential):
    """With fewer neurons than the teacher, so that features need an adapter, and a parameter that nothing uses."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            super().__init__(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 5))
            self.unused = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


Build = Callable[[], tuple[nn.Module, list[nn.Parameter]]]


def of_quantized() -> tuple[nn.Module, list[nn.Parameter]]:
    module = quantized(dtype=torch.float64).module
    return module, parameter_groups(module)[1]


def of_narrowed() -> tuple[nn.Module, list[nn.Parameter]]:
    return Narrowed().double(), []


WAYS: dict[str, tuple[Build, FinetuneSettings]] = {
    "quantized": (of_quantized, replace(SETTINGS, distillation=Distillation(weight=0.0))),
    "with a teacher": (of_quantized, replace(SETTINGS, distillation=Distillation(weight=0.5))),
    "clipped": (of_narrowed, replace(SETTINGS, clip_norm=0.05, distillation=Distillation(weight=0.0))),
    "accumulated": (of_narrowed, replace(SETTINGS, accumulate=2, distillation=Distillation(weight=0.0))),
    "adapted features": (of_narrowed, replace(SETTINGS, distillation=Distillation(weight=0.5, features=("0",)))),
}


def train_all_ways(fabric: Any, folder: Path) -> dict[str, tuple[list[Tensor], Outcome, list[str]]]:
    """Weights, outcome and the files that were there at the last step, of each way.

    One process gets double batches, but where features are distilled two batches a step: the unit of that loss is the
    variance of a batch, which is not that of a half.
    """
    results = {}
    for name, (build, how) in WAYS.items():
        module, ranges = build()
        batches = four_batches()
        if fabric.world_size == 1 and how.distillation.features:
            how = replace(how, accumulate=2)
        elif fabric.world_size == 1:
            batches = pairs()
        teacher = Teacher(NETS["mlp"].build().double(), how.distillation.features)
        files: list[str] = []

        def note(info: Any, path: Path = folder / name, files: list[str] = files) -> None:
            files[:] = sorted(f"{file.name}" for file in path.iterdir())

        objective = Objective(cross_entropy, teacher=teacher)
        outcome = finetune(
            module, batches, objective, how, ranges=ranges, fabric=fabric, watch=Watch(note), folder=folder / name
        )
        results[name] = [p.detach().clone() for p in module.parameters()], outcome, files
    return results


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """All ways on one process with large batches, on two with small ones, and the folder of the latter."""
    folder = tmp_path_factory.mktemp("two")
    one = launch(Hardware("cpu"), train_all_ways, tmp_path_factory.mktemp("one"))
    return one, launch(TWO, train_all_ways, folder), folder


@pytest.mark.parametrize("name", WAYS)
def test_two_processes_give_the_weights_of_one_with_the_double_batch(name: str, together: Any) -> None:
    one, two, _ = together
    start = [p.detach() for p in WAYS[name][0]()[0].parameters()]
    assert any(not torch.allclose(a, b, atol=1e-3) for a, b in zip(start, one[name][0], strict=True))
    for a, b in zip(one[name][0], two[name][0], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", WAYS)
def test_the_loss_that_is_shown_is_the_mean_over_the_processes(name: str, together: Any) -> None:
    one, two, _ = together
    losses = [[point.loss for point in results[name][1].course] for results in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_one_process_writes_the_log_and_the_checkpoint(together: Any) -> None:
    _, two, folder = together
    assert two["quantized"][2] == ["checkpoint.npz", "training.csv"]
    lines = (folder / "quantized" / "training.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "1", "2", "3", "4"]
    assert not (folder / "quantized" / "checkpoint.npz").exists()


def fail(fabric: Any, how: str) -> None:
    """Train a little, in which nothing may be printed either, and fail."""
    finetune(NETS["mlp"].build(), NETS["mlp"].batches(), Objective(cross_entropy), SETTINGS, fabric=fabric)
    if how == "error of ours":
        raise TrainingError("the task's loss must be a scalar tensor")
    if fabric.global_rank == 1:
        if how == "error of the user's":
            raise ValueError("no such column")
        os.kill(os.getpid(), signal.SIGKILL)
    fabric.barrier()
    time.sleep(600)


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        pytest.param("error of ours", TrainingError, "the task's loss must be a scalar tensor", id="of ours"),
        pytest.param(
            *("error of the user's", ValueError, "no such column"), id="of the user's", marks=pytest.mark.slow
        ),
        pytest.param(
            *("killed", TrainingError, "one of the 2 processes that train together ended by SIGKILL, .*"), id="killed"
        ),
    ],
)
def test_an_error_in_a_process_comes_back_as_it_is(how: str, kind: Any, message: str, capfd: Any) -> None:
    environment, n_threads = dict(os.environ), torch.get_num_threads()
    with pytest.raises(kind) as caught:
        launch(TWO, fail, how)
    assert re.fullmatch(message, str(caught.value))
    assert (dict(os.environ), torch.get_num_threads()) == (environment, n_threads)
    assert caught.value.__cause__ is None
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_candidate_trains_on_two_processes_from_within_the_worker(tmp_path: Path) -> None:
    task = tiny.tiny()
    graph = inspect_model(task.model, task.example_input)
    recipe = uniform_recipe(graph, LayerRecipe(weight_bits=8, activation_bits=8))
    context = EvaluationContext(task, graph, tmp_path, n_cores=1, hardware=TWO)
    with Worker(context) as worker:
        trained = worker.call(train_candidate, recipe, tmp_path / "candidate", Rung("full", 6), 0)
    assert trained.summary.n_steps == 6
    assert trained.summary.course[-1].step == 6
    assert {path.name for path in (tmp_path / "candidate").iterdir()} == {
        *("recipe.yaml", "weights.safetensors", "training.csv")
    }
