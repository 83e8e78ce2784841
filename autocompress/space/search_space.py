"""What may be tried on any model: rules from a file, and their binding to the layers of one model."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from autocompress.errors import GraphError, SearchSpaceError
from autocompress.graph.model_graph import ChannelGroup, Layer, ModelGraph
from autocompress.graph.selection import select_layers
from autocompress.recipe import FLOAT_BITS, Calibration, Importance, Sparsification
from autocompress.space.bound_space import BoundSpace, GroupChoices, InputChoices, LayerChoices
from autocompress.space.yaml_node import did_you_mean

EVERYTHING = "*"
N_EXAMPLES = 3
FACTORED_KINDS = ("Linear", "NonDynamicallyQuantizableLinear", "Conv1d", "Conv2d", "Conv3d")


@dataclass(frozen=True)
class LayerRule:
    """What may be tried on the layers that it matches.

    Args:
        pattern: Glob or regular expression on the whole dotted name, upper and lower case distinguished, or the name
            of a class.
        by: Which of them `pattern` is: `match` for the glob, `regex` for the expression, `type` for the class.
        weight_bits: Widths to choose from, each one of 2..8 or 32, without repetition.
        activation_bits: Widths to choose from where the weights are not float; empty where they always are.
        where: Place in the file, ``file:line``; rules that differ in nothing else are equal.
        sparsity: Fractions of zero weights to choose from, each in [0, 1), without repetition.
        rank_ratio: Fractions of the rank to choose from, each in (0, 1], without repetition.
    """

    pattern: str
    by: Literal["match", "regex", "type"]
    weight_bits: tuple[int, ...]
    activation_bits: tuple[int, ...]
    where: str = field(compare=False)
    sparsity: tuple[float, ...] = (0.0,)
    rank_ratio: tuple[float, ...] = (1.0,)

    def matches(self, layer: Layer) -> bool:
        """Whether the rule speaks of `layer`."""
        if self.by == "regex":
            return re.fullmatch(self.pattern, layer.name) is not None
        return layer.kind == self.pattern if self.by == "type" else fnmatchcase(layer.name, self.pattern)


@dataclass(frozen=True)
class PruningRule:
    """Fractions of filters that may be removed from the channel groups that it matches.

    Args:
        pattern: Glob on the name of the group, upper and lower case distinguished.
        pruning_ratio: Fractions to choose from, each in [0, 1), without repetition.
        where: Place in the file, ``file:line``; rules that differ in nothing else are equal.
    """

    pattern: str
    pruning_ratio: tuple[float, ...]
    where: str = field(compare=False)

    def matches(self, group: ChannelGroup) -> bool:
        """Whether the rule speaks of `group`."""
        return fnmatchcase(group.name, self.pattern)


@dataclass(frozen=True)
class Ignored:
    """Layers that stay float whatever the rules say.

    Args:
        pattern: Pattern in the sense of `select_layers`.
        where: Place in the file, ``file:line``; patterns that differ in nothing else are equal.
    """

    pattern: str
    where: str = field(compare=False)

    def layers(self, graph: ModelGraph) -> tuple[str, ...]:
        """Names of the layers.

        Raises:
            SearchSpaceError: It matches no layer of `graph`.
        """
        try:
            return select_layers(graph, [self.pattern])
        except GraphError as error:
            raise SearchSpaceError(f"{self.where}: {error}") from None


@dataclass(frozen=True)
class SearchSpace:
    """What may be tried, for any model; of the rules that match one layer the last one holds.

    Args:
        name: Name of the file without its ending.
        description: One sentence.
        layers: Rules for layers; a layer without a rule stays float.
        pruning: Rules for channel groups; a group without a rule keeps its filters.
        ignored: Layers that stay float and whole whatever the rules; they may still lose filters.
        importance: What says which filters go first.
        sparsification: How sparse layers get their zeros.
        calibration: How the quantized layers of every recipe are set up from data.
    """

    name: str
    description: str
    layers: tuple[LayerRule, ...] = ()
    pruning: tuple[PruningRule, ...] = ()
    ignored: tuple[Ignored, ...] = ()
    importance: Importance = "l1"
    sparsification: Sparsification = Sparsification()
    calibration: Calibration = Calibration()

    def bind(self, graph: ModelGraph) -> BoundSpace:
        """What may be tried on the model of `graph`.

        Layers that cannot be compressed and groups that cannot be pruned are left out; they stay as they are.

        Raises:
            GraphError: The model has no layer that can be compressed.
            SearchSpaceError: A rule matches nothing that can be compressed, an ignored pattern matches nothing, or
                layers that read the same tensor have rules with different `activation_bits`. Only a pruning rule
                for everything may match nothing, where the model has no group that can be pruned.
        """
        if not graph.compressible:
            raise GraphError(f"the model has no layer that can be compressed{_reasons(graph.layers)}")
        _check_layer_rules(self.layers, graph)
        _check_pruning_rules(self.pruning, graph)
        ignored = {name for pattern in self.ignored for name in pattern.layers(graph)}
        ruled = [(layer, rule) for layer, rule in _ruled_layers(self.layers, graph) if layer.name not in ignored]
        groups = []
        for group in graph.prunable:
            rule = next((r for r in reversed(self.pruning) if r.matches(group)), None)
            if rule:
                groups.append(GroupChoices(group.name, rule.pruning_ratio))
        return BoundSpace(
            layers=tuple(_layer_choices(layer, rule, _is_tied(layer, graph)) for layer, rule in ruled),
            inputs=tuple(_inputs(ruled)),
            groups=tuple(groups),
            importance=self.importance,
            sparsification=self.sparsification,
            calibration=self.calibration,
        )


def _layer_choices(layer: Layer, rule: LayerRule, is_tied: bool) -> LayerChoices:
    """Choices of a rule; without ranks for a layer that cannot be factored, dense and whole where weights are tied."""
    can_be_factored = layer.kind in FACTORED_KINDS and layer.weight_shape[1] > 1 and not is_tied
    sparsity = (0.0,) if is_tied else rule.sparsity
    return LayerChoices(layer.name, rule.weight_bits, sparsity, rule.rank_ratio if can_be_factored else (1.0,))


def _is_tied(layer: Layer, graph: ModelGraph) -> bool:
    return sum(other.shares_weight_with == layer.shares_weight_with for other in graph.layers) > 1


def _ruled_layers(rules: Sequence[LayerRule], graph: ModelGraph) -> list[tuple[Layer, LayerRule]]:
    last = [(layer, next((r for r in reversed(rules) if r.matches(layer)), None)) for layer in graph.compressible]
    return [(layer, rule) for layer, rule in last if rule]


def _inputs(ruled: Iterable[tuple[Layer, LayerRule]]) -> list[InputChoices]:
    readers: dict[str, list[tuple[Layer, LayerRule]]] = {}
    for layer, rule in ruled:
        if not layer.weights_only and any(bits != FLOAT_BITS for bits in rule.weight_bits):
            readers.setdefault(layer.shares_input_with, []).append((layer, rule))
    return [_shared_choices(together) for together in readers.values()]


def _shared_choices(readers: Sequence[tuple[Layer, LayerRule]]) -> InputChoices:
    leader, leading = readers[0]
    for layer, rule in readers[1:]:
        if set(rule.activation_bits) != set(leading.activation_bits):
            raise SearchSpaceError(
                f"{rule.where}: layers that read the same tensor must have the same activation_bits, but got "
                f"{list(rule.activation_bits)} for {layer.name!r} and {list(leading.activation_bits)} for "
                f"{leader.name!r} ({leading.where})"
            )
    return InputChoices(tuple(layer.name for layer, _ in readers), leading.activation_bits)


def _check_layer_rules(rules: Iterable[LayerRule], graph: ModelGraph) -> None:
    for rule in rules:
        if not any(rule.matches(layer) for layer in graph.compressible):
            law = f"{rule.by} must match a layer that can be compressed"
            hopeless = [layer for layer in graph.layers if rule.matches(layer)]
            if hopeless:
                raise SearchSpaceError(f"{rule.where}: {law}, but got {rule.pattern!r}{_reasons(hopeless)}")
            known = [layer.kind if rule.by == "type" else layer.name for layer in graph.compressible]
            raise _matches_nothing(rule, law, known)


def _check_pruning_rules(rules: Iterable[PruningRule], graph: ModelGraph) -> None:
    for rule in rules:
        allowed_to_idle = rule.pattern == EVERYTHING and not graph.prunable
        if not allowed_to_idle and not any(rule.matches(group) for group in graph.prunable):
            law = "match must match a channel group that can be pruned"
            hopeless = [group for group in graph.groups if rule.matches(group)]
            if hopeless:
                raise SearchSpaceError(f"{rule.where}: {law}, but got {rule.pattern!r}{_reasons(hopeless)}")
            raise _matches_nothing(rule, law, [group.name for group in graph.prunable])


def _matches_nothing(rule: LayerRule | PruningRule, law: str, known: Sequence[str]) -> SearchSpaceError:
    names = list(dict.fromkeys(known))
    examples = ", ".join(names[:N_EXAMPLES]) + (", ..." if len(names) > N_EXAMPLES else "")
    there_are = f"the model has {examples}" if names else "the model has none"
    hint = did_you_mean(rule.pattern, names)
    return SearchSpaceError(f"{rule.where}: {law}, but got {rule.pattern!r}; {there_are}.{hint}")


def _reasons(hopeless: Sequence[Layer | ChannelGroup]) -> str:
    reasons = "; ".join(f"{part.name}: {part.reason}" for part in hopeless[:N_EXAMPLES])
    return f" ({reasons})" if reasons else ""
