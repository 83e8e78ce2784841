"""Attention heads: where the maps of an attention are, and the removal of whole heads from it.

Found by structure, whoever wrote the module: linear layers for queries, keys and values, an output layer that is
called after them, and an attribute that counts the heads. What must change besides the weights is found by trying:
only what gives exactly the outputs that the attention has without those heads is taken.
"""

import copy
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.graph.head_removal import Heads, Place, remove_heads, silence_heads
from autocompress.task import call, flatten

TOLERANCE = 1e-4  # of the largest output; float32 rounding of a small net stays below 1e-6
_ROLES = {role: re.compile(rf"(to_|w)?{role[0]}(_?(proj|lin|linear))?|{role}(_?(proj|layer))?") for role in
          ("query", "key", "value")}  # fmt: skip
_FUSED = re.compile(r"(to_|w)?qkv(_?proj)?|in_proj|c_attn|query_key_value", re.IGNORECASE)
_COUNT = re.compile(r"(n|num|number)_?(of_)?(.*_)?heads?|heads|nheads?")


def find_heads(model: nn.Module, example_input: Any) -> tuple[Heads, ...]:
    """Heads of every attention in `model`, in its order; those that cannot be removed carry the reason.

    Args:
        model: Module in evaluation mode; not changed.
        example_input: Inputs of one inference.
    """
    candidates = [found for name, module in model.named_modules() for found in _maps_in(name, module)]
    if not candidates:
        return ()
    order = _linear_calls(model, example_input)
    found = [_with_output(model, heads, order) for heads in candidates if set(heads.maps) <= set(order)]
    scopes = {heads: _common_parent([*heads.maps, heads.output]) for heads in found if not heads.reason}
    inputs = _first_inputs(model, set(scopes.values()), example_input)
    return tuple(_proven(model, h, scopes[h], inputs[scopes[h]]) if h in scopes else h for h in found)


def _maps_in(name: str, module: nn.Module) -> Iterator[Heads]:
    linear = {child: layer for child, layer in module.named_children() if isinstance(layer, nn.Linear)}
    n_heads = next((count for _, count in _counts_of(module)), 0)
    roles = [next((c for c in linear if law.fullmatch(c.lower())), "") for law in _ROLES.values()]
    fused = [child for child in linear if _FUSED.fullmatch(child)]
    if all(roles) and len(set(roles)) == 3:
        chosen, rows = [child for child in linear if child in roles], linear[roles[0]].out_features
    elif len(fused) == 1:
        chosen, rows = fused, linear[fused[0]].out_features // 3
    else:
        return
    if n_heads and rows % n_heads == 0:
        yield Heads(name, tuple(_join(name, child) for child in chosen), "", n_heads, rows // n_heads)


def _counts_of(module: nn.Module) -> list[tuple[str, int]]:
    numbers = {attribute: value for attribute, value in vars(module).items() if type(value) is int and value > 0}
    return [(attribute, value) for attribute, value in numbers.items() if _COUNT.fullmatch(attribute)]


def _join(name: str, child: str) -> str:
    return f"{name}.{child}" if name else child


def _linear_calls(model: nn.Module, example_input: Any) -> list[str]:
    """Names of the linear layers in the order of their calls."""
    calls: list[str] = []
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_hook(lambda *_, name=name: calls.append(name)) for name, layer in layers]
    try:
        with torch.no_grad():
            call(model, example_input)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _with_output(model: nn.Module, found: Heads, calls: list[str]) -> Heads:
    inner = found.n_heads * found.head_size
    last = max(calls.index(name) for name in found.maps)
    sizes = {int(model.get_submodule(name).out_features) for name in found.maps}  # type: ignore[arg-type]
    reads_all = (c for c in calls[last + 1 :] if model.get_submodule(c).in_features == inner)
    output = next(reads_all, "")
    if sizes not in ({inner}, {3 * inner}) or (sizes == {inner}) == found.is_fused:
        reason = f"queries, keys and values of {found.owner} have different numbers of rows: {sorted(sizes)}"
    elif found.n_heads == 1:
        reason = f"{found.owner} has one head, and one is the least that is kept"
    elif not output:
        reason = f"no linear layer reads the {inner} outputs of the heads of {found.owner}"
    else:
        reason = ""
    return replace(found, output=output, reason=reason)


def _proven(model: nn.Module, found: Heads, scope: str, inputs: Any) -> Heads:
    """`found` with what must change besides the weights, as far as a trial of the module `scope` proves it."""
    block = model.get_submodule(scope)
    try:
        wanted = _trial(block, scope, found, inputs, silence_heads)
    except Exception as error:  # a forward may fail in any way
        return replace(found, reason=f"{found.owner} cannot be tried with fewer heads: {first_line(error)}")
    failures = []
    for variant in _variants(model.get_submodule(found.owner), found):
        failures.append(_difference(block, scope, variant, inputs, wanted))
        if not failures[-1]:
            return variant
    return replace(found, reason=f"{found.owner} does not compute the same with fewer heads: {failures[0]}")


def _difference(block: nn.Module, scope: str, variant: Heads, inputs: Any, wanted: Tensor) -> str:
    """What is wrong with a variant; empty if nothing."""
    try:
        actual = _trial(block, scope, variant, inputs, remove_heads)
    except Exception as error:  # a forward may fail in any way
        return first_line(error)
    return "" if is_close(actual, wanted) else "its outputs are not those without the heads that went"


def is_close(actual: Tensor, wanted: Tensor, tolerance: float = TOLERANCE) -> bool:
    """Whether two outputs have one shape and differ by at most `tolerance` of the largest finite value of `wanted`."""
    if actual.shape != wanted.shape:
        return False
    if not wanted.is_floating_point():
        return torch.equal(actual, wanted)
    finite = wanted[wanted.isfinite()].abs()
    largest = float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(actual, wanted, rtol=0.0, atol=tolerance * largest, equal_nan=True)


def _common_parent(names: Sequence[str]) -> str:
    split = [name.split(".")[:-1] for name in names]
    same = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        same.append(parts[0])
    return ".".join(same)


def _first_inputs(model: nn.Module, scopes: Collection[str], example_input: Any) -> dict[str, tuple[Any, Any]]:
    """Copies of what each of the modules `scopes` is called with first, by position and by name."""
    seen: dict[str, tuple[Any, Any]] = {}

    def keep(scope: str, args: Any, kwargs: Any) -> None:
        if scope in seen:
            return
        try:
            seen[scope] = copy.deepcopy((args, kwargs))
        except Exception:  # what cannot be copied, as it fails again in the trial, locks these heads only
            seen[scope] = args, kwargs

    hooks = [
        model.get_submodule(scope).register_forward_pre_hook(
            lambda _module, args, kwargs, scope=scope: keep(scope, args, kwargs), with_kwargs=True
        )
        for scope in scopes
    ]
    try:
        with torch.no_grad():
            call(model, example_input)
    finally:
        for hook in hooks:
            hook.remove()
    return {scope: seen.get(scope, ((), {})) for scope in scopes}


def _trial(block: nn.Module, scope: str, heads: Heads, inputs: tuple[Any, Any], change: Any) -> Tensor:
    """First output of a copy of `block` after `change` of the middle head."""
    trial = copy.deepcopy(block)
    vary_constants(trial)
    size, middle = heads.head_size, heads.n_heads // 2
    change(trial, heads, list(range(middle * size, (middle + 1) * size)), scope)
    args, kwargs = copy.deepcopy(inputs)
    with torch.no_grad():
        return flatten(trial(*args, **kwargs))[0]


def _variants(owner: nn.Module, found: Heads) -> Iterator[Heads]:
    """What could have to change, the least first."""
    counts, own, all_sizes = _attributes(owner, found)
    per_head, per_row = _tensors(owner, found)
    for layout in ("thirds", "interleaved")[: 2 if found.is_fused else 1]:
        base = replace(found, layout=layout, counts=counts, per_head=per_head, per_row=per_row)
        for sizes in dict.fromkeys((own, all_sizes)):
            yield replace(base, sizes=sizes)
        if per_head or per_row:
            yield replace(base, sizes=own, per_head=(), per_row=())


def _attributes(owner: nn.Module, found: Heads) -> tuple[tuple[Place, ...], tuple[Place, ...], tuple[Place, ...]]:
    """Attributes that count heads, those that count their rows by name, and all that could count rows."""
    inner = found.n_heads * found.head_size
    counts, own, all_sizes = [], [], []
    for path, module in owner.named_modules():
        numbers = [(name, value) for name, value in vars(module).items() if type(value) is int]
        if isinstance(module, nn.Linear | nn.LayerNorm):
            continue
        heads = {name for name, value in _counts_of(module) if value == found.n_heads}
        counts += [(path, name) for name in heads]
        rows = [(path, name) for name, value in numbers if value == inner and name not in heads]
        own += [place for place in rows if "head" in place[1]]
        all_sizes += rows
    return tuple(counts), tuple(own), tuple(all_sizes)


def _tensors(owner: nn.Module, found: Heads) -> tuple[tuple[tuple[Place, int], ...], ...]:
    """Tensors besides the maps with one axis as long as there are heads; the owner's own with one as long as rows."""
    inner, prefix = found.n_heads * found.head_size, len(found.owner) + 1 if found.owner else 0
    maps = {name[prefix:] for name in (*found.maps, found.output)}
    per_head, per_row = [], []
    for path, module in owner.named_modules():
        if path in maps:
            continue
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is None or not tensor.is_floating_point():
                continue
            if tuple(tensor.shape).count(found.n_heads) == 1:
                per_head.append(((path, name), tuple(tensor.shape).index(found.n_heads)))
            elif not path and tuple(tensor.shape).count(inner) == 1:
                per_row.append(((path, name), tuple(tensor.shape).index(inner)))
    return tuple(per_head), tuple(per_row)


def vary_constants(model: nn.Module) -> None:
    """Give parameters of one value throughout, such as scales of zero, others: a trial would show nothing with them.

    Args:
        model: A copy that is thrown away; changed, always in the same way.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.numel() > 1 and parameter.min() == parameter.max():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.1 * noise.to(parameter))


def first_line(error: Exception) -> str:
    """First line of the message of `error`, its class if there is none; at most 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
