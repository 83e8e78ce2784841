"""Running changed copies of a model from their first change on: what ran before it returns what it returned before."""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.search.call_order import (
    CallOrder,
    Forward,
    ModuleCall,
    call_order,
    changed_modules,
    intercepted,
    same_values,
)
from autocompress.task import evaluating, flatten

MAX_BYTES = 600_000_000

_Key = tuple[int, bool]  # identity of the first tensor of a batch, and whether a module is in training mode


@dataclass
class _Batch:
    """What one run of the model on one batch returned.

    Attributes:
        args: Positional arguments, kept since the identity of a tensor is that of another one once it is gone.
        kwargs: Arguments by name.
        outputs: By index of the call: what it returned, or a stand-in of the same shape that has no values.
        real: Indices of calls whose outputs are no stand-ins.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[int, Any] = field(default_factory=dict)
    real: set[int] = field(default_factory=set)


class PrefixCache:
    """What the modules of a model return on some batches, for copies of it that differ from some module on.

    A copy runs as ever from the first module on that differs from the model's. Modules that have finished before are
    not run: they return what they returned to the model, the outermost of them as a whole. What only such modules read
    is not kept. Valid for a module that calls the same modules in the same order whatever the inputs: it runs twice,
    and if calls or returned values differ, nothing is kept. Each place where copies begin to differ is tried on the
    model itself first, and left out if anything comes out otherwise.

    Batches are known by the identity of their first tensor, and by whether any module is in training mode, as batch
    norms are while their statistics are estimated.

    Args:
        model: In evaluation mode; must not change while the cache is in use, but for the statistics of batch norms
            while they are in training mode.
        layers: Names of the modules that copies change.
        inputs: Of one batch; a small one will do.
        n_runs: How many batches of that size will be recorded; one that is run in both modes counts twice.
        max_bytes: Of memory. Where it is too little, what ends late is kept, and the rest is computed.

    Attributes:
        order: How the model runs; None where nothing can be kept.
    """

    def __init__(
        self, model: nn.Module, layers: Iterable[str], inputs: Any, n_runs: float, max_bytes: float = MAX_BYTES
    ) -> None:
        self._model = model
        with evaluating(model):
            self.order: CallOrder | None = call_order(model, inputs)
        self._batches: dict[_Key, _Batch] = {}
        self._plans: dict[float, frozenset[int]] = {}
        self._kept: set[int] = set()
        if self.order:
            self._kept = _worth_keeping(self.order, layers, max_bytes / n_runs)

    @property
    def n_bytes(self) -> int:
        """Memory that is used, bytes; tensors that share it count once."""
        tensors = [t for b in self._batches.values() for i in b.real for t in flatten(b.outputs[i])]
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())

    @contextmanager
    def recording(self) -> Iterator[None]:
        """A block in which every run of the model is kept."""
        if self.order is None:
            yield
            return
        recorder = _Recorder(self._model, self.order.calls, self._kept)
        with intercepted(self._model, recorder.step):
            yield
        self._batches |= recorder.batches

    @contextmanager
    def skipping(self, changed: nn.Module) -> Iterator[None]:
        """A block in which runs of a changed copy, on batches that were recorded, begin at the first change.

        Args:
            changed: A copy of the model with modules changed or replaced; not to be changed further in the block before
                the first of them.
        """
        cut = self._cut(changed)
        plan = self._plan(cut)
        if self.order is None or not plan:
            yield
            return
        with intercepted(changed, _Player(changed, self.order.calls, self._batches, cut, plan).step):
            yield

    def _cut(self, changed: nn.Module) -> float:
        """The time of the first change."""
        if self.order is None:
            return 0.0
        return min((self.order.first_use[name] for name in changed_modules(self._model, changed)), default=math.inf)

    def _plan(self, cut: float) -> frozenset[int]:
        """Calls that need not run where the first change is at `cut`; empty if that does not give the same outputs."""
        if self.order is None or not self._batches:
            return frozenset()
        if cut not in self._plans:
            real = frozenset[int].intersection(*(frozenset(batch.real) for batch in self._batches.values()))
            plan = skippable(self.order.calls, cut, real)
            self._plans[cut] = plan if plan and self._is_right(cut, plan) else frozenset()
        return self._plans[cut]

    def _is_right(self, cut: float, plan: frozenset[int]) -> bool:
        """Whether the model itself, run so, returns what it returned on the first batch in evaluation mode."""
        batch = next((batch for (_, is_training), batch in self._batches.items() if not is_training), None)
        if self.order is None or batch is None:
            return False
        player = _Player(self._model, self.order.calls, self._batches, cut, plan)
        with torch.no_grad(), evaluating(self._model), intercepted(self._model, player.step):
            return same_values(self._model(*batch.args, **batch.kwargs), batch.outputs[0])


def skippable(calls: Sequence[ModuleCall], cut: float, real: frozenset[int] | None = None) -> frozenset[int]:
    """Outermost calls that end before `cut` and need not run.

    A call need not run if what it returned is kept, or if only others that don't run read it.

    Args:
        calls: Of one run.
        cut: Time of the first change.
        real: Indices of calls whose outputs are kept; None for all.
    """
    banned: set[int] = set()
    while True:
        chosen = _outermost(calls, cut, banned)
        spans = [(calls[i].start, calls[i].end) for i in chosen]
        wrong = {i for i in chosen if real is not None and i not in real and not _is_unread(calls[i], spans)}
        if not wrong:
            return frozenset(chosen)
        banned |= wrong


def _outermost(calls: Sequence[ModuleCall], cut: float, banned: set[int]) -> list[int]:
    chosen, index = [], 0
    while index < len(calls) and calls[index].start < cut:
        if calls[index].end < cut and calls[index].is_repeatable and index not in banned:
            chosen.append(index)
            index = calls[index].after
        else:
            index += 1
    return chosen


def _is_unread(noted: ModuleCall, spans: Sequence[tuple[int, int]]) -> bool:
    """Whether all reads of what a call returned are inside spans of time that are skipped."""
    return all(any(start <= time <= end for start, end in spans) for time in noted.reads)


def _worth_keeping(order: CallOrder, layers: Iterable[str], max_bytes: float) -> set[int]:
    """Calls whose outputs are read after some layer begins, the latest first, up to `max_bytes` a batch."""
    wanted: set[int] = set()
    for cut in {order.first_use[layer] for layer in layers if layer in order.first_use}:
        chosen = skippable(order.calls, cut)
        spans = [(order.calls[i].start, order.calls[i].end) for i in chosen]
        wanted |= {i for i in chosen if not _is_unread(order.calls[i], spans)}
    kept: set[int] = set()
    for index in sorted(wanted, key=lambda i: -order.calls[i].end):
        max_bytes -= order.calls[index].n_bytes
        if max_bytes >= 0:
            kept.add(index)
    return kept


class _Recorder:
    """Keeps what calls return.

    Args:
        model: What runs.
        calls: As it is known to run; a run that differs is not kept.
        kept: Indices of calls whose values are kept.
    """

    def __init__(self, model: nn.Module, calls: Sequence[ModuleCall], kept: set[int]) -> None:
        self.batches: dict[_Key, _Batch] = {}
        self._model, self._calls, self._kept = model, calls, kept
        self._batch, self._next = _Batch(), 0

    def step(self, name: str, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a module, and keep what it returns."""
        if not name:
            self._batch, self._next = _Batch(args, kwargs), 0
        index, self._next = self._next, self._next + 1
        is_known = index < len(self._calls) and self._calls[index].name == name
        output = forward(*args, **kwargs)
        if is_known and self._next == self._calls[index].after:
            self._keep(index, output)
        if not name and 0 in self._batch.outputs and len(self._batch.outputs) == len(self._calls):
            self.batches[_key(args, kwargs, self._model)] = self._batch
        return output

    def _keep(self, index: int, output: Any) -> None:
        if index in self._kept or index == 0:
            output = copy.deepcopy(output) if self._calls[index].is_written else output
            self._batch.real |= {index} - {0}
        else:
            output = _stand_in(output) if self._calls[index].is_repeatable else None
        self._batch.outputs[index] = output


def _key(args: tuple[Any, ...], kwargs: dict[str, Any], model: nn.Module) -> _Key:
    first = next(iter(flatten((args, kwargs))), None)
    return id(first), any(module.training for module in model.modules())


def _stand_in(output: Any) -> Any:
    """Tensors of the same shapes that take no memory; floating-point ones are NaN, which would be seen."""
    if isinstance(output, tuple):
        return tuple(_stand_in(part) for part in output)
    if not isinstance(output, Tensor):
        return output
    value = math.nan if output.is_floating_point() or output.is_complex() else 0
    return torch.full((), value, dtype=output.dtype).expand(output.shape)


class _Player:
    """Runs a model, but for some calls whose outputs are known.

    Args:
        model: What runs.
        calls: As the model runs that was recorded.
        batches: What was recorded.
        cut: Time from which on everything runs.
        plan: Indices of calls that don't run.
    """

    def __init__(
        self,
        model: nn.Module,
        calls: Sequence[ModuleCall],
        batches: Mapping[_Key, _Batch],
        cut: float,
        plan: frozenset[int],
    ) -> None:
        self._model, self._calls, self._batches, self._plan = model, calls, batches, plan
        self._n_before = sum(noted.start < cut for noted in calls)
        self._batch: _Batch | None = None
        self._next = 0

    def step(self, name: str, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a module returns, or returned."""
        if not name:
            self._batch, self._next = self._batches.get(_key(args, kwargs, self._model)), 0
        index = self._next
        if self._batch is None or index >= self._n_before:
            return forward(*args, **kwargs)
        noted = self._calls[index]
        if noted.name != name:  # it runs otherwise than it is known to
            self._batch = None
            return forward(*args, **kwargs)
        if index in self._plan:
            self._next = noted.after
            output = self._batch.outputs[index]
            return copy.deepcopy(output) if noted.is_written and index in self._batch.real else output
        self._next += 1
        return forward(*args, **kwargs)
