"""Fine-tuning of a compressed module: one call, whatever the loss, the device and the methods in the module."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from torch import nn

from autocompress.task import Batch, evaluating
from autocompress.train.hardware import Hardware
from autocompress.train.loop import Loop
from autocompress.train.objective import BatchLoss, Compression, Objective
from autocompress.train.settings import FinetuneSettings
from autocompress.train.training_log import TrainingLog
from autocompress.train.watching import Outcome, Watch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LOG = "training.csv"


def finetune(
    model: nn.Module,
    batches: Iterable[Batch],
    objective: Objective,
    settings: FinetuneSettings,
    *,
    ranges: Iterable[nn.Parameter] = (),
    compression: Compression | None = None,
    fabric: "Fabric | None" = None,
    watch: Watch | None = None,
    folder: Path | None = None,
    origin: str = "",
) -> Outcome:
    """Train `model` in place; it is in evaluation mode and on the CPU afterwards.

    Global random state is left as it was. The same seed gives the same weights to the last bit on one machine with one
    number of threads. A training that was cut off goes on from the checkpoint in its folder, and ends in the weights of
    an unbroken one. One that diverges goes back to the last checkpoint and on with 0.3 of the rates, once.

    Args:
        model: The compressed module.
        batches: Training batches; read again from the start when used up, after `set_epoch` where the loader has it.
            With several processes each takes every n-th.
        objective: Loss and teacher; the teacher is evaluated, not changed.
        settings: How.
        ranges: Parameters of `model` that are steps and ranges of quantizers.
        compression: Methods that change during training.
        fabric: Devices and precision, from `Hardware.fabric` or `launch`; by default a GPU, if there is one, and 32
            bits.
        watch: Who looks on.
        folder: Gets `training.csv`, and a checkpoint while the training runs.
        origin: What `model` starts from; a checkpoint of another origin is not gone on with.

    Raises:
        TrainingError: There are no batches, the loss is not a scalar, every parameter is frozen, or the training
            diverges twice.
    """
    if settings.n_steps == 0:
        model.eval()
        return Outcome(0)
    fabric = fabric or Hardware().fabric()
    teacher = objective.teacher.module if objective.teacher else nn.Identity()
    with _folder(folder, fabric) as path, _on_device(fabric, model, teacher), evaluating(teacher):
        batch = fabric.to_device(next(iter(batches), None)) if settings.distillation.features else None
        batch_loss = BatchLoss(objective, settings.distillation, compression, model, batch)
        log = TrainingLog(path / LOG if folder and fabric.is_global_zero else None, settings.n_steps)
        watch = watch or Watch()
        outcome = Loop(
            fabric, model, batches, batch_loss, settings, ranges, compression, watch, path, log, origin
        ).run()
    model.eval()
    return outcome


@contextmanager
def _on_device(fabric: "Fabric", *modules: nn.Module) -> Iterator[None]:
    """Modules on the device of `fabric` inside the block, and on the CPU afterwards."""
    for module in modules:
        module.to(fabric.device)
    try:
        yield
    finally:
        for module in modules:
            module.cpu()


@contextmanager
def _folder(folder: Path | None, fabric: "Fabric") -> Iterator[Path]:
    """The folder, made if it is missing, or one that is removed afterwards; the same in every process."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with TemporaryDirectory(prefix="autocompress-") as made:
        yield Path(fabric.broadcast(made))
        fabric.barrier()
