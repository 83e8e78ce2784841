"""Outputs of deployed models on many batches, on all cores: asynchronous, in portions that suit the caches."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
import torch
from openvino import properties
from openvino.properties import hint
from torch import Tensor

from autocompress.errors import MeasurementError
from autocompress.latency import reason

Arrays = list[npt.NDArray[Any]]
MAX_PORTION = 64  # samples of one inference; more are not faster
_FIXED_PORTION = 32  # where the number is fixed, so that the padding costs less
_PORTION_BYTES = 4_000_000  # of inputs, so that the maps inside a large model don't fill the memory


@dataclass(frozen=True)
class _Compiled:
    """A model that is ready for inputs of some shapes.

    Attributes:
        model: The compiled model.
        portion: Samples of one inference; 0 where batches must stay as they are, since outputs are not by sample.
        is_padded: Whether every inference has exactly `portion` samples.
    """

    model: openvino.CompiledModel
    portion: int
    is_padded: bool = False

    def takes(self, arrays: Arrays) -> bool:
        """Whether the inputs fit, whatever their number of samples."""
        pairs = zip(self.model.inputs, arrays, strict=True)
        return all(_fits(port.partial_shape, array, bool(self.portion)) for port, array in pairs)


def _fits(shape: openvino.PartialShape, array: npt.NDArray[Any], any_length: bool) -> bool:
    if shape.rank.get_length() != array.ndim:
        return False
    axes = range(1 if any_length else 0, array.ndim)
    return all(shape[axis].is_dynamic or shape[axis].get_length() == array.shape[axis] for axis in axes)


@dataclass
class BatchRunner:
    """Runs batches of any size, and of any shape that the model allows, on a model exported for one shape.

    The batch axis is made dynamic; where the model does not allow that, it gets a fixed number of samples, or keeps its
    own, and the last inference is padded. Axes of the inputs whose lengths are not those of the export are made
    dynamic, too. Batches are split and joined where outputs are by sample.

    Args:
        model: Deployed model; not changed.
        n_threads: Cores that may be used, each by an inference of its own.
    """

    model: openvino.Model
    n_threads: int
    _compiled: _Compiled | None = field(default=None, init=False)
    _queue: Any = field(default=None, init=False)
    _waiting: list[tuple[int, Arrays]] = field(default_factory=list, init=False)
    _places: list[list[tuple[int, slice]]] = field(default_factory=list, init=False)
    _results: dict[int, list[Tensor]] = field(default_factory=dict, init=False)
    _n_sent: int = field(default=0, init=False)

    def __call__(self, batches: Iterable[Arrays]) -> list[list[Tensor]]:
        """Outputs of each batch, in the order of the batches.

        Args:
            batches: Inputs of each batch in the order of the model's; axis 0 of each is the batch.

        Returns:
            Tensors in the order of the model's outputs for each batch; those of empty batches are left out.

        Raises:
            MeasurementError: Inference fails, or the model does not take the shapes.
        """
        self._places, self._results, self._n_sent = [], {}, 0
        for arrays in batches:
            self._add(arrays)
        self._send_rest()
        self._wait()
        return [self._of_batch(places) for places in self._places if places]

    def _add(self, arrays: Arrays) -> None:
        """Take one batch, and send what fills a portion."""
        if len(arrays) != len(self.model.inputs):
            law = f"a batch must have {len(self.model.inputs)} input tensors, as the deployed model"
            raise MeasurementError(f"{law}, but got {len(arrays)}; give what the task's example_input has")
        self._places.append([])
        if all(array.ndim for array in arrays) and not any(len(array) for array in arrays):
            return
        if self._waiting and _by_sample(self._waiting[0][1]) != _by_sample(arrays):
            self._send_rest()
        compiled = self._compiled_for(arrays)
        self._waiting.append((len(self._places) - 1, arrays))
        if not compiled.portion:
            self._send_whole()
        while compiled.portion and self._n_waiting >= compiled.portion:
            self._send(compiled.portion)

    @property
    def _n_waiting(self) -> int:
        return sum(len(arrays[0]) for _, arrays in self._waiting)

    def _compiled_for(self, arrays: Arrays) -> _Compiled:
        if self._compiled is None or not self._compiled.takes(arrays):
            self._send_rest()
            self._wait()
            self._compiled = _compile(self.model, arrays, self.n_threads, self._compiled)
            self._queue = openvino.AsyncInferQueue(self._compiled.model, self.n_threads)
            self._queue.set_callback(self._keep)
        return self._compiled

    def _send_whole(self) -> None:
        (batch, arrays) = self._waiting.pop()
        self._places[batch].append((self._n_sent, slice(None)))
        self._start(arrays)

    def _send_rest(self) -> None:
        if self._waiting and self._n_waiting:
            self._send(self._n_waiting)
        self._waiting.clear()

    def _send(self, n: int) -> None:
        """Send the first `n` samples that wait, of one batch or of several."""
        taken: list[Arrays] = []
        start = 0
        while start < n:
            batch, arrays = self._waiting.pop(0)
            stop = min(n, start + len(arrays[0]))
            rest = [array[stop - start :] for array in arrays]
            if len(rest[0]):
                self._waiting.insert(0, (batch, rest))
            self._places[batch].append((self._n_sent, slice(start, stop)))
            taken.append([array[: stop - start] for array in arrays])
            start = stop
        self._start([np.concatenate(column) if len(column) > 1 else column[0] for column in zip(*taken, strict=True)])

    def _start(self, arrays: Arrays) -> None:
        if self._compiled is not None and self._compiled.is_padded:
            arrays = [_padded(array, self._compiled.portion) for array in arrays]
        with _inference():
            self._queue.start_async(dict(enumerate(arrays)), self._n_sent)
        self._n_sent += 1

    def _keep(self, request: Any, place: int) -> None:
        self._results[place] = _outputs(request)

    def _wait(self) -> None:
        if self._queue is not None:
            with _inference():
                self._queue.wait_all()

    def _of_batch(self, places: list[tuple[int, slice]]) -> list[Tensor]:
        parts = [[t if rows == slice(None) else t[rows] for t in self._results[place]] for place, rows in places]
        return [torch.cat(column) if len(column) > 1 else column[0] for column in zip(*parts, strict=True)]


@contextmanager
def _inference() -> Iterator[None]:
    """Turn OpenVINO's errors into one sentence."""
    try:
        yield
    except RuntimeError as error:
        raise MeasurementError(f"inference of the deployed model fails: {reason(error)}") from None


def _outputs(request: Any) -> list[Tensor]:
    return [torch.from_numpy(np.array(tensor.data, copy=True)) for tensor in request.output_tensors]


def _by_sample(arrays: Arrays) -> list[tuple[int, ...]]:
    return [array.shape[1:] for array in arrays]


def _padded(array: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    missing = size - len(array)
    return array if missing == 0 else np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])


def _compile(model: openvino.Model, arrays: Arrays, n_threads: int, before: _Compiled | None) -> _Compiled:
    """The first form of `model` that takes `arrays` and gives one output a sample; see `BatchRunner`."""
    shapes = _open_shapes(model, arrays, before)
    has_samples = all(array.ndim for array in arrays) and len({len(array) for array in arrays}) == 1
    portion = _portion(arrays) if has_samples else 0
    try:
        return _with_dynamic_batch(model, shapes, arrays, portion, n_threads)
    except (RuntimeError, MeasurementError) as error:
        why = error
    own = model.inputs[0].partial_shape
    own_size = own[0].get_length() if own.rank.get_length() and own[0].is_static else 0
    for size in (min(portion, _FIXED_PORTION), own_size):
        compiled = _with_fixed_batch(model, shapes, size, n_threads) if size and has_samples else None
        if compiled is not None:
            return compiled
    raise MeasurementError(_refusal(model, arrays, why)) from None


def _open_shapes(model: openvino.Model, arrays: Arrays, before: _Compiled | None) -> list[list[int]]:
    """Shapes of the inputs, -1 for the batch and for each axis on which batches and model differ."""
    known = [port.partial_shape for port in (before.model if before else model).inputs]
    if any(shape.rank.get_length() != array.ndim for shape, array in zip(known, arrays, strict=True)):
        found = ", ".join(str(array.shape) for array in arrays)
        raise MeasurementError(
            f"inputs of a batch must have the axes of the deployed model's, {_shapes_of(model)}, but got {found}; "
            "give batches of the shape of the task's example_input"
        )
    return [
        [-1 if i == 0 or d.is_dynamic or d.get_length() != n else n for i, (d, n) in _axes(shape, array)]
        for shape, array in zip(known, arrays, strict=True)
    ]


def _axes(shape: openvino.PartialShape, array: npt.NDArray[Any]) -> Iterator[tuple[int, tuple[Any, int]]]:
    return enumerate(zip(shape, array.shape, strict=True))


def _portion(arrays: Arrays) -> int:
    n_bytes = sum(array.nbytes for array in arrays) // max(len(arrays[0]), 1)
    return int(np.clip(_PORTION_BYTES // max(n_bytes, 1), 1, MAX_PORTION))


def _with_dynamic_batch(
    model: openvino.Model, shapes: list[list[int]], arrays: Arrays, portion: int, n_threads: int
) -> _Compiled:
    """Compiled for any number of samples; a trial of two samples shows whether the outputs are by sample.

    Raises:
        MeasurementError: The batch axis of the outputs is fixed, or their rows are not samples.
        RuntimeError: OpenVINO cannot compile or run it.
    """
    flexible = _reshaped(model, shapes)
    ranked = [port.partial_shape for port in flexible.outputs if port.partial_shape.rank.get_length()]
    if any(shape[0].is_static for shape in ranked):
        raise MeasurementError("the model computes a fixed number of samples")
    compiled = _compiled_for_throughput(flexible, n_threads)
    if not portion:
        return _Compiled(compiled, 0)
    rows = _rows_of_two_samples(compiled, arrays)
    lengths_differ = any(-1 in shape[1:] for shape in shapes)
    if lengths_differ and not {2, None} >= set(rows):
        raise MeasurementError(f"for 2 samples of such a length it gives outputs of {rows} rows")
    return _Compiled(compiled, portion if set(rows) == {2} else 0)


def _rows_of_two_samples(compiled: openvino.CompiledModel, arrays: Arrays) -> list[int | None]:
    """Length of axis 0 of each output for two samples; None for an output without axes.

    OpenVINO does not refuse every wrong length: a Reshape may give other rows than samples.
    """
    request = compiled.create_infer_request()
    request.infer(dict(enumerate(np.concatenate([array[:1], array[:1]]) for array in arrays)))
    return [tensor.shape[0] if len(tensor.shape) else None for tensor in request.output_tensors]


def _with_fixed_batch(model: openvino.Model, shapes: list[list[int]], size: int, n_threads: int) -> _Compiled | None:
    """Compiled for `size` samples; None where that cannot be or the outputs are not by sample."""
    try:
        fixed = _reshaped(model, [[size, *shape[1:]] for shape in shapes])
        if not all(p.partial_shape.rank.get_length() and p.partial_shape[0] == size for p in fixed.outputs):
            return None
        return _Compiled(_compiled_for_throughput(fixed, n_threads), size, is_padded=True)
    except RuntimeError:
        return None


def _reshaped(model: openvino.Model, shapes: list[list[int]]) -> openvino.Model:
    flexible = model.clone()
    flexible.reshape(
        {port: shape for port, shape in zip(flexible.inputs, shapes, strict=True) if port.partial_shape != shape}
    )
    return flexible


def _compiled_for_throughput(model: openvino.Model, n_threads: int) -> openvino.CompiledModel:
    """`model` with one stream a core, float layers in f32 as when latency is measured."""
    configuration = {
        hint.performance_mode(): hint.PerformanceMode.THROUGHPUT,
        properties.num_streams(): n_threads,
        properties.inference_num_threads(): n_threads,
        hint.inference_precision(): openvino.Type.f32,
    }
    return openvino.Core().compile_model(model, "CPU", configuration)


def _refusal(model: openvino.Model, arrays: Arrays, why: Exception) -> str:
    found = ", ".join(str(array.shape) for array in arrays)
    return (
        f"the deployed model was exported for inputs of shape {_shapes_of(model)} and takes no batch of shape {found}: "
        f"{reason(why)}; give batches of the exported shape, for example padded to one length"
    )


def _shapes_of(model: openvino.Model) -> str:
    return ", ".join(str(port.partial_shape) for port in model.inputs)
