"""Reading a model's layers, shapes and cost by running it once with forward hooks; no tracing."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.errors import GraphError
from autocompress.graph.groups import channel_groups
from autocompress.graph.model_graph import Layer, ModelGraph
from autocompress.task import call

COMPRESSIBLE = (nn.Conv1d, nn.Conv2d, nn.Linear)
_KNOWN_LEFT_ALONE = (
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    nn.Bilinear,
)


def inspect_model(model: nn.Module, example_input: Any, *, with_groups: bool = True) -> ModelGraph:
    """Layers, shapes, MACs and channel groups of `model`.

    Args:
        model: Any module; copied, never changed.
        example_input: Inputs of one inference.
        with_groups: Whether to look for channel groups, which follows the autograd graph.

    Raises:
        GraphError: The model does not run on the example input.
    """
    model = copy.deepcopy(model).eval()
    candidates: dict[str, nn.Module] = {
        name: module for name, module in model.named_modules() if isinstance(module, COMPRESSIBLE + _KNOWN_LEFT_ALONE)
    }
    calls = _record_calls(model, candidates, example_input)
    layers = tuple(_layer(name, module, calls) for name, module in candidates.items())
    macs = {layer.name: layer.macs for layer in layers if not layer.reason}
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


def _layer(name: str, module: nn.Module, calls: dict[str, list[_Call]]) -> Layer:
    weight = getattr(module, "weight", None)
    shape = tuple(weight.shape) if isinstance(weight, Tensor) else ()
    n_parameters = sum(p.numel() for p in module.parameters())
    mine = calls[name]
    reason = _reason(module, mine)
    leader = name
    if mine:
        same_input = (other for other, theirs in calls.items() if theirs and theirs[0][0] is mine[0][0])
        leader = next(same_input, name)
    macs_a_position = weight[0].numel() if isinstance(weight, Tensor) and isinstance(module, COMPRESSIBLE) else 0
    return Layer(
        name=name,
        kind=type(module).__name__,
        weight_shape=shape,
        input_shape=tuple(mine[0][0].shape) if mine else (),
        output_shape=tuple(mine[0][1]) if mine else (),
        macs=sum(macs_a_position * output.numel() for _, output in mine),
        n_parameters=n_parameters,
        shares_input_with=leader,
        reason=reason,
    )


def _reason(module: nn.Module, calls: list[_Call]) -> str:
    if not isinstance(module, COMPRESSIBLE):
        return f"{type(module).__name__} is not compressed"
    if not calls:
        return "forward(example_input) does not call it"
    if not calls[0][0].is_floating_point():
        return f"its input is {calls[0][0].dtype}, not floating point"
    return ""
