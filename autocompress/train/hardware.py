"""On what to train: devices and precision, by way of Lightning Fabric, and a process for each of several devices."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import cloudpickle
import torch

from autocompress.errors import AutocompressError, TrainingError

if TYPE_CHECKING:  # importing Fabric takes a second, which who does not train need not spend
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import Precision

Result = TypeVar("Result")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("32", "bf16", "16")
_RESULT, _ERROR, _STORE = "result", "error", "store"  # files by which the processes of one launch meet
_POLL_SECONDS = 0.25


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
        if isinstance(self.n_devices, bool) or not isinstance(self.n_devices, int) or self.n_devices < 1:
            raise TrainingError(f"n_devices must be a whole number of at least 1, but got {self.n_devices!r}")
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
        """A new Fabric for this process alone, on one device, whatever `n_devices` says; `launch` makes more."""
        return self._fabric(1, "auto")

    def _fabric(self, n_devices: int, strategy: Any) -> "Fabric":
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments.lightning import LightningEnvironment

        # the environment is given, since Fabric would otherwise take part in a SLURM or torchrun job around us
        plugins: list[Any] = [LightningEnvironment(), *([] if self.precision == "32" else [self._mixed_precision()])]
        kind = "cuda" if self.is_gpu else "cpu"
        return Fabric(accelerator=kind, devices=n_devices, strategy=strategy, plugins=plugins)

    def _mixed_precision(self) -> "Precision":
        """Automatic mixed precision in which modules get their inputs as they are, and clipping goes with AdamW."""
        from lightning_fabric.plugins import MixedPrecision

        class Mixed(MixedPrecision):
            def convert_input(self, data: Any) -> Any:
                return data  # a teacher in 32 bits sees the same inputs

            def unscale_gradients(self, optimizer: torch.optim.Optimizer) -> None:
                if self.scaler is not None:
                    self.scaler.unscale_(optimizer)  # which fused optimizers understand, other than Fabric believes

        return Mixed("bf16-mixed" if self.precision == "bf16" else "16-mixed", "cuda" if self.is_gpu else "cpu")


def make_hardware(device: str, n_devices: int, precision: str) -> Hardware:
    """The hardware of these names, as a command line gives them.

    Raises:
        TrainingError: A name is unknown, or this machine has no such device.
    """
    return Hardware(device, n_devices, precision)  # type: ignore[arg-type]  # any text; it checks itself


def launch(hardware: Hardware, function: Callable[..., Result], *arguments: Any) -> Result:
    """``function(fabric, *arguments)`` in this process, or in one new process for each of several devices.

    The processes are ended when this function is left and when this process ends, however that happens. On CPUs they
    share the threads of this process.

    Args:
        hardware: On what.
        function: Its first parameter is a Fabric, to be passed on to `finetune`.
        arguments: Whatever cloudpickle can send.

    Returns:
        What it returned; with several processes, in the first of them.

    Raises:
        TrainingError: A process died.
        Exception: What `function` raised; with several processes, the first error of any.
    """
    if hardware.n_devices == 1:
        return function(hardware.fabric(), *arguments)
    with TemporaryDirectory(prefix="autocompress-") as name:
        folder = Path(name)
        n_threads = max(1, torch.get_num_threads() // hardware.n_devices)
        packed = cloudpickle.dumps((hardware, function, arguments))
        _run_processes(hardware.n_devices, (folder, os.getpid(), n_threads, packed))
        result: Result = cloudpickle.loads((folder / _RESULT).read_bytes())
        return result


def _run_processes(n_devices: int, arguments: tuple[Path, int, int, bytes]) -> None:
    """Run `_process` with each rank and wait; none is left behind.

    Raises:
        TrainingError: A process died without an error of its own.
        Exception: The first error in a process.
    """
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_process, args=(rank, *arguments)) for rank in range(n_devices)]
    try:
        with _quiet_torch():
            for process in processes:
                process.start()
        running = list(processes)
        while running and not any(process.exitcode for process in processes):
            wait([process.sentinel for process in running])
            running = [process for process in running if process.is_alive()]
        codes = [process.exitcode or 0 for process in processes]
        if any(codes):
            raise _first_error(arguments[0] / _ERROR, codes) from None
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()


@contextmanager
def _quiet_torch() -> Iterator[None]:
    """Processes that start in the block do not print torch's warnings in C++, as one for each search in vain of DDP."""
    name = "TORCH_CPP_LOG_LEVEL"
    was_set = name in os.environ
    os.environ.setdefault(name, "ERROR")
    try:
        yield
    finally:
        if not was_set:
            del os.environ[name]


def _first_error(path: Path, exit_codes: list[int]) -> BaseException:
    """What to tell the caller; where a signal ended a process, the errors of others only follow from that."""
    died = [signal.Signals(-code).name for code in exit_codes if code < 0]
    if not died:
        with suppress(Exception):  # no such file, or an error of a class that cannot be read back
            error = cloudpickle.loads(path.read_bytes())
            if isinstance(error, BaseException):
                return error
    how = f"by {died[0]}" if died else f"with exit code {max(exit_codes)}"
    return TrainingError(
        f"one of the {len(exit_codes)} processes that train together ended {how}, for example for lack of memory; "
        "use fewer devices or smaller batches"
    )


def _process(rank: int, folder: Path, parent: int, n_threads: int, packed: bytes) -> None:
    """What runs in the process of each device."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        hardware, function, arguments = cloudpickle.loads(packed)
        with _joined(hardware, rank, folder, n_threads) as fabric:
            result = function(fabric, *arguments)
        if rank == 0:
            (folder / _RESULT).write_bytes(cloudpickle.dumps(result))
    except BaseException as error:  # also an interrupt, which is the caller's to handle
        _tell(error, folder / _ERROR, rank)
        sys.exit(1)


def _end_with(parent: int) -> None:
    """End this process soon after the process `parent` has ended, which a training could outlive by hours."""
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(1)


@contextmanager
def _joined(hardware: Hardware, rank: int, folder: Path, n_threads: int) -> Iterator["Fabric"]:
    """The Fabric of this process as one of a group; the group ends with the block, but not with an error in it."""
    from lightning_fabric.strategies.ddp import DDPStrategy

    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all are on one machine
    store = (folder / _STORE).as_uri()  # a file, since a port might be taken by the time it is used
    n, backend = hardware.n_devices, "nccl" if hardware.is_gpu else "gloo"
    if hardware.is_gpu:
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(backend, init_method=store, rank=rank, world_size=n)
    # binarizers that are off, frozen masks and ends at 0 take no part in a step
    fabric = hardware._fabric(n, DDPStrategy(find_unused_parameters=True))
    fabric.launch()
    torch.set_num_threads(n_threads)
    yield fabric
    torch.distributed.destroy_process_group()


def _tell(error: BaseException, path: Path, rank: int) -> None:
    """Leave `error` for the parent, unless another process was first: others fail for the lack of that one."""
    if not isinstance(error, AutocompressError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        packed = cloudpickle.dumps(error.with_traceback(None))
    except Exception:  # an error that holds what cannot be sent
        packed = cloudpickle.dumps(TrainingError(f"{type(error).__name__}: {error}"))
    own = path.with_name(f"{path.name}.{rank}")
    own.write_bytes(packed)
    with suppress(FileExistsError):
        os.link(own, path)
