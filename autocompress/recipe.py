"""What to do to one model: bits a layer and filter pruning a channel group; frozen, self-checking, with a digest."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from autocompress.errors import RecipeError

FLOAT_BITS = 32
INTEGER_BITS = tuple(range(2, 9))
DIGEST_LENGTH = 12


class LayerRecipe(BaseModel):
    """Bit widths of one layer; 32 means float, 2..8 an integer grid.

    Attributes:
        weight_bits: Bits of the weights; symmetric, per output channel.
        activation_bits: Bits of the layer's input; asymmetric, per tensor. Float weights need a float input,
            since an integer input speeds up nothing without integer weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight_bits: int = FLOAT_BITS
    activation_bits: int = FLOAT_BITS

    @field_validator("weight_bits", "activation_bits")
    @classmethod
    def _known_bits(cls, bits: int) -> int:
        if bits not in (*INTEGER_BITS, FLOAT_BITS):
            raise ValueError(f"must be one of 2..8 or 32, but got {bits}")
        return bits

    @property
    def is_float(self) -> bool:
        """Whether nothing of the layer is quantized."""
        return self.weight_bits == FLOAT_BITS and self.activation_bits == FLOAT_BITS


PruningRatio = Annotated[float, Field(ge=0.0, lt=1.0)]


class Recipe(BaseModel):
    """What to do to one model; two recipes that do the same are equal and have the same digest.

    Attributes:
        layers: Bit widths by dotted layer name; a layer that is not named stays float.
        pruning: `pruning_ratio`, the fraction of filters removed, in [0, 1), by channel group; a group that is
            not named keeps all its filters.

    >>> Recipe(layers={"conv": LayerRecipe()}) == Recipe()
    True
    >>> Recipe(pruning={"conv": 0.25}).digest() == Recipe(pruning={"conv": 0.5}).digest()
    False
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: Mapping[str, LayerRecipe] = {}
    pruning: Mapping[str, PruningRatio] = {}

    @field_validator("layers")
    @classmethod
    def _only_quantized(cls, layers: Mapping[str, LayerRecipe]) -> dict[str, LayerRecipe]:
        return {name: layers[name] for name in sorted(layers) if not layers[name].is_float}

    @field_validator("pruning")
    @classmethod
    def _only_pruned(cls, pruning: Mapping[str, float]) -> dict[str, float]:
        return {name: pruning[name] for name in sorted(pruning) if pruning[name] > 0}

    def __hash__(self) -> int:
        return hash(self.digest())

    @property
    def is_identity(self) -> bool:
        """Whether the model stays as it is."""
        return not self.layers and not self.pruning

    def layer(self, name: str) -> LayerRecipe:
        """Bit widths of the layer `name`; float where the recipe says nothing."""
        return self.layers.get(name, LayerRecipe())

    def digest(self) -> str:
        """Twelve hexadecimal digits that are equal exactly for equal recipes."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:DIGEST_LENGTH]

    def to_yaml(self) -> str:
        """The recipe as a YAML document that `from_yaml` reads back."""
        stream = io.StringIO()
        yaml = YAML(typ="safe", pure=True)
        yaml.default_flow_style = False  # in flow style ruamel does not read back every key that it writes
        yaml.dump(self.model_dump(mode="json"), stream)
        return stream.getvalue()

    @classmethod
    def from_yaml(cls, text: str, where: str = "recipe") -> Self:
        """The recipe in a YAML document.

        Raises:
            RecipeError: The text is not YAML or breaks a law; the message starts with `where`.
        """
        try:
            content: Any = YAML(typ="safe", pure=True).load(text)
        except YAMLError as error:
            raise RecipeError(f"{where} is not a YAML document: {' '.join(str(error).split())}") from None
        try:
            return cls.model_validate(content or {})
        except ValidationError as error:
            raise RecipeError(f"{where}: {first_problem(error)}") from None

    @classmethod
    def read(cls, path: Path) -> Self:
        """The recipe in the YAML file at `path`.

        Raises:
            RecipeError: The file is missing, unreadable or wrong.
        """
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"recipe {path} cannot be read: {error}; give the path of a recipe.yaml") from None
        return cls.from_yaml(text, str(path))


def first_problem(error: ValidationError) -> str:
    """The first problem that pydantic found, as `key.key: law, but got value`."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"]) or "document"
    law = problem["msg"].removeprefix("Value error, ")
    got = "" if "but got" in law else f", but got {problem['input']!r}"
    return f"{where}: {law}{got}"
