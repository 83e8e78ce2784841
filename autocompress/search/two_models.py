"""Any two models in files, side by side: inputs that both take, latency, throughput."""

import math
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino

from autocompress.deploy import load_openvino
from autocompress.errors import AutocompressError, MeasurementError
from autocompress.latency import (
    FINALIST,
    LatencyProcess,
    LatencySettings,
    PairedLatency,
    compile_model,
    quiet,
    random_inputs,
    reason,
    throughput,
    throughput_speedup,
)
from autocompress.measure import describe_environment
from autocompress.measurement import Speedup

Inputs = list[npt.NDArray[Any]]
Shapes = Mapping[str, tuple[int, ...]]
_MADE_UP = re.compile(r"Parameter_\d+")
_RATE_SHARE = 0.25  # of the time: how long the rate of each model alone is measured


@dataclass(frozen=True)
class Throughputs:
    """What two models do when many inferences are under way.

    Attributes:
        speedup: Rate of the model / rate of the baseline.
        model: Inferences a second of the model.
        baseline: The same of the baseline.
    """

    speedup: Speedup
    model: float
    baseline: float


def comparison_settings(n_threads: int, max_seconds: float, half_width: float) -> LatencySettings:
    """Those of a finalist, but for what a user chose.

    Args:
        n_threads: Inference threads.
        max_seconds: No further round is begun after this time.
        half_width: Relative half-width of the interval at which measuring ends early.

    Raises:
        MeasurementError: A number breaks its law.
    """
    describe_environment(n_threads)  # which refuses more threads than there are cores
    if not 0 < half_width < 1:
        raise MeasurementError(f"half_width must be above 0 and below 1, 0.01 for one percent, but got {half_width}")
    if not (max_seconds > 0 and math.isfinite(max_seconds)):
        raise MeasurementError(f"max_seconds must be above 0 and finite, but got {max_seconds}")
    least = min(FINALIST.min_seconds, max_seconds)
    return replace(FINALIST, n_threads=n_threads, max_seconds=max_seconds, half_width=half_width, min_seconds=least)


def parse_shapes(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Shapes by name of input, from texts such as `image=1x3x224x224`.

    Raises:
        MeasurementError: A text is none of that kind.

    >>> parse_shapes(["image=1x3x224x224", "mask=1"])
    {'image': (1, 3, 224, 224), 'mask': (1,)}
    """
    shapes = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        parts = sizes.lower().split("x")
        if not name or not all(part.isdecimal() and int(part) for part in parts):
            raise MeasurementError(f"a shape must be like name=1x3x224x224, with numbers above 0, but got {text!r}")
        shapes[name] = tuple(int(part) for part in parts)
    return shapes


def common_inputs(baseline: Path, model: Path, shapes: Shapes, data: Path | None = None) -> Inputs:
    """One inference's inputs that both models take: random, or a file's.

    Args:
        baseline: `.xml` or `.onnx`.
        model: The same.
        shapes: By name of input, for those that have dynamic shapes; a first dimension that is dynamic is 1 by itself.
        data: An `.npz` file with one array for each input, by name.

    Raises:
        DeployError: A model cannot be read.
        MeasurementError: The models take different inputs, a shape is not known or does not fit, or the file does not
            hold what they take.
    """
    models = {path: load_openvino(path) for path in dict.fromkeys((baseline, model))}
    _check_same(models, baseline, model)
    if data is not None:
        return _from_file(models, data)
    known = {
        name for ports in zip(*(m.inputs for m in models.values()), strict=True) for p in ports for name in _names(p)
    }
    if unknown := sorted(set(shapes) - known):
        raise MeasurementError(f"there is no input {unknown[0]!r}; the models have {', '.join(sorted(known))}")
    places = range(len(models[baseline].inputs))
    return _random(models[baseline], baseline, [_shape(models, i, shapes) for i in places])


def compare_files(baseline: Path, model: Path, inputs: Inputs, settings: LatencySettings) -> PairedLatency:
    """Paired latency of two models, in a process of its own.

    Args:
        baseline: `.xml` or `.onnx`.
        model: The same.
        inputs: Those that `common_inputs` gives.
        settings: How.

    Raises:
        MeasurementError: OpenVINO cannot compile one of them; it is named.
        WorkFailedError: The process died, or a model does not take the inputs.
    """
    try:
        with LatencyProcess() as process:
            return process.compare(baseline, model, inputs, settings)
    except AutocompressError:
        for path in (baseline, model):
            _check_compiles(path, settings.n_threads)
        raise


def compare_throughput(baseline: Path, model: Path, inputs: Inputs, settings: LatencySettings) -> Throughputs:
    """Inferences a second of two models where OpenVINO runs as many at a time as suits the threads.

    Args:
        baseline: `.xml` or `.onnx`.
        model: The same.
        inputs: Those that `common_inputs` gives.
        settings: How.

    Raises:
        MeasurementError: OpenVINO cannot compile or run one of them.
    """
    models = [load_openvino(path) for path in (baseline, model)]
    with quiet():
        speedup = throughput_speedup(models[0], models[1], inputs, settings)
        seconds = _RATE_SHARE * settings.max_seconds
        rates = [throughput(m, inputs, settings.n_threads, seconds).value for m in models]
    return Throughputs(speedup, model=rates[1], baseline=rates[0])


def _check_compiles(path: Path, n_threads: int) -> None:
    try:
        compile_model(load_openvino(path), n_threads)
    except MeasurementError as error:
        said = str(error).partition(": ")[2]
        raise MeasurementError(
            f"OpenVINO {openvino.get_version().partition('-')[0]} cannot compile {path}: {said.rstrip('.')}; export it "
            "again with static shapes and standard operations, or try another version of OpenVINO"
        ) from None


def _check_same(models: Mapping[Path, openvino.Model], baseline: Path, model: Path) -> None:
    ports, others = models[model].inputs, models[baseline].inputs
    if len(ports) != len(others):
        counts = f"{model} takes {_listed(ports)}, but {baseline} takes {_listed(others)}"
        raise MeasurementError(f"both models must take the same inputs: {counts}")
    for place, (port, other) in enumerate(zip(ports, others, strict=True), start=1):
        if not _alike(port, other, are_alone=len(ports) == 1):
            raise MeasurementError(
                f"both models must take the same inputs in the same order, but input {place} of {model} is "
                f"{_described(port)}, and that of {baseline} is {_described(other)}"
            )


def _alike(port: Any, other: Any, are_alone: bool) -> bool:
    """Whether one array can be for both; names that OpenVINO made up say nothing, nor does that of an only input."""
    names = [{name for name in p.get_names() if not _MADE_UP.fullmatch(name)} for p in (port, other)]
    same_name = are_alone or not all(names) or bool(names[0] & names[1])
    return bool(
        same_name
        and port.get_element_type() == other.get_element_type()
        and port.get_partial_shape().compatible(other.get_partial_shape())
    )


def _names(port: Any) -> list[str]:
    return sorted(port.get_names()) or [port.get_node().get_friendly_name()]


def _described(port: Any) -> str:
    return f"{_names(port)[0]}, {port.get_element_type().to_string()} {port.get_partial_shape()}"


def _listed(ports: Any) -> str:
    return f"{len(ports)} ({'; '.join(_described(port) for port in ports)})"


def _shape(models: Mapping[Path, openvino.Model], place: int, shapes: Shapes) -> tuple[int, ...]:
    """Shape of one input: what the user says, else what any of the models says of each dimension."""
    ports = {path: m.inputs[place] for path, m in models.items()}
    for port in ports.values():
        given = next((shapes[name] for name in _names(port) if name in shapes), None)
        if given is not None:
            _check_fits(given, ports)
            return given
    path, port = min(ports.items(), key=lambda item: not item[1].get_partial_shape().is_static)
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        raise MeasurementError(_no_shape(path, port, "has any number of dimensions", "1x3x224x224"))
    for dimension, size in enumerate(shape):
        if dimension and size.is_dynamic:
            example = "x".join(str(_size(d, i)) if d.is_static or not i else "N" for i, d in enumerate(shape))
            raise MeasurementError(_no_shape(path, port, f"is dynamic in dimension {dimension}", example))
    return tuple(_size(d, i) for i, d in enumerate(shape))


def _size(dimension: Any, place: int) -> int:
    """A static size; 1 for a dynamic batch."""
    return 1 if dimension.is_dynamic and not place else int(dimension.get_length())


def _no_shape(path: Path, port: Any, what: str, example: str) -> str:
    name = _names(port)[0]
    return (
        f"input {name} of {path} {what} ({port.get_partial_shape()}); give its shape, such as --shape {name}={example} "
        "with a number for each letter, or real data with --inputs FILE.npz"
    )


def _check_fits(shape: tuple[int, ...], ports: Mapping[Path, Any]) -> None:
    for path, port in ports.items():
        if not port.get_partial_shape().compatible(openvino.PartialShape(list(shape))):
            sizes = "x".join(map(str, shape))
            raise MeasurementError(f"the shape {sizes} does not fit input {_described(port)} of {path}")


def _random(model: openvino.Model, path: Path, shapes: list[tuple[int, ...]]) -> Inputs:
    static = model.clone()
    try:
        static.reshape({i: openvino.PartialShape(list(shape)) for i, shape in enumerate(shapes)})
        return random_inputs(static)
    except (RuntimeError, TypeError, ValueError) as error:
        raise MeasurementError(
            f"no random inputs for {path} can be made: {reason(error)}; give real data with --inputs FILE.npz"
        ) from None


def _from_file(models: Mapping[Path, openvino.Model], data: Path) -> Inputs:
    try:
        with np.load(data, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise MeasurementError(f"inputs {data} cannot be read: {reason(error)}; write them with numpy.savez") from None
    return [_array(arrays, ports, data) for ports in zip(*(m.inputs for m in models.values()), strict=True)]


def _array(arrays: Mapping[str, npt.NDArray[Any]], ports: tuple[Any, ...], data: Path) -> npt.NDArray[Any]:
    name = next((name for port in ports for name in _names(port) if name in arrays), None)
    if name is None:
        held = ", ".join(arrays) or "nothing"
        raise MeasurementError(f"{data} must hold an array for input {_described(ports[0])}, but it holds {held}")
    array = arrays[name]
    for port in ports:
        fits = port.get_partial_shape().compatible(openvino.PartialShape(list(array.shape)))
        if not fits or array.dtype != port.get_element_type().to_dtype():
            found = f"{array.dtype} {list(array.shape)}"
            raise MeasurementError(f"array {name} of {data} must fit input {_described(port)}, but it is {found}")
    return array
