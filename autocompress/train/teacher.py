"""The FP32 model as a teacher: its outputs for a batch, computed or read from a cache on disk."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.task import evaluating, flatten
from autocompress.train.features import captured_features, check_captured, named_layers
from autocompress.train.tensor_cache import TensorCache, batch_key, content_digest, dense

_OUTPUT, _FEATURE = "output ", "feature "  # before the names of tensors in the cache


@dataclass(frozen=True)
class TeacherOutputs:
    """What the teacher said to one batch, without gradients.

    Attributes:
        outputs: The tensors of the module's output, in the order of `flatten`.
        features: Outputs by name of layer; of a layer that runs several times, the last one.
    """

    outputs: list[Tensor]
    features: dict[str, Tensor]


class Teacher:
    """Runs the FP32 module in evaluation mode, and remembers what it said where a cache is given.

    The cache holds one safetensors file a batch, `cache/<digest of the teacher>/<digest of the batch>.safetensors`. The
    batch's digest covers every value that the module is called with, memory layout, number of threads and version of
    torch, so what is read is bit for bit what would be computed. Data that is augmented anew is never found and is
    computed; after `MAX_STORED_WITHOUT_HIT` batches of which none came again, no more are stored. Several processes may
    share the folder. A damaged file counts as missing. A disk that is full or cannot be written ends the storing, not
    the training. Arguments that hold objects other than tensors, arrays, containers and plain values are not cached.

    Args:
        module: The module; on the device of its inputs. Neither its values nor its modes are changed.
        features: Names of layers whose outputs are wanted, too.
        cache: Folder, made when something is stored; None keeps nothing.
        max_bytes: The folder is filled up to this size, whatever teachers it belongs to; each of several processes
            counts what it found and what it wrote itself.

    Attributes:
        module: As given.
        features: As given.
        n_computed: How many batches were computed so far.
        n_read: How many came from the cache so far.

    Raises:
        TrainingError: The module has no layer of a name in `features`.
    """

    def __init__(
        self, module: nn.Module, features: tuple[str, ...] = (), cache: Path | None = None, max_bytes: int = 2**30
    ) -> None:
        named_layers(module, features, "the FP32 model")
        self.module, self.features = module, tuple(features)
        self.n_computed = self.n_read = 0
        self._folder, self._max_bytes = cache, max_bytes
        self._cache: TensorCache | None = None

    def outputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TeacherOutputs:
        """What the module says when it is called with `args` and `kwargs`.

        Random state is left as it was, and a module that draws random numbers draws the same for every batch.

        Args:
            args: Positional arguments.
            kwargs: Arguments by name.

        Returns:
            Tensors on the device of the inputs, detached; memory layouts are those of the module's own outputs.

        Raises:
            TrainingError: A layer of `features` did not run, or its output holds no tensor.
        """
        cache = self._opened_cache()
        key = batch_key(args, kwargs) if cache else None
        if cache is None or key is None:
            return self._compute(args, kwargs)
        found = cache.read(key)
        if found is None:
            computed = self._compute(args, kwargs)
            cache.write(key, _by_name(computed))
            return computed
        self.n_read += 1
        return _from_names(found, next((t.device for t in flatten((args, kwargs))), torch.device("cpu")))

    def _opened_cache(self) -> TensorCache | None:
        if self._cache is None and self._folder is not None:
            digest = _digest(self.module, self.features)
            self._cache = TensorCache(self._folder / digest, self._folder, self._max_bytes) if digest else None
            self._folder = self._folder if digest else None
        return self._cache

    def _compute(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TeacherOutputs:
        self.n_computed += 1
        with (
            torch.no_grad(),
            evaluating(self.module),
            own_chance(flatten((args, kwargs))),
            captured_features(self.module, self.features) as features,
        ):
            outputs = flatten(self.module(*args, **kwargs))
        check_captured(features, self.features, "the FP32 model")
        return TeacherOutputs([dense(t) for t in outputs], {name: dense(features[name]) for name in self.features})


def _digest(module: nn.Module, features: tuple[str, ...]) -> str | None:
    """Digest of what the outputs depend on beside the inputs: class, structure, tensors, names of features.

    Tensors are those of `state_dict` and the buffers that are not in it.
    """
    structure = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(module))  # addresses differ between processes
    tensors = {**dict(module.named_buffers()), **module.state_dict()}
    return content_digest((type(module).__module__, type(module).__qualname__, structure, features, tensors))


def _by_name(said: TeacherOutputs) -> dict[str, Tensor]:
    outputs = {f"{_OUTPUT}{index}": tensor for index, tensor in enumerate(said.outputs)}
    return outputs | {f"{_FEATURE}{name}": tensor for name, tensor in said.features.items()}


def _from_names(tensors: dict[str, Tensor], device: torch.device) -> TeacherOutputs:
    outputs = [tensor.to(device) for name, tensor in tensors.items() if name.startswith(_OUTPUT)]
    features = {name: tensor.to(device) for name, tensor in tensors.items() if name.startswith(_FEATURE)}
    return TeacherOutputs(outputs, {name.removeprefix(_FEATURE): tensor for name, tensor in features.items()})


@contextmanager
def own_chance(inputs: list[Tensor]) -> Iterator[None]:
    """A block whose random numbers start from a fixed seed; afterwards random state is as it was.

    Args:
        inputs: Tensors of which the devices tell whose state is meant, beside the CPU's.
    """
    devices = sorted({t.device.index for t in inputs if t.is_cuda})
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(0)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(0)
        yield
