"""Why the chosen model is what it is, and how far the predictions behind the search could be trusted; plain data."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from autocompress.measurement import Finite, Interval


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Change(_Frozen):
    """What one choice for one unit adds over another choice, all other units as they are; predicted.

    Attributes:
        choice: Such as `8 bits`.
        accuracy_drop: Added drop, in units of the score, with its two-sided 90 % interval; below 0 it regains accuracy.
        latency_ms: Added milliseconds of one inference; below 0 it saves time.
        size_bytes: Added bytes of the deployed files; below 0 it saves some.
    """

    choice: str
    accuracy_drop: Interval
    latency_ms: Finite
    size_bytes: Finite


class UnitExplanation(_Frozen):
    """One unit of the chosen model: what it is, and what it could have been.

    Attributes:
        unit: Name of the unit.
        chosen: Its choice, and what that adds over the gentlest choice of the unit.
        cheaper: The faster choice that adds the least drop, or the smaller one where none is faster, and what it would
            add over the chosen one; None where there is none.
        gentler: The choice of less drop that takes the least time, and what it would add over the chosen one; None
            where there is none.
    """

    unit: str
    chosen: Change
    cheaper: Change | None = None
    gentler: Change | None = None


class Forecast(_Frozen):
    """What was predicted of one candidate, and what was measured.

    Attributes:
        digest: Which candidate.
        table_drop: Predicted accuracy drop before any candidate was measured: by the damage table alone.
        learned_drop: The same as the other measured candidates and the table together predict it.
        drop: Measured accuracy drop; all three in units of the score.
        predicted_latency: Predicted share of the baseline's latency.
        latency: Measured share.
        predicted_size: Predicted share of the baseline's bytes.
        size: Measured share.
    """

    digest: str
    table_drop: Finite
    learned_drop: Finite
    drop: Finite
    predicted_latency: Finite
    latency: Finite
    predicted_size: Finite
    size: Finite


class Agreement(_Frozen):
    """How predictions and measurements of one quantity agree.

    Attributes:
        rank_correlation: Spearman's; None for fewer than three candidates, or where all are alike.
        mean_error: Mean of the absolute differences, in the unit of the quantity.
    """

    rank_correlation: Annotated[float, Field(ge=-1, le=1)] | None
    mean_error: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Trust(_Frozen):
    """How far the predictions held, over all measured candidates.

    Attributes:
        table_drop: Of `Forecast.table_drop`, in units of the score.
        learned_drop: Of `Forecast.learned_drop`, in units of the score.
        latency: In shares of the baseline's latency.
        size: In shares of the baseline's bytes.
    """

    table_drop: Agreement
    learned_drop: Agreement
    latency: Agreement
    size: Agreement


class RungCount(_Frozen):
    """How many candidates reached a rung."""

    rung: str
    n_reached: Annotated[int, Field(ge=0)]


class NetLayer(_Frozen):
    """One layer of the model.

    Attributes:
        name: Dotted name.
        kind: Name of its class, such as `Conv2d`.
        n_filters: Outputs before compression, >= 0.
        group: Name of the channel group that its filters belong to; empty where none can be pruned.
    """

    name: str
    kind: str
    n_filters: Annotated[int, Field(ge=0)]
    group: str = ""


class ChoiceEffect(_Frozen):
    """What one choice for one unit does where all other units keep their gentlest choice; predicted.

    Attributes:
        choice: Such as `8 bits`.
        table_drop: Accuracy drop by the damage table alone, before any candidate was measured, in units of the score.
        learned_drop: The same with what all measured candidates taught.
        latency_ms: Added milliseconds of one inference over the gentlest choice; below 0 it saves time.
        size_bytes: The same for bytes of the deployed files.
    """

    choice: str
    table_drop: Finite
    learned_drop: Finite
    latency_ms: Finite
    size_bytes: Finite


class UnitSensitivity(_Frozen):
    """All choices of one unit, the gentlest first."""

    unit: str
    choices: tuple[ChoiceEffect, ...]


class Decisions(_Frozen):
    """What was decided for each unit in one candidate, and what that adds over the gentlest choice; predicted.

    Everything is in the order of `Explanation.sensitivity`, for a change of that unit alone.

    Attributes:
        digest: Which candidate.
        choices: Indices of the choices.
        accuracy_drops: Added drops, in units of the score.
        latencies_ms: Added milliseconds of one inference; below 0 it saves time.
        sizes_bytes: Added bytes; below 0 it saves some.
    """

    digest: str
    choices: tuple[Annotated[int, Field(ge=0)], ...]
    accuracy_drops: tuple[Finite, ...]
    latencies_ms: tuple[Finite, ...]
    sizes_bytes: tuple[Finite, ...]

    @model_validator(mode="after")
    def _one_value_a_unit(self) -> "Decisions":
        lengths = {len(v) for v in (self.choices, self.accuracy_drops, self.latencies_ms, self.sizes_bytes)}
        if len(lengths) != 1:
            raise ValueError("decisions must have one value a unit in each list, but the lists differ in length")
        return self


class Explanation(_Frozen):
    """Everything that a report says about why and how well.

    Attributes:
        digest: The candidate whose units are explained; empty where that was not among the measured ones.
        units: In the order of the model; empty where the chosen recipe is none that the units can describe.
        forecasts: Every measured candidate that the units can describe, in the order of the study.
        trust: How far predictions held; None where there are no forecasts.
        rungs: From the cheapest rung to the dearest; empty where they were not counted.
        layers: All layers in the order of the model; empty in records of older versions, and so are the next two.
        sensitivity: What every choice of every unit does alone, in the order of the model.
        decisions: Every measured candidate that the units can describe, in the order of the study.
    """

    digest: str = ""
    units: tuple[UnitExplanation, ...] = ()
    forecasts: tuple[Forecast, ...] = ()
    trust: Trust | None = None
    rungs: tuple[RungCount, ...] = ()
    layers: tuple[NetLayer, ...] = ()
    sensitivity: tuple[UnitSensitivity, ...] = ()
    decisions: tuple[Decisions, ...] = ()
