"""Reading a model's layers, shapes and cost by running it once with forward hooks; no tracing."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.errors import GraphError
from autocompress.graph.attention import unfold_attention
from autocompress.graph.groups import channel_groups
from autocompress.graph.model_graph import Layer, ModelGraph
from autocompress.task import call

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)
_WITH_INPUT = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, *_TRANSPOSED)
_WEIGHTS_ONLY = (nn.Embedding,)
_LEFT_ALONE: dict[type[nn.Module], str] = {
    nn.ConvTranspose3d: "transposed convolutions over three axes are not compressed",
    nn.EmbeddingBag: "its lookup and its sum are one operation, which takes float weights",
    nn.RNNBase: "OpenVINO's recurrent kernels take float weights",
    nn.Bilinear: "it multiplies two inputs, which no integer kernel does",
}
_KINDS: tuple[type[nn.Module], ...] = (*_WITH_INPUT, *_WEIGHTS_ONLY, *_LEFT_ALONE)


def inspect_model(model: nn.Module, example_input: Any, *, with_groups: bool = True) -> ModelGraph:
    """Layers, shapes, MACs and channel groups of `model`, with attention unfolded (`unfold_attention`).

    So the maps of an `nn.MultiheadAttention` are layers of the names `query`, `key`, `value` and `out_proj` below it.

    Args:
        model: Any module; copied, never changed.
        example_input: Inputs of one inference.
        with_groups: Whether to look for channel groups, which follows the autograd graph.

    Raises:
        GraphError: The model does not run on the example input.
    """
    model = copy.deepcopy(model).eval()
    unfold_attention(model)
    candidates = {name: module for name, module in model.named_modules() if isinstance(module, _KINDS)}
    calls = _record_calls(model, candidates, example_input)
    owners = _weight_owners(candidates)
    layers = tuple(_layer(name, module, calls, owners) for name, module in candidates.items())
    macs = {layer.name: layer.macs for layer in layers if not layer.reason and not layer.weights_only}
    groups = channel_groups(model, example_input, macs) if with_groups and macs else ()
    return ModelGraph(layers, groups)


_Call = tuple[Tensor, torch.Size]  # input tensor, kept alive so that its identity stays unique, and output shape


def _record_calls(model: nn.Module, modules: dict[str, nn.Module], example_input: Any) -> dict[str, list[_Call]]:
    calls: dict[str, list[_Call]] = {name: [] for name in modules}

    def watch(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
                calls[name].append((inputs[0], output.shape))

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in modules.items()]
    try:
        with torch.no_grad():
            call(model, example_input)
    except Exception as error:  # the user's forward may fail in any way
        message = (str(error).strip().splitlines() or [""])[0]
        raise GraphError(
            f"the model does not run on its example_input: {type(error).__name__}: {message}; "
            "give the inputs of one inference, as in a batch"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _weight_owners(modules: dict[str, nn.Module]) -> dict[int, str]:
    """Name of the first module with each weight parameter, by the identity of the parameter."""
    owners: dict[int, str] = {}
    for name, module in modules.items():
        owners.setdefault(id(module._parameters.get("weight", module)), name)
    return owners


def _layer(name: str, module: nn.Module, calls: dict[str, list[_Call]], owners: dict[int, str]) -> Layer:
    weight = getattr(module, "weight", None)
    mine = calls[name]
    leader = name
    if mine:
        same_input = (other for other, theirs in calls.items() if theirs and theirs[0][0] is mine[0][0])
        leader = next(same_input, name)
    return Layer(
        name=name,
        kind=type(module).__name__,
        weight_shape=tuple(weight.shape) if isinstance(weight, Tensor) else (),
        input_shape=tuple(mine[0][0].shape) if mine else (),
        output_shape=tuple(mine[0][1]) if mine else (),
        macs=_macs(module, mine),
        n_parameters=sum(p.numel() for p in module.parameters()),
        shares_input_with=leader,
        reason=_reason(module, mine),
        weights_only=isinstance(module, _WEIGHTS_ONLY),
        shares_weight_with=owners.get(id(module._parameters.get("weight", module)), name),
    )


def _macs(module: nn.Module, calls: list[_Call]) -> int:
    """Multiply-accumulates of all calls; a lookup has none.

    A filter of a convolution is applied once an output position, that of a transposed convolution once an input
    position, padding included; torch stores the latter with input channels first.
    """
    weight = getattr(module, "weight", None)
    if not isinstance(module, _WITH_INPUT) or not isinstance(weight, Tensor):
        return 0
    is_transposed = isinstance(module, _TRANSPOSED)
    return weight[0].numel() * sum(x.numel() if is_transposed else output.numel() for x, output in calls)


def _reason(module: nn.Module, calls: list[_Call]) -> str:
    for kind, reason in _LEFT_ALONE.items():
        if isinstance(module, kind):
            return reason
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        return "max_norm rewrites its weight while it runs"
    if not calls:
        return "forward(example_input) does not call it"
    if not isinstance(module, _WEIGHTS_ONLY) and not calls[0][0].is_floating_point():
        return f"its input is {calls[0][0].dtype}, not floating point"
    return ""
