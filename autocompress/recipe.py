"""What to do to one model: bits, sparsity and rank a layer, filters a channel group; frozen, checked, with a digest."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from autocompress.errors import RecipeError
from autocompress.recipe_parts import (
    BINARY_BITS,
    FLOAT_BITS,
    INTEGER_BITS,
    Brief,
    Calibration,
    Distillation,
    Granularity,
    LayerRecipe,
    Scheme,
    Sparsification,
)

__all__ = [
    "BINARY_BITS",
    "DIGEST_LENGTH",
    "FLOAT_BITS",
    "INTEGER_BITS",
    "Calibration",
    "Distillation",
    "Granularity",
    "Importance",
    "LayerRecipe",
    "PruningRatio",
    "Recipe",
    "Scheme",
    "Sparsification",
    "first_problem",
]

DIGEST_LENGTH = 12

PruningRatio = Annotated[float, Field(ge=0.0, lt=1.0)]
Importance = Literal["l1", "l2", "batch_norm", "geometric_median", "taylor", "activation"]


class Recipe(Brief):
    """What to do to one model; two recipes that do the same are equal and have the same digest.

    Attributes:
        layers: What to do by dotted layer name; a layer that is not named stays as it is.
        pruning: `pruning_ratio`, the fraction of filters removed, in [0, 1), by channel group; a group that is
            not named keeps all its filters.
        importance: What says which filters go first: norms of filters `l1` (Li et al. 2017) or `l2`, scales of the
            `batch_norm` behind them (Liu et al. 2017), distance from the `geometric_median` (He et al. 2019), or, from
            training data, `taylor` (Molchanov et al. 2019) or mean size of the `activation`.
        sparsification: How the sparse layers get their zeros.
        calibration: How the quantized layers are set up from data.
        distillation: What training takes from the FP32 model.

    >>> Recipe(layers={"conv": LayerRecipe()}) == Recipe()
    True
    >>> Recipe(pruning={"conv": 0.25}).digest() == Recipe(pruning={"conv": 0.5}).digest()
    False
    """

    always_written: ClassVar[tuple[str, ...]] = ("layers", "pruning")

    layers: Mapping[str, LayerRecipe] = {}
    pruning: Mapping[str, PruningRatio] = {}
    importance: Importance = "l1"
    sparsification: Sparsification = Sparsification()
    calibration: Calibration = Calibration()
    distillation: Distillation = Distillation()

    @field_validator("layers")
    @classmethod
    def _only_changed(cls, layers: Mapping[str, LayerRecipe]) -> dict[str, LayerRecipe]:
        return {name: layers[name].effective() for name in sorted(layers) if not layers[name].is_identity}

    @field_validator("pruning")
    @classmethod
    def _only_pruned(cls, pruning: Mapping[str, float]) -> dict[str, float]:
        return {name: pruning[name] for name in sorted(pruning) if pruning[name] > 0}

    @field_validator("importance")
    @classmethod
    def _only_of_pruned(cls, importance: Importance, info: ValidationInfo) -> Importance:
        return importance if info.data.get("pruning") else "l1"

    @field_validator("sparsification")
    @classmethod
    def _only_of_sparse(cls, sparsification: Sparsification, info: ValidationInfo) -> Sparsification:
        layers = info.data.get("layers", {})
        sparse = {name: layer for name, layer in layers.items() if layer.sparsity}
        if not sparse:
            return Sparsification()
        if sparsification.structure != "weights" and any(layer.rank_ratio < 1 for layer in layers.values()):
            raise ValueError(f"a structure of {sparsification.structure} needs layers of rank_ratio 1, but got less")
        if sparsification.n_of_m:
            n, m = sparsification.n_of_m
            for name, layer in sparse.items():
                if abs(layer.sparsity - (1 - n / m)) > 1e-6:
                    law = f"pattern {n}:{m} needs a sparsity of {1 - n / m:g} in every sparse layer"
                    raise ValueError(f"{law}, but got {layer.sparsity} for {name!r}")
        return sparsification

    @field_validator("calibration")
    @classmethod
    def _only_of_quantized(cls, calibration: Calibration, info: ValidationInfo) -> Calibration:
        is_quantized = any(not layer.is_float for layer in info.data.get("layers", {}).values())
        return calibration if is_quantized else Calibration()

    @field_validator("distillation")
    @classmethod
    def _only_of_changed(cls, distillation: Distillation, info: ValidationInfo) -> Distillation:
        is_changed = info.data.get("layers") or info.data.get("pruning")
        return distillation if is_changed else Distillation()

    def __hash__(self) -> int:
        return hash(self.digest())

    @property
    def is_identity(self) -> bool:
        """Whether the model stays as it is."""
        return not self.layers and not self.pruning

    @property
    def quantized(self) -> dict[str, LayerRecipe]:
        """Layers that are not all float."""
        return {name: layer for name, layer in self.layers.items() if not layer.is_float}

    @property
    def sparse(self) -> dict[str, float]:
        """Sparsity by name of layer, where it is above 0."""
        return {name: layer.sparsity for name, layer in self.layers.items() if layer.sparsity}

    def layer(self, name: str) -> LayerRecipe:
        """What to do to the layer `name`; nothing where the recipe says nothing."""
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
            raise RecipeError(
                f"recipe {path} cannot be read: {error}; give the path of a recipe.yaml or a preset"
            ) from None
        return cls.from_yaml(text, str(path))


def first_problem(error: ValidationError) -> str:
    """The first problem that pydantic found, as `key.key: law, but got value`."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"]) or "document"
    law = problem["msg"].removeprefix("Value error, ")
    got = "" if "but got" in law else f", but got {problem['input']!r}"
    return f"{where}: {law}{got}"
