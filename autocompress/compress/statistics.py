"""What compression left of each layer: zeros, filters, rank, bits, parameters, MACs, and bytes as they are stored."""

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from autocompress.compress.attaching import attached_input, attached_weight
from autocompress.compress.binarization import CHANNELS_IN_A_BYTE, ActivationBinarizer, WeightBinarizer
from autocompress.compress.quantization import Exportable, InputQuantizer
from autocompress.compress.weight_quantization import AsymmetricWeights, WeightQuantizer
from autocompress.graph import inspect_model, unfold_attention
from autocompress.recipe import LayerRecipe, Recipe

COLUMN_TYPES = {
    "layer": "str",
    "kind": "str",
    "sparsity": "float64",
    "filters": "Int64",
    "filters_kept": "Int64",
    "rank": "str",
    "weight_bits": "Int64",
    "activation_bits": "Int64",
    "n_parameters_before": "Int64",
    "n_parameters": "Int64",
    "macs_before": "Int64",
    "macs": "Int64",
    "size_bytes_before": "Int64",
    "size_bytes": "Int64",
}
SUMMED = tuple(name for name in COLUMN_TYPES if name.startswith(("n_parameters", "macs", "size_bytes")))
OTHER, TOTAL = "other", "total"  # names of the last two rows

FLOAT_BYTES = 4  # weights that are not quantized are stored as f32
_PACKED = ((2, 4), (3, 8), (4, 2), (6, 4))  # bits, values that share their bytes: what deploy/packing.py stores


def statistics(model: nn.Module, module: nn.Module, recipe: Recipe, example_input: Any) -> pd.DataFrame:
    """What compression left of each layer of `model`, and of the whole.

    Bytes are those of `model.bin`: weights packed in as many bits as they are stored in, 4 bytes for each step, bias
    and float weight, zero points, and ranges of inputs. The names and shapes in `model.xml` are not in it. Weights
    that several layers share, quantized alike, are stored once and count in the first of these layers. Divisors of
    smoothing are not counted, since nearly all of them are multiplied into the layer before.

    Args:
        model: The FP32 module; never changed.
        module: Its compressed form, of a `CompressedModel`; never changed.
        recipe: What was done to it.
        example_input: Inputs of one inference.

    Returns:
        One row a layer in the order of the module, then `other` for what is outside layers (norms, embeddings of
        positions), then `total`. Columns, those that end in `_before` for `model`:

        - layer, kind: Dotted name and class in `model`; a layer in low rank counts all its factors.
        - sparsity: Fraction of zeros among the deployed weights, in [0, 1]; missing for `other`.
        - filters, filters_kept: Outputs of the layer in `model` and now; missing where it has none to remove.
        - rank: `16 of 64` for a layer in low rank, `16 x 8 of 64 x 32` where both its ends were reduced; else empty.
        - weight_bits, activation_bits: As in the recipe, 32 means float; missing for `other` and `total`.
        - n_parameters_before, n_parameters: Weights and biases, zeros among them.
        - macs_before, macs: Multiply-accumulates of one inference; zeros are multiplied like all others.
        - size_bytes_before, size_bytes: Bytes in the `.bin` file.

    Raises:
        GraphError: A module does not run on the example input.
    """
    before = copy.deepcopy(model).eval()
    unfold_attention(before)
    after = copy.deepcopy(module).eval()
    kinds = {layer.name: layer.kind for layer in inspect_model(before, example_input, with_groups=False).layers}
    with torch.no_grad():
        costs = [_costs(of, list(kinds), example_input) for of in (before, after)]
    recipes = [*(recipe.layer(name) for name in kinds), None]
    names = [*kinds.items(), (OTHER, "")]
    rows = [_row(*cells) for cells in zip(names, recipes, *costs, strict=True)]
    return _with_total(rows, costs[1])


@dataclass
class _Cost:
    """What one layer, or one of its factors, holds; counts are >= 0."""

    n_weights: int = 0
    n_zeros: int = 0
    n_parameters: int = 0
    macs: int = 0
    size_bytes: int = 0
    filters: int | None = None
    rank: str = ""


def _costs(module: nn.Module, names: list[str], example_input: Any) -> list[_Cost]:
    """Costs of the layers of these names, and last of what is outside them."""
    seen: set[Any] = set()
    macs = {layer.name: layer.macs for layer in inspect_model(module, example_input, with_groups=False).layers}
    costs = [_cost(module.get_submodule(name), seen) for name in names]
    for name, cost in zip(names, costs, strict=True):
        cost.macs = sum(count for other, count in macs.items() if f"{other}.".startswith(f"{name}."))
    return [*costs, _cost_of_others(module, names)]


def _cost(layer: nn.Module, seen: set[Any]) -> _Cost:
    """Costs of a layer or of its factors together, without MACs; `seen` keeps what is stored already."""
    factors = _factors(layer)
    cost = _Cost(filters=_n_filters(factors[-1]), rank=_rank(factors))
    for factor in factors:
        for name, tensor in _own_tensors(factor):
            is_weight = name.startswith("weight")
            cost.n_weights += tensor.numel() if is_weight else 0
            cost.n_zeros += int((tensor == 0).sum()) if is_weight else 0
            if _is_new(_identity(factor, name), seen):
                cost.n_parameters += tensor.numel()
                cost.size_bytes += _weight_bytes(factor, tensor) if name == "weight" else FLOAT_BYTES * tensor.numel()
        cost.size_bytes += _range_bytes(factor, seen)
    return cost


def _cost_of_others(module: nn.Module, names: list[str]) -> _Cost:
    """What modules outside layers hold; of a batch norm only the shift is stored, the rest joins the layer before."""
    cost, seen = _Cost(), set[Any]()
    for name, other in module.named_modules():
        if isinstance(other, Exportable) or any(f"{name}.".startswith(f"{layer}.") for layer in names):
            continue
        tensors = [tensor for tensor in other.parameters(recurse=False) if _is_new(id(tensor), seen)]
        cost.n_parameters += sum(tensor.numel() for tensor in tensors)
        stored = other.num_features if isinstance(other, _BatchNorm) else sum(tensor.numel() for tensor in tensors)
        cost.size_bytes += FLOAT_BYTES * stored
    return cost


def _factors(layer: nn.Module) -> list[nn.Module]:
    """The layers that a layer in low rank became, in the order of execution; else the layer alone."""
    return list(layer) if isinstance(layer, nn.Sequential) else [layer]


def _own_tensors(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights and biases of `layer` as they are deployed, by name."""
    chains = [name for name in ("weight", "bias") if parametrize.is_parametrized(layer, name)]
    names = [name for name, tensor in layer._parameters.items() if tensor is not None]
    for name in [*chains, *names]:
        yield name, getattr(layer, name)


def _identity(layer: nn.Module, name: str) -> tuple[int, ...]:
    """What is equal for tensors of one value: the parameter, or that at the start of a chain with its links."""
    if not parametrize.is_parametrized(layer, name):
        return (id(layer._parameters[name]),)
    chain: nn.Module = layer.parametrizations[name]  # type: ignore[index,assignment]
    return tuple(id(part) for part in (*chain.parameters(recurse=False), *chain.children()))


def _is_new(key: Any, seen: set[Any]) -> bool:
    is_new = key not in seen
    seen.add(key)
    return is_new


def _weight_bytes(layer: nn.Module, weight: Tensor) -> int:
    """Bytes of a weight with its steps and zero points, as `deploy/integer_weights.py` stores them."""
    quantizer = attached_weight(layer)
    if quantizer is None:
        return FLOAT_BYTES * weight.numel()
    if isinstance(quantizer, WeightBinarizer):
        return _stored_bits(2, layer, weight.numel()) * weight.numel() // 8 + FLOAT_BYTES * len(weight)
    bits = _stored_bits(quantizer.bits, layer, weight.numel())
    n_steps = quantizer.grid()[0].numel()
    return -(-bits * weight.numel() // 8) + FLOAT_BYTES * n_steps + _zero_point_bytes(quantizer, layer, bits, n_steps)


def _stored_bits(bits: int, layer: nn.Module, n_weights: int) -> int:
    """Bits in which a weight of `bits` bits is stored.

    Integer kernels take the narrowest of 2, 3, 4, 6 and 8 bits whose packed groups are filled, kernels with float
    inputs 4 or 8, and the binary kernel 1 (for input channels that fill bytes).
    """
    reader = attached_input(layer)
    if isinstance(reader, ActivationBinarizer) and int(layer.in_channels) % CHANNELS_IN_A_BYTE == 0:  # type: ignore[arg-type]
        return 1
    if reader is None:
        return 4 if bits <= 4 else 8
    return next((width for width, n_a_group in _PACKED if bits <= width and n_weights % n_a_group == 0), 8)


def _zero_point_bytes(quantizer: WeightQuantizer, layer: nn.Module, stored_bits: int, n_steps: int) -> int:
    """One for each step of an asymmetric grid: a byte where integers are unpacked for an integer kernel, else f32."""
    if not isinstance(quantizer, AsymmetricWeights):
        return 0
    return n_steps if stored_bits < 8 and attached_input(layer) is not None else FLOAT_BYTES * n_steps


def _range_bytes(layer: nn.Module, seen: set[Any]) -> int:
    """Two ends of the range of each input, once for the layers that share it; a threshold a channel if binary."""
    quantizer = attached_input(layer)
    if quantizer is None or not _is_new(id(quantizer), seen):
        return 0
    if isinstance(quantizer, InputQuantizer):
        return 2 * FLOAT_BYTES * quantizer.initial_low.numel()
    return FLOAT_BYTES * sum(parameter.numel() for parameter in quantizer.parameters())


def _n_filters(layer: nn.Module) -> int | None:
    n = getattr(layer, "out_channels", getattr(layer, "out_features", None))
    return None if n is None else int(n)


def _rank(factors: list[nn.Module]) -> str:
    """Widths between the factors, of the largest ranks that the weight can have there; empty for a whole layer."""
    n_in = int(getattr(factors[0], "in_channels", getattr(factors[0], "in_features", 0)))
    n_out = _n_filters(factors[-1]) or 0
    positions = [math.prod(getattr(factor, "kernel_size", ())) for factor in factors]
    ranks = [_n_filters(factor) for factor in factors[:-1]]
    largest = [
        min(n_in * math.prod(positions[:cut]), n_out * math.prod(positions[cut:])) for cut in range(1, len(factors))
    ]
    return f"{_joined(ranks)} of {_joined(largest)}" if ranks else ""


def _joined(widths: Iterable[int | None]) -> str:
    return " x ".join(map(str, widths))


def _row(name: tuple[str, str], layer_recipe: LayerRecipe | None, before: _Cost, after: _Cost) -> dict[str, Any]:
    return {
        "layer": name[0],
        "kind": name[1],
        "sparsity": after.n_zeros / after.n_weights if after.n_weights else float("nan"),
        "filters": before.filters,
        "filters_kept": after.filters,
        "rank": after.rank,
        "weight_bits": layer_recipe.weight_bits if layer_recipe else None,
        "activation_bits": layer_recipe.activation_bits if layer_recipe else None,
        "n_parameters_before": before.n_parameters,
        "n_parameters": after.n_parameters,
        "macs_before": before.macs,
        "macs": after.macs,
        "size_bytes_before": before.size_bytes,
        "size_bytes": after.size_bytes,
    }


def _with_total(rows: list[dict[str, Any]], costs: list[_Cost]) -> pd.DataFrame:
    n_weights = sum(cost.n_weights for cost in costs)
    total: dict[str, Any] = {"layer": TOTAL, "kind": "", "rank": ""}
    total["sparsity"] = sum(cost.n_zeros for cost in costs) / n_weights if n_weights else float("nan")
    for name in ("filters", "filters_kept", *SUMMED):
        total[name] = sum(row[name] or 0 for row in rows)
    return pd.DataFrame([*rows, total], columns=list(COLUMN_TYPES)).astype(COLUMN_TYPES)
