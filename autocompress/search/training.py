"""Training of one candidate: compress, set up, fine-tune; the result is in its folder."""

import itertools
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.compress import (
    CompressedModel,
    SparsityTraining,
    calibrate,
    compress,
    parameter_groups,
    shrink,
)
from autocompress.deploy import write_tensors
from autocompress.errors import TrainingError
from autocompress.measurement import CoursePoint, TrainingSummary
from autocompress.recipe import Recipe
from autocompress.record import write_atomically
from autocompress.search.context import (
    EvaluationContext,
    Rung,
    Seconds,
    Stopwatch,
    channels_last_module,
    loses_rows,
)
from autocompress.search.folder import RECIPE, WEIGHTS
from autocompress.search.hopeless import watch_for_hopeless
from autocompress.search.training_data import begun_anew, filter_scores, training_pairs, with_pairs
from autocompress.search.warm_start import warm_start
from autocompress.train import (
    LOG,
    FinetuneSettings,
    LearningRates,
    Objective,
    Outcome,
    StepInfo,
    Teacher,
    TrainingBudget,
    Watch,
    adapt_batch_norm,
    find_learning_rates,
    finetune,
    launch,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

RATES = "learning_rates.json"
TEACHER = "teacher"
RANGE_TEST_SECONDS = 60.0
TESTED_STEPS = 10  # of a training from which on a range test of 25 steps is worth its time


@dataclass(frozen=True)
class Trained:
    """What became of a training.

    Attributes:
        seconds: By phase.
        summary: How it went; None where nothing was trained.
    """

    seconds: Seconds
    summary: TrainingSummary | None = None


def train_candidate(
    context: EvaluationContext, recipe: Recipe, folder: Path, rung: Rung, seed: int, parents: Sequence[Recipe] = ()
) -> Trained:
    """Compress and fine-tune; leaves the recipe and the trained weights in `folder`.

    Global random state is left as it was; the same seed and parents give the same weights on the same machine.

    Args:
        context: The study's.
        recipe: What to do.
        folder: Made if it is missing. A checkpoint in it of the same training, cut off, is gone on with.
        rung: How long to train.
        seed: Of everything random in training.
        parents: Finished candidates, from whose weights the training may start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arguments = (context, recipe, folder, rung, seed, parents)
    own_loop = context.task.fit is not None  # which knows of one process only
    if context.hardware.n_devices > 1 and rung.n_steps and not recipe.is_identity and not own_loop:
        learning_rates(context)  # found once, not in each process
        return launch(context.hardware, _train_candidate, *arguments)
    return _train_candidate(None, *arguments)


def _train_candidate(
    fabric: "Fabric | None",
    context: EvaluationContext,
    recipe: Recipe,
    folder: Path,
    rung: Rung,
    seed: int,
    parents: Sequence[Recipe],
) -> Trained:
    watch, task = Stopwatch(), context.task
    summary = None
    with begun_anew(task, seed):
        with watch.phase("compress"):
            compressed = compress(
                task.model, context.graph, recipe, task.example_input, scores=filter_scores(context, recipe)
            )
            channels_last_module(compressed.module)
        if not recipe.is_identity:
            with watch.phase("calibrate"):
                started_from = warm_start(with_pairs(context), compressed, parents)
                if not started_from:
                    _set_up(context, compressed, recipe)
            with watch.phase("finetune"):
                training = _Training(context, fabric, folder, seed, started_from)
                compressed = training.run(compressed, rung.n_steps)
                summary = training.summary(rung.n_steps)
        with watch.phase("save"):
            if fabric is None or fabric.is_global_zero:
                (folder / RECIPE).write_text(recipe.to_yaml())
                write_tensors(compressed.state(), folder / WEIGHTS)
    return Trained(watch.seconds, summary)


def _set_up(context: EvaluationContext, compressed: CompressedModel, recipe: Recipe) -> None:
    """What a model that starts from the FP32 weights needs before its training."""
    if is_reshaped(recipe):
        adapt_batch_norm(compressed.module, training_pairs(context))
    if recipe.quantized:
        calibrate(compressed.module, training_pairs(context), recipe.calibration)


def is_reshaped(recipe: Recipe) -> bool:
    """Whether the recipe takes away so much that the model has to learn again: filters, ranks or weights."""
    return bool(recipe.pruning or recipe.sparse or any(layer.rank_ratio < 1 for layer in recipe.layers.values()))


def learning_rates(context: EvaluationContext, max_seconds: float = 0.0) -> LearningRates:
    """Rates that suit the task's model, found by a range test, once a study; written down for the next candidate.

    Args:
        context: The study's.
        max_seconds: For the test; one that is cut short finds cautious rates, and is made again when there is twice as
            much time. By default what is written down counts, or a minute.
    """
    path, task = context.cache / RATES, context.task
    known = json.loads(path.read_text()) if path.is_file() else {"max_seconds": 0.0}
    allowed = max_seconds or RANGE_TEST_SECONDS
    if known["max_seconds"] >= (allowed / 2 if max_seconds else 1e-9):
        return LearningRates(known["quantized"], known["reshaped"])
    if task.loss is None and task.training_step is None:
        return LearningRates()
    objective = Objective(task.loss, task.training_step)
    rates = find_learning_rates(context.fp32, task.train, objective.of, max_seconds=allowed, seed=task.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    is_whole = rates != LearningRates()
    write_atomically(path, json.dumps(vars(rates) | {"max_seconds": RANGE_TEST_SECONDS if is_whole else allowed}))
    return rates


class _Training:
    """One or two trainings of a candidate: a model that loses rows is shrunk between them.

    Args:
        context: The study's.
        fabric: Of this process, if there are several.
        folder: Of the candidate.
        seed: Of everything random.
        started_from: Digest of the candidate whose weights it starts from, or empty.
    """

    def __init__(
        self, context: EvaluationContext, fabric: "Fabric | None", folder: Path, seed: int, started_from: str
    ) -> None:
        self._context, self._folder, self._seed = context, folder, seed
        self._fabric, self._started_from = fabric, started_from
        self._rate = 0.0
        self._outcomes: list[Outcome] = []

    def run(self, compressed: CompressedModel, n_steps: int) -> CompressedModel:
        """Train in place; the result may be another model."""
        recipe = compressed.recipe
        if not loses_rows(recipe):
            return self._train(compressed, n_steps, self._folder)
        n_masked = round(n_steps * recipe.sparsification.end)
        self._train(compressed, n_masked, self._folder, n_after=n_steps - n_masked)
        shrunk = shrink(compressed, self._context.graph, training_pairs(self._context))
        if self._is_given_up:
            return shrunk
        return self._train(shrunk, n_steps - n_masked, self._folder / "shrunk", n_before=n_masked)

    @property
    def _is_given_up(self) -> bool:
        return any(outcome.is_given_up for outcome in self._outcomes)

    def summary(self, n_steps: int) -> TrainingSummary:
        """How it went."""
        course: list[CoursePoint] = []
        n_done = 0
        for outcome in self._outcomes:
            course += [point.model_copy(update={"step": n_done + point.step}) for point in outcome.course]
            n_done += outcome.n_steps
        return TrainingSummary(
            n_steps=n_steps,
            learning_rate=self._rate,
            started_from=self._started_from,
            stopped_at=n_done if self._is_given_up else None,
            n_rollbacks=sum(outcome.n_rollbacks for outcome in self._outcomes),
            course=tuple(course),
        )

    def _train(
        self, compressed: CompressedModel, n_steps: int, folder: Path, n_before: int = 0, n_after: int = 0
    ) -> CompressedModel:
        if n_steps == 0:
            return compressed
        context, recipe = self._context, compressed.recipe
        watch = watch_for_hopeless(context, n_steps, n_before, n_before + n_steps + n_after)
        if context.task.fit is None:
            rates = learning_rates(context) if n_before + n_steps + n_after >= TESTED_STEPS else LearningRates()
            self._rate = rates.reshaped if is_reshaped(recipe) else rates.quantized
            settings = FinetuneSettings(n_steps, self._rate, distillation=recipe.distillation, seed=self._seed)
            outcome = finetune_default(context, compressed, settings, self._fabric, watch, folder, self._started_from)
        else:
            settings = FinetuneSettings(n_steps, distillation=recipe.distillation, seed=self._seed)
            outcome = train_in_own_loop(context, compressed, settings, watch, folder, self._started_from)
        self._outcomes.append(outcome)
        if not outcome.holds_statistics:
            adapt_batch_norm(compressed.module, training_pairs(context), n_batches=20)
        return compressed


def finetune_default(
    context: EvaluationContext,
    compressed: CompressedModel,
    settings: FinetuneSettings,
    fabric: "Fabric | None" = None,
    watch: Watch | None = None,
    folder: Path | None = None,
    origin: str = "",
) -> Outcome:
    """Fine-tune with the task's data and loss and the FP32 model as the teacher, whose outputs are cached."""
    task = context.task
    fabric = fabric or context.hardware.fabric()
    cache = context.cache / TEACHER if fabric.device.type == "cpu" else None  # a GPU is faster than its way to a disk
    teacher = Teacher(context.fp32, settings.distillation.features, cache)
    return finetune(
        compressed.module,
        task.train,
        Objective(task.loss, task.training_step, teacher),
        settings,
        ranges=parameter_groups(compressed.module)[1],
        compression=_sparsity(compressed, settings.n_steps, origin),
        fabric=fabric,
        watch=watch,
        folder=folder,
        origin=origin,
    )


def train_in_own_loop(
    context: EvaluationContext,
    compressed: CompressedModel,
    settings: FinetuneSettings,
    watch: Watch | None = None,
    folder: Path | None = None,
    origin: str = "",
) -> Outcome:
    """Let the task's `fit` train; of the settings it gets the number of steps, the seed and the distillation."""
    fit, n_batches = context.task.fit, _length(context.task.train)
    if fit is None:
        raise TrainingError("training in the task's own loop needs a fit, but the task has none")
    budget = TrainingBudget(
        compressed.module,
        settings.n_steps,
        ranges=parameter_groups(compressed.module)[1],
        compression=_sparsity(compressed, settings.n_steps, origin, n_batches),
        teacher=Teacher(context.fp32, cache=context.cache / TEACHER),
        distillation=settings.distillation,
        steps_per_epoch=n_batches,
        seed=settings.seed,
        watch=watch,
        log=folder / LOG if folder else None,
    )
    return budget.run(fit)


def _sparsity(
    compressed: CompressedModel, n_steps: int, origin: str, steps_per_epoch: int | None = None
) -> SparsityTraining:
    """What moves the masks; those that come from the same recipe, trained before, stay as they are."""
    is_trained = origin == compressed.recipe.digest()
    return compressed.training(0 if is_trained else n_steps, steps_per_epoch)


def _length(batches: Any) -> int | None:
    """Batches of an epoch; None where the loader does not say."""
    try:
        return max(1, len(batches))
    except TypeError:
        return None


class _EnoughError(Exception):
    """Ends a training that only its first steps are wanted of."""


def seconds_a_step(context: EvaluationContext, recipe: Recipe, n_steps: int = 6) -> float:
    """Seconds of one training step of `recipe` on this machine; nothing is kept.

    The fastest of `n_steps` counts, since a passing load would make the whole study's trainings too short.
    """
    task = context.task
    compressed = compress(task.model, context.graph, recipe, task.example_input, structure_only=True)
    channels_last_module(compressed.module)
    if recipe.quantized:
        calibrate(compressed.module, training_pairs(context), recipe.calibration, n_batches=1)
    seen = [(0, time.perf_counter())]

    def note(info: StepInfo) -> None:
        seen.append((info.step, time.perf_counter()))
        if info.step >= n_steps:
            raise _EnoughError

    with suppress(_EnoughError):
        train = finetune_default if task.fit is None else train_in_own_loop
        settings = FinetuneSettings(n_steps, distillation=recipe.distillation)
        train(context, compressed, settings, watch=Watch(on_step=note))
    return min((end - start) / (n - m) for (m, start), (n, end) in itertools.pairwise(seen))
