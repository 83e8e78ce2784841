"""What the choices of a space buy on one processor, by its probe, and the space without those that buy nothing."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

from autocompress.cpu_probe import CpuProbe, LayerKind, Question
from autocompress.errors import SearchSpaceError
from autocompress.graph.model_graph import Layer, ModelGraph
from autocompress.recipe import FLOAT_BITS
from autocompress.space.bound_space import BoundSpace, Choice, LayerChoices

Reward = Literal["speed", "unknown", "accuracy", "size only", "zipped size only", "nothing"]
Rewards = dict[str, dict[Choice, Reward]]
Number = TypeVar("Number", int, float)

SIZES: dict[Reward, tuple[str, ...]] = {  # objectives of which one must be wished for
    "size only": ("size_bytes", "zipped_bytes"),
    "zipped size only": ("zipped_bytes",),
    "nothing": (),
}
_BEST_FIRST: tuple[Reward, ...] = ("speed", "unknown", "accuracy", "size only", "zipped size only", "nothing")
_LINEAR = ("Linear", "NonDynamicallyQuantizableLinear")
_WIDEST = 8  # bits of the widest integers


def probed_kind(layer: Layer) -> LayerKind | None:
    """The kind of layer in the probe that stands for `layer`; None where there is none, as for grouped convolutions."""
    if layer.kind in _LINEAR:
        return "linear"
    if layer.kind != "Conv2d":
        return None
    n_read, n_channels = layer.weight_shape[1], layer.input_shape[1]
    if n_read != n_channels:
        return "depthwise" if n_read == 1 else None
    return "conv1x1" if set(layer.weight_shape[2:]) == {1} else "conv3x3"


def rewards(bound: BoundSpace, graph: ModelGraph, probe: CpuProbe) -> Rewards:
    """What each choice of each parameter buys on this processor, beyond the choices that are gentler to the model.

    - `speed`: the probe found it faster for this kind of layer at some size.
    - `unknown`: the probe has no clear answer, or did not ask, as for layers of other kinds.
    - `accuracy`: 7-bit weights where products of 8-bit ones saturate.
    - `size only`, `zipped size only`: known not to be faster; fewer bytes stored, or fewer in a zip archive only.
    - `nothing`: neither faster nor smaller than a gentler choice of the same parameter.

    Float bits, no zeros, all filters and the whole rank are not in it, nor are fractions of the rank, about which no
    probe asks. An integer width is compared with the widest integer among its choices, and that one with float.

    Args:
        bound: The space.
        graph: The model it is bound to.
        probe: Of the processor.
    """
    kinds = {layer.name: probed_kind(layer) for layer in graph.layers}
    inputs = {name: tensor.activation_bits for tensor in bound.inputs for name in tensor.readers}
    found: Rewards = {}
    for weights in bound.layers:
        kind, widths = kinds[weights.name], inputs.get(weights.name, (FLOAT_BITS,))
        found[weights.parameter] = {
            bits: _weight_reward(bits, weights.weight_bits, widths, kind, probe)
            for bits in weights.weight_bits
            if bits != FLOAT_BITS
        }
        of_zeros = _asked(probe, "sparse", kind, "zipped size only")
        found[f"{weights.name}/sparsity"] = {sparsity: of_zeros for sparsity in weights.sparsity if sparsity > 0}
    for tensor in bound.inputs:
        readers = [kinds[name] for name in tensor.readers]
        found[tensor.parameter] = {
            bits: _best(_input_reward(bits, tensor.activation_bits, kind, probe) for kind in readers)
            for bits in tensor.activation_bits
        }
    for group in bound.groups:
        channels: Reward = "speed" if probe.is_faster("channels") else "unknown"
        found[group.parameter] = {ratio: channels for ratio in group.pruning_ratio if ratio > 0}
    return {parameter: of_choices for parameter, of_choices in found.items() if of_choices}


def useless_choices(
    bound: BoundSpace, graph: ModelGraph, probe: CpuProbe, objectives: Collection[str]
) -> dict[str, tuple[Choice, ...]]:
    """Choices by parameter that are known to serve none of `objectives`; what noise leaves open is not among them.

    Each parameter keeps a choice that is at least as gentle to the model as those that go.

    Args:
        bound: The space.
        graph: The model it is bound to.
        probe: Of the processor.
        objectives: What the study minimizes: some of accuracy_drop, latency, size_bytes and zipped_bytes.
    """
    known = rewards(bound, graph, probe)

    def idle(parameter: str, choices: Sequence[Choice]) -> tuple[Choice, ...]:
        of_choices = known.get(parameter, {})
        return tuple(c for c in choices if c in of_choices and not _serves(of_choices[c], objectives))

    useless: dict[str, tuple[Choice, ...]] = {}
    for weights in bound.layers:
        bits = idle(weights.parameter, weights.weight_bits)
        if bits and max(bits) == _widest(weights.weight_bits):  # what is only better than that one goes with it
            of_bits = known[weights.parameter]
            bits = tuple(b for b in weights.weight_bits if b in bits or of_bits.get(b) == "accuracy")
        useless[weights.parameter] = _with_gentler(bits, weights.weight_bits)
        sparsity = f"{weights.name}/sparsity"
        useless[sparsity] = _unless_all(idle(sparsity, weights.sparsity), weights.sparsity)
    widths = {weights.name: weights.weight_bits for weights in bound.layers}
    for tensor in bound.inputs:
        can_be_float = all(FLOAT_BITS in widths[name] for name in tensor.readers)
        choices = tuple(bits for bits in idle(tensor.parameter, tensor.activation_bits) if bits != _WIDEST)
        kept = choices if can_be_float else tuple(bits for bits in choices if bits != FLOAT_BITS)
        useless[tensor.parameter] = _unless_all(kept, tensor.activation_bits)
    return {parameter: choices for parameter, choices in useless.items() if choices}


def left_out(
    bound: BoundSpace, graph: ModelGraph, objectives: Collection[str], probe: CpuProbe | None, int8_saturates: bool
) -> tuple[dict[str, tuple[Choice, ...]], tuple[str, ...]]:
    """What a study leaves out of its space on this processor, by parameter, and sentences that say why.

    Zeros stay whatever the objectives, since only spaces for who wants small zipped files offer them. 8-bit weights go
    where products of them saturate and the space has 7-bit ones: those run in the same kernels, and what saturation
    costs shows in no training, only in the deployed model.

    Args:
        bound: The space.
        graph: The model it is bound to.
        objectives: As for `useless_choices`.
        probe: Of the processor; None where it is not known.
        int8_saturates: Whether products of 8-bit weights saturate on the processor.
    """
    dropped: dict[str, tuple[Choice, ...]] = {}
    if probe:
        useless = useless_choices(bound, graph, probe, objectives)
        dropped = {name: choices for name, choices in useless.items() if not name.endswith("/sparsity")}
        sentences = reward_sentences(rewards(bound, graph, probe), dropped)
    else:
        sentences = [
            "what this CPU rewards is not known yet: run autocompress cpu (a minute), and choices without any effect "
            "will be left out of new studies"
        ]
    saturating = _saturating(bound, dropped) if int8_saturates else {}
    if saturating:
        sentences.append(
            f"weight_bits 8 was left out {_where(len(saturating))}: on this CPU products of 8-bit weights saturate, "
            "and 7 bits run in the same kernels"
        )
    return dropped | saturating, tuple(sentences)


def _saturating(bound: BoundSpace, dropped: Mapping[str, Collection[Choice]]) -> dict[str, tuple[Choice, ...]]:
    """All that is dropped where 8-bit weights go, too."""
    found = {}
    for weights in bound.layers:
        before = tuple(dropped.get(weights.parameter, ()))
        if {7, 8} <= set(weights.weight_bits) - set(before):
            found[weights.parameter] = (*before, 8)
    return found


def without(bound: BoundSpace, dropped: Mapping[str, Collection[Choice]]) -> BoundSpace:
    """The space without choices; a recipe that has them is still encoded, as the nearest that is left.

    Args:
        bound: The space.
        dropped: Choices by parameter, as `useless_choices` gives them; others than those of the space do no harm.

    Raises:
        SearchSpaceError: A parameter would have no choice left.
    """
    layers = tuple(_layer_left(weights, dropped) for weights in bound.layers)
    can_be_integer = {weights.name for weights in layers if set(weights.weight_bits) != {FLOAT_BITS}}
    inputs = tuple(
        replace(tensor, activation_bits=_left(dropped, tensor.parameter, tensor.activation_bits))
        for tensor in bound.inputs
        if can_be_integer & set(tensor.readers)
    )
    groups = tuple(
        replace(group, pruning_ratio=_left(dropped, group.parameter, group.pruning_ratio)) for group in bound.groups
    )
    return replace(bound, layers=layers, inputs=inputs, groups=groups)


def reward_sentences(known: Rewards, dropped: Mapping[str, Collection[Choice]]) -> list[str]:
    """What was left out of a space and why, and what stays for size or accuracy only; one sentence a kind of choice."""
    counts: dict[tuple[str, Choice, Reward, bool], int] = {}
    for parameter, of_choices in known.items():
        knob = parameter.rpartition("/")[2]
        for choice, reward in of_choices.items():
            is_dropped = choice in dropped.get(parameter, ())
            if is_dropped or reward not in ("speed", "unknown"):
                key = (knob, choice, reward, is_dropped)
                counts[key] = counts.get(key, 0) + 1
    return [_sentence(*key, n) for key, n in counts.items()]


def _sentence(knob: str, choice: Choice, reward: Reward, is_dropped: bool, n: int) -> str:
    where = _where(n)
    if is_dropped:
        because = "it buys nothing" if reward == "nothing" else f"it is for {reward}, which is no objective"
        return f"{knob} {choice:g} was left out {where}: on this CPU {because}"
    buys = {
        "accuracy": "keeps the accuracy that 8-bit weights lose by saturation",
        "nothing": "buys nothing, but is the only choice",
    }
    return f"{knob} {choice:g} {buys.get(reward, f'is for {reward}')} on this CPU, {where}"


def _where(n: int) -> str:
    return "for one layer or tensor" if n == 1 else f"for {n} layers or tensors"


def _weight_reward(
    bits: int, choices: Sequence[int], input_bits: Sequence[int], kind: LayerKind | None, probe: CpuProbe
) -> Reward:
    """Over all choices for the layer's input, the best of what `bits` buys."""
    widest = _widest(choices)
    return _best(_pair_reward(bits, widest, width != FLOAT_BITS, kind, probe) for width in input_bits)


def _widest(weight_bits: Sequence[int]) -> int:
    """The widest integer width; 0 where there is none."""
    return max((bits for bits in weight_bits if bits != FLOAT_BITS), default=0)


def _pair_reward(bits: int, widest: int, has_integer_input: bool, kind: LayerKind | None, probe: CpuProbe) -> Reward:
    if bits == widest:
        question: Question = "int8" if has_integer_input else "weights_only_int8"
        return _asked(probe, question, kind, "size only")
    if bits < 7:
        return _asked(probe, "narrow_weights" if has_integer_input else "weights_only_int4", kind, "size only")
    if has_integer_input and probe.int8_saturates:
        return "accuracy"
    return "nothing"  # 7 bits are stored in 8, and run in the same kernels


def _input_reward(bits: int, choices: Sequence[int], kind: LayerKind | None, probe: CpuProbe) -> Reward:
    if bits == FLOAT_BITS:
        return _asked(probe, "weights_only_int8", kind, "size only")
    if bits < _WIDEST and _WIDEST in choices:  # they run in the 8-bit kernels, and are stored nowhere
        return "unknown" if probe.is_faster("narrow_inputs") is not False else "nothing"
    return _asked(probe, "int8", kind, "size only")


def _asked(probe: CpuProbe, question: Question, kind: LayerKind | None, otherwise: Reward) -> Reward:
    """`speed` or `unknown`; `otherwise` where the probe knows that it is not faster."""
    is_faster = probe.is_faster(question, kind) if kind else None
    if is_faster is None:
        return "unknown"
    return "speed" if is_faster else otherwise


def _best(found: Iterable[Reward]) -> Reward:
    return min(found, key=_BEST_FIRST.index)


def _serves(reward: Reward, objectives: Collection[str]) -> bool:
    return reward not in SIZES or any(name in objectives for name in SIZES[reward])


def _with_gentler(idle: tuple[int | float, ...], choices: Sequence[Choice]) -> tuple[Choice, ...]:
    """Those of `idle` that have a wider choice which is not idle; so the widest choice of all stays."""
    kept = [choice for choice in choices if choice not in idle]
    return tuple(choice for choice in idle if any(wider > choice for wider in kept))


def _unless_all(idle: tuple[Choice, ...], choices: Sequence[Choice]) -> tuple[Choice, ...]:
    return idle if len(idle) < len(choices) else ()


def _layer_left(weights: LayerChoices, dropped: Mapping[str, Collection[Choice]]) -> LayerChoices:
    return replace(
        weights,
        weight_bits=_left(dropped, weights.parameter, weights.weight_bits),
        sparsity=_left(dropped, f"{weights.name}/sparsity", weights.sparsity),
        rank_ratio=_left(dropped, f"{weights.name}/rank_ratio", weights.rank_ratio),
    )


def _left(dropped: Mapping[str, Collection[Choice]], parameter: str, choices: tuple[Number, ...]) -> tuple[Number, ...]:
    kept = tuple(choice for choice in choices if choice not in dropped.get(parameter, ()))
    if not kept:
        raise SearchSpaceError(f"{parameter} must keep a choice, but all of {list(choices)} were to be dropped")
    return kept
