"""From torch to an `ov.Model`: convert the export form, with integer weights."""

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import openvino
import torch
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from openvino.tools.ovc.telemetry_utils import init_ovc_telemetry
from torch import Tensor, nn

from autocompress.deploy.binary_convolution import to_binary_convolutions
from autocompress.deploy.integer_weights import pack_weights
from autocompress.deploy.layer_names import name_layers
from autocompress.errors import DeployError
from autocompress.task import call, flatten, like


def _send_nothing() -> None:
    """Keep OpenVINO's converter from reporting what it converts.

    It sends one message for each kind of operation, each from a fork of this process, which takes more time than the
    conversion where the process holds a lot of memory; and nobody has asked for it.
    """
    init_ovc_telemetry().consent = False


class FlatModule(nn.Module):
    """Calls a module with tensors in the order of `flatten`, and returns its tensors as a tuple (one: as it is)."""

    def __init__(self, module: nn.Module, example_input: Any) -> None:
        super().__init__()
        self.module = module
        self.structure = example_input

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...] | Tensor:
        """Outputs of the module, flat."""
        flat = flat_outputs(call(self.module, like(self.structure, iter(tensors))))
        return flat[0] if len(flat) == 1 else tuple(flat)


def flat_outputs(outputs: Any) -> list[Tensor]:
    """Tensors of a model's outputs, which may be a tensor, a sequence, a dict or a ModelOutput."""
    return flatten(dict(outputs) if hasattr(outputs, "keys") else outputs)


def input_names(module: nn.Module, example_input: Any) -> list[str]:
    """Names of the deployed inputs: keys of a mapping, else parameter names of the module's forward."""
    if isinstance(example_input, Mapping):
        return list(example_input)
    tensors = flatten(example_input)
    parameters = [
        p.name for p in inspect.signature(module.forward).parameters.values() if p.kind <= p.POSITIONAL_OR_KEYWORD
    ]
    given = parameters[: len(tensors)]
    return given + [f"input{index}" for index in range(len(given), len(tensors))]


def to_openvino(module: nn.Module, example_input: Any, *, dynamic_batch: bool = False) -> openvino.Model:
    """The deployed form of `module`: quantized weights as integers in few bytes, binary convolutions as such.

    Args:
        module: A module whose quantizers are in export form.
        example_input: Inputs of one inference.
        dynamic_batch: Whether the first axis of every input may have any length. By default all shapes are those of
            the example input, which runs fastest; binary kernels need that.

    Raises:
        DeployError: OpenVINO cannot convert the module.
    """
    tensors = flatten(example_input)
    _send_nothing()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            flat = FlatModule(module, example_input).eval()
            # without check_trace, which traces twice more and compares: three quarters of the time; parity is measured
            decoder = TorchScriptPythonDecoder(flat, example_input=tuple(tensors), trace_kwargs={"check_trace": False})
            model = openvino.convert_model(decoder, example_input=tuple(tensors))
    except Exception as error:  # the converter raises whatever the user's forward makes it meet
        first = (str(error).strip().splitlines() or [""])[0]
        raise DeployError(
            f"OpenVINO cannot convert the model: {type(error).__name__}: {first}; "
            "check that openvino.convert_model(model, example_input=...) works on your FP32 model"
        ) from error
    for port, name in zip(model.inputs, input_names(module, example_input), strict=True):
        port.get_tensor().set_names({name})
    batch = (lambda shape: [-1, *shape[1:]]) if dynamic_batch else list
    model.reshape({port: batch(tensor.shape) for port, tensor in zip(model.inputs, tensors, strict=True)})
    name_layers(model, module)
    if not dynamic_batch:
        to_binary_convolutions(model)
    pack_weights(model)
    return model
