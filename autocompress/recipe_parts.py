"""The parts of a recipe: what to do to one layer, and how sparsity, calibration and distillation go about it."""

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

FLOAT_BITS = 32
BINARY_BITS = 1
INTEGER_BITS = tuple(range(2, 9))


Scheme = Literal["symmetric", "asymmetric"]
Granularity = Literal["per_tensor", "per_channel"]


class Brief(BaseModel):
    """Frozen and strict; what has its default value is left out of the written form, so that it stays short."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    always_written: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        kept = {name for name in fields if name in self.always_written or getattr(self, name) != fields[name].default}
        return {name: value for name, value in write(self).items() if name in kept}


class LayerRecipe(Brief):
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


class Calibration(Brief):
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


class Sparsification(Brief):
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


class Distillation(Brief):
    """What the compressed model learns from the FP32 model, its teacher, beside the targets.

    Attributes:
        weight: Share of the distillation of outputs in the loss, in [0, 1]; the rest is the task's own loss.
        temperature: T > 0 that divides the logits of classifiers (Hinton et al. 2015, section 2.1).
        features: Names of layers whose outputs are distilled too; filters may be removed from them.
        feature_weight: Of the distillation of features, > 0; it is added to the other two.
    """

    weight: Annotated[float, Field(ge=0.0, le=1.0)] = 0.9
    temperature: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 4.0
    features: tuple[str, ...] = ()
    feature_weight: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
