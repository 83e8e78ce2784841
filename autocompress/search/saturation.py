"""Why a deployed candidate differs from its torch model: which layers saturate, found by exports with 7-bit weights."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openvino
import torch

from autocompress.compress import CompressedModel
from autocompress.compress.attaching import quantized_weights, weight_before
from autocompress.compress.weight_quantization import WeightQuantizer
from autocompress.deploy import load_openvino, to_openvino
from autocompress.latency import compile_model
from autocompress.measure import (
    Parity,
    explain_parity,
    float_layers,
    is_suspect,
    layer_precisions,
    parity,
    predict_deployed,
    predict_torch,
)
from autocompress.recipe import INTEGER_BITS, Recipe
from autocompress.search.context import EvaluationContext
from autocompress.search.folder import MODEL
from autocompress.task import Batch, flatten, like, split_batch

N_SAMPLES = 500
MAX_EXPORTS = 16
_SATURATING_BITS, _EXACT_BITS = 8, 7
_HELPS = 0.5  # 7 bits everywhere must leave less than this share of the difference
_GUILTY = 0.25  # share of the difference that is found again where one of the guilty layers has 8 bits


@dataclass(frozen=True)
class Saturation:
    """What was found.

    Attributes:
        as_it_is: The deployed candidate beside its torch model.
        with_seven_bits: The same with 7-bit instead of 8-bit weights; None where the two agree or no layer has 8 bits.
        layers: Layers whose products of 8-bit numbers overflow; empty where that is not the reason. A group that could
            not be told apart with the allowed exports is named whole.
        float_layers: Layers that should have run on integers, but ran in floating point.
        n_exports: Models that were exported to find out.
    """

    as_it_is: Parity
    with_seven_bits: Parity | None
    layers: tuple[str, ...]
    float_layers: tuple[str, ...]
    n_exports: int

    @property
    def is_saturation(self) -> bool | None:
        """Whether 7-bit weights make the models agree; None where that was not tried."""
        return None if self.with_seven_bits is None else _helps(self.with_seven_bits, self.as_it_is)


def saturated_layers(
    context: EvaluationContext,
    recipe: Recipe,
    folder: Path,
    *,
    n_samples: int = N_SAMPLES,
    max_exports: int = MAX_EXPORTS,
) -> Saturation:
    """Find the layers of a candidate whose 8-bit products overflow on this processor.

    All 8-bit weights get 7 bits first, on the grid that suits the trained weights; if the deployed model then computes
    what torch computes, halves of the layers get their 8 bits back, until single layers are left. One guilty layer of n
    takes about ``log2(n)`` exports.

    Args:
        context: The study's.
        recipe: A candidate that was trained and exported.
        folder: Where its weights and its deployed model are; not changed.
        n_samples: Validation samples that are compared, at most.
        max_exports: Exports at most, >= 1.
    """
    search = _Search(context, recipe, folder, _first_inputs(context.task.validation, n_samples), max_exports)
    in_float, as_it_is = search.exported_candidate()
    if not is_suspect(as_it_is) or not search.layers:
        return Saturation(as_it_is, None, (), in_float, 0)
    with_seven_bits = search.parity_with_eight_bits_in(())
    found: tuple[str, ...] = ()
    if _helps(with_seven_bits, as_it_is):
        limit = max(_GUILTY * _error(as_it_is), 2 * _error(with_seven_bits))
        found = search.guilty(search.layers, limit)
    return Saturation(as_it_is, with_seven_bits, found, in_float, search.n_exports)


def parity_findings(context: EvaluationContext, recipe: Recipe, folder: Path, name: str = "") -> list[str]:
    """Sentences for the user about a candidate whose deployed model differs from torch; none where both agree.

    Args:
        context: The study's.
        recipe: A candidate that was trained and exported.
        folder: Where its weights and its deployed model are.
        name: What reports call the candidate.
    """
    found = saturated_layers(context, recipe, folder)
    sentences = explain_parity(
        found.as_it_is,
        float_layers=found.float_layers,
        saturated=found.layers,
        is_saturation=found.is_saturation,
    )
    return [f"{name}: {sentence}" if name else sentence for sentence in sentences]


def _first_inputs(batches: Iterable[Any], n_samples: int) -> list[Batch]:
    """The first samples without their targets, which nothing here needs."""
    found: list[Batch] = []
    missing = n_samples
    for batch in batches:
        inputs, _ = split_batch(batch, "validation")
        tensors = [tensor[:missing] for tensor in flatten(inputs)]
        found.append((like(inputs, iter(tensors)), torch.zeros(len(tensors[0]))))
        missing -= len(tensors[0])
        if missing <= 0:
            break
    return found


@dataclass
class _Search:
    """Bisection over the layers with 8-bit weights and integer inputs.

    Attributes:
        context: The study's.
        recipe: Of the candidate.
        folder: Of the candidate.
        batches: What is compared.
        max_exports: Exports at most.
        n_exports: Exports so far.
    """

    context: EvaluationContext
    recipe: Recipe
    folder: Path
    batches: list[Batch]
    max_exports: int
    n_exports: int = 0

    def __post_init__(self) -> None:
        compressed = self.context.restore(self.recipe, self.folder)
        weights = {name for name, _, quantizer in quantized_weights(compressed.module) if _is_wide(quantizer)}
        recipes = compressed.quantized
        self.layers = tuple(name for name in recipes if name in weights and _has_integer_input(recipes[name]))

    def exported_candidate(self) -> tuple[tuple[str, ...], Parity]:
        """Layers of the candidate that ran in floating point against their recipe, and how far it is from torch."""
        compressed = self.context.restore(self.recipe, self.folder)
        model = load_openvino(self.folder / MODEL)
        precisions = layer_precisions(compile_model(model, 1), compressed.quantized)
        return float_layers(precisions, compressed.quantized), self._compared(compressed, model)

    def guilty(self, layers: tuple[str, ...], limit: float) -> tuple[str, ...]:
        """Those of `layers`, of which some are known to saturate, without which the difference is below `limit`."""
        if len(layers) == 1 or self.n_exports >= self.max_exports:
            return layers
        first, second = layers[: len(layers) // 2], layers[len(layers) // 2 :]
        if not self._saturates(first, limit):
            return self.guilty(second, limit)
        found = self.guilty(first, limit)
        if self.n_exports >= self.max_exports or self._saturates(second, limit):
            found += self.guilty(second, limit)
        return found

    def _saturates(self, layers: tuple[str, ...], limit: float) -> bool:
        return _error(self.parity_with_eight_bits_in(layers)) > limit

    def parity_with_eight_bits_in(self, layers: tuple[str, ...]) -> Parity:
        """How far the candidate is from torch where only these of its 8-bit layers keep 8 bits."""
        self.n_exports += 1
        compressed = self.context.restore(self.recipe, self.folder)
        narrow(compressed, set(self.layers) - set(layers))
        with compressed.export_form() as module:
            model = to_openvino(module, self.context.task.example_input)
        return self._compared(compressed, model)

    def _compared(self, compressed: CompressedModel, model: openvino.Model) -> Parity:
        wanted = predict_torch(compressed.module, self.batches, "validation")
        found = predict_deployed(model, self.batches, wanted.outputs, "validation", self.context.n_cores)
        return parity(wanted, found)


def narrow(compressed: CompressedModel, layers: Iterable[str]) -> None:
    """Give the 8-bit weights of `layers` 7 bits and the steps that suit them, in place; the weights stay."""
    chosen = set(layers)
    for name, layer, quantizer in quantized_weights(compressed.module):
        if name in chosen and _is_wide(quantizer) and isinstance(quantizer, WeightQuantizer):
            quantizer.bits = _EXACT_BITS
            quantizer.set_from(weight_before(layer))


def _is_wide(quantizer: Any) -> bool:
    return isinstance(quantizer, WeightQuantizer) and quantizer.bits == _SATURATING_BITS


def _has_integer_input(layer: Any) -> bool:
    return layer.activation_bits in INTEGER_BITS


def _error(found: Parity) -> float:
    return float("inf") if found.n_not_finite else found.typical_difference


def _helps(after: Parity, before: Parity) -> bool:
    return _error(after) < _HELPS * _error(before)
