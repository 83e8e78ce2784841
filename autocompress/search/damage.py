"""The damage table: what one choice in one unit does to the outputs and the score of the FP32 model, untrained.

A recipe that changes one unit is compressed, its ranges are calibrated and its batch norms re-estimated on training
data; then its outputs are compared with those of the FP32 model whose batch norms were re-estimated in the same way, so
that only the damage of the choice is left. Entries are kept between studies, by content.
"""

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from autocompress.compress import calibrate, compress
from autocompress.errors import AutocompressError, MeasurementError
from autocompress.measure import Predictions, accuracy_drop, score_of
from autocompress.recipe import Recipe
from autocompress.search.context import EvaluationContext, channels_last_module
from autocompress.search.damage_data import SAMPLE_COUNTS, DamageData, first_samples, n_samples_of
from autocompress.search.damage_file import Damage, damage_file
from autocompress.search.suffix import MAX_BYTES, PrefixCache
from autocompress.search.training import is_reshaped
from autocompress.search.training_data import begun_anew, filter_scores
from autocompress.task import Batch, call, concatenate, evaluating, flatten, like
from autocompress.train import adapt_batch_norm
from autocompress.train.distillation import distillation_loss
from autocompress.train.layout import is_channels_last

__all__ = ["Damage", "DamageTable", "affordable_samples", "damage_table"]

_RESAMPLING_SECONDS = 0.2  # for the error of a score that says nothing of single samples

_RUNS = 3.0  # of the FP32 model on all samples, that one choice costs as a rule
_LEAST_SAVED_RUNS = 2.0  # of the model, from which on keeping activations pays

OnProgress = Callable[[int, int], None]
_Outputs = tuple[list[Any], list[Any]]  # by batch, of calibration and of validation data


@dataclass(frozen=True)
class DamageTable:
    """What is known of recipes, by digest.

    Attributes:
        damages: Of those that could be measured in the time.
        failures: Reasons of those that cannot be compressed or scored.
    """

    damages: dict[str, Damage] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def knows(self, recipe: Recipe) -> bool:
        """Whether the recipe was tried."""
        return recipe.digest() in self.damages or recipe.digest() in self.failures


def damage_table(
    context: EvaluationContext,
    recipes: Sequence[Recipe],
    max_seconds: float,
    n_samples: int = SAMPLE_COUNTS[0],
    on_progress: OnProgress = lambda n_done, n_total: None,
    max_bytes: float = MAX_BYTES,
) -> DamageTable:
    """What each recipe does to the FP32 model without training.

    What was measured before on as many samples or more, in this study or another of the same model and data, is read
    from the user's cache folder, and what is new is written there at once, so a call that is cut off loses nothing.
    Calls with the same context in one process share their preparation.

    Args:
        context: The study's.
        recipes: In the order of work. Those that change one unit are the faster the later its first layer runs. The
            empty recipe stands for the FP32 model with batch norms re-estimated, compared with the model as it is.
        max_seconds: Work ends before the next recipe would take longer, in all; what there is no time for is left out.
        n_samples: Training and validation samples, about.
        on_progress: ``on_progress(n_done, n_total)``, called at the start and after every recipe.
        max_bytes: Memory for activations that need not be computed again; 0 for none.

    Returns:
        Entries of the recipes that were measured, now or before.

    Raises:
        AutocompressError: The FP32 model itself cannot be run or scored.
    """
    end = time.monotonic() + max_seconds
    with begun_anew(context.task, context.task.seed):
        bench = _bench(context, n_samples)
        table, left = _split(recipes, bench.known())
        on_progress(len(recipes) - len(left), len(recipes))
        if left and time.monotonic() < end:
            bench.prepare(left, max_bytes)
            _measure(bench, left, end, table, len(recipes), on_progress)
    return table


def affordable_samples(context: EvaluationContext, n_recipes: int, max_seconds: float) -> int:
    """On how many samples so many recipes can be measured in the time: one of `SAMPLE_COUNTS`, the least if on none.

    Large inputs, as of detectors, cost the time of many small ones. The FP32 model is run on a few samples to know.

    Args:
        context: The study's.
        n_recipes: Recipes to measure.
        max_seconds: For all of them.

    Raises:
        AutocompressError: There is no data, or the model cannot be run on it.
    """
    with begun_anew(context.task, context.task.seed):
        is_last = is_channels_last(context.fp32)
        batches = first_samples(context.task.validation, "validation", SAMPLE_COUNTS[-1], is_last)
    model = channels_last_module(copy.deepcopy(context.task.model).eval())
    _run(model, batches)  # the first run of a model is slower
    start = time.monotonic()
    _run(model, batches)
    seconds = (time.monotonic() - start) / sum(n_samples_of(inputs) for inputs, _ in batches)
    n_affordable = max_seconds / (_RUNS * seconds * max(1, n_recipes))
    return next((n for n in SAMPLE_COUNTS if n <= n_affordable), SAMPLE_COUNTS[-1])


def _split(
    recipes: Sequence[Recipe], known: tuple[dict[str, Damage], dict[str, str]]
) -> tuple[DamageTable, list[Recipe]]:
    """What is known, and what is to be measured, all different."""
    damages, failures = known
    digests = {recipe.digest(): recipe for recipe in recipes}
    table = DamageTable(
        {key: damages[key] for key in digests if key in damages},
        {key: failures[key] for key in digests if key in failures},
    )
    return table, [recipe for recipe in digests.values() if not table.knows(recipe)]


def _measure(
    bench: "_Bench",
    recipes: Sequence[Recipe],
    end: float,
    table: DamageTable,
    n_total: int,
    on_progress: OnProgress,
) -> None:
    longest = 0.0
    for n_done, recipe in enumerate(recipes, n_total - len(recipes) + 1):
        start = time.monotonic()
        if start + longest > end:
            return
        try:
            table.damages[recipe.digest()] = bench.damage(recipe)
        except AutocompressError as error:
            table.failures[recipe.digest()] = str(error)
        bench.file.add(table.damages, table.failures)
        longest = max(longest, time.monotonic() - start)
        on_progress(n_done, n_total)


def _bench(context: EvaluationContext, n_samples: int) -> "_Bench":
    """The bench of the latest call in this process if it was for the same, else a new one."""
    if not (_LATEST and _LATEST[0].is_for(context, n_samples)):
        _LATEST[:] = [_Bench(context, n_samples)]
    return _LATEST[0]


class _Bench:
    """Measures recipes of one model on the same data.

    Args:
        context: The study's.
        n_samples: Training and validation samples, about.

    Attributes:
        file: Where damages are kept.
    """

    def __init__(self, context: EvaluationContext, n_samples: int) -> None:
        self._context, self._n_samples = context, n_samples
        self._data = DamageData(context, n_samples)
        counts = [n_samples, *(n for n in reversed(SAMPLE_COUNTS) if n > n_samples)]
        train, validation = self._data.first
        self.file, *self._larger = (damage_file(context.task, train, validation, n) for n in counts)
        self._adapted: nn.Module | None = None
        self._teacher: _Outputs = ([], [])
        self._cache: PrefixCache | None = None

    def known(self) -> tuple[dict[str, Damage], dict[str, str]]:
        """Damages and failures of before, those from most samples where there are several."""
        damages, failures = self.file.read()
        for file in self._larger:
            more, failed = file.read()
            damages, failures = damages | more, failures | failed
        return damages, failures

    def is_for(self, context: EvaluationContext, n_samples: int) -> bool:
        """Whether it measures on this."""
        return self._context is context and self._n_samples == n_samples

    def prepare(self, recipes: Sequence[Recipe], max_bytes: float) -> None:
        """Run the FP32 model, and keep its activations where recipes gain from that; called before `damage`."""
        context, worth = self._context, max_bytes > 0 and self._saved_runs(recipes) > _LEAST_SAVED_RUNS
        if self._adapted is None:
            self._adapted = copy.deepcopy(context.task.model).eval()
            adapt_batch_norm(self._adapted, self._data.train)
        elif worth == (self._cache is not None):
            return
        model = compress(self._adapted, context.graph, Recipe(), context.task.example_input).module
        self._record(channels_last_module(model), max_bytes if worth else 0.0)

    def _saved_runs(self, recipes: Sequence[Recipe]) -> float:
        """How many runs of the whole model the recipes need less if each begins at its first layer."""
        places = {layer.name: place for place, layer in enumerate(self._context.graph.layers)}
        firsts = [min((places.get(name, 0) for name in (*r.layers, *r.pruning)), default=0) for r in recipes]
        return sum(firsts) / max(1, len(places))

    def _record(self, model: nn.Module, max_bytes: float) -> None:
        data, has_norms = self._data, _has_statistics(model)
        self._cache = None
        if max_bytes:
            runs = [batch[0] for batch in (*data.train * has_norms, *data.calibration, *data.validation)]
            smallest = min(runs, key=n_samples_of)
            n_runs = sum(map(n_samples_of, runs)) / n_samples_of(smallest)
            layers = [layer.name for layer in self._context.graph.layers]
            self._cache = PrefixCache(model, layers, smallest, n_runs, max_bytes)
        with self._cache.recording() if self._cache else nullcontext():
            if has_norms:  # in the layout of the candidates, so that they round alike
                adapt_batch_norm(model, data.train)
            self._teacher = self._outputs(model)
        score_of(self._context.task, Predictions(concatenate(self._teacher[1]), self._targets()))  # or it raises

    def damage(self, recipe: Recipe) -> Damage:
        """What the recipe does.

        Raises:
            AutocompressError: The recipe cannot be applied, or what comes out has no score.
        """
        if recipe.is_identity:
            before = self._outputs(channels_last_module(copy.deepcopy(self._context.task.model).eval()))
            return self._compared(self._teacher, before)
        module = self._compressed(recipe)
        with self._cache.skipping(module) if self._cache else nullcontext():
            set_up_untrained(module, recipe, self._data.train, self._data.calibration)
            outputs = self._outputs(module)
        return self._compared(outputs, self._teacher)

    def _compressed(self, recipe: Recipe) -> nn.Module:
        context, adapted = self._context, self._adapted or self._context.task.model
        with begun_anew(context.task, context.task.seed):
            scores = filter_scores(context, recipe)
            compressed = compress(adapted, context.graph, recipe, context.task.example_input, scores=scores)
        return channels_last_module(compressed.module)

    def _outputs(self, module: nn.Module) -> _Outputs:
        """Outputs by batch, of calibration and of validation data."""
        return _run(module, self._data.calibration), _run(module, self._data.validation)

    def _targets(self) -> Any:
        return concatenate([targets for _, targets in self._data.validation])

    def _compared(self, mine: _Outputs, teacher: _Outputs) -> Damage:
        task, data = self._context.task, self._data
        divergences = [
            _divergence(ours, theirs, batches)
            for ours, theirs, batches in zip(mine, teacher, (data.calibration, data.validation), strict=True)
        ]
        before, after = (Predictions(concatenate(outputs[1]), self._targets()) for outputs in (teacher, mine))
        drop = accuracy_drop(task, before, after, max_seconds=_RESAMPLING_SECONDS)
        return Damage(divergences[1], drop.value, drop.standard_error, divergences[0])


def set_up_untrained(module: nn.Module, recipe: Recipe, train: Iterable[Batch], calibration: Iterable[Batch]) -> None:
    """What a compressed model that starts from FP32 weights needs, to be judged without training.

    Batch norms of a model that lost filters, ranks or weights are re-estimated before its ranges are calibrated, since
    ranges depend on them; then those of every quantized model are, since what they see has changed once more.

    Args:
        module: Compressed by `recipe`; in evaluation mode afterwards.
        recipe: What was done.
        train: Batches for batch norms.
        calibration: Batches for ranges, all of which are read.
    """
    if is_reshaped(recipe):
        adapt_batch_norm(module, train)
    if recipe.quantized:
        calibrate(module, calibration, recipe.calibration, n_batches=None)
        adapt_batch_norm(module, train)


def _has_statistics(model: nn.Module) -> bool:
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats for m in model.modules())


def _run(module: nn.Module, batches: Sequence[Batch]) -> list[Any]:
    with torch.no_grad(), evaluating(module):
        outputs = [call(module, inputs) for inputs, _ in batches]
    return [like(output, iter([tensor.float() for tensor in flatten(output)])) for output in outputs]


def _divergence(outputs: Sequence[Any], teacher: Sequence[Any], batches: Sequence[Batch]) -> float:
    """`distillation_loss` at temperature 1, a mean over samples.

    Raises:
        MeasurementError: It is not finite.
    """
    total, n_samples = 0.0, 0
    for mine, theirs, (inputs, targets) in zip(outputs, teacher, batches, strict=True):
        n = n_samples_of(inputs)
        total += n * float(distillation_loss(mine, theirs, targets, 1.0))
        n_samples += n
    if not abs(total) < float("inf"):
        raise MeasurementError("outputs of a compressed model must be finite to be compared with FP32, but are not")
    return max(0.0, total / n_samples)


_LATEST: list[_Bench] = []  # of this process, at most one
