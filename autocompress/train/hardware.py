"""On what to train: devices and precision, by way of Lightning Fabric."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import cloudpickle
import torch

from autocompress.errors import TrainingError

if TYPE_CHECKING:  # importing Fabric takes a second, which who does not train need not spend
    from lightning_fabric import Fabric

Result = TypeVar("Result")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}  # names here and of Fabric


@dataclass(frozen=True)
class Hardware:
    """Where the steps of a training run.

    Attributes:
        device: `auto` takes a GPU where there is one.
        n_devices: Processes that train together, each with its own batches and its own GPU, if any, >= 1.
        precision: `32`; `bf16` or `16`, mixed with 32 bits, the latter with a scaled loss and on GPUs only.

    Raises:
        TrainingError: A value is unknown, or this machine has no such device.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    n_devices: int = 1
    precision: Literal["32", "bf16", "16"] = "32"

    def __post_init__(self) -> None:
        """Check that the devices exist."""
        if self.device not in DEVICES:
            raise TrainingError(f"device must be one of {', '.join(DEVICES)}, but got {self.device!r}")
        if self.precision not in PRECISIONS:
            raise TrainingError(f"precision must be one of {', '.join(PRECISIONS)}, but got {self.precision!r}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise TrainingError("device cuda needs a GPU that torch can use, but there is none here; use cpu or auto")
        if self.n_devices < 1:
            raise TrainingError(f"n_devices must be at least 1, but got {self.n_devices}")
        if self.is_gpu and self.n_devices > torch.cuda.device_count():
            found = torch.cuda.device_count()
            raise TrainingError(f"n_devices must be at most {found}, the GPUs here, but got {self.n_devices}")
        if self.precision == "16" and not self.is_gpu:
            raise TrainingError("precision 16 needs a GPU, but training would run on the CPU; use 32 or bf16")

    @property
    def is_gpu(self) -> bool:
        """Whether training runs on GPUs."""
        return self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())

    def fabric(self) -> "Fabric":
        """A new Fabric; for more than one device it is `launch` that starts the processes."""
        from lightning_fabric import Fabric

        strategy = "auto" if self.n_devices == 1 else "ddp_spawn"
        return Fabric(
            accelerator="cuda" if self.is_gpu else "cpu",
            devices=self.n_devices,
            strategy=strategy,
            precision=PRECISIONS[self.precision],  # type: ignore[arg-type]  # one of Fabric's literals
        )


def launch(hardware: Hardware, function: Callable[..., Result], *arguments: Any) -> Result:
    """``function(fabric, *arguments)`` in this process, or in one process for each device.

    Args:
        hardware: On what.
        function: Its first parameter is a Fabric, to be passed on to `finetune`.
        arguments: Whatever cloudpickle can send.

    Returns:
        What it returned; with several processes, in the first of them.
    """
    fabric = hardware.fabric()
    if hardware.n_devices == 1:
        return function(fabric, *arguments)
    run = cast(Callable[[Any], Result], _unpacked)  # Fabric's type forgets that more arguments may follow
    result: Result = fabric.launch(run, cloudpickle.dumps((function, arguments)))
    return result


def _unpacked(fabric: "Fabric", packed: bytes) -> Any:
    function, arguments = cloudpickle.loads(packed)
    return function(fabric, *arguments)
