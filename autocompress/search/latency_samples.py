"""Measuring what a latency model learns from: random recipes of the whole model, exported untrained and timed."""

import hashlib
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch

from autocompress.compress import calibrate, compress
from autocompress.deploy import save_openvino, to_openvino
from autocompress.errors import AutocompressError, MeasurementError
from autocompress.graph import ModelGraph
from autocompress.latency import LatencyProcess, LatencySettings
from autocompress.measure.environment import describe_environment
from autocompress.measure.latency_features import Architecture, architecture_of
from autocompress.measure.latency_model import (
    LatencyModel,
    LatencySample,
    latency_key,
    sample_from_json,
    sample_to_json,
)
from autocompress.measure.latency_prior import Prior, prior_from_profiles
from autocompress.measure.profile import profile_layers
from autocompress.recipe import Calibration, LayerRecipe, Recipe
from autocompress.search.evaluate import real_input
from autocompress.task import Task, like

HIGHEST_RATIO = 0.9
N_PAIRS = 32  # of one recipe
N_TOGETHER = 4  # recipes in one session
_MEAN_RATIOS = 0.8  # mean pruning ratios of recipes lie between 0 and this
_SPREAD = 0.5  # largest distance of a group's ratio from the mean
_INTEGER = LayerRecipe(weight_bits=8, activation_bits=8)
_FAST = Calibration(input_ranges="min_max", weight_ranges="min_max")
_N_TRIES = 100  # recipes in a row that were drawn before; then there are hardly more
_MAX_SECONDS = 8.0  # of one session
_N_COPIES = 3  # of each model; compiling takes longer than timing
_PROFILE_RUNS = 30

OnSample = Callable[[int, float], None]


def sample_recipes(graph: ModelGraph, n: int, seed: int = 0) -> list[Recipe]:
    """Different recipes that fill the space of precisions and pruning ratios; a longer list begins with a shorter.

    The first are FP32, all INT8, half of all filters, and both. Of the others the share of INT8 layers, the mean
    pruning ratio and how far groups differ from it are points of a Halton sequence (Halton 1960) in bases 2, 3 and 5;
    layers and groups are drawn from them. A quarter prunes nothing, a quarter has one precision.

    Args:
        graph: The model's layers and groups.
        n: How many; fewer come back where there are no more.
        seed: Of the drawing.
    """
    return list(itertools.islice(_recipes(graph, seed), n))


def _recipes(graph: ModelGraph, seed: int) -> Iterator[Recipe]:
    seen: set[Recipe] = set()
    n_old = 0
    for recipe in itertools.chain(_anchors(graph), (_drawn(graph, seed, index) for index in itertools.count(1))):
        n_old = n_old + 1 if recipe in seen else 0
        if n_old > _N_TRIES:
            return
        if not n_old:
            seen.add(recipe)
            yield recipe


def _anchors(graph: ModelGraph) -> list[Recipe]:
    half = {group.name: 0.5 for group in graph.prunable}
    integer = dict.fromkeys(_quantizable(graph), _INTEGER)
    return [Recipe(), _recipe(integer, {}), _recipe({}, half), _recipe(integer, half)]


def _drawn(graph: ModelGraph, seed: int, index: int) -> Recipe:
    rng = np.random.default_rng([seed, index])
    integer_share, mean, spread = (_halton(index, base) for base in (2, 3, 5))
    has_one_precision, prunes = rng.random() < 0.25, rng.random() >= 0.25
    integer_share = float(rng.integers(2)) if has_one_precision else integer_share
    layers = {name: _INTEGER for name in _quantizable(graph) if rng.random() < integer_share}
    ratios = {
        group.name: float(np.clip(_MEAN_RATIOS * mean + _SPREAD * spread * rng.uniform(-1, 1), 0, HIGHEST_RATIO))
        for group in graph.prunable
    }
    return _recipe(layers, ratios if prunes else {})


def _recipe(layers: dict[str, LayerRecipe], ratios: dict[str, float]) -> Recipe:
    return Recipe(layers=layers, pruning={name: round(r, 3) for name, r in ratios.items()}, calibration=_FAST)


def _quantizable(graph: ModelGraph) -> list[str]:
    return [layer.name for layer in graph.compressible if not layer.weights_only]


def _halton(index: int, base: int) -> float:
    """Digits of `index` in `base`, mirrored at the point: in [0, 1)."""
    value, width = 0.0, 1.0
    while index:
        width /= base
        value += width * (index % base)
        index //= base
    return value


def export_untrained(task: Task, graph: ModelGraph, recipe: Recipe) -> openvino.Model:
    """The deployed model of a recipe that nobody has trained: the kernels of a trained one, in a second.

    Filters go by index, and ranges are those of one validation sample, so that an input without negative values has an
    unsigned range there too.

    Args:
        task: Model and data; the model is not changed.
        graph: What `inspect_model` found in it.
        recipe: What to do.
    """
    compressed = compress(task.model, graph, recipe, task.example_input, structure_only=True)
    if compressed.quantized:
        inputs = like(task.example_input, (torch.from_numpy(array) for array in real_input(task)))
        calibrate(compressed.module, [(inputs, None)], recipe.calibration, n_batches=1)
    with compressed.export_form() as module:
        return to_openvino(module, task.example_input)


@dataclass
class _Log:
    """Samples in a file, one a line with the seconds that it took, so that an interrupted collection goes on."""

    path: Path
    samples: list[LatencySample] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)
    seconds: float = 0.0

    def read(self) -> None:
        """Take over what the file has; a last line that was cut is dropped."""
        text = self.path.read_text() if self.path.is_file() else ""
        for line in text.splitlines():
            with suppress(ValueError, KeyError, TypeError):
                self._take(json.loads(line))
        if text and not text.endswith("\n"):
            with self.path.open("a") as file:
                file.write("\n")

    def _take(self, content: dict[str, Any]) -> None:
        if "failed" in content:
            self.failed.add(content["failed"])
        else:
            self.samples.append(sample_from_json(content))
        self.seconds += content["seconds"]

    def add(self, content: dict[str, Any], seconds: float) -> None:
        """Write one more line, and take it over."""
        content = {**content, "seconds": seconds}
        with self.path.open("a") as file:
            file.write(json.dumps(content) + "\n")
        self._take(content)

    @property
    def known(self) -> set[str]:
        """Digests of all recipes that were tried."""
        return {sample.recipe.digest() for sample in self.samples} | self.failed


def collect(
    task: Task,
    graph: ModelGraph,
    folder: Path,
    seconds: float,
    *,
    n_threads: int = 1,
    n_pairs: int = N_PAIRS,
    seed: int = 0,
    on_sample: OnSample = lambda n, seconds: None,
) -> tuple[LatencySample, ...]:
    """Time random recipes against the FP32 baseline for a while.

    Samples are appended to `samples.jsonl`; a call with the same folder goes on there, and its time counts together
    with that of calls before. The folder is for one model, processor, OpenVINO version and number of threads.

    Args:
        task: Model and data.
        graph: What `inspect_model` found in it.
        folder: Gets the samples, `baseline.xml` and, for a moment, each candidate.
        seconds: No recipes are begun that would end after this time, except the first four.
        n_threads: Inference threads.
        n_pairs: Paired blocks for each recipe.
        seed: Of the recipes and of the timing.
        on_sample: Told the number of samples and the seconds spent, after each session.

    Returns:
        All samples in the file, in the order in which they were timed.

    Raises:
        MeasurementError: No recipe could be timed; the message says why the last could not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = _Log(folder / "samples.jsonl")
    log.read()
    settings = LatencySettings(
        n_threads=n_threads,
        min_pairs=n_pairs,
        max_pairs=n_pairs,
        max_seconds=_MAX_SECONDS,
        n_copies=_N_COPIES,
        seed=seed,
    )
    reason = "there is nothing to compress"
    with LatencyProcess() as process:
        bench = _Bench(task, graph, folder, settings, process)
        start = time.perf_counter()
        baseline = save_openvino(export_untrained(task, graph, Recipe()), folder, "baseline")
        log.seconds += time.perf_counter() - start
        unknown = (recipe for recipe in _recipes(graph, seed) if recipe.digest() not in log.known)
        while recipes := list(itertools.islice(unknown, N_TOGETHER)):
            n_tried = len(log.samples) + len(log.failed)
            if n_tried and log.seconds * (1 + len(recipes) / n_tried) > seconds:
                break
            start = time.perf_counter()
            contents = bench.samples(baseline, recipes)
            each = (time.perf_counter() - start) / len(contents)
            for content in contents:
                log.add(content, each)
            reason = contents[-1].get("reason", reason)
            on_sample(len(log.samples), log.seconds)
    if not log.samples:
        raise MeasurementError(f"no recipe of the model could be timed: {reason}; check that it exports and runs")
    return tuple(log.samples)


@dataclass
class _Bench:
    """Times some recipes in one session, in which the baseline is compiled and run once for all."""

    task: Task
    graph: ModelGraph
    folder: Path
    settings: LatencySettings
    process: LatencyProcess

    def samples(self, baseline: Path, recipes: Sequence[Recipe]) -> list[dict[str, Any]]:
        """A sample of each recipe as JSON, or why there is none; the files of the recipes are gone afterwards.

        Where the session fails each is tried by itself, since one model may be to blame.
        """
        try:
            return self._timed(baseline, recipes)
        except AutocompressError as error:
            if len(recipes) == 1:
                return [{"failed": recipes[0].digest(), "reason": str(error)}]
            return [content for recipe in recipes for content in self.samples(baseline, [recipe])]

    def _timed(self, baseline: Path, recipes: Sequence[Recipe]) -> list[dict[str, Any]]:
        folder = self.folder / "candidates"
        try:
            paths = [
                save_openvino(export_untrained(self.task, self.graph, recipe), folder, recipe.digest())
                for recipe in recipes
            ]
            found = self.process.compare_all(baseline, paths, real_input(self.task), self.settings)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        timed = zip(recipes, found.results, strict=True)
        return [sample_to_json(LatencySample(recipe, result.speedup)) for recipe, result in timed]


def measured_latency_model(
    task: Task,
    graph: ModelGraph,
    folder: Path,
    seconds: float = 180.0,
    *,
    n_threads: int = 1,
    seed: int = 0,
    on_sample: OnSample = lambda n, seconds: None,
) -> LatencyModel:
    """A latency model of the task's model, from the folder where it was measured before, else measured now.

    Args:
        task: Model and data.
        graph: What `inspect_model` found in it.
        folder: Holds a folder for each model, processor, OpenVINO version and number of threads.
        seconds: For profiles and samples together; what was measured before counts.
        n_threads: Inference threads.
        seed: Of the recipes and of the timing.
        on_sample: Told the number of samples and the seconds spent, after each.

    Raises:
        MeasurementError: No recipe could be timed.
    """
    architecture = architecture_of(task.model, graph, task.example_input)
    environment = describe_environment(n_threads)
    key = latency_key(architecture, environment.cpu, environment.versions["openvino"], n_threads)
    mine = folder / "-".join([key["architecture"], key_digest(key)])
    path = mine / "latency_model.json"
    if path.is_file():
        return LatencyModel.load(path, key)
    start = time.perf_counter()
    prior = profile_prior(task, graph, architecture, n_threads)
    left = seconds - (time.perf_counter() - start)
    model = LatencyModel(architecture, prior, key)
    model.fit(collect(task, graph, mine, left, n_threads=n_threads, seed=seed, on_sample=on_sample))
    model.save(path)
    return model


def profile_prior(task: Task, graph: ModelGraph, architecture: Architecture, n_threads: int) -> Prior:
    """What the processor's counters say of the FP32 and the all-INT8 model, untrained."""
    recipes = (Recipe(), sample_recipes(graph, 2)[-1])
    models = [export_untrained(task, graph, recipe) for recipe in recipes]
    profiles = [profile_layers(model, real_input(task), n_threads, _PROFILE_RUNS) for model in models]
    return prior_from_profiles(architecture, *profiles)


def key_digest(key: Mapping[str, str]) -> str:
    """Eight hexadecimal digits that differ for other keys."""
    return hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:8]
