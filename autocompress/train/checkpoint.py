"""The whole state of a training in one file: to go on after a stop, or to go back after a divergence."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.train.data_order import gpus_in_use

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        tensors: By name.
        numbers: Whatever JSON can hold.
    """

    tensors: Tensors
    numbers: dict[str, Any]


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Write a NumPy archive; it is replaced in one step, and written without a second copy in memory.

    Args:
        path: The file; its folder is there.
        tensors: By name, on any device.
        numbers: Whatever JSON can hold.
    """
    partial = path.with_name(f".{path.name}.partial")  # one name, so that a killed process leaves one file at most
    text = json.dumps(dict(numbers), sort_keys=True)
    arrays = {f"tensor.{name}": _as_array(tensor) for name, tensor in tensors.items()}
    dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, numbers=np.array(text), dtypes=np.array(json.dumps(dtypes)), **arrays)
    partial.replace(path)


def read_checkpoint(path: Path) -> Checkpoint | None:
    """What the file holds; None where it is missing or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            dtypes = json.loads(str(archive["dtypes"]))
            tensors = {name: _as_tensor(archive[f"tensor.{name}"], dtype) for name, dtype in dtypes.items()}
            return Checkpoint(tensors, json.loads(str(archive["numbers"])))
    except Exception:  # zipfile and NumPy fail in many ways on bytes that are not theirs
        return None


def _as_array(tensor: Tensor) -> np.ndarray[Any, Any]:
    tensor = tensor.detach().cpu()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _as_tensor(array: np.ndarray[Any, Any], dtype: str) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


def module_tensors(module: nn.Module, prefix: str) -> Tensors:
    """State of a module; its tensors are not copied."""
    return {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}


def fits_module(module: nn.Module, prefix: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether `load_module` can take all of `tensors` over; asked before, since it would take some and then fail."""
    wanted = {name: tensor.shape for name, tensor in module_tensors(module, prefix).items()}
    return wanted == {name: tensor.shape for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}


def load_module(module: nn.Module, prefix: str, tensors: Mapping[str, Tensor]) -> None:
    """Take over what `module_tensors` gave."""
    begin = f"{prefix}."
    module.load_state_dict({n.removeprefix(begin): t for n, t in tensors.items() if n.startswith(begin)})


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """State of an optimizer; its tensors are not copied."""
    states = optimizer.state_dict()["state"]
    return {f"optimizer.{index}.{key}": value for index, state in states.items() for key, value in state.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Take over what `optimizer_tensors` gave, each tensor laid out as its parameter; rates stay as they are."""
    optimizer.state.clear()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            parameter = parameters[int(index)]
            is_like = tensor.shape == parameter.shape and tensor.dim() > 0
            value = torch.empty_like(parameter.detach()).copy_(tensor) if is_like else tensor
            optimizer.state[parameter][key] = value.to(parameter.device)  # fused optimizers want the steps there, too


def generator_state() -> tuple[Tensors, dict[str, Any]]:
    """State of the global generators of torch, its GPUs, NumPy and Python, as tensors and numbers."""
    legacy = dict(np.random.get_state(legacy=False))  # noqa: NPY002  # loaders of others use the legacy generator
    inner = legacy["state"]
    tensors = {"generator.torch": torch.get_rng_state(), "generator.numpy": torch.tensor(inner["key"].astype(np.int64))}
    tensors |= {f"generator.cuda.{n}": torch.cuda.get_rng_state(n) for n in gpus_in_use()}
    version, words, next_gauss = random.getstate()
    tensors["generator.python"] = torch.tensor(words)
    numbers = [int(inner["pos"]), int(legacy["has_gauss"]), float(legacy["gauss"])]
    return tensors, {"numpy": numbers, "python": [version, next_gauss]}


def load_generator_state(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Set the global generators to what `generator_state` gave."""
    torch.set_rng_state(tensors["generator.torch"])
    for n in gpus_in_use():
        if f"generator.cuda.{n}" in tensors:
            torch.cuda.set_rng_state(tensors[f"generator.cuda.{n}"], n)
    keys = tensors["generator.numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, *numbers["numpy"]))  # noqa: NPY002
    version, next_gauss = numbers["python"]
    random.setstate((version, tuple(tensors["generator.python"].tolist()), next_gauss))
