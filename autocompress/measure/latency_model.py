"""Predicting how fast a recipe is, from few measured recipes of the same model.

Latency relative to the FP32 baseline is a sum over units (a layer with what fuses into it). For each unit and precision
class it is linear in what pruning left: a constant, inputs, outputs, and work, their product. A Gaussian prior around
the profile of the FP32 and the all-INT8 model makes more unknowns than samples possible; it says that units of one
class are off alike, units of one kind more so, and each unit a bit by itself.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from autocompress.errors import MeasurementError
from autocompress.measure.latency_features import CLASSES, TERMS, Architecture, Features, Floats
from autocompress.measure.latency_prior import Prior, prior_from_macs
from autocompress.measure.latency_regression import Spread, choose_spread, condition, cross_validate
from autocompress.measurement import Speedup
from autocompress.recipe import Recipe

LEAST = 0.003  # relative latency below which nothing is predicted
_OF_TERMS = np.array([0.0, 0.1, 0.15, 0.75])  # how a unit's prior latency is divided, in the order of `TERMS`
_OUTPUTS = TERMS.index("outputs")
_SD_WIDTHS = 2 * 1.96  # standard deviations in a 95 % interval
_LEAST_NOISE = 0.01  # relative; one more session over the same two models gives another ratio, by about this


@dataclass(frozen=True)
class LatencySample:
    """A recipe with its measured speed-up over the FP32 baseline."""

    recipe: Recipe
    speedup: Speedup

    @property
    def latency(self) -> float:
        """Latency relative to the baseline's."""
        return 1 / self.speedup.value

    @property
    def noise(self) -> float:
        """Relative standard error, from the width of the interval."""
        return max(_LEAST_NOISE, float(np.log(self.speedup.high / self.speedup.low)) / _SD_WIDTHS)


@dataclass(frozen=True)
class Quality:
    """How well latencies of recipes are predicted that the model was not fitted to.

    Attributes:
        median_error: Median of |predicted - measured| / measured.
        p90_error: 90 % quantile of the same.
        rank_correlation: Spearman's, between predicted and measured latency.
        n_samples: How many recipes.
    """

    median_error: float
    p90_error: float
    rank_correlation: float
    n_samples: int


class LatencyModel:
    """Relative latency of any recipe of one model.

    Args:
        architecture: Of the model.
        prior: What is known before any sample; by default from multiply-accumulates.
        key: What the latencies hold for, as `latency_key` makes it.

    Attributes:
        weights: Latency by unit, class and term of `TERMS`, relative to the baseline's: shape (units, 4, 4).
        constant: What belongs to no unit, likewise.
        switch: Of each change between integers and floats along the model, likewise.
    """

    def __init__(
        self, architecture: Architecture, prior: Prior | None = None, key: Mapping[str, str] | None = None
    ) -> None:
        self.architecture = architecture
        self.prior = prior or prior_from_macs(architecture)
        self.key = dict(key or {})
        self.samples: tuple[LatencySample, ...] = ()
        self.spread = Spread()
        self._kinds = _one_hot([unit.kind for unit in architecture.units])
        self._condition()

    def fit(self, samples: Iterable[LatencySample]) -> None:
        """Take `samples` instead of all before, and choose by cross-validation how far the prior is trusted.

        Args:
            samples: At least 8 for the choice; fewer are taken as they are.
        """
        self.samples = tuple(samples)
        self.spread = choose_spread(*self._columns([s.recipe for s in self.samples]), *self._targets())
        self._condition()

    def update(self, recipe: Recipe, speedup: Speedup) -> None:
        """Add one measured recipe; how far the prior is trusted stays, so this takes milliseconds."""
        self.samples = (*self.samples, LatencySample(recipe, speedup))
        self._condition()

    def predict(self, recipe: Recipe) -> float:
        """Latency of `recipe` relative to the FP32 baseline's, > 0."""
        return max(LEAST, sum(self.contributions(recipe).values()))

    def predict_with_error(self, recipe: Recipe) -> tuple[float, float]:
        """Latency relative to the FP32 baseline's, > 0, and the standard error of it, in the same unit.

        The error holds what the samples leave open and how far the sum over units is from the truth as a rule.
        """
        columns, mean = self._columns([recipe])
        value, error = self._posterior.predict(columns, mean)
        return max(LEAST, float(value[0])), float(error[0])

    def contributions(self, recipe: Recipe) -> dict[str, float]:
        """Latency relative to the baseline's by layer, that of everything else under ``""``.

        The sum is what `predict` gives, which only lifts it to `LEAST`.
        """
        features = self.architecture.features(recipe)
        weights = self.weights[np.arange(len(features.classes)), features.classes]
        units = (weights * features.terms).sum(axis=1)
        names = [unit.name for unit in self.architecture.units]
        return dict(zip(names, units.tolist(), strict=True)) | {"": self.constant + self.switch * features.n_switches}

    def cost_table(self, layer: str, own_ratios: Sequence[float], input_ratios: Sequence[float]) -> Floats:
        """Latency of one layer relative to the whole baseline, for all of its choices.

        Args:
            layer: Its name.
            own_ratios: `pruning_ratio` of the groups that its output channels belong to.
            input_ratios: `pruning_ratio` of the groups that its input channels belong to. Where those are the same
                groups, only entries of equal ratios mean anything.

        Returns:
            Shape (4 precision classes in the order of `CLASSES`, own ratios, input ratios). For any recipe without low
            rank the sum over layers, with what `contributions` has under ``""``, is what `predict` gives.

        Raises:
            MeasurementError: No layer has that name.
        """
        index = self._index(layer)
        unit, groups = self.architecture.units[index], {group.name: group for group in self.architecture.groups}
        terms = np.empty((len(own_ratios), len(input_ratios), len(TERMS)))
        for i, own in enumerate(own_ratios):
            for j, read in enumerate(input_ratios):
                removed = {name: groups[name].n_removed(read) for name in unit.inputs_of}
                removed |= {name: groups[name].n_removed(own) for name in unit.outputs_of}
                terms[i, j] = unit.terms(removed)
        table: Floats = np.einsum("ct,oit->coi", self.weights[index], terms)
        return table

    def cv_error(self, n_folds: int = 5, seed: int = 0) -> Quality:
        """Quality by cross-validation over recipes; the trust in the prior is chosen anew without each fold.

        Raises:
            MeasurementError: There are fewer samples than folds.
        """
        if len(self.samples) < n_folds:
            raise MeasurementError(
                f"cross-validation in {n_folds} folds needs as many samples, but got {len(self.samples)}; measure more"
            )
        latency, noise = self._targets()
        columns, mean = self._columns([s.recipe for s in self.samples])
        predicted = cross_validate(columns, mean, latency, noise, n_folds, seed)
        return quality(np.maximum(predicted, LEAST), latency)

    def rank_correlation(self, n_folds: int = 5, seed: int = 0) -> float:
        """Spearman's rank correlation of predicted and measured latency by the same cross-validation."""
        return self.cv_error(n_folds, seed).rank_correlation

    def save(self, path: Path) -> None:
        """Write everything as JSON, in one step."""
        content = {
            "key": self.key,
            "architecture": self.architecture.to_json(),
            "prior": {"units": self.prior.units.tolist(), "rest": self.prior.rest},
            "spread": asdict(self.spread),
            "samples": [sample_to_json(sample) for sample in self.samples],
        }
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps(content))
        partial.replace(path)

    @classmethod
    def load(cls, path: Path, key: Mapping[str, str] | None = None) -> Self:
        """The model that `save` wrote.

        Args:
            path: Of the JSON file.
            key: What the latencies have to hold for; None takes any.

        Raises:
            MeasurementError: The file cannot be read, or is of another model, processor, version or thread count.
        """
        try:
            content = json.loads(path.read_text())
            if key is not None and content["key"] != dict(key):
                raise MeasurementError(f"latency model {path} {_difference(content['key'], key)}; measure anew")
            prior = Prior(np.array(content["prior"]["units"], np.float64), float(content["prior"]["rest"]))
            model = cls(Architecture.from_json(content["architecture"]), prior, content["key"])
            model.samples = tuple(sample_from_json(sample) for sample in content["samples"])
            model.spread = Spread(**content["spread"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MeasurementError(f"latency model {path} cannot be read: {error}; measure anew") from None
        model._condition()
        return model

    def _index(self, layer: str) -> int:
        names = [unit.name for unit in self.architecture.units]
        if layer not in names:
            raise MeasurementError(
                f"layer must be one that the latency model knows, but got {layer!r}; it has {names[:3]}"
            )
        return names.index(layer)

    def _targets(self) -> tuple[Floats, Floats]:
        """Latencies and their relative errors, shape (samples,)."""
        return np.array([s.latency for s in self.samples]), np.array([s.noise for s in self.samples])

    def _columns(self, recipes: Sequence[Recipe]) -> tuple[dict[str, Floats], Floats]:
        """Columns by level, shape (recipes, columns), and what the prior says, shape (recipes,)."""
        features = [self.architecture.features(recipe) for recipe in recipes]
        scaled = np.array([self._scaled(f) for f in features]).reshape(-1, *self.prior.units.shape, len(TERMS))
        outputs = np.array([self._activations @ f.terms[:, _OUTPUTS] for f in features])
        rest = self.prior.rest / 2 * np.stack([np.ones(len(features)), outputs], axis=1)
        columns = {
            "all": scaled.sum(axis=1),
            "kind": np.einsum("nuct,uk->nkct", scaled, self._kinds),
            "unit": scaled,
            "switches": np.array([[f.n_switches] for f in features], np.float64).reshape(-1, 1),
            "rest": rest,
        }
        flat = {level: values.reshape(len(features), math.prod(values.shape[1:])) for level, values in columns.items()}
        return flat, (scaled * _OF_TERMS).sum(axis=(1, 2, 3)) + rest.sum(axis=1)

    def _scaled(self, features: Features) -> Floats:
        """What is left of each unit times its prior latency, at its class; shape (units, classes, terms)."""
        scaled = np.zeros((*self.prior.units.shape, len(TERMS)))
        units = np.arange(len(features.classes))
        scaled[units, features.classes] = features.terms * self.prior.units[units, features.classes, None]
        return scaled

    @property
    def _activations(self) -> Floats:
        """Share of each unit in all numbers that units give, shape (units,)."""
        n_values = np.array([unit.n_values for unit in self.architecture.units], np.float64)
        shares: Floats = n_values / n_values.sum()
        return shares

    def _condition(self) -> None:
        """Set what predictions are made of from the samples."""
        columns, mean = self._columns([s.recipe for s in self.samples])
        self._posterior = condition(columns, mean, *self._targets(), self.spread)
        shape = len(CLASSES), len(TERMS)
        off = {level: self._posterior.coefficients(level) for level in columns}
        of_units = _OF_TERMS + off["all"].reshape(shape) + off["unit"].reshape(-1, *shape)
        of_units = of_units + np.einsum("kct,uk->uct", off["kind"].reshape(-1, *shape), self._kinds)
        rest = self.prior.rest / 2 * (1 + off["rest"])
        self.weights = self.prior.units[..., None] * of_units
        self.weights[..., _OUTPUTS] += rest[1] * self._activations[:, None]
        self.constant, self.switch = float(rest[0]), float(off["switches"][0])


def quality(predicted: Floats, measured: Floats) -> Quality:
    """How near `predicted` is to `measured`; shapes (recipes,), both > 0."""
    errors = np.abs(predicted - measured) / measured
    return Quality(
        median_error=float(np.median(errors)),
        p90_error=float(np.quantile(errors, 0.9)),
        rank_correlation=_spearman(predicted, measured),
        n_samples=len(measured),
    )


def _spearman(a: Floats, b: Floats) -> float:
    """Correlation of mean ranks, in [-1, 1]; 0 where all values of one are equal (Spearman 1904)."""
    ranks = [_mean_ranks(values) for values in (a, b)]
    if min(float(r.std()) for r in ranks) == 0:
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _mean_ranks(values: Floats) -> Floats:
    """Ranks from 0 on, equal values sharing the mean of theirs."""
    less = (values[:, None] > values).sum(axis=1)
    equal = (values[:, None] == values).sum(axis=1)
    ranks: Floats = less + (equal - 1) / 2
    return ranks


def latency_key(architecture: Architecture, cpu: str, openvino_version: str, n_threads: int) -> dict[str, str]:
    """What latencies of one architecture hold for."""
    return {
        "architecture": architecture.digest(),
        "cpu": cpu,
        "openvino": openvino_version,
        "threads": str(n_threads),
    }


def sample_to_json(sample: LatencySample) -> dict[str, Any]:
    """Plain values that `sample_from_json` reads back."""
    return {"recipe": sample.recipe.model_dump(mode="json"), "speedup": sample.speedup.model_dump(mode="json")}


def sample_from_json(content: Mapping[str, Any]) -> LatencySample:
    """The sample that `sample_to_json` has written; raises ValueError or KeyError where it is damaged."""
    return LatencySample(Recipe.model_validate(content["recipe"]), Speedup.model_validate(content["speedup"]))


def _one_hot(names: Sequence[str]) -> Floats:
    """Which of the distinct names each is, shape (names, distinct names)."""
    distinct = list(dict.fromkeys(names))
    return np.array([[float(name == other) for other in distinct] for name in names]).reshape(len(names), -1)


def _difference(found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """The first of `wanted` that `found` has otherwise."""
    name = next(name for name in {**wanted, **found} if found.get(name) != wanted.get(name))
    return f"must be of {name} {wanted.get(name)}, but is of {found.get(name)}"
