"""Evaluate every recipe of the small network once: 4,096 of them, with the project's own core and OpenVINO.

python -m examples.benchmarks.search.make_table accuracy 2 # half an hour of a core, here of 2; goes on where it was
python -m examples.benchmarks.search.make_table latency    # about 3 minutes on a quiet machine
python -m examples.benchmarks.search.make_table problem    # damage table and latency model, two minutes
python -m examples.benchmarks.search.make_table pack       # writes table.npz beside this file
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from autocompress.compress import CompressedModel, calibrate, compress, parameter_groups
from autocompress.deploy import save_openvino, size_bytes, to_openvino, write_tensors
from autocompress.graph import ModelGraph, inspect_model
from autocompress.measure import predict_deployed
from autocompress.recipe import FLOAT_BITS, LayerRecipe, Recipe
from autocompress.task import Batch, Task
from autocompress.train import FinetuneSettings, Hardware, Objective, Teacher, adapt_batch_norm, finetune, loop
from autocompress.train.teacher import TeacherOutputs
from examples.benchmarks.search.table import TABLE
from examples.benchmarks.search.table_latency import relative_latency, runs_of, structures
from examples.benchmarks.search.table_net import N_HALF, SEED, TableNet, table_task, trained_net
from examples.benchmarks.search.table_problem import measured_problem, problem_to_json, reordered, space_of
from examples.fetch import cache_folder

QUANTIZED = ("second", "third", "fourth")
PRUNED = ("first", "second", "third")
BITS = (32, 8, 4, 2)
RATIOS = (0.0, 0.25, 0.5, 0.75)
N_CHOICES = (len(BITS),) * len(QUANTIZED) + (len(RATIOS),) * len(PRUNED)
N_PLANS = int(np.prod(N_CHOICES))
N_STEPS, STEP_BATCH = 15, 32
RATE, PRUNED_RATE = 5e-4, 1.5e-3  # found with eight recipes; a model that lost filters has more to learn
N_OF_PROCESS = 200  # recipes
N_CALIBRATION = 5  # batches
PARTIAL = cache_folder() / "table"


def recipe_of(plan: Sequence[int]) -> Recipe:
    """The recipe of a plan: indices into `BITS` for the quantized layers, then into `RATIOS` for the groups."""
    bits = dict(zip(QUANTIZED, (BITS[i] for i in plan[: len(QUANTIZED)]), strict=True))
    ratios = zip(PRUNED, (RATIOS[i] for i in plan[len(QUANTIZED) :]), strict=True)
    layers = {name: LayerRecipe(weight_bits=b, activation_bits=8) for name, b in bits.items() if b != FLOAT_BITS}
    return Recipe(layers=layers, pruning=dict(ratios))


def plan_of(index: int) -> tuple[int, ...]:
    """The plan of a row of the table; the last unit changes fastest."""
    return tuple(int(i) for i in np.unravel_index(index, N_CHOICES))


class RememberingTeacher(Teacher):
    """A teacher that sees the same few batches in every training, and keeps in memory what it said."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__(module)
        self._said: dict[bytes, TeacherOutputs] = {}

    def outputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TeacherOutputs:
        """What the module says to the batch ``args[0]``."""
        key = args[0].numpy().tobytes()
        if key not in self._said:
            self._said[key] = super().outputs(args, kwargs)
        return self._said[key]


class Evaluator:
    """Everything that the evaluations of one network share."""

    def __init__(self, net: torch.nn.Module) -> None:
        self.task: Task = table_task(net)
        self.graph: ModelGraph = inspect_model(net, self.task.example_input)
        self.calibration: list[Batch] = list(itertools.islice(self.task.train, N_CALIBRATION))
        self._training = list(itertools.islice(_smaller(self.task.train), N_STEPS))
        self._fabric = Hardware("cpu").fabric()
        self._teacher = RememberingTeacher(self.task.model)

    @cached_property
    def targets(self) -> Tensor:
        """Classes of half A, then of half B."""
        return torch.cat([y for _, y in self._held_out])

    @cached_property
    def right(self) -> Tensor:
        """Which images the FP32 baseline has right."""
        return self.outputs(self.export(Recipe(), 0)).argmax(1) == self.targets

    @cached_property
    def _held_out(self) -> list[Batch]:
        return [*self.task.validation, *self.task.test]

    def compressed(self, recipe: Recipe, n_steps: int) -> CompressedModel:
        """The compressed model: batch norms adapted, calibrated, fine-tuned with distillation."""
        found = compress(self.task.model, self.graph, recipe, self.task.example_input)
        adapt_batch_norm(found.module, self.calibration)
        if recipe.quantized:
            calibrate(found.module, self.calibration, recipe.calibration)
        if recipe.is_identity or not n_steps:
            return found
        rate = PRUNED_RATE if recipe.pruning else RATE
        finetune(
            found.module,
            self._training,
            Objective(self.task.loss, None, self._teacher),
            FinetuneSettings(n_steps, rate, distillation=recipe.distillation, seed=SEED),
            ranges=parameter_groups(found.module)[1],
            fabric=self._fabric,
        )
        adapt_batch_norm(found.module, self.calibration)
        return found

    def export(self, recipe: Recipe, n_steps: int) -> Any:
        """The deployed model."""
        if recipe.is_identity:
            return to_openvino(self.task.model, self.task.example_input)
        with self.compressed(recipe, n_steps).export_form() as module:
            return to_openvino(module, self.task.example_input)

    def outputs(self, model: Any) -> Tensor:
        """Logits of the deployed model on halves A and B, shape (2 * N_HALF, 10)."""
        found: Tensor = predict_deployed(model, self._held_out, torch.zeros(1, 10), "held-out", 1).outputs
        return found


def size_of(model: Any) -> int:
    """Bytes of the deployed files."""
    with TemporaryDirectory() as folder:
        return size_bytes(save_openvino(model, Path(folder)))


def _smaller(batches: Any) -> Iterator[Batch]:
    """The same samples in batches of `STEP_BATCH`."""
    for x, y in batches:
        yield from zip(x.split(STEP_BATCH), y.split(STEP_BATCH), strict=True)


def the_net() -> TableNet:
    """The trained network; trained once, then read from the cache."""
    path = PARTIAL / "net.safetensors"
    if not path.is_file():
        PARTIAL.mkdir(parents=True, exist_ok=True)
        write_tensors(dict(trained_net().state_dict()), path)
    net = TableNet()
    net.load_state_dict(load_file(path))
    return net.eval()


def accuracies() -> None:
    """Evaluate what is not yet in the partial file, in random order, a line a recipe.

    Converting models leaves memory behind, so the processes that do it are replaced now and then.
    """
    path, net = PARTIAL / "accuracy.jsonl", the_net()
    known = {row["index"] for row in rows(path)}
    left = [index for index in np.random.default_rng(SEED).permutation(N_PLANS).tolist() if index not in known]
    n_processes = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    for start in range(0, len(left), N_OF_PROCESS * n_processes):
        part = left[start : start + N_OF_PROCESS * n_processes]
        with path.open("a") as file, _processes(n_processes) as pool:
            for row in pool.map(evaluate, itertools.repeat(net), part):
                print(json.dumps(row), file=file, flush=True)


def _processes(n_processes: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(n_processes, get_context("spawn"), torch.set_num_threads, (1,))


def evaluate(net: TableNet, index: int) -> dict[str, Any]:
    """Size of a recipe, and on each half how many images it loses and gains against the FP32 baseline."""
    evaluator, start = _evaluator(net), time.process_time()
    model = evaluator.export(recipe_of(plan_of(index)), N_STEPS)
    now = evaluator.outputs(model).argmax(1) == evaluator.targets
    halves = zip((evaluator.right & ~now).chunk(2), (now & ~evaluator.right).chunk(2), strict=True)
    counts = [[int(lost.sum()), int(gained.sum())] for lost, gained in halves]
    size = size_of(model)
    return {"index": index, "lost_and_gained": counts, "size": size, "seconds": time.process_time() - start}


_KNOWN: list["Evaluator"] = []  # of this process


def _evaluator(net: TableNet) -> Evaluator:
    if not _KNOWN:
        loop.N_CHECKPOINTS = 1  # a training of a fraction of a second is not worth more of them
        _KNOWN.append(Evaluator(net))
    return _KNOWN[0]


def rows(path: Path) -> list[dict[str, Any]]:
    """What a partial file holds."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def latencies() -> None:
    """Time what is not yet in the partial file, a line a structure; float and 8 bits stand for all bits."""
    path, evaluator = PARTIAL / "latency.jsonl", Evaluator(the_net())
    known = {tuple(row["structure"]) for row in rows(path)}
    left = [s for s in structures(N_CHOICES, len(QUANTIZED)) if s not in known]
    baseline = runs_of(evaluator.export(Recipe(), 0))
    with path.open("a") as file:
        for structure in np.random.default_rng(SEED).permutation(left).tolist():
            ratio = relative_latency(baseline, runs_of(evaluator.export(recipe_of(structure), 0)))
            print(json.dumps({"structure": structure, "latency": ratio}), file=file, flush=True)


def problem() -> None:
    """Measure what the planner is told, and write it down."""
    evaluator = Evaluator(the_net())
    space, order = space_of(evaluator.graph, dict.fromkeys(QUANTIZED, BITS), dict.fromkeys(PRUNED, RATIOS))
    with TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # so that no damage is known, which would be faster
        found, seconds = measured_problem(evaluator.task, evaluator.graph, space, Path(folder), N_STEPS)
    content = {"problem": problem_to_json(reordered(found, order)), "seconds": seconds}
    (PARTIAL / "problem.json").write_text(json.dumps(content))


def pack() -> None:
    """Put the partial files together."""
    accuracy = {row["index"]: row for row in rows(PARTIAL / "accuracy.jsonl")}
    timed = {tuple(row["structure"]): row["latency"] for row in rows(PARTIAL / "latency.jsonl")}
    counts = np.array([accuracy[index]["lost_and_gained"] for index in range(N_PLANS)])
    sizes = np.array([accuracy[index]["size"] for index in range(N_PLANS)], np.uint32)
    shape = tuple(max(structure[unit] for structure in timed) + 1 for unit in range(len(N_CHOICES)))
    latency = np.array([timed[structure] for structure in itertools.product(*map(range, shape))], np.float32)
    about = json.loads((PARTIAL / "problem.json").read_text())
    about["seconds"]["trial"] = float(np.median([row["seconds"] for row in accuracy.values() if "seconds" in row]))
    about |= {"n_images": N_HALF, "baseline_bytes": int(sizes[0])}
    np.savez_compressed(
        TABLE,
        lost=counts[:, :, 0].astype(np.uint16),
        gained=counts[:, :, 1].astype(np.uint16),
        sizes=sizes,
        latencies=latency.reshape(shape),
        about=np.frombuffer(json.dumps(about).encode(), np.uint8),
    )
    print(f"{TABLE}: {TABLE.stat().st_size} bytes")


STAGES = {"accuracy": accuracies, "latency": latencies, "problem": problem, "pack": pack}

if __name__ == "__main__":
    torch.set_num_threads(1)
    STAGES[sys.argv[1]]()
