"""Peak memory of a fine-tuning beside that of plain training, each in a process of its own."""

import copy
import ctypes
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from autocompress.compress import parameter_groups
from autocompress.search.context import channels_last_module
from autocompress.task import Batch, Task, top1_accuracy
from autocompress.tasks.fashion import fashion
from autocompress.train import FinetuneSettings, Objective, Teacher, channels_last, finetune
from examples.benchmarks.compressing import resnet18
from examples.benchmarks.training_steps import quantized

FASHION, RESNET = "fashion net, batches of 64", "ResNet-18 size, batches of 16 at 64x64"
N_STEPS = 6
PLAIN, TUNED = "plain", "tuned"


@dataclass(frozen=True)
class Memory:
    """Peaks of resident memory above what the process held with the data and the FP32 model, in bytes.

    Attributes:
        net: What was trained.
        plain: Of a bare FP32 loop on a copy of the model.
        tuned: Of INT8 with distillation and checkpoints; another copy of the FP32 model is the teacher.
        teacher: Parameters and buffers of the teacher.
    """

    net: str
    plain: int
    tuned: int
    teacher: int

    @property
    def ratio(self) -> float:
        """Of the fine-tuning without its teacher over plain training."""
        return (self.tuned - self.teacher) / self.plain


def memories(names: tuple[str, ...] = (FASHION, RESNET)) -> list[Memory]:
    """Of each net."""
    found = []
    for name in names:
        peaks = {kind: _in_a_process(name, kind) for kind in (PLAIN, TUNED)}
        teacher = sum(t.numel() * t.element_size() for t in _task(name).model.state_dict().values())
        found.append(Memory(name, peaks[PLAIN], peaks[TUNED], teacher))
    return found


def _in_a_process(name: str, kind: str) -> int:
    done = subprocess.run([sys.executable, "-m", __name__, name, kind], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {kind} training of {name} failed:\n{done.stderr}")
    return int(json.loads(done.stdout.splitlines()[-1]))


def _task(name: str) -> Task:
    if name == FASHION:
        task = fashion()
        return Task(**{**_fields(task), "train": [batch for _, batch in zip(range(N_STEPS), task.train, strict=False)]})
    batches = _random_batches(16, (3, 64, 64), 1000)
    return _task_of(resnet18(), batches)


def _fields(task: Task) -> dict[str, Any]:
    return {name: getattr(task, name) for name in task.__dataclass_fields__}


def _random_batches(batch_size: int, shape: tuple[int, ...], n_classes: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(batch_size, *shape, generator=generator),
            torch.randint(n_classes, (batch_size,), generator=generator),
        )
        for _ in range(N_STEPS)
    ]


def _task_of(model: nn.Module, batches: list[Batch]) -> Task:
    return Task(
        model=model,
        example_input=batches[0][0][:1],
        train=batches,
        validation=batches,
        test=batches,
        loss=cross_entropy,
        score=top1_accuracy(),
    )


def _small_task() -> Task:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    return _task_of(model, _random_batches(8, (3, 8, 8), 4))


def _measure(name: str, kind: str) -> int:
    prepare = {PLAIN: _prepare_plain, TUNED: _prepare_tuned}[kind]
    for warm_up in (_prepare_plain, _prepare_tuned):  # imports and allocators are not the training's
        warm_up(_small_task())()
    task = _task(name)
    before = _status("VmRSS")
    train = prepare(task)
    ctypes.CDLL(None).malloc_trim(0)  # what calibration freed is not the training's
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is held now
    train()
    return _status("VmHWM") - before


def _prepare_plain(task: Task) -> Callable[[], None]:
    model = channels_last_module(copy.deepcopy(task.model)).train()
    loss = task.loss or cross_entropy

    def train() -> None:
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        for images, labels in task.train:
            loss(model(channels_last(images)), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()

    return train


def _prepare_tuned(task: Task) -> Callable[[], None]:
    compressed = quantized(task, task.train)
    teacher = Teacher(channels_last_module(copy.deepcopy(task.model)).eval())
    ranges = parameter_groups(compressed.module)[1]

    def train() -> None:
        with TemporaryDirectory() as folder:
            settings = FinetuneSettings(N_STEPS)
            objective = Objective(task.loss, teacher=teacher)
            finetune(compressed.module, task.train, objective, settings, ranges=ranges, folder=Path(folder))

    return train


def _status(key: str) -> int:
    """A size that the kernel keeps about this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


if __name__ == "__main__":
    print(json.dumps(_measure(*sys.argv[1:3])))
