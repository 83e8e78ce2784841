"""What to do to one model: bits, sparsity and rank a layer, filters a channel group; frozen, checked, with a digest."""

import hashlib
import io
import json
import re
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
    """What to do to one layer: bit widths, the grids that they are spent on, zero weights, and rank.

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
        sparsity: Fraction of zero weights, in [0, 1). Makes zipped files smaller and nothing faster on most CPUs.
        rank_ratio: Fraction of the largest rank that is kept, in (0, 1]; 1 leaves the layer whole. A layer whose
            factors would need as many multiply-accumulates as itself stays whole, too.
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
    sparsity: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    rank_ratio: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0

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
        if self.sparsity and self.weight_bits == BINARY_BITS:
            raise ValueError(f"sparsity needs weights that can be 0, but got weight_bits of 1 with {self.sparsity}")
        return self

    @property
    def is_float(self) -> bool:
        """Whether nothing of the layer is quantized."""
        return self.weight_bits == FLOAT_BITS and self.activation_bits == FLOAT_BITS

    @property
    def is_identity(self) -> bool:
        """Whether the layer stays as it is."""
        return self.is_float and self.sparsity == 0 and self.rank_ratio == 1

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


class Sparsification(_Brief):
    """How the sparse layers of a recipe get their zeros; in training they come step by step.

    Attributes:
        method: `magnitude`, the smallest weights (Zhu & Gupta 2017); `regularization`, trained gates (Louizos et al.
            2017; NNCF paper, section 4.3); `movement`, the weights that training moves to zero (Sanh et al. 2020). The
            last two learn nothing without training, and start from the smallest weights.
        scope: `local`, every layer gets its own sparsity; `global`, the layers together get the number of zeros that
            their sparsities add up to, wherever the scores are least.
        pattern: Empty, or `N:M`: of every M neighbours along the input channels N stay, for `magnitude` and `local`;
            the sparsity of every sparse layer must then be 1 - N/M.
        structure: What becomes zero as one: `weights`, or with `movement` whole `rows` (outputs) of Linear layers, in
            query, key and value layers whole attention heads. Rows and heads are removed after the training, which
            makes the model faster.
        schedule: How the sparsity rises from `initial_sparsity` to its target during training.
        initial_sparsity: Sparsity at the first step, in [0, 1).
        power: Of the `polynomial` schedule, > 0 (3: Zhu & Gupta 2017, equation 1).
        end: Share of the training after which the target is reached, in (0, 1].
    """

    method: Literal["magnitude", "regularization", "movement"] = "magnitude"
    scope: Literal["local", "global"] = "local"
    pattern: str = ""
    structure: Literal["weights", "rows"] = "weights"
    schedule: Literal["polynomial", "exponential", "adaptive", "multistep"] = "polynomial"
    initial_sparsity: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    power: Annotated[float, Field(gt=0.0)] = 3.0
    end: Annotated[float, Field(gt=0.0, le=1.0)] = 0.7

    @field_validator("pattern")
    @classmethod
    def _n_of_m(cls, pattern: str) -> str:
        found = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", pattern)
        if pattern and not (found and int(found[1]) < int(found[2])):
            raise ValueError(f"must be N:M with 1 <= N < M, as 2:4, but got {pattern!r}")
        return pattern

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.pattern and (self.method, self.scope) != ("magnitude", "local"):
            raise ValueError(f"a pattern needs method magnitude and scope local, but got {self.method}, {self.scope}")
        if self.structure != "weights" and self.method != "movement":
            raise ValueError(f"a structure of {self.structure} needs method movement, but got {self.method}")
        return self

    @property
    def n_of_m(self) -> tuple[int, int] | None:
        """N and M of the pattern; None without one."""
        n, _, m = self.pattern.partition(":")
        return (int(n), int(m)) if m else None


PruningRatio = Annotated[float, Field(ge=0.0, lt=1.0)]
Importance = Literal["l1", "l2", "batch_norm", "geometric_median", "taylor", "activation"]


class Recipe(_Brief):
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
