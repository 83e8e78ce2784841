"""What to do to one model: bits a layer and filter pruning a channel group; frozen, self-checking, with a digest."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from autocompress.errors import RecipeError

FLOAT_BITS = 32
BINARY_BITS = 1
INTEGER_BITS = tuple(range(2, 9))
DIGEST_LENGTH = 12


Scheme = Literal["symmetric", "asymmetric"]
Granularity = Literal["per_tensor", "per_channel"]


class _Brief(BaseModel):
    """Frozen and strict; what has its default value is left out of the written form, so that it stays short."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    always_written: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        kept = {name for name in fields if name in self.always_written or getattr(self, name) != fields[name].default}
        return {name: value for name, value in write(self).items() if name in kept}


class LayerRecipe(_Brief):
    """Bit widths of one layer, and the grids that they are spent on.

    Attributes:
        weight_bits: Bits of the weights: 32 means float, 2..8 an integer grid, 1 binary (convolutions only).
        activation_bits: Bits of the layer's input, likewise. Float weights need a float input, since an integer input
            speeds up nothing without integer weights; a binary input needs binary weights.
        weight_scheme: Grid of the weights. Asymmetric grids use every step, symmetric ones need no zero point.
        weight_granularity: One step for each output channel or one for the whole weight.
        activation_scheme: Grid of the input; `auto` is asymmetric but for transposed convolutions, whose integer
            kernels know no zero point. A symmetric grid is signed exactly where calibration saw values below 0.
        activation_granularity: One range for the tensor or one for each channel. No integer kernel takes the latter.
        group_size: Weights of a row that share one step, for Linear layers with float inputs; 0 means whole rows.
        binarization: Magnitude of binary weights: `xnor` one for each filter, `dorefa` one for the whole weight.
    """

    always_written: ClassVar[tuple[str, ...]] = ("weight_bits", "activation_bits")

    weight_bits: Annotated[int, Field(strict=True)] = FLOAT_BITS
    activation_bits: Annotated[int, Field(strict=True)] = FLOAT_BITS
    weight_scheme: Scheme = "symmetric"
    weight_granularity: Granularity = "per_channel"
    activation_scheme: Literal["auto", "symmetric", "asymmetric"] = "auto"
    activation_granularity: Granularity = "per_tensor"
    group_size: Annotated[int, Field(ge=0)] = 0
    binarization: Literal["xnor", "dorefa"] = "xnor"

    @field_validator("weight_bits", "activation_bits")
    @classmethod
    def _known_bits(cls, bits: int) -> int:
        if bits not in (BINARY_BITS, *INTEGER_BITS, FLOAT_BITS):
            raise ValueError(f"must be one of 2..8, 32 (float) or 1 (binary), but got {bits}")
        return bits

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.activation_bits == BINARY_BITS and self.weight_bits != BINARY_BITS:
            raise ValueError(f"activation_bits of 1 needs weight_bits of 1, but got {self.weight_bits}")
        if self.group_size and self.activation_bits != FLOAT_BITS:
            raise ValueError(f"group_size needs activation_bits of 32, but got {self.activation_bits}")
        if self.group_size and (self.weight_bits not in INTEGER_BITS or self.weight_granularity == "per_tensor"):
            raise ValueError("group_size needs weight_bits in 2..8 and weight_granularity per_channel")
        return self

    @property
    def is_float(self) -> bool:
        """Whether nothing of the layer is quantized."""
        return self.weight_bits == FLOAT_BITS and self.activation_bits == FLOAT_BITS

    def effective(self) -> Self:
        """The same without options that have no effect at these bit widths.

        >>> LayerRecipe(weight_bits=8, activation_scheme="symmetric").effective() == LayerRecipe(weight_bits=8)
        True
        """
        idle = set() if self.weight_bits in INTEGER_BITS else {"weight_scheme", "weight_granularity"}
        idle |= set() if self.activation_bits in INTEGER_BITS else {"activation_scheme", "activation_granularity"}
        idle |= set() if self.weight_bits == BINARY_BITS else {"binarization"}
        return self.model_copy(update={name: type(self).model_fields[name].default for name in idle})


class Calibration(_Brief):
    """How a model is set up from data, without labels and before any training.

    Attributes:
        input_ranges: How ranges of inputs are estimated: `mean_percentile`, the mean over batches of trimmed ends;
            `min_max`; `mean_min_max`, the mean over batches; `percentile`, trimmed over all data; `mse`, the ends with
            the least squared error.
        weight_ranges: `mse`, the step with the least squared error, or `min_max`.
        rounding: `nearest`, or `gptq`, which rounds each weight so that the layer's output changes least (Frantar et
            al. 2023).
        bias_correction: Whether biases take up the mean error of each output channel (Nagel et al. 2019, section 4.2).
        smoothing: How much of the spread between channels moves from the inputs to the weights, in (0, 1] (Xiao et al.
            2023, equation 4); 0 means none.
    """

    input_ranges: Literal["mean_percentile", "min_max", "mean_min_max", "percentile", "mse"] = "mean_percentile"
    weight_ranges: Literal["mse", "min_max"] = "mse"
    rounding: Literal["nearest", "gptq"] = "nearest"
    bias_correction: bool = False
    smoothing: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0


PruningRatio = Annotated[float, Field(ge=0.0, lt=1.0)]


class Recipe(_Brief):
    """What to do to one model; two recipes that do the same are equal and have the same digest.

    Attributes:
        layers: Bit widths by dotted layer name; a layer that is not named stays float.
        pruning: `pruning_ratio`, the fraction of filters removed, in [0, 1), by channel group; a group that is
            not named keeps all its filters.
        calibration: How the quantized layers are set up from data.

    >>> Recipe(layers={"conv": LayerRecipe()}) == Recipe()
    True
    >>> Recipe(pruning={"conv": 0.25}).digest() == Recipe(pruning={"conv": 0.5}).digest()
    False
    """

    always_written: ClassVar[tuple[str, ...]] = ("layers", "pruning")

    layers: Mapping[str, LayerRecipe] = {}
    pruning: Mapping[str, PruningRatio] = {}
    calibration: Calibration = Calibration()

    @field_validator("layers")
    @classmethod
    def _only_quantized(cls, layers: Mapping[str, LayerRecipe]) -> dict[str, LayerRecipe]:
        return {name: layers[name].effective() for name in sorted(layers) if not layers[name].is_float}

    @field_validator("pruning")
    @classmethod
    def _only_pruned(cls, pruning: Mapping[str, float]) -> dict[str, float]:
        return {name: pruning[name] for name in sorted(pruning) if pruning[name] > 0}

    @field_validator("calibration")
    @classmethod
    def _only_of_quantized(cls, calibration: Calibration, info: ValidationInfo) -> Calibration:
        return calibration if info.data.get("layers") else Calibration()

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
