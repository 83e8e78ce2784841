"""What may be tried on one model: named parameters with choices, and recipes to and from their values."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autocompress.recipe import FLOAT_BITS, Calibration, Importance, LayerRecipe, Recipe, Sparsification

Choice = int | float
Choose = Callable[[str, tuple[Choice, ...]], Any]


@dataclass(frozen=True)
class LayerChoices:
    """Choices for the weights of the layer `name`; of each at least one, without repetition.

    Args:
        name: Dotted name.
        weight_bits: Widths of 2..8 or 32 bits.
        sparsity: Fractions of zero weights, in [0, 1).
        rank_ratio: Fractions of the largest rank that are kept, in (0, 1].
    """

    name: str
    weight_bits: tuple[int, ...]
    sparsity: tuple[float, ...] = (0.0,)
    rank_ratio: tuple[float, ...] = (1.0,)

    @property
    def parameter(self) -> str:
        """Name of the parameter for the bits."""
        return f"{self.name}/weight_bits"

    @property
    def fractions(self) -> dict[str, tuple[float, ...]]:
        """Choices other than bits, by name of the parameter."""
        return {f"{self.name}/sparsity": self.sparsity, f"{self.name}/rank_ratio": self.rank_ratio}


@dataclass(frozen=True)
class InputChoices:
    """Choices for one tensor that layers with integer weights read.

    Args:
        readers: Layers that read it and can have integer weights, in the order of the model; the first one
            gives the parameter its name.
        activation_bits: Widths of 2..8 or 32 bits, at least one, without repetition.
    """

    readers: tuple[str, ...]
    activation_bits: tuple[int, ...]

    @property
    def parameter(self) -> str:
        """Name of the parameter."""
        return f"{self.readers[0]}/activation_bits"


@dataclass(frozen=True)
class GroupChoices:
    """Choices for the channel group `name`: fractions of filters removed, in [0, 1), without repetition."""

    name: str
    pruning_ratio: tuple[float, ...]

    @property
    def parameter(self) -> str:
        """Name of the parameter."""
        return f"{self.name}/pruning_ratio"


@dataclass(frozen=True)
class BoundSpace:
    """What may be tried on one model.

    A choice of one is applied without being asked. Whether a tensor is quantized, and to how many bits, is asked
    once for all layers that read it, after their weights: only if at least one of them has integer weights, under
    the name of the first that could have them, even if that one stays float. The answer holds for the readers with
    integer weights; a reader with float weights reads the tensor in float.

    Args:
        layers: Choices for weights, in the order of the model.
        inputs: Choices for the tensors that they read, in the same order; every layer that can have integer
            weights reads exactly one of them, or none if it has weights only, as an Embedding: its
            `activation_bits` stay 32.
        groups: Choices for channel groups, in the order of the model.
        importance: What says which filters go first.
        sparsification: How sparse layers get their zeros.
        calibration: How the quantized layers of every recipe are set up from data.
    """

    layers: tuple[LayerChoices, ...] = ()
    inputs: tuple[InputChoices, ...] = ()
    groups: tuple[GroupChoices, ...] = ()
    importance: Importance = "l1"
    sparsification: Sparsification = Sparsification()
    calibration: Calibration = Calibration()

    @property
    def parameters(self) -> Mapping[str, tuple[Choice, ...]]:
        """Choices by name of parameter, at least two each, in the order in which `suggest` asks."""
        every: dict[str, tuple[Choice, ...]] = {}
        for weights in self.layers:
            every |= {weights.parameter: weights.weight_bits, **weights.fractions}
        every |= {tensor.parameter: tensor.activation_bits for tensor in self.inputs}
        every |= {group.parameter: group.pruning_ratio for group in self.groups}
        return {name: choices for name, choices in every.items() if len(choices) > 1}

    @property
    def n_recipes(self) -> int:
        """How many different recipes `suggest` can give, at least 1."""
        widths = {weights.name: weights.weight_bits for weights in self.layers}
        read = {name for tensor in self.inputs for name in tensor.readers}
        n = math.prod(len(group.pruning_ratio) for group in self.groups)
        n *= math.prod(len(fractions) for weights in self.layers for fractions in weights.fractions.values())
        n *= math.prod(len(bits) for name, bits in widths.items() if name not in read)
        for tensor in self.inputs:
            n_weights = math.prod(len(widths[name]) for name in tensor.readers)
            n_all_float = math.prod(FLOAT_BITS in widths[name] for name in tensor.readers)
            n *= n_all_float + (n_weights - n_all_float) * len(tensor.activation_bits)
        return n

    def suggest(self, choose: Choose) -> Recipe:
        """The recipe that `choose` makes.

        Args:
            choose: ``choose(parameter, choices)`` gives one of `choices`; called at most once a parameter, in the
                order of `parameters`, and only for parameters that have an effect after the answers so far.
        """

        def ask(parameter: str, choices: tuple[Choice, ...]) -> Any:
            return choices[0] if len(choices) == 1 else choose(parameter, choices)

        weight_bits, fractions = {}, {}
        for weights in self.layers:
            weight_bits[weights.name] = ask(weights.parameter, weights.weight_bits)
            answers = {name.rpartition("/")[2]: ask(name, choices) for name, choices in weights.fractions.items()}
            fractions[weights.name] = answers
        activation_bits: dict[str, int] = {}
        for tensor in self.inputs:
            integer = [name for name in tensor.readers if weight_bits[name] != FLOAT_BITS]
            if integer:
                activation_bits |= dict.fromkeys(integer, ask(tensor.parameter, tensor.activation_bits))
        return Recipe(
            layers={
                name: LayerRecipe(
                    weight_bits=bits, activation_bits=activation_bits.get(name, FLOAT_BITS), **fractions[name]
                )
                for name, bits in weight_bits.items()
            },
            pruning={group.name: ask(group.parameter, group.pruning_ratio) for group in self.groups},
            importance=self.importance,
            sparsification=self.sparsification,
            calibration=self.calibration,
        )

    def encode(self, recipe: Recipe) -> dict[str, Choice]:
        """Values of the parameters for which `suggest` gives the recipe of this space that is nearest to `recipe`.

        Exactly the parameters that `suggest` then asks for, in that order; for a recipe that `suggest` can give,
        it gives the same one again. Where `recipe` wants what is not among the choices: a float takes the widest;
        an integer width takes the nearest integer width, of two equally near ones the narrower, and float only if
        there is nothing else; a fraction takes the nearest, of two equally near ones the lower. Layers and
        groups that the space does not know are ignored. Where the readers of one tensor want different
        `activation_bits`, the first with integer weights decides.
        """
        wanted = self._wanted(recipe)
        values: dict[str, Choice] = {}

        def nearest(parameter: str, choices: tuple[Choice, ...]) -> Choice:
            of_bits = parameter.endswith("_bits")
            values[parameter] = (nearest_bits if of_bits else _nearest_fraction)(wanted[parameter], choices)
            return values[parameter]

        self.suggest(nearest)
        return values

    def nearest(self, recipe: Recipe) -> Recipe:
        """The recipe of this space that is nearest to `recipe`, in the sense of `encode`."""
        values = self.encode(recipe)
        return self.suggest(lambda parameter, _: values[parameter])

    def _wanted(self, recipe: Recipe) -> dict[str, Choice]:
        wanted: dict[str, Choice] = {w.parameter: recipe.layer(w.name).weight_bits for w in self.layers}
        for weights in self.layers:
            wanted |= {name: getattr(recipe.layer(weights.name), name.rpartition("/")[2]) for name in weights.fractions}
        for tensor in self.inputs:
            readers = [recipe.layer(name) for name in tensor.readers]
            deciding = next((layer for layer in readers if layer.weight_bits != FLOAT_BITS), readers[0])
            wanted[tensor.parameter] = deciding.activation_bits
        return wanted | {group.parameter: recipe.pruning.get(group.name, 0.0) for group in self.groups}


def nearest_bits(bits: Choice, choices: Sequence[Choice]) -> Choice:
    """The width of `choices` that is nearest to `bits`, as `BoundSpace.encode` defines it.

    >>> nearest_bits(8, (32, 7, 4)), nearest_bits(6, (7, 5)), nearest_bits(8, (32,)), nearest_bits(32, (8, 4))
    (7, 5, 32, 8)
    """
    integers = [choice for choice in choices if choice != FLOAT_BITS]
    if bits == FLOAT_BITS or not integers:
        return max(choices)
    return min(integers, key=lambda choice: (abs(choice - bits), choice))


def _nearest_fraction(fraction: Choice, choices: Sequence[Choice]) -> Choice:
    return min(choices, key=lambda choice: (abs(choice - fraction), choice))
