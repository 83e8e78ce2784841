"""In which order the modules of a model are called, who reads what they return, and which modules of a copy differ."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from autocompress.task import call, flatten

Forward = Callable[..., Any]
Handler = Callable[[str, Forward, tuple[Any, ...], dict[str, Any]], Any]
_PLAIN = (type(None), bool, int, float, str)


@dataclass
class ModuleCall:
    """One call of a module while the model runs once; times count calls, returns and tensor operations.

    Attributes:
        name: Dotted name of the module; empty for the model.
        start: Time at which it begins.
        end: Time at which it ends.
        after: Index of the first call that is not inside it.
        is_repeatable: Whether what it returns can be returned again without running it: tensors, alone or in tuples,
            and nothing in it has state of its own and runs several times, as a shared batch norm.
        is_written: Whether somebody writes into what it returned.
        n_bytes: Bytes of what it returned.
        reads: Times after its end at which what it returned is read; infinity where the model returns it.
    """

    name: str
    start: int
    end: int = 0
    after: int = 0
    is_repeatable: bool = False
    is_written: bool = False
    n_bytes: int = 0
    reads: tuple[float, ...] = ()


@dataclass(frozen=True)
class CallOrder:
    """How a model runs.

    Attributes:
        calls: By time of their start; the first is that of the model.
        first_use: Earliest time at which a module, by name, matters: at which it or, if it is never called, what holds
            it is called, or at which one of its own tensors is read.
    """

    calls: tuple[ModuleCall, ...]
    first_use: Mapping[str, float]


def call_order(model: nn.Module, inputs: Any) -> CallOrder | None:
    """How `model` runs on `inputs`, in evaluation mode and without gradients; it runs twice.

    Returns:
        None where that cannot be told: the two runs differ in the order of calls or in what is returned, or an
        operation cannot be watched.
    """
    try:
        first, second = (_watched(model, inputs) for _ in range(2))
    except (NotImplementedError, RuntimeError):
        return None
    if not first.is_like(second):
        return None
    calls = tuple(first.calls)
    _mark_shared_state(model, calls)
    return CallOrder(calls, _first_uses(model, calls, first.reads))


def _mark_shared_state(model: nn.Module, calls: tuple[ModuleCall, ...]) -> None:
    n_calls = Counter(noted.name for noted in calls)
    shared = {name for name, n in n_calls.items() if n > 1 and model.get_submodule(name)._buffers}
    for index, noted in enumerate(calls):
        inside = calls[index : noted.after]
        noted.is_repeatable = noted.is_repeatable and not any(other.name in shared for other in inside)


def _watched(model: nn.Module, inputs: Any) -> "_Watch":
    watch = _Watch()
    with torch.no_grad(), intercepted(model, watch.step), watch:
        call(model, inputs)
    watch.finish()
    return watch


class _Watch(TorchDispatchMode):
    """Watches one run; keeps what modules return, so that no memory is used twice."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[ModuleCall] = []
        self.outputs: dict[int, Any] = {}
        self.reads: dict[int, list[float]] = {}
        self._versions: dict[int, list[int]] = {}
        self._time = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note which tensors an operation reads."""
        self._time += 1
        for tensor in flatten((args, kwargs or {})):
            self.reads.setdefault(_memory(tensor), []).append(self._time)
        return function(*args, **(kwargs or {}))

    def step(self, name: str, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Note a call."""
        self._time += 1
        index, noted = len(self.calls), ModuleCall(name, self._time)
        self.calls.append(noted)
        output = forward(*args, **kwargs)
        self._time += 1
        noted.end, noted.after, noted.is_repeatable = self._time, len(self.calls), is_plain(output)
        noted.n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in flatten(output))
        self.outputs[index] = output
        self._versions[index] = [tensor._version for tensor in flatten(output)]
        return output

    def finish(self) -> None:
        """Say of each call who read and wrote what it returned."""
        for tensor in flatten(self.outputs[0]):
            self.reads.setdefault(_memory(tensor), []).append(math.inf)
        for index, noted in enumerate(self.calls):
            tensors = flatten(self.outputs[index])
            times = {time for tensor in tensors for time in self.reads.get(_memory(tensor), ())}
            noted.reads = tuple(sorted(time for time in times if time > noted.end))
            noted.is_written = [tensor._version for tensor in tensors] != self._versions[index]

    def is_like(self, other: "_Watch") -> bool:
        """Whether another run called the same modules at the same times, and they returned the same."""
        if [(c.name, c.start, c.end) for c in self.calls] != [(c.name, c.start, c.end) for c in other.calls]:
            return False
        return all(same_values(output, other.outputs[index]) for index, output in self.outputs.items())


def is_plain(output: Any) -> bool:
    """Whether `output` consists of tensors and constants, alone or in plain tuples, so that nobody can change it."""
    if type(output) is tuple:
        return all(is_plain(part) for part in output)
    return isinstance(output, (Tensor, *_PLAIN))


def same_values(a: Any, b: Any) -> bool:
    """Whether the tensors in two outputs are equal to the last bit; a NaN equals nothing."""
    mine, theirs = flatten(a), flatten(b)
    return len(mine) == len(theirs) and all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _first_uses(model: nn.Module, calls: tuple[ModuleCall, ...], reads: Mapping[int, list[float]]) -> dict[str, float]:
    starts: dict[str, float] = {}
    for noted in calls:
        starts.setdefault(noted.name, noted.start)
    found = {}
    for name, module in model.named_modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        times = [reads.get(_memory(tensor), [math.inf])[0] for tensor in own]
        found[name] = min([_start(name, starts), *times])
    return found


def _start(name: str, starts: Mapping[str, float]) -> float:
    """When the module is first called; one that never is counts as what holds it."""
    while name not in starts:
        name = name.rpartition(".")[0]
    return starts[name]


@dataclass
class _Interception:
    """A module whose `forward` goes through a handler, and what it was before."""

    module: nn.Module
    before: Any = field(default=None)

    def put(self, name: str, handler: Handler) -> None:
        self.before = self.module.__dict__.get("forward")
        self.module.__dict__["forward"] = partial(_handled, name, self.module.forward, handler)

    def remove(self) -> None:
        del self.module.__dict__["forward"]
        if self.before is not None:
            self.module.__dict__["forward"] = self.before


def _handled(name: str, forward: Forward, handler: Handler, *args: Any, **kwargs: Any) -> Any:
    return handler(name, forward, args, kwargs)


@contextmanager
def intercepted(model: nn.Module, handler: Handler) -> Iterator[None]:
    """A block in which every call of a module goes through ``handler(name, forward, args, kwargs)``.

    Hooks of the modules run as ever, around it. What `torch.jit` compiled is left out with all that is inside.
    """
    put: list[_Interception] = []
    try:
        for name, module in list(model.named_modules()):
            if not isinstance(module, torch.jit.ScriptModule):
                put.append(_Interception(module))
                put[-1].put(name, handler)
        yield
    finally:
        for interception in put:
            interception.remove()


def changed_modules(before: nn.Module, after: nn.Module) -> set[str]:
    """Names of the modules of `before` that differ in `after` in themselves, apart from the modules in them.

    They are gone, or of another class, or other tensors, hooks, children or plain attributes make them differ.
    """
    others = dict(after.named_modules())
    return {
        name
        for name, module in before.named_modules()
        if name not in others or not (module is others[name] or _is_same(module, others[name]))
    }


def _is_same(a: nn.Module, b: nn.Module) -> bool:
    if type(a) is not type(b) or list(a._modules) != list(b._modules):
        return False
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    if any(len(getattr(a, kind)) != len(getattr(b, kind)) for kind in hooks):
        return False
    return _same_tensors(a._parameters, b._parameters) and _same_tensors(a._buffers, b._buffers) and _same_plain(a, b)


def _same_tensors(a: Mapping[str, Tensor | None], b: Mapping[str, Tensor | None]) -> bool:
    return a.keys() == b.keys() and all(_same_value(a[name], b[name]) for name in a)


def _same_value(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(_same_value(x, y) for x, y in zip(a, b, strict=True))
    return not isinstance(a, _PLAIN) or bool(a == b)


def _same_plain(a: nn.Module, b: nn.Module) -> bool:
    mine, theirs = (
        {
            key: value
            for key, value in vars(module).items()
            if key != "training" and isinstance(value, (*_PLAIN, tuple, list, Tensor))
        }
        for module in (a, b)
    )
    return mine.keys() == theirs.keys() and all(_same_value(mine[key], theirs[key]) for key in mine)
