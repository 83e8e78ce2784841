"""Putting quantizers on layers and taking them off: parametrizations of weights, hooks on inputs."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from autocompress.compress.binarization import ActivationBinarizer, WeightBinarizer
from autocompress.compress.quantization import Exportable, InputQuantizer
from autocompress.compress.weight_quantization import WeightQuantizer

INPUT_QUANTIZER = "input_quantizer"
_PACKING = "_packing_of_input"
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def output_axis(layer: nn.Module) -> int:
    """Axis of the output channels in the weight of `layer`."""
    return 1 if isinstance(layer, _TRANSPOSED) else 0


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of `layer`, as the end of its chain gives it; torch types it as a tensor or a module."""
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"the weight of a layer must be a tensor, but got {type(weight).__name__}")
    return weight


def chain_of(layer: nn.Module, tensor: str = "weight") -> parametrize.ParametrizationList:
    """What stands before a tensor of `layer`, which must be parametrized."""
    chains = layer.parametrizations
    if not isinstance(chains, nn.ModuleDict):
        raise TypeError(f"parametrizations must be a ModuleDict, but got {type(chains).__name__}")
    chain = chains[tensor]
    if not isinstance(chain, parametrize.ParametrizationList):
        raise TypeError(f"a chain must be a ParametrizationList, but got {type(chain).__name__}")
    return chain


def attach_weight(layer: nn.Module, quantizer: nn.Module) -> None:
    """Make `quantizer`, or a mask, the last link of the chain on the weight of `layer`."""
    if parametrize.is_parametrized(layer):
        _own_class(layer)
    parametrize.register_parametrization(layer, "weight", quantizer, unsafe=True)  # spares it two trial runs


def attach_input(layer: nn.Module, quantizer: Exportable) -> None:
    """Let `quantizer` change the first input of `layer`."""
    setattr(layer, INPUT_QUANTIZER, quantizer)
    layer.register_forward_pre_hook(_quantize_input)
    layer.register_forward_hook(_stop_packing, always_call=True)


def attached_input(layer: nn.Module) -> InputQuantizer | ActivationBinarizer | None:
    """What changes the first input of `layer`."""
    found = getattr(layer, INPUT_QUANTIZER, None)
    return found if isinstance(found, InputQuantizer | ActivationBinarizer) else None


def attached_weight(layer: nn.Module) -> WeightQuantizer | WeightBinarizer | None:
    """The quantizer at the end of the chain on the weight of `layer`."""
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    last = chain_of(layer)[-1]
    return last if isinstance(last, WeightQuantizer | WeightBinarizer) else None


def quantized_weights(module: nn.Module) -> Iterator[tuple[str, nn.Module, WeightQuantizer]]:
    """Name, layer and quantizer of each weight in `module` that is on an integer grid."""
    for name, layer in module.named_modules():
        quantizer = attached_weight(layer)
        if isinstance(quantizer, WeightQuantizer):
            yield name, layer, quantizer


def input_readers(module: nn.Module) -> dict[Exportable, list[tuple[str, nn.Module]]]:
    """Layers, with their names, by the quantizer of their input; in the order of the module."""
    readers: dict[Exportable, list[tuple[str, nn.Module]]] = {}
    for name, layer in module.named_modules():
        quantizer = attached_input(layer)
        if quantizer is not None:
            readers.setdefault(quantizer, []).append((name, layer))
    return readers


def original_weight(layer: nn.Module) -> nn.Parameter | None:
    """The parameter that only the quantizer stands before; None where another parametrization is in between."""
    chain = chain_of(layer)
    originals = list(chain.parameters(recurse=False))
    return originals[0] if len(list(chain.children())) == 1 and len(originals) == 1 else None


def parameter_uses(module: nn.Module) -> Counter[int]:
    """How many modules in `module` hold each parameter, by its identity."""
    return Counter(id(p) for m in module.modules() for p in m.parameters(recurse=False))


def has_own_weight(layer: nn.Module, n_uses: Counter[int]) -> bool:
    """Whether the weight of `layer` can be written to, being a parameter that no other layer uses."""
    original = original_weight(layer) if hasattr(layer, "parametrizations") else layer.weight
    return original is not None and n_uses[id(original)] == 1


def weight_before(layer: nn.Module) -> Tensor:
    """The weight of `layer` as its quantizer, the last link of the chain, gets it."""
    quantizer = attached_weight(layer)
    enabled = quantizer is None or quantizer.enabled
    try:
        if quantizer is not None:
            quantizer.enabled = False
        return weight_of(layer).detach()
    finally:
        if quantizer is not None:
            quantizer.enabled = enabled


def freeze_parametrizations(module: nn.Module) -> None:
    """Make the weights and biases that chains give permanent, and remove the chains; `module` is changed."""
    for layer in list(module.modules()):
        for tensor in ("weight", "bias"):
            if parametrize.is_parametrized(layer, tensor):
                _own_class(layer)
                _untie(layer, tensor)
                parametrize.remove_parametrizations(layer, tensor, leave_parametrized=True)


def remove_input(layer: nn.Module) -> None:
    """Take the quantizer of the input off."""
    delattr(layer, INPUT_QUANTIZER)
    for hooks in (layer._forward_pre_hooks, layer._forward_hooks):
        for key, hook in list(hooks.items()):
            if hook in (_quantize_input, _stop_packing):
                del hooks[key]


def _quantize_input(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    quantizer = getattr(layer, INPUT_QUANTIZER)
    quantized = quantizer(inputs[0])
    weight_quantizer = attached_weight(layer)
    if weight_quantizer is not None and torch.is_grad_enabled() and not weight_quantizer.exporting:
        packing = _packing(weight_quantizer)
        packing.__enter__()
        layer.__dict__[_PACKING] = packing
    return (quantized, *inputs[1:])


def _stop_packing(layer: nn.Module, *_: Any) -> None:
    """The layer has run, or failed."""
    if (quantizer := attached_weight(layer)) is not None:
        quantizer.kept.clear()
    if packing := layer.__dict__.pop(_PACKING, None):
        packing.__exit__(None, None, None)


def _packing(quantizer: Exportable) -> saved_tensors_hooks:
    """While it is entered, autograd keeps what `quantizer` gave as indices, a quarter of the size."""

    def pack(tensor: Tensor) -> Any:
        for kept in quantizer.kept:
            if kept.holds(tensor):
                return kept, tensor.shape, tensor.stride()
        return tensor

    def unpack(packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        kept, shape, stride = packed
        values: Tensor = kept.values()
        return values.as_strided(shape, stride)

    return saved_tensors_hooks(pack, unpack)


def _own_class(layer: nn.Module) -> None:
    """Give a parametrized layer a class of its own.

    `parametrize` puts properties on a class that `copy.deepcopy` shares; changing a copy would change its original.
    """
    cls = type(layer)
    layer.__class__ = type(cls.__name__, cls.__bases__, dict(cls.__dict__))


def _untie(layer: nn.Module, tensor: str) -> None:
    """Give a parametrized layer its own copy of a tensor, since removal writes the values of the chain into it."""
    originals = chain_of(layer, tensor)
    for name, parameter in list(originals.named_parameters(recurse=False)):
        setattr(originals, name, nn.Parameter(parameter.detach().clone(), parameter.requires_grad))


def with_bias(layer: nn.Module) -> None:
    """Give `layer`, a Linear layer or a convolution, a bias of zeros if it has none."""
    if layer.bias is None:
        layer.bias = nn.Parameter(torch.zeros(int(getattr(layer, "out_features", 0) or layer.out_channels)))


def run_with(hooks: Iterable[RemovableHandle], run: Callable[[], None]) -> None:
    """Run, and remove the hooks whatever happens."""
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
